"""The forms in which plain text writes the time, each with how it is found and what it means."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import ClassVar, Final

from helios_agent.parsers.base import ParserContext
from helios_core.clock import to_us
from helios_core.levels import level_of_syslog
from helios_core.model import Level
from helios_core.timestamps import IsoTimes, epoch_us, with_year, zone_of

_MAX_KNOWN: Final = 4_096
_REFERENCE_STEP_US: Final = 600_000_000
_KLOG_LEVELS: Final = {"I": Level.INFO, "W": Level.WARN, "E": Level.ERROR, "F": Level.CRITICAL}
_PRIORITY: Final = re.compile(r"<(\d{1,3})>")
_DAYS: Final = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_MONTHS: Final = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"


class Stamp:
    """One form of time. `find` gives the time and where it ends in the text, or None."""

    pattern: ClassVar[re.Pattern[str]]
    is_syslog: ClassVar[bool] = False

    def __init__(self, context: ParserContext) -> None:
        self._context = context
        self._zone = zone_of(context.utc_offset_s)
        self._known: dict[str, int] = {}
        self._reference_us = context.reference_us

    def refer(self, now_us: int) -> None:
        """Lets the reference follow the clock: what carries no year or day was written at about this time."""
        if now_us - self._reference_us > _REFERENCE_STEP_US:
            self._reference_us = now_us
            self._known.clear()

    def find(self, text: str) -> tuple[int, int] | None:
        match = self.pattern.search(text)
        if match is None:
            return None
        written = match[1]
        time_us = self._known.get(written)
        if time_us is None:
            try:
                time_us = self.convert(written)
            except (ValueError, OverflowError):
                return None
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[written] = time_us
        return time_us, match.end()

    def convert(self, written: str) -> int:
        """The time in µs of what the pattern's first group has found; ValueError when there is none."""
        raise NotImplementedError(written)

    def level_of(self, text: str) -> Level:
        """The level, where the form of the time carries one."""
        del text
        return Level.UNSPECIFIED


class Iso(Stamp):
    """`2015-10-18 18:01:47,978`, `2026/03/02 10:15:03`, `2026-03-02T10:15:03.123+02:00`"""

    pattern = re.compile(
        r"(?<!\d)(\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?"
        r"(?:Z| ?(?:UTC|GMT)\b| ?[+-]\d\d:?\d\d(?!\d))?)[\]:]?"
    )

    def __init__(self, context: ParserContext) -> None:
        super().__init__(context)
        self._iso = IsoTimes(context.utc_offset_s)

    def convert(self, written: str) -> int:
        return self._iso.one(written)


def _form(name: str, doc: str, pattern: str, formats: str, rewrite: Callable[[str], str] | None = None) -> type[Stamp]:
    """A form that `strptime` reads."""

    def convert(self: Stamp, written: str) -> int:
        text = rewrite(written) if rewrite else written
        when = datetime.strptime(text, formats)  # noqa: DTZ007 - the zone follows when the format has none
        return to_us(when if when.tzinfo else when.replace(tzinfo=self._zone))

    return type(name, (Stamp,), {"__doc__": doc, "pattern": re.compile(pattern), "convert": convert})


def _with_fraction(written: str) -> str:
    head, dot, rest = written.partition(".")
    digits, _, year = rest.partition(" ")
    return f"{head} {year}.{digits[:6]}" if dot else f"{written}.0"


Ctime = _form(
    "Ctime",
    "`Sun Dec 04 04:47:44 2005`, also with a fraction of the second",
    rf"\[?({_DAYS} {_MONTHS} [ \d]\d \d\d:\d\d:\d\d(?:\.\d+)? \d{{4}})\]?",
    "%a %b %d %H:%M:%S %Y.%f",
    _with_fraction,
)
Clf = _form(
    "Clf",
    "`17/May/2015:10:05:03 +0000`",
    r"\[?(\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4})\]?",
    "%d/%b/%Y:%H:%M:%S %z",
)
Spark = _form("Spark", "`17/06/09 20:10:40`", r"^(\d\d/\d\d/\d\d \d\d:\d\d:\d\d)\b", "%y/%m/%d %H:%M:%S")
Hdfs = _form("Hdfs", "`081109 203615`", r"^(\d{6} \d{6})\b", "%y%m%d %H%M%S")


class Syslog(Stamp):
    """`Mar 27 13:06:56` (RFC 3164): no year, so it is the last one that does not lie after the reference."""

    pattern = re.compile(rf"^(?:<\d{{1,3}}>)?({_MONTHS} [ \d]\d \d\d:\d\d:\d\d)\b")
    is_syslog = True

    def convert(self, written: str) -> int:
        when = datetime.strptime(f"2000 {written}", "%Y %b %d %H:%M:%S").replace(tzinfo=self._zone)
        return to_us(with_year(when, self._reference_us))

    def level_of(self, text: str) -> Level:
        priority = _PRIORITY.match(text)
        return level_of_syslog(int(priority[1]) % 8) if priority else Level.UNSPECIFIED


class Klog(Stamp):
    """`E0302 10:15:03.123456` of Kubernetes' components: the level, and no year."""

    pattern = re.compile(r"^[IWEF](\d{4} \d\d:\d\d:\d\d\.\d{6})\b")

    def convert(self, written: str) -> int:
        when = datetime.strptime(f"2000{written}", "%Y%m%d %H:%M:%S.%f").replace(tzinfo=self._zone)
        return to_us(with_year(when, self._reference_us))

    def level_of(self, text: str) -> Level:
        return _KLOG_LEVELS.get(text[:1], Level.UNSPECIFIED)


class TimeOfDay(Stamp):
    """`22:10:17.130`: no date, so it is the day that brings it nearest to the reference."""

    pattern = re.compile(r"^(\d\d:\d\d:\d\d[.,]\d{3,6})\b")

    def convert(self, written: str) -> int:
        clock = datetime.strptime(written.replace(",", "."), "%H:%M:%S.%f")  # noqa: DTZ007 - the zone follows
        since_midnight_us = to_us(clock.replace(year=1970, month=1, day=1, tzinfo=self._zone))
        day_us = 86_400_000_000
        days = round((self._reference_us - since_midnight_us) / day_us)
        return days * day_us + since_midnight_us


class Epoch(Stamp):
    """`1767225600.123`, or milliseconds, microseconds, nanoseconds."""

    pattern = re.compile(r"^\[?(\d{10}(?:\.\d+)?|\d{13}|\d{16}|\d{19})\b\]?")

    def convert(self, written: str) -> int:
        return epoch_us(float(written) if "." in written else int(written))


# Which forms are looked for, the strictest first: of two that fit as many lines the earlier is taken.
STAMPS: Final[tuple[type[Stamp], ...]] = (Iso, Ctime, Clf, Klog, Syslog, Spark, Hdfs, Epoch, TimeOfDay)
