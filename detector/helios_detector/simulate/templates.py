"""Line templates as rows of 8-byte words with slots, so that a line is a copy and a few word writes.

A row holds the literal bytes of the middle of a line (service to status). Each slot starts at a word and
whatever is not used stays NUL; the renderer removes all NULs at the end, which makes the lines dense.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from helios_detector.simulate.model import Operation

_SLOT = re.compile(r"\{(id|n|ms|latency|word|probe)\}")
_SLOT_WORDS = {"id": 1, "n": 1, "ms": 1, "latency": 1, "word": 2, "probe": 5}
WORD_BYTES = 8
_OCCURRENCES = 2


@dataclass(frozen=True, slots=True)
class Slots:
    """Where one field goes in each template: `(templates,) int64` words, and who has it at all."""

    name: str
    words: int
    offset: NDArray[np.int64]
    """Word within the row; the first word after the row where the template has no such slot."""
    everywhere: bool
    """Whether most templates have it, so that masking would cost more than writing to nowhere."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """All templates of an estate: `literals` is `(templates, words) uint64`."""

    literals: NDArray[np.uint64]
    slots: tuple[Slots, ...]
    low: NDArray[np.int64]
    """Least value of `{n}`."""
    span: NDArray[np.int64]
    """How many values `{n}` has."""


@dataclass(slots=True)
class Templates:
    """Collects templates; each gets a number."""

    _texts: list[str] = field(default_factory=list)
    _ranges: list[tuple[int, int]] = field(default_factory=list)

    def request(
        self,
        service: str,
        level: str,
        text: str,
        operation: Operation,
        status: int,
        n: tuple[int, int] = (1, 400),
    ) -> int:
        """A line of a service with latency; `{op}` and `{status}` in the text are filled in here."""
        message = text.replace("{op}", operation.name).replace("{status}", str(status))
        tail = f',"latency_ms":{{latency}},"endpoint":"{operation.path}","status":{status}'
        return self._add(self._head(service, level, message) + tail, n)

    def plain(self, service: str, level: str, text: str, n: tuple[int, int] = (1, 400)) -> int:
        """A line without latency, endpoint and status."""
        return self._add(self._head(service, level, text), n)

    def compile(self) -> Compiled:
        """The tables; call once, after the last template."""
        rows = [_Row(text) for text in self._texts]
        width = max(len(row.data) for row in rows) // WORD_BYTES
        literals = np.zeros((len(rows), width), np.uint64)
        for index, row in enumerate(rows):
            literals[index, : len(row.data) // WORD_BYTES] = np.frombuffer(bytes(row.data), np.uint64)
        slots = []
        for name, words in _SLOT_WORDS.items():
            for occurrence in range(_OCCURRENCES):
                places = [row.places.get((name, occurrence), width) for row in rows]
                offset = np.array(places, np.int64)
                if (offset < width).any():
                    everywhere = words == 1 and float((offset < width).mean()) > 0.2
                    slots.append(Slots(name, words, offset, everywhere))
        low = np.array([low for low, _ in self._ranges], np.int64)
        high = np.array([high for _, high in self._ranges], np.int64)
        return Compiled(literals, tuple(slots), low, high - low + 1)

    def _head(self, service: str, level: str, message: str) -> str:
        return f'","service":"{service}","level":"{level}","message":"{message}"'

    def _add(self, text: str, n: tuple[int, int]) -> int:
        self._texts.append(text)
        self._ranges.append(n)
        return len(self._texts) - 1


class _Row:
    """One template cut into literals and slots."""

    def __init__(self, text: str) -> None:
        self.data = bytearray()
        self.places: dict[tuple[str, int], int] = {}
        seen: dict[str, int] = {}
        for index, part in enumerate(_SLOT.split(text)):
            if index % 2 == 0:
                self.data += padded(part.encode())
                continue
            occurrence = seen.get(part, 0)
            seen[part] = occurrence + 1
            self.places[part, occurrence] = len(self.data) // WORD_BYTES
            self.data += bytes(_SLOT_WORDS[part] * WORD_BYTES)


def padded(data: bytes, words: int = 0) -> bytes:
    """The bytes with NULs to whole words, to `words` words if that is given."""
    size = words * WORD_BYTES or -(-len(data) // WORD_BYTES) * WORD_BYTES
    return data.ljust(size, b"\0")


def word_table(texts: list[str], words: int = 1) -> NDArray[np.uint64]:
    """Texts as a `(texts, words) uint64` table, NUL padded."""
    data = b"".join(padded(text.encode(), words) for text in texts)
    return np.frombuffer(data, np.uint64).reshape(len(texts), words)
