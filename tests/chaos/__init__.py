"""Faults at random under load, and what is left of the promises: see docs/reliability.md."""
