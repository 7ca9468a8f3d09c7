"""The detector: slides windows into horizons, decides what is anomalous, and says why."""
