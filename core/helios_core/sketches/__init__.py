"""Sketches: small summaries that merge in any order to the same result, exactly."""
