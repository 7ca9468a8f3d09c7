"""Access logs of nginx and Apache: common and combined format, with the request time when it is there.

A number after the quoted fields, or after the size when there are none, is the request time: with a
decimal point seconds (nginx `$request_time`), without one microseconds (Apache `%D`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from operator import itemgetter
from typing import Final

from helios_agent.parsers.base import BLANK, MAX_LATENCY_US, Block, Parsed, ParserContext, Rows, lines_of
from helios_core.columns import Columns, Notable
from helios_core.endpoints import normalise_endpoint
from helios_core.levels import level_of_status
from helios_core.model import Level
from helios_core.timestamps import IsoTimes

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_TIME: Final = re.compile(r"\[(\d\d)/([A-Z][a-z]{2})/(\d{4}):(\d\d:\d\d:\d\d) ([+-]\d{4})\] ")
_STATUS: Final = re.compile(r" [0-9]{3} ?")
# What stands before, between and in quotes: a quote after a backslash does not end it.
_TEXT: Final = r'[^"\\]*+(?:\\(?:.|\Z)[^"\\]*+)*+'
_LINE: Final = re.compile(
    rf"""(?x)
    {_TEXT} (?<=(?P<time>\[\d\d/[A-Z][a-z][a-z]/\d\d\d\d:\d\d:\d\d:\d\d[ ][+-]\d\d\d\d\][ ]))
    "(?P<request>{_TEXT})"
    (?P<status>[ ][0-9]{{3}}(?:[ ]|\Z)) (?P<size>{_TEXT})
    (?: "{_TEXT}" {_TEXT} "{_TEXT}" (?P<rest>.*) )?
    """
)
_REQUEST_TIME: Final = re.compile(r'(?:^|[\s"])(?:rt=|request_time=)?(\d+\.\d+|\d+)(?=["\s]|$)')
# Of a line cut at its quotes: what is where.
_BEFORE: Final = itemgetter(0)
_TIME_AT: Final = itemgetter(slice(-29, None))
_AFTER_REQUEST: Final = itemgetter(2)
_STATUS_AT: Final = itemgetter(slice(None, 5))
_AFTER_AGENT: Final = itemgetter(6)
_MAX_KNOWN: Final = 4_096
_MAX_KNOWN_CHARS: Final = 64
_WARN: Final = int(Level.WARN)  # a member of an enum takes long to look up for every line


class _Times(dict[str, int]):
    """`[17/May/2015:10:05:03 +0000] ` → µs since the epoch; ValueError for what is no such time."""

    def __init__(self) -> None:
        super().__init__()
        self._iso = IsoTimes()

    def __missing__(self, text: str) -> int:
        match = _TIME.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is no time")
        day, month, year, clock, zone = match.groups()
        us = self._iso.one(f"{year}-{_MONTHS.index(month) + 1:02d}-{day}T{clock}{zone}")
        if len(self) >= _MAX_KNOWN:
            self.clear()
        self[text] = us
        return us


class _Levels(dict[str, int]):
    """` 404 ` (the status and what parts it from its neighbours) → level; ValueError for what is none."""

    def __missing__(self, text: str) -> int:
        if _STATUS.fullmatch(text) is None:
            raise ValueError(f"{text!r} is no status")
        level = self[text] = int(level_of_status(int(text)))
        return level


class _Latencies(dict[str, int | None]):
    """` 0.043` → µs, None when there is no number; ValueError for one that cannot be used."""

    def __missing__(self, text: str) -> int | None:
        written = _latency_us(text)
        if written is not None and written >= MAX_LATENCY_US:
            raise ValueError(f"a request time of {written} µs")
        us = None if written is None else int(written + 0.5)
        if len(self) >= _MAX_KNOWN:
            self.clear()
        if len(text) <= _MAX_KNOWN_CHARS:
            self[text] = us
        return us


class Access:
    """Parser of access logs (see `base.Parser`)."""

    name = "access"

    def __init__(self, context: ParserContext) -> None:
        self._context = context
        self._times = _Times()
        self._levels = _Levels()
        self._latencies = _Latencies()

    @classmethod
    def make(cls, context: ParserContext, lines: Sequence[bytes]) -> Access:
        """For a source whose first lines are given."""
        del lines
        return cls(context)

    @staticmethod
    def recognises(lines: Sequence[bytes]) -> float:
        """The share of the lines in common or combined format."""
        matching = sum(1 for line in lines if _LINE.match(line.decode("utf-8", "replace")))
        return matching / len(lines) if lines else 0.0

    def learn(self, lines: Sequence[bytes]) -> None:
        """No line tells it more: all access logs are alike."""

    def parse(self, block: Block) -> Parsed:
        try:
            columns = self._fast(block)
        except (ValueError, LookupError, OverflowError):
            columns = None  # some line is of another shape: the careful way tells which
        if columns is not None:
            return Parsed(columns, len(columns))
        lines = lines_of(block.data)
        rows = Rows(len(lines))
        for number, line in enumerate(lines):
            if not line.strip(BLANK):
                rows.blank()
            elif not self._careful(rows, line, block, number):
                rows.unparsed(line)
        return rows.parsed

    def _fast(self, block: Block) -> Columns | None:
        """All lines at once, cut at their quotes; None or an error when a line needs more care."""
        data = block.data
        escaped = b'\\"' in data
        if escaped:
            if b'\\\\"' in data or b"\0" in data:
                return None
            data = data.replace(b'\\"', b"\0")  # an escaped quote does not end a field
        texts = data.decode("utf-8", "replace").split("\n")
        if not texts[-1]:
            texts.pop()
        parts = [text.split('"') for text in texts]
        # ['host - user [time] ', request, ' 200 123 ', referer, ' ', agent, rest] or without the last four
        widths = set(map(len, parts))
        if widths - {3, 7}:
            return None
        # A slice is made once, not for each line.
        times = list(map(self._times.__getitem__, map(_TIME_AT, map(_BEFORE, parts))))
        levels = bytes(map(self._levels.__getitem__, map(_STATUS_AT, map(_AFTER_REQUEST, parts))))
        requests = [part[1].split(" ") for part in parts]
        if escaped:
            requests = [[word.replace("\0", '\\"') for word in request] for request in requests]
        if widths == {7}:
            rests = list(map(_AFTER_AGENT, parts))
        else:
            rests = [part[6] if len(part) == 7 else part[2][5:].partition(" ")[2] for part in parts]
        # A text of ASCII is as long as its bytes, unless an escaped quote was replaced.
        lines: Sequence[str | bytes] = texts if data is block.data and data.isascii() else lines_of(block.data)
        latencies: list[int | None] = []
        if any(rests):
            latencies = list(map(self._latencies.__getitem__, rests))
        return Columns(
            time_us=times if block.times_us is None else block.times_us,
            service=self._context.service,
            level=levels,
            latency_us=latencies,
            endpoint=[request[1] if len(request) == 3 else None for request in requests],
            size=list(map(len, lines)),
            notable=[
                Notable(row, _message(requests[row], parts[row][2][1:4]))
                for row, level in enumerate(levels)
                if level >= _WARN
            ],
        )

    def _careful(self, rows: Rows, line: bytes, block: Block, number: int) -> bool:
        """One line; False when it is no access log line."""
        text = line.decode("utf-8", "replace").rstrip("\r")
        match = _LINE.match(text)
        if match is None:
            return False
        try:
            time_us = self._times[match["time"]]
        except ValueError:
            return False
        request = match["request"].split(" ")
        rest = match["rest"]
        if rest is None:  # the common format, or quotes that are not closed
            rest = match["size"].partition(" ")[2] if match.end() == len(text) else ""
        rows.add(
            time_us=time_us if block.times_us is None else block.times_us[number],
            service=self._context.service,
            level=self._levels[match["status"]],
            message=_message(request, match["status"].strip()),
            size=len(line),
            latency_us=_latency_us(rest),
            endpoint=request[1] if len(request) == 3 else None,
        )
        return True


def _message(request: list[str], status: str) -> str:
    """What a person would call the request, with its reason phrase so that templates keep it."""
    try:
        phrase = HTTPStatus(int(status)).phrase
    except ValueError:
        phrase = "status of no standard"
    if len(request) != 3:
        return f"malformed request {status} {phrase}"
    return f"{request[0]} {normalise_endpoint(request[1])} {status} {phrase}"


def _latency_us(rest: str) -> float | None:
    """The request time in what follows the quoted fields, or the size when there are none."""
    text = rest.strip()
    if not text:
        return None
    if not text.replace(".", "", 1).isdecimal():
        match = _REQUEST_TIME.search(text)
        if match is None:
            return None
        text = match[1]
    return float(text) * (1e6 if "." in text else 1.0)
