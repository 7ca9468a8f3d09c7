"""The events of one block of time as columns, between the sampler and the renderer."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class Columns:
    """Events in no particular order; all arrays have the shape `(events,)`."""

    time_ms: NDArray[np.int64]
    template: NDArray[np.int64]
    host: NDArray[np.int64]
    """Row of the host and version in the table of line ends."""
    latency_cs: NDArray[np.int64]
    """Latency in hundredths of a millisecond."""
    id: NDArray[np.int64]
    n: NDArray[np.int64]
    word: NDArray[np.int64]
    """Row in the table of words, and in that of the paths that a scanner probes."""
    trace: NDArray[np.uint64]
    request: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.time_ms)

    def take(self, rows: NDArray[Any] | slice) -> Columns:
        """The given rows, in their order; a slice shares memory."""
        return Columns(*(getattr(self, column.name)[rows] for column in fields(self)))


def concatenated(parts: list[Columns]) -> Columns:
    """All parts one after the other."""
    return Columns(*(np.concatenate([getattr(p, c.name) for p in parts]) for c in fields(Columns)))
