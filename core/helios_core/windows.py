"""Tumbling windows of event time: events in, mergeable deltas out. Nothing here reads a clock.

A window is [start, start + duration) for one (host, service, signal), aligned to the Unix epoch.
A delta is what one batch adds to it; merging deltas is exact in any order and grouping.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from operator import itemgetter
from typing import Final, NamedTuple

from helios_core.columns import Columns, Notable
from helios_core.endpoints import normalise_endpoint, without_numbers
from helios_core.model import EventRecord, Level
from helios_core.sketches.distinct import DistinctCount, hash64
from helios_core.sketches.latency import LatencyHistogram
from helios_core.sketches.templates import TemplateCounts, template_id, template_of

DEFAULT_DURATION_MS: Final = 10_000
_MAX_CACHED: Final = 20_000


class WindowKey(NamedTuple):
    """Which window: the order is the order of time."""

    start_us: int
    service: str
    host: str
    signal: int


@dataclass(slots=True)
class WindowDelta:
    """What one batch adds to the window [start_us, start_us + duration_ms) of (host, service, signal).

    `levels[i]` counts the events of level number i; `unparsed` lines are not events.
    """

    start_us: int
    service: str
    host: str
    signal: int = 1
    duration_ms: int = DEFAULT_DURATION_MS
    levels: list[int] = field(default_factory=lambda: [0] * len(Level))
    unparsed: int = 0
    bytes_in: int = 0
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)
    endpoints: DistinctCount = field(default_factory=DistinctCount)
    templates: TemplateCounts = field(default_factory=TemplateCounts.empty)

    @property
    def key(self) -> WindowKey:
        return WindowKey(self.start_us, self.service, self.host, self.signal)

    @property
    def end_us(self) -> int:
        return self.start_us + self.duration_ms * 1_000

    @property
    def events(self) -> int:
        return sum(self.levels)

    @property
    def errors(self) -> int:
        """Events of level ERROR and CRITICAL."""
        return self.levels[Level.ERROR] + self.levels[Level.CRITICAL]

    def merge(self, other: WindowDelta) -> None:
        """Adds another delta of the same key; a ValueError when its key or duration differs."""
        if self.key != other.key or self.duration_ms != other.duration_ms:
            raise ValueError(f"{other.key} of {other.duration_ms} ms does not merge into {self.key}")
        self.merge_counts(other)

    def merge_counts(self, other: WindowDelta) -> None:
        """Adds what `other` has counted, whatever window it is of: how a horizon is made."""
        self.levels = [mine + theirs for mine, theirs in zip(self.levels, other.levels, strict=True)]
        self.unparsed += other.unparsed
        self.bytes_in += other.bytes_in
        self.latency.merge(other.latency)
        self.endpoints.merge(other.endpoints)
        self.templates.merge(other.templates)


class EndpointHashes:
    """hash64 of the normalised endpoint, remembered as it was logged and without its numbers."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def of(self, raw: Iterable[str]) -> set[int]:
        known = self._known
        hashes = set()
        for endpoint in raw:
            found = known.get(endpoint)
            if found is None:
                numberless = without_numbers(endpoint)
                found = known.get(numberless)
                if found is None:
                    found = hash64(normalise_endpoint(numberless))
                if len(known) >= _MAX_CACHED:
                    known.clear()
                known[endpoint] = known[numberless] = found
            hashes.add(found)
        return hashes


class TemplateMiner:
    """(id, text) of a message's template, remembered for the messages seen last."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[tuple[int, str], tuple[int, str]] = {}

    def of(self, level: int, message: str) -> tuple[int, str]:
        found = self._known.get((level, message))
        if found is None:
            if len(self._known) >= _MAX_CACHED:
                self._known.clear()
            text = template_of(message)
            found = self._known[level, message] = (template_id(level, text), text)
        return found


class WindowBuilder:
    """Turns columns of events into the deltas of one batch; `take` hands them out and starts anew.

    The caller has bounded the services' names and has moved implausible times before.
    """

    def __init__(self, host: str, *, signal: int = 1, duration_ms: int = DEFAULT_DURATION_MS) -> None:
        if duration_ms <= 0:
            raise ValueError(f"a window of {duration_ms} ms: a positive number")
        self._host = host
        self._signal = signal
        self._duration_ms = duration_ms
        self._width_us = duration_ms * 1_000
        self._deltas: dict[tuple[int, str], WindowDelta] = {}
        self._endpoints = EndpointHashes()
        self._miner = TemplateMiner()

    def __len__(self) -> int:
        """How many deltas are open."""
        return len(self._deltas)

    def add(self, events: Columns) -> list[tuple[WindowDelta, Notable, int]]:
        """Counts a block of events.

        Returns:
            its notable events, each with the delta that counted it and its template's id.
        """
        if not len(events):
            return []
        width = self._width_us
        service = events.service
        first, last = min(events.time_us) // width, max(events.time_us) // width
        if isinstance(service, str) and first == last:
            self._add_rows(self._delta(first, service), events, None)
        else:
            groups: defaultdict[tuple[int, str], list[int]] = defaultdict(list)
            windows = [time_us // width for time_us in events.time_us]
            names = repeat(service) if isinstance(service, str) else service
            for row, key in enumerate(zip(windows, names)):  # noqa: B905 -- repeat has no end
                groups[key].append(row)
            for (window, name), rows in groups.items():
                self._add_rows(self._delta(window, name), events, rows)
        return [self._add_notable(events, notable) for notable in events.notable]

    def add_unparsed(self, time_us: int, service: str, lines: int, size: int) -> None:
        """Counts lines that no parser took, in the window of the time at hand."""
        delta = self._delta(time_us // self._width_us, service)
        delta.unparsed += lines
        delta.bytes_in += size

    def take(self) -> list[WindowDelta]:
        """The deltas since the last take, in order of time and service."""
        taken = sorted(self._deltas.values(), key=lambda delta: delta.key)
        self._deltas = {}
        return taken

    def _delta(self, window: int, service: str) -> WindowDelta:
        delta = self._deltas.get((window, service))
        if delta is None:
            delta = WindowDelta(window * self._width_us, service, self._host, self._signal, self._duration_ms)
            self._deltas[window, service] = delta
        return delta

    def _add_rows(self, delta: WindowDelta, events: Columns, rows: list[int] | None) -> None:
        """Counts the given rows, or all of them."""
        levels = bytes(events.level)
        latencies: Sequence[int | None] = events.latency_us
        endpoints: Sequence[str | None] = events.endpoint
        sizes: Iterable[int] = events.size
        if rows is not None:
            pick = itemgetter(*rows) if len(rows) > 1 else lambda column, row=rows[0]: (column[row],)
            levels = bytes(pick(events.level))
            latencies = pick(events.latency_us) if events.latency_us else ()
            endpoints = pick(events.endpoint) if events.endpoint else ()
            sizes = pick(events.size) if events.size else ()
        for level in range(len(delta.levels)):
            delta.levels[level] += levels.count(level)
        delta.bytes_in += sum(sizes)
        if latencies:
            delta.latency.add([value for value in latencies if value is not None])
        if endpoints:
            delta.endpoints.add_hashes(self._endpoints.of(filter(None, set(endpoints))))

    def _add_notable(self, events: Columns, notable: Notable) -> tuple[WindowDelta, Notable, int]:
        row = notable.row
        service = events.service if isinstance(events.service, str) else events.service[row]
        delta = self._deltas[events.time_us[row] // self._width_us, service]
        level = events.level[row]
        id_, text = self._miner.of(level, notable.message)
        delta.templates.add(level, text, id_=id_)
        return delta, notable, id_


def merge_all(deltas: Iterable[WindowDelta]) -> dict[WindowKey, WindowDelta]:
    """Deltas merged by their key; the given ones are left as they are."""
    merged: dict[WindowKey, WindowDelta] = {}
    for delta in deltas:
        known = merged.get(delta.key)
        if known is None:
            known = merged[delta.key] = WindowDelta(
                delta.start_us, delta.service, delta.host, delta.signal, delta.duration_ms
            )
        known.merge(delta)
    return merged


def deltas_of(record: EventRecord, *, duration_ms: int = DEFAULT_DURATION_MS) -> list[WindowDelta]:
    """The deltas of the raw events of one record, the same for whoever derives them.

    Events that were counted before (samples that an agent sent along) derive nothing. The deltas'
    identity is that of the record: (topic, partition, offset).
    """
    groups: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
    for row, event in enumerate(record.events):
        if not event.counted:
            groups[event.host, event.signal].append(row)
    deltas = []
    for (host, signal), rows in groups.items():
        events = [record.events[row] for row in rows]
        builder = WindowBuilder(host, signal=signal, duration_ms=duration_ms)
        builder.add(
            Columns(
                time_us=[event.time_us for event in events],
                service=record.service,
                level=[event.level for event in events],
                latency_us=[event.latency_us for event in events],
                endpoint=[event.endpoint for event in events],
                notable=[Notable(row, event.message) for row, event in enumerate(events) if event.level >= Level.WARN],
            )
        )
        deltas += builder.take()
    return deltas
