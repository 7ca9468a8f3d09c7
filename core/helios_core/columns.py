"""A block of parsed events as parallel lists: what parsers give and windows take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Notable(NamedTuple):
    """The message of an event of level WARN or above, from which its template is mined."""

    row: int
    message: str
    trace_id: str = ""
    span_id: str = ""


@dataclass(slots=True)
class Columns:
    """n events of one block.

    Attributes:
        time_us: n event times, microseconds since the epoch.
        service: one name for all, or n names.
        level: n numbers of `model.Level`; as bytes they are counted quickest.
        latency_us: n latencies in integer µs ≥ 0, None where there is none; empty when no event has one.
        endpoint: n endpoints as they were logged, None where there is none; empty when no event has one.
        size: n sizes in bytes of the input that each event came from.
        notable: messages of the events of level WARN and above, in order of their rows.
    """

    time_us: list[int]
    service: str | list[str]
    level: Sequence[int]
    latency_us: Sequence[int | None] = field(default_factory=list)
    endpoint: Sequence[str | None] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    notable: list[Notable] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.time_us)
