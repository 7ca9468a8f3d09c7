"""Blocks of lines in, deltas and samples out: parse, put implausible values right, count.

The counting law holds here for every source: lines = lines in events + unparsed + dropped by reason.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from helios_agent.parsers.base import Block, Parsed, Parser
from helios_core.clock import US_PER_S, Clock
from helios_core.columns import Columns, Notable
from helios_core.model import (
    MAX_SERVICE_BYTES,
    MAX_SERVICES_PER_CLIENT,
    OVERFLOW_SERVICE,
    Event,
    Level,
)
from helios_core.sketches.latency import MAX_LATENCY_US
from helios_core.windows import WindowBuilder, WindowDelta

_T = TypeVar("_T")
MAX_AHEAD_US: Final = 600 * US_PER_S
# A time this far ahead of what comes after it does not move the watermark.
_OUTLIER_US: Final = 3_600 * US_PER_S
_LAST_LINES: Final = 5
_SAMPLE_EVERY_US: Final = 60 * US_PER_S  # one sample of a template in a minute
_SAMPLES_PER_WINDOW: Final = 4
_MAX_SAMPLE_CHARS: Final = 2_000
_MAX_ID_CHARS: Final = 200
_MAX_REMEMBERED: Final = 10_000
_MAX_NAMES_LISTED: Final = 100


@dataclass(slots=True)
class Counts:
    """What became of the lines: the counting law, visible in `status`."""

    lines: int = 0
    bytes: int = 0
    events: int = 0
    continued: int = 0
    unparsed: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    mended: Counter[str] = field(default_factory=Counter)


class Reduction:
    """The deltas and samples since the last cut, of all sources of one agent.

    Args:
        host: where the agent runs.
        clock: for times that the events lack, and to tell which are implausible.
        earliest_us: an event time before this is implausible.
        latest: the machine's clock, also when `clock` follows event time: an event more than
            MAX_AHEAD_US beyond it is implausible.
        window_ms: the duration of a window.

    Attributes:
        has_new_error: since the last take an error template was seen that had not been seen lately.
        overflowed: the beginnings of the first names that were counted under OVERFLOW_SERVICE.
        counts: what became of all lines.
        last_seen_us: for each service the end of its last window.
    """

    def __init__(self, host: str, clock: Clock, *, earliest_us: int, latest: Clock, window_ms: int) -> None:
        self._host = host
        self._clock = clock
        self._earliest_us = earliest_us
        self._latest = latest
        self._builder = WindowBuilder(host, duration_ms=window_ms)
        self._services: set[str] = set()
        self._samples: dict[str, list[Event]] = {}
        self._samples_in_window: Counter[tuple[int, str]] = Counter()
        self._last_sampled: dict[tuple[str, int], int] = {}
        self.has_new_error = False
        self.overflowed: list[str] = []
        self.counts = Counts()
        self.last_seen_us: dict[str, int] = {}

    @property
    def open_windows(self) -> int:
        return len(self._builder)

    def add(self, parser: Parser, data: bytes, service: str, receipt_us: int | None = None) -> int:
        """Counts a block of whole lines of one source.

        Args:
            parser: the source's own.
            data: the lines.
            service: the service of lines that no parser takes.
            receipt_us: when the lines were written, as far as it is known; the clock's time without it.

        Returns:
            the event time up to which the source has now been read, or 0 when the block tells none.
        """
        now_us = self._clock.now_us() if receipt_us is None else receipt_us
        return self.count(parser.parse(Block(data, now_us)), len(data), service, now_us)

    def count(self, parsed: Parsed, size: int, service: str, now_us: int) -> int:
        """Counts a block that is parsed, of so many bytes, received `now_us`; returns what `add` does."""
        events = parsed.events
        counts = self.counts
        counts.lines += parsed.lines
        counts.bytes += size
        counts.events += len(events)
        counts.continued += parsed.continued
        counts.unparsed += parsed.unparsed
        counts.dropped += parsed.dropped
        counts.mended += parsed.mended
        watermark_us = self._mend_times(events, now_us) if len(events) else 0
        self._bound_services(events)
        for delta, notable, template_id in self._builder.add(events):
            self._consider(delta, notable, template_id, events)
        if parsed.unparsed and len(events):
            last = events.service if isinstance(events.service, str) else events.service[-1]
            self._builder.add_unparsed(events.time_us[-1], last, parsed.unparsed, parsed.unparsed_bytes)
        elif parsed.unparsed:
            at_us = now_us if self._is_plausible(now_us) else self._latest.now_us()
            self._builder.add_unparsed(at_us, self._bounded(service), parsed.unparsed, parsed.unparsed_bytes)
        return watermark_us

    def drop(self, reason: str, lines: int, size: int) -> None:
        """Counts lines that were never parsed. Of one that has not ended there are only bytes yet."""
        self.counts.lines += lines
        self.counts.bytes += size
        if lines:
            self.counts.dropped[reason] += lines

    def take(self) -> tuple[list[WindowDelta], dict[str, list[Event]]]:
        """The deltas, and the samples by service, since the last take."""
        deltas = self._builder.take()
        for delta in deltas:
            self.last_seen_us[delta.service] = max(self.last_seen_us.get(delta.service, 0), delta.end_us)
        samples, self._samples = self._samples, {}
        for events in samples.values():
            events.sort(key=lambda event: -event.level)
        self._samples_in_window.clear()
        self.has_new_error = False
        return deltas, samples

    def _is_plausible(self, time_us: int) -> bool:
        return self._earliest_us <= time_us <= self._latest.now_us() + MAX_AHEAD_US

    def _mend_times(self, events: Columns, now_us: int) -> int:
        """Puts implausible times to the time of receipt; returns the watermark of the block."""
        times = events.time_us
        limit_us = self._latest.now_us() + MAX_AHEAD_US
        if min(times) >= self._earliest_us and max(times) <= limit_us:
            return _watermark_of(times)
        plausible = [t for t in times if self._earliest_us <= t <= limit_us]
        receipt_us = now_us if self._is_plausible(now_us) else min(plausible, default=self._latest.now_us())
        for row, time_us in enumerate(times):
            if time_us < self._earliest_us:
                self.counts.mended["time_too_old"] += 1
                times[row] = receipt_us
            elif time_us > limit_us:
                self.counts.mended["time_in_future"] += 1
                times[row] = receipt_us
        return _watermark_of(plausible) if plausible else 0

    def _bound_services(self, events: Columns) -> None:
        """At most MAX_SERVICES_PER_CLIENT names, each one that the contract takes."""
        names = {events.service} if isinstance(events.service, str) else set(events.service)
        renamed = {name for name in sorted(names - self._services) if self._bounded(name) != name}
        if not renamed:
            return
        if isinstance(events.service, str):
            events.service = OVERFLOW_SERVICE
            self.counts.mended["service_overflow"] += len(events)
        else:
            self.counts.mended["service_overflow"] += sum(name in renamed for name in events.service)
            events.service = [OVERFLOW_SERVICE if name in renamed else name for name in events.service]

    def _bounded(self, name: str) -> str:
        """The name, or OVERFLOW_SERVICE for one too many or one that the contract does not take."""
        if name in self._services:
            return name
        sound = 0 < len(name.encode("utf-8", "replace")) <= MAX_SERVICE_BYTES and name.isprintable()
        if sound and len(self._services) < MAX_SERVICES_PER_CLIENT:
            self._services.add(name)
            return name
        shown = name[:80].encode("utf-8", "replace").decode()
        if len(self.overflowed) < _MAX_NAMES_LISTED and shown not in self.overflowed:
            self.overflowed.append(shown)
        return OVERFLOW_SERVICE

    def _consider(self, delta: WindowDelta, notable: Notable, template_id: int, events: Columns) -> None:
        """Keeps a notable event as a sample, if its template has not been shown lately."""
        time_us = events.time_us[notable.row]
        key = (delta.service, template_id)
        last_us = self._last_sampled.get(key)
        level = events.level[notable.row]
        window = (delta.start_us, delta.service)
        if last_us is not None and abs(time_us - last_us) < _SAMPLE_EVERY_US:
            return
        # The last place in a window is for errors.
        limit = _SAMPLES_PER_WINDOW if level >= Level.ERROR else _SAMPLES_PER_WINDOW - 1
        if self._samples_in_window[window] >= limit:
            return
        if len(self._last_sampled) >= _MAX_REMEMBERED:
            self._last_sampled.clear()
        self.has_new_error = self.has_new_error or (last_us is None and level >= Level.ERROR)
        self._last_sampled[key] = time_us
        self._samples_in_window[window] += 1
        latency_us = _at(events.latency_us, notable.row)
        self._samples.setdefault(delta.service, []).append(
            Event(
                time_us=time_us,
                service=delta.service,
                level=Level(level),
                message=notable.message[:_MAX_SAMPLE_CHARS],
                latency_us=None if latency_us is None else min(latency_us, MAX_LATENCY_US),
                endpoint=(_at(events.endpoint, notable.row) or "")[:_MAX_SAMPLE_CHARS],
                trace_id=notable.trace_id[:_MAX_ID_CHARS],
                span_id=notable.span_id[:_MAX_ID_CHARS],
                host=self._host,
                template_id=template_id,
                counted=True,
            )
        )


def _watermark_of(times_us: list[int]) -> int:
    """The latest of a block's times, but for those far ahead of most of what comes after them.

    The last ones, with too little after them to tell, are held against each other.
    """
    latest_us = max(times_us)
    if latest_us - min(times_us) <= _OUTLIER_US:
        return latest_us
    behind = sorted(times_us[-_LAST_LINES:])
    bound_us = behind[(len(behind) - 1) // 2] + _OUTLIER_US
    latest_us = max(time_us for time_us in behind if time_us <= bound_us)
    for time_us in reversed(times_us[:-_LAST_LINES]):
        if time_us <= behind[(len(behind) - 1) // 2] + _OUTLIER_US:
            latest_us = max(latest_us, time_us)
        insort(behind, time_us)
    return latest_us


def _at(column: Sequence[_T | None], row: int) -> _T | None:
    return column[row] if column else None
