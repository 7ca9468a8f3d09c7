"""How a process that serves for long treats its own memory."""

from __future__ import annotations

import gc
from typing import Final

_COLLECTED_AT: Final = 20_000  # objects, where Python says 700


def collect_seldom() -> None:
    """Looks for circles less often, and no more through what has been there since the start.

    Nearly everything that a request makes goes by counting references; looking for the rest took a seventh of its time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECTED_AT)
