"""Plain text: a timestamp and a level found near the beginning of the line, the rest is the message.

A line without a timestamp continues the event before it (a stack trace). In a source that has no
timestamps at all every line that is not indented is an event at the time of its receipt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from helios_agent.parsers.base import BLANK, Block, Parsed, ParserContext, Rows, lines_of
from helios_agent.parsers.stamps import STAMPS, Stamp
from helios_core.levels import Levels, level_of_status
from helios_core.model import Level

_WITHIN: Final = 100  # characters from the beginning of the line in which the timestamp stands
# A level stands in capitals, or in small letters where the form says that it is one.
_LEVEL: Final = re.compile(
    r"\b(TRACE|DEBUG|INFO|NOTICE|WARN|WARNING|ERROR|ERR|SEVERE|CRITICAL|CRIT|FATAL|ALERT|EMERG|PANIC)\b"
    r"|(?i:[\[<(](?:[\w.]+:)?(trace|debug|info|notice|warn|warning|error|err|crit|critical|alert|emerg|fatal)[\]>)])"
    r"|\b(?:level|severity)=\"?(\w+)"
    r"|(?:^|\s)((?i:error|warning|fatal|critical|panic)):"
)
_SYSLOG: Final = re.compile(r"\s*\S+ ([A-Za-z][\w./()-]*?)(?:\(\w+\))?(?:\[\d+\])?: ?")
_HTTP: Final = re.compile(
    r'"?(GET|POST|PUT|DELETE|PATCH|HEAD|OPTIONS) (\S+) HTTP/[\d.]+"?(?:\s+(?:status[:=]\s*)?(\d{3})\b)?'
)
_LATENCY: Final = re.compile(
    r"\b(?:time|took|duration|elapsed|latency|completed in|rt)\b[\s:=]*"
    r"(\d+(?:\.\d+)?)\s*(ns|us|µs|ms|s|sec|seconds?)?\b",
    re.IGNORECASE,
)
_UNIT_US: Final = {
    "ns": 1e-3,
    "us": 1.0,
    "\u03bcs": 1.0,  # the Greek letter, which is also the micro sign's casefold
    "ms": 1e3,
    "s": 1e6,
    "sec": 1e6,
    "second": 1e6,
    "seconds": 1e6,
}
_LATENCY_WORDS: Final = ("time", "took", "duration", "elapsed", "latency", "completed", "rt=")
_MAX_CONTINUED: Final = 1_000  # lines of one event; what follows counts as unparsed


def _text(line: bytes) -> str:
    return line.lstrip(b"\0").decode("utf-8", "replace")


def _form_of(lines: Sequence[bytes]) -> type[Stamp] | None:
    """The form of time that most of the lines have; None when not even every fifth has it."""
    texts = [_text(line)[:_WITHIN] for line in lines]
    counts = [sum(1 for text in texts if form.pattern.search(text)) for form in STAMPS]
    most = max(counts)
    return STAMPS[counts.index(most)] if most and most * 5 >= len(texts) else None


class Plain:
    """Parser of plain text (see `base.Parser`)."""

    name = "plain"

    def __init__(self, context: ParserContext, stamp: Stamp | None) -> None:
        self._context = context
        self._stamp = stamp
        self._levels = Levels()
        self._continued = -1  # lines of the open event; -1 before the first

    @classmethod
    def make(cls, context: ParserContext, lines: Sequence[bytes]) -> Plain:
        """For a source whose first lines are given: the form of time that most of them have."""
        form = _form_of(lines)
        return cls(context, None if form is None else form(context))

    @staticmethod
    def recognises(lines: Sequence[bytes]) -> float:
        """The share of the lines that are text at all."""
        return sum(1 for line in lines if b"\0" not in line.lstrip(b"\0")) / len(lines) if lines else 0.0

    def learn(self, lines: Sequence[bytes]) -> None:
        """More first lines: the times of most of them may have another form."""
        form = _form_of(lines)
        if type(self._stamp) is not form:
            self._stamp = None if form is None else form(self._context)

    def parse(self, block: Block) -> Parsed:
        lines = lines_of(block.data)
        rows = Rows(len(lines))
        if self._stamp is not None:
            self._stamp.refer(block.receipt_us)
        for number, line in enumerate(lines):
            if not line.strip(BLANK):
                rows.blank()
            elif b"\0" in line.lstrip(b"\0"):
                rows.unparsed(line)
            else:
                self._line(rows, line, block, number)
        return rows.parsed

    def _line(self, rows: Rows, line: bytes, block: Block, number: int) -> None:
        text = _text(line).rstrip("\r")
        end = 0
        time_us = None
        if self._stamp is not None:
            found = self._stamp.find(text[:_WITHIN])
            if found is not None:
                time_us, end = found
        if time_us is None and (self._stamp is not None or text[0].isspace()):
            if 0 <= self._continued < _MAX_CONTINUED:
                self._continued += 1
                rows.continued(len(line))
            else:
                rows.unparsed(line)
            return
        if block.times_us is not None:
            time_us = block.times_us[number]
        elif time_us is None:
            rows.parsed.mended["bad_time"] += 1
            time_us = block.receipt_us
        self._continued = 0
        self._event(rows, text, end, time_us, len(line))

    def _event(self, rows: Rows, text: str, end: int, time_us: int, size: int) -> None:
        service = self._context.service
        message = text[end:]
        level = self._stamp.level_of(text) if self._stamp is not None else Level.UNSPECIFIED
        if self._stamp is not None and self._stamp.is_syslog and (match := _SYSLOG.match(message)):
            service = match[1]
            message = message[match.end() :]
        if level == Level.UNSPECIFIED and (found := _LEVEL.search(message[:200])):
            level = Level(self._levels[found[found.lastindex or 0]])
            if found.start() < 60 and found.lastindex != 4:
                message = message[found.end() :]
        endpoint = None
        latency_us = None
        if "HTTP/" in text and (request := _HTTP.search(text)):
            endpoint = request[2]
            if level in (Level.UNSPECIFIED, Level.INFO) and request[3]:
                level = level_of_status(int(request[3]))
        lowered = text.lower()
        if any(word in lowered for word in _LATENCY_WORDS) and (spent := _LATENCY.search(text, end)):
            unit = spent[2].casefold() if spent[2] else ("s" if "." in spent[1] else None)
            latency_us = float(spent[1]) * _UNIT_US[unit] if unit else None
        rows.add(
            time_us=time_us,
            service=service,
            level=level,
            message=message.lstrip(" ]:-\t"),
            size=size,
            latency_us=latency_us,
            endpoint=endpoint,
        )
