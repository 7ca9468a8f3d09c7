"""Time as something that is handed in: no step of the pipeline reads the system's clock itself."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

US_PER_S = 1_000_000


class Clock(Protocol):
    """Where a step takes the time of receipt from."""

    def now_us(self) -> int:
        """Microseconds since the Unix epoch, UTC; for waits alone, since any moment."""
        ...


class SystemClock:
    """The machine's clock, for everything that is live."""

    __slots__ = ()

    def now_us(self) -> int:
        return time.time_ns() // 1_000


class SteadyClock:
    """For how long something has lasted: it begins anywhere, and does not follow when the machine's clock is set."""

    __slots__ = ()

    def now_us(self) -> int:
        return time.monotonic_ns() // 1_000


class EventClock:
    """A clock that follows event time, for replay and tests: it only moves forward."""

    __slots__ = ("_now_us",)

    def __init__(self, now_us: int = 0) -> None:
        self._now_us = now_us

    def now_us(self) -> int:
        return self._now_us

    def advance_to(self, now_us: int) -> None:
        """Moves to `now_us`; an earlier time changes nothing."""
        self._now_us = max(self._now_us, now_us)


def to_us(when: datetime) -> int:
    """Microseconds since the epoch of an aware time, exactly; a naive one is a ValueError."""
    if when.tzinfo is None:
        raise ValueError(f"{when!r} has no time zone")
    return (when - _EPOCH) // _MICROSECOND


def from_us(us: int) -> datetime:
    """The aware UTC time of microseconds since the epoch; OverflowError outside years 1 to 9999."""
    return _EPOCH + timedelta(microseconds=us)


def rfc3339(us: int, *, digits: int = 3) -> str:
    """RFC 3339 in UTC with `digits` (0, 3 or 6) decimals, truncated: `2026-03-02T10:15:03.123Z`."""
    spec = {0: "seconds", 3: "milliseconds", 6: "microseconds"}[digits]
    return from_us(us).isoformat(timespec=spec).replace("+00:00", "Z")
