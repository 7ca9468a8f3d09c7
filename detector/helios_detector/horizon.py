"""The sliding horizon of one service: its last N windows merged over all hosts, moved a window at a time.

Counts and histograms are integers, so a window that leaves is taken back exactly. Deltas that come
before their horizon is decided are in it; later ones still enter the horizons that are undecided.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from helios_core.features import Expected, HorizonView
from helios_core.model import Signal
from helios_core.sketches.distinct import DistinctCount
from helios_core.sketches.latency import MAX_LATENCY_US, LatencyHistogram
from helios_core.sketches.templates import TemplateCounts
from helios_core.windows import WindowDelta

HORIZON_MINUTES: Final = 5.0
_MINUTE_US: Final = 60_000_000
_HOUR_US: Final = 3_600_000_000
_MAX_HOSTS: Final = 200  # of a service, by name: each alert carries them


class WindowTotals:
    """One window of a service and signal, merged over hosts."""

    __slots__ = ("endpoints", "errors", "events", "latency", "templates", "warnings")

    def __init__(self) -> None:
        self.events = 0
        self.errors = 0
        self.warnings = 0
        self.latency = LatencyHistogram()
        self.endpoints = DistinctCount()
        self.templates = TemplateCounts.empty()

    def merge(self, delta: WindowDelta) -> None:
        self.events += delta.events
        self.errors += delta.errors
        self.warnings += delta.levels[3]
        self.latency.merge(delta.latency)
        self.endpoints.merge(delta.endpoints)
        self.templates.merge(delta.templates)

    def with_latency_of(self, other: WindowTotals | None) -> WindowTotals:
        """These counts with the latency and endpoints of another signal."""
        made = WindowTotals()
        made.events, made.errors, made.warnings = self.events, self.errors, self.warnings
        made.templates = self.templates
        if other is not None:
            made.latency, made.endpoints = other.latency, other.endpoints
        return made


class _Rolling:
    """Sums of the windows that are in a horizon."""

    __slots__ = ("errors", "events", "latency", "size", "warnings", "windows")

    def __init__(self, size: int) -> None:
        self.size = size
        self.windows: deque[WindowTotals | None] = deque()
        self.events = 0
        self.errors = 0
        self.warnings = 0
        self.latency = _open_histogram()

    def push(self, window: WindowTotals | None) -> None:
        """A new window enters; the oldest leaves when the horizon is full."""
        self.windows.append(window)
        if window is not None:
            self.add(window)
        if len(self.windows) > self.size:
            gone = self.windows.popleft()
            if gone is not None:
                self.events -= gone.events
                self.errors -= gone.errors
                self.warnings -= gone.warnings
                self.latency.take_back(gone.latency)

    def steady_error_rate(self) -> float:
        """The error rate without the window that has the most errors: what one burst cannot make."""
        if not self.errors:
            return 0.0
        worst = max((w for w in self.windows if w is not None), key=lambda w: w.errors, default=None)
        if worst is None or self.events == worst.events:
            return 0.0
        return (self.errors - worst.errors) / (self.events - worst.events)

    def outside_worst(self, span: int) -> tuple[int, int]:
        """(events, errors) without the `span` neighbouring windows that have the most errors."""
        if self.errors < 2:  # nearly always: a single error is its own worst minute
            return self.events, 0
        events = [0 if w is None else w.events for w in self.windows]
        errors = [0 if w is None else w.errors for w in self.windows]
        worst = max(range(len(errors)), key=lambda i: sum(errors[i : i + span]))
        return self.events - sum(events[worst : worst + span]), self.errors - sum(errors[worst : worst + span])

    def add(self, window: WindowTotals) -> None:
        self.events += window.events
        self.errors += window.errors
        self.warnings += window.warnings
        self.latency.merge(window.latency)
        self.latency.min_us, self.latency.max_us = 0, MAX_LATENCY_US


def _open_histogram() -> LatencyHistogram:
    histogram = LatencyHistogram()
    histogram.max_us = MAX_LATENCY_US
    return histogram


class ServiceHorizon:
    """The windows of one service that may still matter, and the sums over the last ones.

    A service that sends logs and spans is not counted twice: its counts are those of its logs as soon
    as it has any, its latency and endpoints those of its spans as soon as these have latency.

    Args:
        window_us: the duration of a window.
    """

    def __init__(self, window_us: int) -> None:
        self._window_us = window_us
        self.size = round(HORIZON_MINUTES * _MINUTE_US / window_us)
        self._pending: dict[int, dict[int, WindowTotals]] = {}  # by window, then by signal
        self._counting: int = Signal.SPAN
        self._spans_have_latency = False
        self._hosts: dict[str, int] = {}  # the last window in which each brought something
        self._coarse_until_us = 0
        self.widest_us = window_us  # of all windows that came
        self._long = _Rolling(self.size)
        self._short = _Rolling(max(1, _MINUTE_US // window_us))
        self._next: int | None = None
        self.late = 0

    @property
    def end_us(self) -> int | None:
        """The end of the horizon that was decided last; None before the first."""
        return None if self._next is None else self._next * self._window_us

    @property
    def next_end_us(self) -> int | None:
        """The end of the next horizon; None while there is nothing to decide."""
        if self._next is not None:
            return (self._next + 1) * self._window_us
        return (min(self._pending) + 1) * self._window_us if self._pending else None

    @property
    def is_empty(self) -> bool:
        """No event in the horizon."""
        return self._long.events == 0

    def add(self, delta: WindowDelta) -> bool:
        """Takes a delta. One whose window was decided before is counted as late; returns False for it."""
        index = delta.start_us // self._window_us
        if self._next is not None and index < self._next:
            self.late += delta.events
            return False
        if delta.duration_ms * 1_000 > self._window_us:
            span_us = self.size * self._window_us
            self._coarse_until_us = max(self._coarse_until_us, delta.end_us + span_us)
            self.widest_us = max(self.widest_us, delta.duration_ms * 1_000)
        if delta.signal == Signal.LOG:
            self._counting = Signal.LOG
        elif delta.latency.count:
            self._spans_have_latency = True
        self._hosts[delta.host] = max(index, self._hosts.pop(delta.host, index))  # the newest last
        if len(self._hosts) > _MAX_HOSTS:
            del self._hosts[next(iter(self._hosts))]
        signals = self._pending.setdefault(index, {})
        totals = signals.get(delta.signal)
        if totals is None:
            totals = signals[delta.signal] = WindowTotals()
        totals.merge(delta)
        return True

    def _chosen(self, signals: dict[int, WindowTotals] | None) -> WindowTotals | None:
        """What counts of a window."""
        if not signals:
            return None
        counted = signals.get(self._counting)
        if not self._spans_have_latency or self._counting == Signal.SPAN:
            return counted
        return (counted or WindowTotals()).with_latency_of(signals.get(Signal.SPAN))

    def advance(self) -> WindowTotals | None:
        """Moves the horizon by one window; returns that window, or None when it had no delta."""
        if self._next is None:
            self._next = min(self._pending)
        window = self._chosen(self._pending.pop(self._next, None))
        self._next += 1
        self._long.push(window)
        self._short.push(window)
        return window

    def skip_to_data(self, limit_us: int) -> None:
        """Jumps over windows without data, to the next that has any, but not past `limit_us`. Only when empty."""
        limit = limit_us // self._window_us
        data = min(self._pending, default=limit)
        if self._next is not None and data > self._next:
            # What lies between the limit and the data may still come: it is not decided yet.
            self._next = max(self._next, min(data, limit))
            self._long = _Rolling(self._long.size)
            self._short = _Rolling(self._short.size)

    def break_off(self) -> int | None:
        """Begins anew at the next data when it is more than a minute away: what lies between was never read.

        Returns:
            the start of that data; None when there is no such gap.
        """
        data = min(self._pending, default=self._next)
        if self._next is None or data is None or (data - self._next) * self._window_us <= _MINUTE_US:
            return None
        self._next = data
        self._long = _Rolling(self._long.size)
        self._short = _Rolling(self._short.size)
        return data * self._window_us

    def skip_to(self, time_us: int) -> bool:
        """Begins anew at a time ahead; False when it is not ahead."""
        index = time_us // self._window_us
        if self._next is None or index <= self._next:
            return False
        self._pending = {i: signals for i, signals in self._pending.items() if i >= index}
        self._next = index
        self._long = _Rolling(self._long.size)
        self._short = _Rolling(self._short.size)
        return True

    def has_data(self, limit_us: int) -> bool:
        """A window that is not decided, and ends by `limit_us`, has a delta."""
        return bool(self._pending) and (min(self._pending) + 1) * self._window_us <= limit_us

    def view(self, expected: Expected, new_templates: int) -> HorizonView:
        """What features are computed from, at the end of the last decided window."""
        distinct = DistinctCount.union(window.endpoints for window in self._long.windows if window is not None)
        return HorizonView(
            end_us=self.end_us or 0,
            events=self._long.events,
            errors=self._long.errors,
            warnings=self._long.warnings,
            last_minute=self._short.events,
            minutes=self.size * self._window_us / _MINUTE_US,
            latency=self._long.latency,
            unique_endpoints=distinct.estimate(),
            steady_error_rate=self._long.steady_error_rate(),
            new_templates=new_templates,
            expected=expected,
        )

    def outside_worst_minute(self) -> tuple[int, int]:
        """(events, errors) of the horizon without the minute that has the most errors: what no burst can make."""
        return self._long.outside_worst(self._short.size)

    def latest(self, windows: int) -> tuple[int, int]:
        """(events, errors) of the last windows."""
        last = [window for window in list(self._short.windows)[-windows:] if window is not None]
        return sum(window.events for window in last), sum(window.errors for window in last)

    @property
    def last_minute(self) -> tuple[int, int]:
        """(events, errors) of the last minute."""
        return self._short.events, self._short.errors

    def hosts(self) -> tuple[str, ...]:
        """Those that brought something in the last hour of it."""
        since = (self._next or 0) - _HOUR_US // self._window_us
        return tuple(sorted(host for host, index in self._hosts.items() if index >= since))

    @property
    def is_coarse(self) -> bool:
        """The next horizon would cut a wider window of history in two: it is right at full minutes alone."""
        return (self.next_end_us or 0) < self._coarse_until_us

    @property
    def full(self) -> bool:
        """The horizon has been slid over its whole length since it began or jumped."""
        return len(self._long.windows) >= self.size
