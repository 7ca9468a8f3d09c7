"""The port of the parsers: what goes in, what comes out, what each promises."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from helios_core.columns import Columns, Notable
from helios_core.model import Level


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines of one source.

    Attributes:
        data: lines, each ended by a line feed; the last one may lack it at the end of a source.
        receipt_us: the clock when they were read: the time of events that carry none.
        times_us: one time for each line, from what wraps the lines (a container's log driver); when
            given it is the time of the events, whatever the lines say themselves.
    """

    data: bytes
    receipt_us: int
    times_us: list[int] | None = None


@dataclass(frozen=True, slots=True)
class ParserContext:
    """What a parser needs to know about its source.

    Attributes:
        service: the service of lines that name none.
        reference_us: when the lines were written or later, for formats without a year; it follows the
            blocks' times of receipt.
        utc_offset_s: the zone of times that name none, seconds east of UTC.
    """

    service: str
    reference_us: int
    utc_offset_s: int = 0


@dataclass(slots=True)
class Parsed:
    """One block after parsing. The counting law:

    lines = len(events) + continued + unparsed + sum of dropped.

    Attributes:
        events: the columns.
        lines: the lines of the block.
        continued: lines that belong to the event before them (a stack trace).
        unparsed: lines that the parser did not take, and their bytes.
        dropped: lines that are no input at all, by reason (`blank`).
        mended: values of events that could not be used, by reason (`negative_latency`): the event
            counts without them.
        examples: the beginning of the first few unparsed lines, for a person.
    """

    events: Columns
    lines: int
    continued: int = 0
    unparsed: int = 0
    unparsed_bytes: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    mended: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)


class Parser(Protocol):
    """Made for one source, and used for its blocks in order.

    `parse` never raises because of what the block contains: what it cannot take is counted in
    `unparsed`. It may keep state between blocks of its source (bounded), but does no input or output.
    NUL bytes before a line, as a power cut leaves them, are no part of it but for its size.

    `learn` is called between blocks when more of the first lines are known: all of them so far. What
    the parser took from fewer of them it takes anew; the state that it keeps between blocks stays.
    """

    name: str

    def parse(self, block: Block) -> Parsed: ...

    def learn(self, lines: Sequence[bytes]) -> None: ...


# What a blank line is made of.
BLANK: Final = b"\0 \t\r\n\v\f"
# What is no latency but a mistake: 142 years. Below it, adding a half to a float is exact.
MAX_LATENCY_US: Final = 1 << 52
_MAX_EXAMPLES: Final = 3
_MAX_EXAMPLE_CHARS: Final = 200


class Rows:
    """Columns under construction, one event at a time: the careful way, for lines of any shape."""

    __slots__ = ("_endpoints", "_latencies", "_levels", "_services", "parsed")

    def __init__(self, lines: int) -> None:
        self._services: list[str] = []
        self._levels: list[int] = []
        self._latencies: list[int | None] = []
        self._endpoints: list[str | None] = []
        self.parsed = Parsed(Columns([], self._services, self._levels, self._latencies, self._endpoints), lines)

    def add(
        self,
        *,
        time_us: int,
        service: str,
        level: int,
        message: str,
        size: int,
        latency_us: float | None = None,
        endpoint: str | None = None,
        trace_id: str = "",
        span_id: str = "",
    ) -> None:
        """One event. A latency that is negative, absurd or no number is left out, and counted."""
        events = self.parsed.events
        if latency_us is not None and not 0 <= latency_us < MAX_LATENCY_US:
            self.parsed.mended["bad_latency"] += 1
            latency_us = None
        if level >= Level.WARN:
            events.notable.append(Notable(len(events), message, trace_id, span_id))
        events.time_us.append(time_us)
        self._services.append(service)
        self._levels.append(level)
        self._latencies.append(None if latency_us is None else int(latency_us + 0.5))
        self._endpoints.append(endpoint)
        events.size.append(size)

    def continued(self, size: int) -> None:
        """A line that belongs to the event before it."""
        self.parsed.continued += 1
        if self.parsed.events.size:
            self.parsed.events.size[-1] += size

    def unparsed(self, line: bytes) -> None:
        """A line that the parser does not take."""
        self.parsed.unparsed += 1
        self.parsed.unparsed_bytes += len(line)
        if len(self.parsed.examples) < _MAX_EXAMPLES:
            self.parsed.examples.append(line[:_MAX_EXAMPLE_CHARS].decode("utf-8", "replace"))

    def blank(self) -> None:
        self.parsed.dropped["blank"] += 1


def latencies_us(values: list[float | None], unit_us: float) -> list[int | None]:
    """A whole column, rounded as `Rows.add` does; ValueError when that would leave one of them out."""
    known = [value for value in values if value is not None]
    if known and not (min(known) >= 0 and max(known) * unit_us < MAX_LATENCY_US):
        raise ValueError("a latency that cannot be used")
    if len(known) == len(values):
        return [int(value * unit_us + 0.5) for value in known]
    return [None if value is None else int(value * unit_us + 0.5) for value in values]


def lines_of(data: bytes) -> list[bytes]:
    """The lines of a block without their line feeds."""
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return lines
