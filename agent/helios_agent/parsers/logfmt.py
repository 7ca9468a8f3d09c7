"""logfmt: `key=value` pairs on a line. Its fields play the same roles as those of JSON lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from helios_agent.parsers.base import BLANK, Block, Parsed, ParserContext, Rows, lines_of
from helios_agent.parsers.json_lines import JsonLines

# Possessive, and only where a word begins: a long line without pairs takes linear time.
_PAIR: Final = re.compile(r'(?<!\S)([A-Za-z_@][\w.@-]*+)=(?:"([^"\\]*+(?:\\.[^"\\]*+)*+)"|(\S*+))')
_MIN_PAIRS: Final = 3


def _fields(line: bytes) -> dict[str, str]:
    """The pairs of a line; empty unless the line begins with one and has at least three."""
    text = line.lstrip(b"\0").decode("utf-8", "replace").lstrip()
    if not _PAIR.match(text):
        return {}
    fields = {key: quoted.replace('\\"', '"') or bare for key, quoted, bare in _PAIR.findall(text)}
    return fields if len(fields) >= _MIN_PAIRS else {}


def _objects(lines: Sequence[bytes]) -> list[bytes]:
    """The JSON objects that the lines stand for."""
    return [msgspec.json.encode(fields) for line in lines if (fields := _fields(line))]


class Logfmt:
    """Parser of logfmt (see `base.Parser`): each line becomes the JSON object that it stands for."""

    name = "logfmt"

    def __init__(self, json_lines: JsonLines) -> None:
        self._json = json_lines

    @classmethod
    def make(cls, context: ParserContext, lines: Sequence[bytes]) -> Logfmt:
        """For a source whose first lines are given."""
        return cls(JsonLines.make(context, _objects(lines)))

    @staticmethod
    def recognises(lines: Sequence[bytes]) -> float:
        """The share of the lines that begin with a pair and have three or more."""
        return sum(1 for line in lines if _fields(line)) / len(lines) if lines else 0.0

    def learn(self, lines: Sequence[bytes]) -> None:
        """More first lines: as with JSON."""
        self._json.learn(_objects(lines))

    def parse(self, block: Block) -> Parsed:
        lines = lines_of(block.data)
        rows = Rows(len(lines))
        taken: list[int] = []
        objects: list[bytes] = []
        for number, line in enumerate(lines):
            if fields := _fields(line):
                taken.append(number)
                objects.append(msgspec.json.encode(fields) + b"\n")
            elif line.strip(BLANK):
                rows.unparsed(line)
            else:
                rows.blank()
        times = None if block.times_us is None else [block.times_us[number] for number in taken]
        inner = self._json.parse(Block(b"".join(objects), block.receipt_us, times))
        outer = rows.parsed
        outer.events = inner.events
        outer.events.size = [len(lines[number]) for number in taken]
        outer.mended = inner.mended
        return outer
