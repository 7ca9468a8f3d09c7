"""What all tests share."""

from __future__ import annotations

from hypothesis import settings

# How long a step takes says more about the machine than about the code: speed belongs to the benchmarks.
settings.register_profile("helios", deadline=None)
settings.load_profile("helios")
