"""Docker's json-file driver: each line wraps a piece of a container's output, which is parsed in turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from helios_agent.parsers.base import BLANK, Block, Parsed, Parser, ParserContext, Rows, lines_of
from helios_core.timestamps import IsoTimes

_MAX_PENDING_BYTES: Final = 1 << 20


class _Wrapped(msgspec.Struct, gc=False):
    log: str
    stream: Literal["stdout", "stderr"]
    time: str


_DECODER: Final = msgspec.json.Decoder(_Wrapped)


def _unwrapped(line: bytes) -> _Wrapped | None:
    try:
        return _DECODER.decode(line.lstrip(b"\0"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


class Docker:
    """Parser of Docker's json-file (see `base.Parser`). The time is the driver's.

    A piece without a line feed at its end is the beginning of a longer line: the pieces of a stream
    are joined, also over the ends of blocks.
    """

    name = "docker"

    def __init__(self, context: ParserContext, lines: Sequence[bytes]) -> None:
        self._context = context
        self._inner = self._choose(lines)
        self._times = IsoTimes()
        self._pending: dict[str, tuple[str, int]] = {}  # by stream: the text so far, its size as wrapped

    @classmethod
    def make(cls, context: ParserContext, lines: Sequence[bytes]) -> Docker:
        """For a source whose first lines are given; what they wrap decides the inner parser."""
        return cls(context, lines)

    @staticmethod
    def recognises(lines: Sequence[bytes]) -> float:
        """The share of the lines that have Docker's three fields."""
        return sum(1 for line in lines if _unwrapped(line)) / len(lines) if lines else 0.0

    def learn(self, lines: Sequence[bytes]) -> None:
        """More first lines: the inner parser is chosen anew; what is pending stays."""
        self._inner = self._choose(lines, self._inner)

    def _choose(self, lines: Sequence[bytes], before: Parser | None = None) -> Parser:
        from helios_agent.parsers.detect import detect  # it knows all parsers, this one among them

        wrapped = [piece.log.encode().rstrip(b"\n") for line in lines if (piece := _unwrapped(line))]
        inside = [line for line in wrapped if line.strip(BLANK)]
        return detect(self._context, inside, without=self.name, before=before)

    def parse(self, block: Block) -> Parsed:
        lines = lines_of(block.data)
        rows = Rows(len(lines))
        texts: list[str] = []
        times: list[int] = []
        sizes: list[int] = []
        joined = 0
        for line in lines:
            piece = _unwrapped(line)
            if piece is None:
                rows.unparsed(line) if line.strip(BLANK) else rows.blank()
                continue
            text, size = self._pending.pop(piece.stream, ("", 0))
            text += piece.log
            size += len(line)
            if not text.endswith("\n") and len(text) < _MAX_PENDING_BYTES:
                self._pending[piece.stream] = text, size
                joined += 1
                continue
            try:
                time_us = self._times.one(piece.time)
            except ValueError:
                rows.parsed.mended["bad_time"] += 1
                time_us = block.receipt_us
            # One line of the driver is one line here, whatever it contains.
            texts.append(text.rstrip("\n").replace("\n", " "))
            times.append(time_us)
            sizes.append(size)
        inner = self._inner.parse(Block("".join(f"{t}\n" for t in texts).encode(), block.receipt_us, times))
        outer = rows.parsed
        outer.events = inner.events
        if len(inner.events) == len(sizes):
            outer.events.size = sizes
        outer.continued += inner.continued + joined
        outer.unparsed += inner.unparsed
        outer.unparsed_bytes += inner.unparsed_bytes
        outer.dropped += inner.dropped
        outer.mended += inner.mended
        outer.examples = [*outer.examples, *inner.examples][:3]
        return outer
