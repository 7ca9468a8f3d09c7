"""What an incident does to part of the requests, chosen by trace: which they are, not why it happens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from helios_detector.simulate.seeding import mix, unit

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]

_SALT = np.uint64(0xC2B2AE3D27D4EB4F)
"""Apart from the draw that decides on errors, so that one does not choose among the other's requests."""
_SPREAD = 0.4
"""Standard deviation of the logarithm of a latency that an overlay sets."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """Strikes the same traces in every service where its share is the same; adds no draw of its own."""

    share: Floats
    """(hosts, seconds) part of the events that it strikes; 0 outside the incident."""
    operations: NDArray[np.bool_] | None = None
    """Which of the normal operations it concerns; None is all events, those of nightly jobs too."""
    gone: bool = False
    """Whether the event does not happen."""
    message: int | None = None
    """Row of the incident messages that the line has instead of its own."""
    median_ms: float | None = None
    """Latency that replaces that of the operation."""
    factor: Floats | None = None
    """(hosts, seconds) factor on the latency."""

    def rows(self, trace: NDArray[np.uint64], operation: Ids, host: Ids, second: Ids) -> Ids:
        """The events that it strikes."""
        struck = unit(mix(trace ^ _SALT)) < self.share[host, second]
        if self.operations is not None:
            concerned = np.append(self.operations, False)
            struck &= concerned[np.minimum(operation, len(self.operations))]
        return np.flatnonzero(struck)

    def latencies(self, usual_cs: Floats, normal: NDArray[np.float32], host: Ids, second: Ids) -> Floats:
        """The latencies of events that it strikes, in hundredths of a millisecond."""
        latency = usual_cs if self.median_ms is None else self.median_ms * 100 * np.exp(_SPREAD * normal)
        return latency if self.factor is None else latency * self.factor[host, second]
