"""A slice in the form in which a store keeps it: flat rows, the sketches as bytes of the contract.

Whoever only stores a slice has no need of its sketches, and decoding them is most of the work of reading one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from helios_core.model import Event, MetricSample


class StoredWindow(NamedTuple):
    """A window delta as a row of the table `windows`, whose columns have this order.

    Attributes:
        levels: counts by level number.
        latency: helios.v1.LatencyHistogram; None when nothing had a latency.
        endpoints: helios.v1.DistinctCount; None when there were none.
    """

    start_us: int
    duration_ms: int
    service: str
    host: str
    signal: int
    events: int
    errors: int
    warnings: int
    levels: Sequence[int]
    unparsed: int
    bytes_in: int
    latency_count: int
    latency_sum_us: int
    latency: bytes | None
    endpoints: bytes | None
    templates_overflow: int


@dataclass(frozen=True, slots=True)
class StoredTemplate:
    """How often one template was seen in one window delta; its id is unsigned."""

    service: str
    template_id: int
    start_us: int
    count: int
    level: int
    text: str


@dataclass(slots=True)
class StoredSlice:
    """What a store keeps of a slice, or of the deltas that it derives from raw events."""

    service: str
    windows: list[StoredWindow] = field(default_factory=list)
    templates: list[StoredTemplate] = field(default_factory=list)
    metrics: Sequence[MetricSample] = ()
    samples: Sequence[Event] = ()
