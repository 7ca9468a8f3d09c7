"""Access logs of nginx and Apache: common and combined format, with the request time when it is there.

A number after the quoted fields is the request time: with a decimal point seconds (nginx
`$request_time`), without one microseconds (Apache `%D`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Final

from helios_agent.parsers.base import Block, Parsed, ParserContext, Rows, lines_of
from helios_agent.parsers.levels import level_of_status
from helios_core.clock import to_us
from helios_core.columns import Columns, Notable
from helios_core.endpoints import normalise_endpoint
from helios_core.model import Level

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_LINE: Final = re.compile(
    r"""(?x)
    ^\S+ [ ] \S+ [ ] .*? [ ]?
    \[(?P<time>\d{2}/[A-Z][a-z]{2}/\d{4}:\d{2}:\d{2}:\d{2}[ ][+-]\d{4})\] [ ]
    "(?P<request>(?:[^"\\]|\\.)*)" [ ]
    (?P<status>\d{3}) [ ] (?:\d+|-)
    (?: [ ] "(?:[^"\\]|\\.)*" [ ] "(?:[^"\\]|\\.)*" )?
    (?P<rest>.*)$
    """
)
_REQUEST_TIME: Final = re.compile(r'(?:^|[\s"])(?:rt=|request_time=)?(\d+\.\d+|\d+)(?=["\s]|$)')
_MAX_KNOWN: Final = 4_096


class _Times(dict[str, int]):
    """`17/May/2015:10:05:03 +0000` → µs since the epoch; ValueError for what is no such time."""

    def __missing__(self, text: str) -> int:
        day, month, year = int(text[0:2]), _MONTHS.index(text[3:6]) + 1, int(text[7:11])
        iso = f"{year:04d}-{month:02d}-{day:02d}T{text[12:20]}{text[21:24]}:{text[24:26]}"
        us = to_us(datetime.fromisoformat(iso))
        if len(self) >= _MAX_KNOWN:
            self.clear()
        self[text] = us
        return us


class _Levels(dict[str, int]):
    """` 404` (a space and the status) → level; ValueError for what is no status."""

    def __missing__(self, text: str) -> int:
        if len(text) != 4 or not text[1:].isdigit() or text[0] != " ":
            raise ValueError(f"{text!r} is no status")
        level = self[text] = int(level_of_status(int(text)))
        return level


class Access:
    """Parser of access logs (see `base.Parser`)."""

    name = "access"

    def __init__(self, context: ParserContext) -> None:
        self._context = context
        self._times = _Times()
        self._levels = _Levels()

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

    def parse(self, block: Block) -> Parsed:
        lines = lines_of(block.data)
        try:
            columns = self._fast(block, lines)
        except (ValueError, LookupError):
            columns = None  # some line is of another shape: the careful way tells which
        if columns is not None:
            return Parsed(columns, len(lines))
        rows = Rows(len(lines))
        for number, line in enumerate(lines):
            if not line.strip():
                rows.blank()
            elif not self._careful(rows, line, block, number):
                rows.unparsed(line)
        return rows.parsed

    def _fast(self, block: Block, lines: list[bytes]) -> Columns | None:
        """All lines at once, cut at their quotes; None or an error when a line needs more care."""
        # An escaped quote does not end a field; two other characters in its place keep the sizes.
        data = block.data.replace(b'\\"', b"__") if b"\\" in block.data else block.data
        texts = data.decode("utf-8", "replace").split("\n")
        if not texts[-1]:
            texts.pop()
        parts = [text.split('"') for text in texts]
        # ['host - user [time] ', request, ' 200 123 ', referer, ' ', agent, rest] or without the last four
        widths = set(map(len, parts))
        if widths - {3, 7}:
            return None
        times = block.times_us or [self._times[part[0][-28:-2]] for part in parts]
        levels = [self._levels[part[2][:4]] for part in parts]
        requests = [part[1].split(" ") for part in parts]
        latencies: list[int | None] = []
        if widths == {7} and any(part[6] for part in parts):
            latencies = [_latency_us(part[6]) for part in parts]
        return Columns(
            time_us=times,
            service=self._context.service,
            level=levels,
            latency_us=latencies,
            endpoint=[request[1] if len(request) == 3 else None for request in requests],
            size=list(map(len, lines)),
            notable=[
                Notable(row, _message(requests[row], parts[row][2][1:4]))
                for row, level in enumerate(levels)
                if level >= Level.WARN
            ],
        )

    def _careful(self, rows: Rows, line: bytes, block: Block, number: int) -> bool:
        """One line; False when it is no access log line."""
        match = _LINE.match(line.decode("utf-8", "replace").rstrip("\r"))
        if match is None:
            return False
        try:
            time_us = self._times[match["time"]]
        except ValueError:
            return False
        request = match["request"].split(" ")
        rows.add(
            time_us=time_us if block.times_us is None else block.times_us[number],
            service=self._context.service,
            level=self._levels[" " + match["status"]],
            message=_message(request, match["status"]),
            size=len(line),
            latency_us=_latency_us(match["rest"]),
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


def _latency_us(rest: str) -> int | None:
    """The request time in what follows the quoted fields."""
    text = rest.strip()
    if not text:
        return None
    if not text.replace(".", "", 1).isdigit():
        match = _REQUEST_TIME.search(text)
        if match is None:
            return None
        text = match[1]
    return round(float(text) * 1e6) if "." in text else int(text)
