"""Blocks of lines in, deltas and samples out: parse, put implausible values right, count.

The counting law holds here for every source: lines = lines in events + unparsed + dropped by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from helios_agent.parsers.base import Block, Parser
from helios_core.clock import US_PER_S, Clock
from helios_core.columns import Columns, Notable
from helios_core.model import (
    MAX_SERVICE_BYTES,
    MAX_SERVICES_PER_CLIENT,
    OVERFLOW_SERVICE,
    Event,
    Level,
)
from helios_core.windows import WindowBuilder, WindowDelta

_T = TypeVar("_T")
MAX_AHEAD_US: Final = 600 * US_PER_S
# A time this far ahead of the middle of its block does not move the watermark.
_OUTLIER_US: Final = 3_600 * US_PER_S
_SAMPLE_EVERY_US: Final = 60 * US_PER_S  # one sample of a template in a minute
_SAMPLES_PER_WINDOW: Final = 4
_MAX_SAMPLE_CHARS: Final = 2_000
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
        parsed = parser.parse(Block(data, now_us))
        events = parsed.events
        counts = self.counts
        counts.lines += parsed.lines
        counts.bytes += len(data)
        counts.events += len(events)
        counts.continued += parsed.continued
        counts.unparsed += parsed.unparsed
        counts.dropped += parsed.dropped
        counts.mended += parsed.mended
        watermark_us = self._mend_times(events, now_us) if len(events) else 0
        self._bound_services(events)
        for delta, notable, template_id in self._builder.add(events):
            self._consider(delta, notable, template_id, events)
        last = events.service if isinstance(events.service, str) else events.service[-1] if len(events) else service
        if parsed.unparsed:
            at_us = events.time_us[-1] if len(events) else now_us
            self._builder.add_unparsed(at_us, last, parsed.unparsed, parsed.unparsed_bytes)
        return watermark_us

    def drop(self, reason: str, lines: int, size: int) -> None:
        """Counts lines that were never parsed."""
        self.counts.lines += lines
        self.counts.bytes += size
        self.counts.dropped[reason] += lines

    def take(self) -> tuple[list[WindowDelta], dict[str, list[Event]]]:
        """The deltas, and the samples by service, since the last take."""
        deltas = self._builder.take()
        for delta in deltas:
            self.last_seen_us[delta.service] = max(self.last_seen_us.get(delta.service, 0), delta.end_us)
        samples, self._samples = self._samples, {}
        self._samples_in_window.clear()
        self.has_new_error = False
        return deltas, samples

    def _mend_times(self, events: Columns, now_us: int) -> int:
        """Puts implausible times to the time of receipt; returns the watermark of the block."""
        times = events.time_us
        limit_us = self._latest.now_us() + MAX_AHEAD_US
        latest_us = max(times)
        if min(times) < self._earliest_us or latest_us > limit_us:
            plausible = [t for t in times if self._earliest_us <= t <= limit_us]
            receipt_us = now_us if now_us >= self._earliest_us else min(plausible, default=self._latest.now_us())
            for row, time_us in enumerate(times):
                if time_us < self._earliest_us:
                    self.counts.mended["time_too_old"] += 1
                    times[row] = receipt_us
                elif time_us > limit_us:
                    self.counts.mended["time_in_future"] += 1
                    times[row] = receipt_us
            if not plausible:
                return 0
            latest_us = max(plausible)
        bound_us = times[len(times) // 2] + _OUTLIER_US
        return latest_us if latest_us <= bound_us else max((t for t in times if t <= bound_us), default=0)

    def _bound_services(self, events: Columns) -> None:
        """At most MAX_SERVICES_PER_CLIENT names, each one that the contract takes."""
        names = {events.service} if isinstance(events.service, str) else set(events.service)
        fresh = names - self._services
        if not fresh:
            return
        renamed = {}
        for name in fresh:
            sound = len(name.encode("utf-8", "replace")) <= MAX_SERVICE_BYTES and name.isprintable()
            if sound and len(self._services) < MAX_SERVICES_PER_CLIENT:
                self._services.add(name)
            else:
                renamed[name] = OVERFLOW_SERVICE
                if len(self.overflowed) < _MAX_NAMES_LISTED:
                    self.overflowed.append(name[:80])
        if renamed:
            if isinstance(events.service, str):
                events.service = OVERFLOW_SERVICE
            else:
                events.service = [renamed.get(name, name) for name in events.service]
            self.counts.mended["service_overflow"] += 1

    def _consider(self, delta: WindowDelta, notable: Notable, template_id: int, events: Columns) -> None:
        """Keeps a notable event as a sample, if its template has not been shown lately."""
        time_us = events.time_us[notable.row]
        key = (delta.service, template_id)
        last_us = self._last_sampled.get(key)
        level = events.level[notable.row]
        window = (delta.start_us, delta.service)
        if last_us is not None and time_us - last_us < _SAMPLE_EVERY_US:
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
        self._samples.setdefault(delta.service, []).append(
            Event(
                time_us=time_us,
                service=delta.service,
                level=Level(level),
                message=notable.message[:_MAX_SAMPLE_CHARS],
                latency_us=_at(events.latency_us, notable.row),
                endpoint=_at(events.endpoint, notable.row) or "",
                trace_id=notable.trace_id,
                span_id=notable.span_id,
                host=self._host,
                template_id=template_id,
                counted=True,
            )
        )


def _at(column: Sequence[_T | None], row: int) -> _T | None:
    return column[row] if column else None
