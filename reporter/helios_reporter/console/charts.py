"""The arrays of a service's charts: windows of any duration, merged over hosts and over a step of time.

Counts and latency histograms are added up, so that a point is exactly what one large window would have said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, isnan, lcm
from typing import Any, Final

from helios_core.clock import US_PER_S, rfc3339
from helios_core.model import Signal
from helios_core.sketches.latency import LatencyHistogram
from helios_core.store.base import Row, Store
from helios_core.store.rolling import STEPS_S
from helios_core.wire import latency_from_bytes
from helios_reporter.console.documents import members_of

MAX_POINTS: Final = 720
MAX_SPAN_US: Final = 31 * 86_400 * US_PER_S
_STEPS_S: Final = (10, 20, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 21_600, 43_200, 86_400)
# Long spans are shown in steps that there are rollups of: from that span on, that step.
_COARSE: Final = {12 * 3_600 * US_PER_S: 300 * US_PER_S, 6 * 86_400 * US_PER_S: 3_600 * US_PER_S}
_LONGEST_BASE_US: Final = 86_400 * US_PER_S
_PAGE_US: Final = 7_200 * US_PER_S  # of one query: the store's thread also writes
_SETTLE_US: Final = 3 * US_PER_S  # until the deltas of a window that is over have come
_MAX_SHADES: Final = 200
_QUANTILES: Final = (0.5, 0.95, 0.99)


@dataclass(slots=True)
class Counts:
    """What was counted of one signal in one step."""

    events: int = 0
    errors: int = 0
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)


Buckets = dict[tuple[int, int], Counts]  # by (start_us, signal)


def choose_step(span_us: int, durations_ms: Sequence[int], wanted_us: int = 0) -> int:
    """The least step, µs, of at least what is wanted that gives no more than MAX_POINTS and divides no window.

    It is a multiple of every duration, so that each window lies in one step, whatever mixture there is.
    """
    base_us = lcm(*(duration_ms * 1_000 for duration_ms in durations_ms)) if durations_ms else 10 * US_PER_S
    if base_us > _LONGEST_BASE_US:
        base_us = max(durations_ms) * 1_000
    coarse_us = max((step_us for long_us, step_us in _COARSE.items() if span_us >= long_us), default=0)
    # The interval is widened by up to a step.
    least_us = max(wanted_us, base_us, coarse_us, ceil(span_us / (MAX_POINTS - 1)))
    for step_s in _STEPS_S:
        step_us = step_s * US_PER_S
        if step_us >= least_us and step_us % base_us == 0:
            return step_us
    return ceil(least_us / base_us) * base_us


def add_rows(buckets: Buckets, rows: Sequence[Row], step_us: int) -> None:
    """Adds the rows of `window_counts_of_service` or `rollup_counts_of_service`."""
    for row in rows:
        key = (row["start_us"] // step_us * step_us, row["signal"])
        counts = buckets.get(key)
        if counts is None:
            counts = buckets[key] = Counts()
        counts.events += row["events"]
        counts.errors += row["errors"]
        if row["latency"]:
            latency = latency_from_bytes(row["latency"])
            if counts.latency.count:
                counts.latency.merge(latency)
            else:  # of rollups that are as long as the step there is one
                counts.latency = latency


async def service_windows(
    store: Store, service: str, *, from_us: int, to_us: int, now_us: int, step_us: int = 0
) -> dict[str, Any]:
    """The charts of one service in [from_us, to_us): arrays of equal length for uPlot, and what to shade.

    A step without windows has no traffic (0) when the service was known by then and the store reaches
    beyond it; otherwise nothing is known of it (None). The step under way is left out.
    """
    durations = await store.query("window_durations_of_service", service=service, from_us=from_us, to_us=to_us)
    (state,) = await store.query("raw_from")
    if from_us < state["raw_from_us"]:  # of what is dropped there are minutes at least
        step_us = max(step_us, STEPS_S[0] * US_PER_S)
    step_us = choose_step(to_us - from_us, [row["duration_ms"] for row in durations], step_us)
    first_us, end_us = from_us // step_us * step_us, ceil(to_us / step_us) * step_us
    buckets: Buckets = {}
    page_us = max(_PAGE_US // step_us, 1) * step_us
    rolled_us = await _add_rollups(store, service, buckets, first_us, end_us, step_us)
    for page in range(rolled_us, end_us, page_us):
        until_us = min(page + page_us, end_us)
        rows = await store.query("window_counts_of_service", service=service, from_us=page, to_us=until_us)
        await asyncio.to_thread(add_rows, buckets, rows, step_us)
    (reach,) = await store.query("window_reach", service=service)
    starts = [start for start in range(first_us, end_us, step_us) if start + step_us <= now_us - _SETTLE_US]
    answer = _arrays(buckets, starts, step_us, reach)
    return {
        "service": service,
        "from": rfc3339(first_us),
        "to": rfc3339(end_us),
        "step_s": step_us / US_PER_S,
        **answer,
        "shading": await shades(store, service, from_us, to_us),
    }


async def _add_rollups(store: Store, service: str, buckets: Buckets, first_us: int, end_us: int, step_us: int) -> int:
    """Adds what stands in rollups that divide the step; returns from when on windows are to be added."""
    base_s = next((s for s in sorted(STEPS_S, reverse=True) if step_us % (s * US_PER_S) == 0), 0)
    if not base_s:
        return first_us
    (reach,) = await store.query("rollup_reach", service=service)
    pending_us = end_us if reach["pending_us"] is None else min(reach["pending_us"], end_us)
    until_us = max(pending_us // step_us * step_us, first_us)
    rows = await store.query(
        "rollup_counts_of_service", service=service, step_s=base_s, from_us=first_us, to_us=until_us
    )
    await asyncio.to_thread(add_rows, buckets, rows, step_us)
    return until_us


def _arrays(buckets: Buckets, starts: list[int], step_us: int, reach: Row) -> dict[str, list[Any]]:
    counted = Signal.LOG if any(c.events for (_, signal), c in buckets.items() if signal == Signal.LOG) else Signal.SPAN
    timed = Signal.SPAN if any(c.latency.count for (_, s), c in buckets.items() if s == Signal.SPAN) else Signal.LOG
    known_us, last_us = reach["first_start_us"], reach["last_start_us"]
    names = ("events_per_minute", "error_rate", "p50_ms", "p95_ms", "p99_ms")
    arrays: dict[str, list[Any]] = {"t": [start / US_PER_S for start in starts], **{name: [] for name in names}}
    for start in starts:
        counts = buckets.get((start, counted))
        latency = buckets.get((start, timed))
        is_covered = known_us is not None and known_us < start + step_us and start <= last_us
        values: list[float | None] = [0.0 if is_covered else None, None, None, None, None]
        if counts is not None:
            values[0] = counts.events * 60 * US_PER_S / step_us
            values[1] = counts.errors / counts.events if counts.events else None
        if latency is not None:
            quantiles = latency.latency.quantiles_us(_QUANTILES)
            values[2:] = [None if isnan(q) else q / 1_000 for q in quantiles]
        for name, value in zip(names, values, strict=True):
            arrays[name].append(value)
    return arrays


async def shades(store: Store, service: str, from_us: int, to_us: int) -> list[dict[str, Any]]:
    """The anomalous intervals of a service: epoch seconds as on the axis; `to` is None while it lasts."""
    rows = await store.query(
        "incidents_of_service_in_range", service=service, from_us=from_us, to_us=to_us, limit=_MAX_SHADES
    )
    found = []
    for row in rows:
        for member in members_of(row["document"]):
            ended_us = member.ended_us
            if member.service == service and member.onset_us < to_us and (ended_us is None or ended_us >= from_us):
                found.append(
                    {
                        "from": member.onset_us / US_PER_S,
                        "to": None if ended_us is None else max(ended_us, member.onset_us) / US_PER_S,
                        "severity": member.severity.value,
                        "incident": row["id"],
                        "family": member.family,
                    }
                )
    found.sort(key=lambda shade: shade["from"])
    return found
