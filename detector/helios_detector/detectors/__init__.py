"""The detectors: each looks at one horizon in its own way, and says what it finds."""
