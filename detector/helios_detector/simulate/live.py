"""Writes the lines of a simulation as time passes, each when its timestamp has come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import numpy as np

from helios_detector.simulate.scenario import Chunk, line_ends

_TICK_S = 0.1
"""Longest wait between two looks at the clock: a line is at most this late, and flushed at once."""
_LEAST_WAIT_S = 0.02
"""Shortest wait, so that a busy simulation writes a few times a second and not line by line."""


def write_live(
    chunks: Iterable[Chunk],
    write: Callable[[bytes], object],
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], object] = time.sleep,
    ended: Callable[[], bool] = lambda: False,
) -> int:
    """Writes chunks of a simulation until they end or it is told to; returns the number of lines.

    `write` gets whole lines and must have them out when it returns. After a pause of the machine the missed
    lines follow at once. Raises whatever `write` raises.
    """
    written = 0
    for chunk in chunks:
        ends = line_ends(chunk.data)
        done = 0
        while not ended():
            now_ms = clock() * 1000
            due = int(np.searchsorted(chunk.times_ms, now_ms, side="right"))
            if due > done:
                write(chunk.data[int(ends[done - 1]) if done else 0 : int(ends[due - 1])])
                written += due - done
                done = due
            if done == len(chunk):
                break
            wait_s = (int(chunk.times_ms[done]) - now_ms) / 1000
            sleep(min(max(wait_s, _LEAST_WAIT_S), _TICK_S))
    return written
