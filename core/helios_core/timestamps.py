"""Times as logs write them, to integer microseconds since the epoch.

Whole columns are converted through two small tables, one of the seconds and one of what follows
them: in a log that is in order almost every lookup is a hit.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from operator import add, itemgetter
from typing import Final

from helios_core.clock import US_PER_S, to_us

_MAX_KNOWN: Final = 4_096
_SKEW: Final = timedelta(days=1)
_LEAP_CYCLE_YEARS: Final = 8  # between 29 February 1896 and 1904, the longest wait for one
_SECONDS: Final = re.compile(r"\d{4}([-/])\d\d\1\d\d[T t_]\d\d:\d\d:(?:[0-5]\d|60)")
_TAIL: Final = re.compile(r"(?:[.,](\d{1,9})\d{0,9})?\s{0,2}(Z|z|UTC|GMT|[+-](?:[01]\d|2[0-3])(?::?[0-5]\d)?)?")


# `text[:19]` and `text[19:]`; without a slice made for each it is half as quick again.
_HEAD: Final = itemgetter(slice(None, 19))
_REST: Final = itemgetter(slice(19, None))


class _Seconds(dict[str, int]):
    """`2026-03-02T10:15:03` → µs as if it were UTC; ValueError for what is no such time."""

    def __missing__(self, text: str) -> int:
        if _SECONDS.fullmatch(text) is None:
            raise ValueError(f"{text!r} is no date and time")
        year, month, day = int(text[0:4]), int(text[5:7]), int(text[8:10])
        hour, minute, second = int(text[11:13]), int(text[14:16]), int(text[17:19])
        us = to_us(datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC))
        us += (second - min(second, 59)) * US_PER_S  # a leap second
        if len(self) >= _MAX_KNOWN:
            self.clear()
        self[text] = us
        return us


class _Tails(dict[str, int]):
    """What follows the seconds (`.123Z`, `,123`, `+02:00`) → µs to add."""

    def __init__(self, utc_offset_s: int) -> None:
        super().__init__()
        self._default_us = -utc_offset_s * US_PER_S

    def __missing__(self, text: str) -> int:
        match = _TAIL.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} after the seconds of a time")
        fraction, zone = match.groups()
        us = self._default_us if zone is None else -_zone_s(zone) * US_PER_S
        if fraction:
            us += int(fraction[:6].ljust(6, "0"))
        if len(self) >= _MAX_KNOWN:
            self.clear()
        self[text] = us
        return us


def _zone_s(zone: str) -> int:
    if zone[0] not in "+-":
        return 0
    digits = zone[1:].replace(":", "").ljust(4, "0")
    seconds = int(digits[:2]) * 3_600 + int(digits[2:]) * 60
    return -seconds if zone[0] == "-" else seconds


class IsoTimes:
    """Columns of ISO 8601 times (RFC 3339 and its relatives) → µs since the epoch.

    Args:
        utc_offset_s: the zone of times that name none, seconds east of UTC.
    """

    __slots__ = ("_seconds", "_tails")

    def __init__(self, utc_offset_s: int = 0) -> None:
        self._seconds = _Seconds()
        self._tails = _Tails(utc_offset_s)

    def column(self, texts: list[str]) -> list[int]:
        """ValueError if any of them is no such time."""
        seconds = map(self._seconds.__getitem__, map(_HEAD, texts))
        tails = map(self._tails.__getitem__, map(_REST, texts))
        return list(map(add, seconds, tails))

    def one(self, text: str) -> int:
        """ValueError if it is no such time."""
        return self._seconds[text[:19]] + self._tails[text[19:]]


def epoch_us(number: float) -> int:
    """Seconds, milliseconds, microseconds or nanoseconds since the epoch, told apart by their size.

    The limits put any time from 1973 to 2286 into its own unit. ValueError below and above them.
    """
    for limit, unit_us in ((1e8, None), (1e10, US_PER_S), (1e13, 1_000), (1e16, 1), (1e19, 0)):
        if number < limit:
            if unit_us is None:
                break
            if unit_us == 0:
                return int(number) // 1_000
            return int(number) * unit_us if isinstance(number, int) else round(number * unit_us)
    raise ValueError(f"{number!r} is no time since the epoch in s, ms, µs or ns")


def with_year(when: datetime, reference_us: int) -> datetime:
    """A time that was written without a year, in the last year in which it does not lie after the reference.

    Args:
        when: aware, its year ignored.
        reference_us: when it was written or later (a file's last change): a day of clock skew is forgiven.
    """
    reference = datetime.fromtimestamp(reference_us / US_PER_S, tz=when.tzinfo or UTC)
    for year in range(reference.year + 1, reference.year - _LEAP_CYCLE_YEARS, -1):
        try:
            candidate = when.replace(year=year)
        except ValueError:  # 29 February in a year that has none
            continue
        if candidate <= reference + _SKEW:
            return candidate
    raise ValueError(f"{when:%d %B} is in none of the years before {reference.year}")


def zone_of(utc_offset_s: int) -> timezone:
    return timezone(timedelta(seconds=utc_offset_s))
