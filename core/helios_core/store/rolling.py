"""Rollups: windows added up over hosts and over a minute, five minutes and an hour. Not how they are kept.

A minute that gets windows is marked in the transaction that writes them, and computed anew from all its
windows later; five minutes and hours from the minutes. So a rollup is exact as soon as nothing of it is
marked. Windows from before the time of which windows are kept are added to the rollups at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final

import msgspec

from helios_core import wire
from helios_core.clock import US_PER_S
from helios_core.store.base import Row
from helios_core.stored import StoredWindow

STEPS_S: Final = (60, 300, 3_600)
_MINUTE_US: Final = 60 * US_PER_S
_MAX: Final = 2**63 - 1
_SUMS: Final = (
    "events", "errors", "warnings", "unparsed", "bytes_in", "latency_count", "latency_sum_us", "templates_overflow",
)  # fmt: skip
Bucket = tuple[str, int]  # service, start in µs


@dataclass(frozen=True, slots=True)
class Ask:
    """The rows of a query about buckets of services, in the transaction under way."""

    query: str
    buckets: Collection[Bucket]
    parameters: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Save:
    """These rows of `rollups` take the place of those with the same key."""

    rows: Sequence[Mapping[str, Any]]


Rolling = Generator[Ask | Save, Sequence[Row], None]


def minutes_of(windows: Iterable[StoredWindow]) -> list[Bucket]:
    """The minutes of services that the windows begin in, in order."""
    return sorted({(window.service, window.start_us // _MINUTE_US * _MINUTE_US) for window in windows})


def rolled(minutes: Collection[Bucket]) -> Rolling:
    """Computes marked minutes anew, and what they are part of. Whoever drives it has taken the marks away."""
    rows = yield Ask("windows_of_minutes", minutes)
    below_s = STEPS_S[0]
    yield Save(_added_up(rows, below_s))
    for step_s in STEPS_S[1:]:
        buckets = _buckets(minutes, step_s)
        rows = yield Ask("rollups_of_buckets", buckets, {"step_s": below_s, "width_s": step_s})
        yield Save(_added_up(rows, step_s))
        below_s = step_s


def added(windows: Sequence[StoredWindow]) -> Rolling:
    """Adds windows that are kept nowhere else. Whoever drives it has rolled up what was marked of their minutes."""
    fresh = [window._asdict() for window in windows]
    minutes = minutes_of(windows)
    for step_s in STEPS_S:
        buckets = _buckets(minutes, step_s)
        rows = yield Ask("rollups_of_buckets", buckets, {"step_s": step_s, "width_s": step_s})
        yield Save(_added_up([*rows, *fresh], step_s))


def _buckets(minutes: Iterable[Bucket], step_s: int) -> list[Bucket]:
    step_us = step_s * US_PER_S
    return sorted({(service, start_us // step_us * step_us) for service, start_us in minutes})


def _added_up(rows: Iterable[Row], step_s: int) -> list[dict[str, Any]]:
    step_us = step_s * US_PER_S
    groups: defaultdict[tuple[int, str, int], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["start_us"] // step_us * step_us, row["service"], row["signal"]].append(row)
    return [_one(step_s, *key, groups[key]) for key in sorted(groups)]


def _one(step_s: int, start_us: int, service: str, signal: int, rows: Sequence[Row]) -> dict[str, Any]:
    latencies = [row["latency"] for row in rows if row["latency"]]
    endpoints = [row["endpoints"] for row in rows if row["endpoints"]]
    levels = zip(*(_levels(row["levels"]) for row in rows), strict=True)
    return {
        "step_s": step_s,
        "start_us": start_us,
        "service": service,
        "signal": signal,
        # What no real traffic reaches: a column holds no more.
        **{name: min(sum(map(itemgetter(name), rows)), _MAX) for name in _SUMS},
        "levels": msgspec.json.encode([min(sum(counts), _MAX) for counts in levels]).decode(),
        "latency": wire.merged_latencies(latencies) if latencies else None,
        "endpoints": wire.merged_distincts(endpoints) if endpoints else None,
    }


def _levels(levels: str | Sequence[int]) -> Sequence[int]:
    return msgspec.json.decode(levels, type=list[int]) if isinstance(levels, str) else levels
