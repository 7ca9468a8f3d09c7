"""Records of the bus as messages of the live stream, within a budget: what is left out is counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from helios_core.bus.base import Received, Topic
from helios_core.clock import US_PER_S
from helios_core.errors import WireError
from helios_core.model import Event, Level
from helios_core.records import slice_of
from helios_core.sketches.latency import LatencyHistogram
from helios_core.windows import WindowDelta
from helios_core.wire import record_from_bytes
from helios_reporter.console.documents import time_of

MAX_WINDOWS: Final = 100  # in one message
MAX_EVENTS: Final = 25  # of one turn
_MAX_RECORDS: Final = 400  # that one turn decodes, of each topic, the newest
_MAX_EVENT_BYTES: Final = 256 * 1024
_MAX_TEXT: Final = 500


@dataclass(slots=True)
class Turn:
    """What one turn of reading came to."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    undecodable: int = 0
    omitted_events: int = 0
    omitted_records: int = 0


@dataclass(slots=True)
class _Sum:
    """A window over all hosts."""

    duration_ms: int
    events: int = 0
    errors: int = 0
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)
    hosts: set[str] = field(default_factory=set)

    def add(self, delta: WindowDelta) -> None:
        self.events += delta.events
        self.errors += delta.errors
        self.latency.merge(delta.latency)
        self.hosts.add(delta.host)


def summarise(records: Sequence[Received]) -> Turn:
    """The messages of records of WINDOWS and EVENTS: at most one of windows, then sampled events, worst first kept."""
    turn = Turn()
    sums: dict[tuple[int, str, int], _Sum] = {}
    events: list[tuple[Event, str]] = []
    slices = [received for received in records if received.partition.topic is Topic.WINDOWS]
    turn.omitted_records += max(len(slices) - _MAX_RECORDS, 0)
    for received in slices[-_MAX_RECORDS:]:
        try:
            _, _, part = slice_of(received)
        except WireError:
            turn.undecodable += 1
            continue
        for delta in part.deltas:
            key = (delta.start_us, delta.service, delta.signal)
            sums.setdefault(key, _Sum(delta.duration_ms)).add(delta)
        events += ((event, "agent") for event in part.samples)
    _posted(records, turn, events)
    if sums:
        turn.messages.append(_windows_message(sums))
    # The worst are shown, the newest of those; then they stand in order of time again.
    events.sort(key=lambda item: (item[0].level >= Level.WARN, item[0].time_us))
    turn.omitted_events += max(len(events) - MAX_EVENTS, 0)
    shown = sorted(events[-MAX_EVENTS:], key=lambda item: item[0].time_us)
    turn.messages += (_event_message(event, source) for event, source in shown)
    return turn


def _posted(records: Sequence[Received], turn: Turn, events: list[tuple[Event, str]]) -> None:
    """Adds the raw events of the newest records, as many as the budget allows."""
    budget = _MAX_EVENT_BYTES
    posted = [received for received in records if received.partition.topic is Topic.EVENTS]
    for index, received in enumerate(reversed(posted)):
        budget -= len(received.value)
        if index >= _MAX_RECORDS or (budget < 0 and index):
            turn.omitted_records += len(posted) - index
            return
        try:
            record = record_from_bytes(received.value)
        except WireError:
            turn.undecodable += 1
            continue
        events += ((event, "api") for event in record.events)


def _windows_message(sums: dict[tuple[int, str, int], _Sum]) -> dict[str, Any]:
    """The windows that had most errors and events stand in it; how many do not is said."""
    ordered = sorted(sums.items(), key=lambda item: (-item[1].errors, -item[1].events, item[0]))
    last_us = max(start_us + found.duration_ms * 1_000 for (start_us, _, _), found in sums.items())
    windows = []
    for (start_us, service, _), found in sorted(ordered[:MAX_WINDOWS], key=lambda item: item[0]):
        (p95_us,) = found.latency.quantiles_us((0.95,))
        windows.append(
            {
                "service": service,
                "start": time_of(start_us),
                "duration_s": found.duration_ms / 1_000,
                "events": found.events,
                "errors": found.errors,
                "hosts": len(found.hosts),
                "p95_ms": p95_us / 1_000,
            }
        )
    return {"type": "windows", "at": time_of(last_us), "windows": windows, "omitted": max(len(sums) - MAX_WINDOWS, 0)}


def _event_message(event: Event, source: str) -> dict[str, Any]:
    return {
        "type": "event",
        "at": time_of(event.time_us),
        "service": event.service,
        "level": Level(event.level).name.lower(),
        "text": event.message[:_MAX_TEXT],
        "host": event.host,
        "endpoint": event.endpoint,
        "latency_ms": None if event.latency_us is None else event.latency_us / (US_PER_S / 1_000),
        "trace_id": event.trace_id,
        "source": source,
    }
