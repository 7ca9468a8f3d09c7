"""Turns columns of events into JSON lines, thousands at a time and without a Python step for each line."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from helios_detector.simulate.catalogue import WORDS
from helios_detector.simulate.columns import Columns
from helios_detector.simulate.probes import PROBES
from helios_detector.simulate.seeding import mix
from helios_detector.simulate.templates import WORD_BYTES, Compiled, word_table

MAX_NUMBER = 99_999
MAX_LATENCY_CS = MAX_NUMBER * 100 + 99
_ROWS = 8192
"""Rows rendered at once: a matrix of about 3 MB, which stays in the cache."""
_MINUTE_MS = 60_000
_START = word_table(['{"timestamp":"'], 2)[0]
_REQUEST = word_table(['","request_id":"'], 2)[0]
_END = word_table(['"}\n'])[0, 0]
_TRACE_SALT = np.uint64(0xA5A5A5A55A5A5A5A)


@dataclass(frozen=True, slots=True)
class _Tables:
    number: NDArray[np.uint64]
    """Decimal digits of 0 to 99,999 in the first five bytes."""
    cents: NDArray[np.uint64]
    """`.00` to `.99` in the last three bytes."""
    second: NDArray[np.uint64]
    """`:SS.mmmZ` of each millisecond of a minute."""
    hex4: NDArray[np.uint32]
    """Four hexadecimal digits of each 16-bit number."""
    word: NDArray[np.uint64]
    probe: NDArray[np.uint64]


class Renderer:
    """Renders events of one estate; `line_ends` has a row per (service, version, host)."""

    def __init__(self, compiled: Compiled, line_ends: list[str]) -> None:
        self._compiled = compiled
        words = -(-max(len(end) for end in line_ends) // WORD_BYTES)
        self._line_ends = word_table(line_ends, words)
        self._tables = _tables()
        literal = len(_START) + 3
        middle_end = literal + compiled.literals.shape[1]
        # One word between the middle and the end takes what is written to slots that a template lacks.
        self._nowhere = middle_end
        self._literal = literal
        self._end = middle_end + 1
        self._trace = self._end + words
        self._width = self._trace + 4 + len(_REQUEST) + 1 + 1

    def lines(self, events: Columns) -> bytes:
        """One newline-terminated JSON line for each event, in the order of the rows."""
        parts = [self._slice(events.take(slice(first, first + _ROWS))) for first in range(0, len(events), _ROWS)]
        return b"".join(parts)

    def _slice(self, events: Columns) -> bytes:
        compiled, tables = self._compiled, self._tables
        matrix = np.empty((len(events), self._width), np.uint64)
        matrix[:, :2] = _START
        matrix[:, 2:4] = _minutes(events.time_ms)
        matrix[:, 4] = tables.second[events.time_ms % _MINUTE_MS]
        matrix[:, self._literal : self._nowhere] = compiled.literals[events.template]
        self._fill_slots(matrix, events)
        matrix[:, self._nowhere] = 0
        matrix[:, self._end : self._trace] = self._line_ends[events.host]
        trace = self._trace
        matrix[:, trace : trace + 2] = self._hex(events.trace)
        matrix[:, trace + 2 : trace + 4] = self._hex(mix(events.trace ^ _TRACE_SALT))
        matrix[:, trace + 4 : trace + 6] = _REQUEST
        matrix[:, trace + 6] = tables.hex4[events.request.view(np.uint16)].view(np.uint64)
        matrix[:, trace + 7] = _END
        dense = matrix.reshape(-1).view(np.uint8)
        data: bytes = dense[dense != 0].tobytes()
        return data

    def _fill_slots(self, matrix: NDArray[np.uint64], events: Columns) -> None:
        tables = self._tables
        values = {
            "id": tables.number[events.id],
            "n": tables.number[events.n],
            "ms": tables.number[events.latency_cs // 100],
            "latency": tables.number[events.latency_cs // 100] | tables.cents[events.latency_cs % 100],
        }
        flat = matrix.reshape(-1)
        first = np.arange(len(events)) * self._width + self._literal
        for slots in self._compiled.slots:
            offset = slots.offset[events.template]
            if slots.everywhere:
                flat[first + offset] = values[slots.name]
                continue
            rows = np.flatnonzero(offset < self._nowhere - self._literal)
            places = first[rows] + offset[rows]
            if slots.words == 1:
                flat[places] = values[slots.name][rows]
                continue
            table = tables.word if slots.name == "word" else tables.probe
            flat[places[:, None] + np.arange(slots.words)] = table[events.word[rows] % len(table)]

    def _hex(self, bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
        return self._tables.hex4[bits.view(np.uint16)].view(np.uint64).reshape(-1, 2)


def _minutes(time_ms: NDArray[np.int64]) -> NDArray[np.uint64]:
    """`YYYY-MM-DDTHH:MM` of each time as two words."""
    minute = time_ms // _MINUTE_MS
    least = int(minute.min())
    all_minutes = np.arange(least, int(minute.max()) + 1)
    texts = np.datetime_as_string(all_minutes.astype("datetime64[m]"))
    return word_table(list(texts), 2)[minute - least]


@cache
def _tables() -> _Tables:
    """Constants; a tenth of a second to make, so once a process."""
    digits = np.arange(65_536, dtype=np.uint32)
    hex_digit = np.frombuffer(b"0123456789abcdef", np.uint8)
    nibbles = np.stack([digits >> shift & 15 for shift in (12, 8, 4, 0)], axis=1)
    return _Tables(
        number=word_table([str(i) for i in range(MAX_NUMBER + 1)])[:, 0],
        cents=word_table([f"\0\0\0\0\0.{i:02d}" for i in range(100)])[:, 0],
        second=word_table([f":{i // 1000:02d}.{i % 1000:03d}Z" for i in range(_MINUTE_MS)])[:, 0],
        hex4=hex_digit[nibbles].view(np.uint32)[:, 0],
        word=word_table(list(WORDS), 2),
        probe=word_table(list(PROBES), 5),
    )
