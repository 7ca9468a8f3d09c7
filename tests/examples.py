"""How many examples a property test tries, where it says so itself."""

from __future__ import annotations

from math import ceil

from hypothesis import settings


def examples(full: int) -> int:
    """So many in the slow tier; in the quick one its share of them, as of the usual hundred."""
    return ceil(full * settings().max_examples / 100)
