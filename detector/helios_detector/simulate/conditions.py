"""What a service is like in each second of a block: the parameters that background and anomalies change."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from helios_detector.simulate.model import Service
from helios_detector.simulate.overlays import Overlay
from helios_detector.simulate.traffic import Traffic

Floats = NDArray[np.float64]

_LOAD_EXPONENT = 0.15
"""Latency at twice the usual load is 11 % higher."""
NO_CAUSE = -1


@dataclass(slots=True)
class Conditions:
    """Parameters by second `(seconds,)`, or by host and second `(hosts, seconds)`.

    Lines that an anomaly does not concern come out byte for byte as without it, as long as an effect leaves
    `rate` alone: it thins by `keep` and adds by `extra`.
    """

    start_s: int
    rate: Floats
    """Normal events a second."""
    extra: Floats
    """Additional events a second, of the same kinds as the normal ones."""
    batch: Floats
    """Events a second of the nightly job."""
    scan: Floats
    """Requests a second of a scanner."""
    keep: Floats
    """(hosts, seconds) probability that an event happens after all."""
    error: Floats
    """(hosts, seconds) probability that an event is an error."""
    warn: Floats
    """Probability that an event warns."""
    latency: Floats
    """Factor on every latency."""
    tail_share: Floats
    """Share of the requests whose latency has a further factor."""
    tail_factor: Floats
    novel: Floats
    """Probability of an error message that was never seen before."""
    novelty: NDArray[np.int64]
    """Which one."""
    cause: NDArray[np.int64]
    """Index of the error message that most errors have now, or `NO_CAUSE`."""
    overlays: list[Overlay] = field(default_factory=list)
    """What strikes part of the requests, in this order, after all else is decided."""

    @classmethod
    def usual(cls, service: Service, traffic: Traffic, start_s: int, seconds: int) -> Conditions:
        """Normal operation, nothing happening, for the seconds from `start_s`."""
        rate = traffic.rate(np.arange(start_s, start_s + seconds))
        by_host = (service.hosts, seconds)
        return cls(
            start_s=start_s,
            rate=rate,
            extra=np.zeros(seconds),
            batch=np.zeros(seconds),
            scan=np.zeros(seconds),
            keep=np.ones(by_host),
            error=np.full(by_host, service.error_rate),
            warn=np.full(seconds, service.warn_rate),
            latency=(rate / service.per_second) ** _LOAD_EXPONENT,
            tail_share=np.zeros(seconds),
            tail_factor=np.ones(seconds),
            novel=np.zeros(seconds),
            novelty=np.zeros(seconds, np.int64),
            cause=np.full(seconds, NO_CAUSE),
        )

    @property
    def seconds(self) -> int:
        """Length of the block."""
        return len(self.rate)

    @property
    def hosts(self) -> int:
        """How many hosts the service has."""
        return len(self.keep)

    def overlap(self, first_s: int, end_s: int) -> slice | None:
        """The seconds of the block that lie in [first_s, end_s), or None."""
        first = max(first_s - self.start_s, 0)
        end = min(end_s - self.start_s, self.seconds)
        return slice(first, end) if first < end else None
