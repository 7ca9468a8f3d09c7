"""How many different values were seen: exact hashes up to 128, HyperLogLog registers beyond.

HyperLogLog with p = 11 (2,048 registers, standard error 2.3 %) and the improved raw estimator of
O. Ertl, "New cardinality estimation algorithms for HyperLogLog sketches" (2017), algorithm 6,
which needs neither bias tables nor a switch to linear counting.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

MAX_EXACT: Final = 128
_P: Final = 11
N_REGISTERS: Final = 1 << _P
_Q: Final = 64 - _P
_REST_MASK: Final = (1 << _Q) - 1
_ALPHA_INFINITY: Final = 1 / (2 * math.log(2))


def hash64(text: str) -> int:
    """The 64-bit hash of the contract: BLAKE2b with an 8-byte digest, big-endian, over UTF-8."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def check_distinct(n_hashes: int, registers: bytes) -> None:
    """A ValueError when a distinct count cannot have so many hashes, or these registers."""
    if registers:
        if len(registers) != N_REGISTERS or max(registers) > _Q + 1:
            raise ValueError(f"{len(registers)} HyperLogLog registers: {N_REGISTERS} of at most {_Q + 1}")
        if n_hashes:
            raise ValueError("a distinct count has hashes or registers, not both")
    elif n_hashes > MAX_EXACT:
        raise ValueError(f"{n_hashes} exact hashes: at most {MAX_EXACT}")


class DistinctCount:
    """A set of 64-bit hashes that turns into registers when it holds more than MAX_EXACT.

    The form depends only on what was added, never on the order or grouping of merges.
    """

    __slots__ = ("hashes", "registers")

    def __init__(self) -> None:
        self.hashes: set[int] = set()
        self.registers: bytearray | None = None

    @classmethod
    def of(cls, texts: Iterable[str]) -> DistinctCount:
        distinct = cls()
        distinct.add_hashes(map(hash64, texts))
        return distinct

    @classmethod
    def from_parts(cls, hashes: Iterable[int], registers: bytes) -> DistinctCount:
        """From its stored parts; a ValueError when they break the form."""
        distinct = cls()
        distinct.hashes = set(hashes)
        check_distinct(len(distinct.hashes), registers)
        if registers:
            distinct.registers = bytearray(registers)
        return distinct

    def add_hashes(self, hashes: Iterable[int]) -> None:
        """Adds values by their hash64."""
        if self.registers is None:
            self.hashes.update(hashes)
            if len(self.hashes) <= MAX_EXACT:
                return
            self.registers = bytearray(N_REGISTERS)
            hashes, self.hashes = self.hashes, set()
        registers = self.registers
        for h in hashes:
            rank = _Q - (h & _REST_MASK).bit_length() + 1
            index = h >> _Q
            if rank > registers[index]:
                registers[index] = rank

    def merge(self, other: DistinctCount) -> None:
        """Adds what `other` has seen."""
        if other.registers is None:
            self.add_hashes(other.hashes)
            return
        if self.registers is None:
            mine, self.hashes = self.hashes, set()
            self.registers = bytearray(other.registers)
            self.add_hashes(mine)
        else:
            self.registers = bytearray(map(max, self.registers, other.registers))

    @classmethod
    def union(cls, parts: Iterable[DistinctCount]) -> DistinctCount:
        """All parts merged; quick when all of them are exact."""
        merged = cls()
        known = list(parts)
        if all(part.registers is None for part in known):
            merged.add_hashes(set().union(*(part.hashes for part in known)))
        else:
            for part in known:
                merged.merge(part)
        return merged

    def estimate(self) -> float:
        """How many different values were added; exact up to MAX_EXACT."""
        if self.registers is None:
            return float(len(self.hashes))
        m = N_REGISTERS
        counts = [0] * (_Q + 2)
        for register in self.registers:
            counts[register] += 1
        z = m * _tau(1 - counts[_Q + 1] / m)
        for k in range(_Q, 0, -1):
            z = 0.5 * (z + counts[k])
        z += m * _sigma(counts[0] / m)
        return _ALPHA_INFINITY * m * m / z

    def __bool__(self) -> bool:
        return self.registers is not None or bool(self.hashes)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DistinctCount):
            return NotImplemented
        return self.hashes == other.hashes and self.registers == other.registers

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"DistinctCount(estimate={self.estimate():.0f}, exact={self.registers is None})"


def _sigma(x: float) -> float:
    """Ertl 2017, equation for the registers that are 0."""
    if x == 1:
        return math.inf
    y, z = 1.0, x
    while True:
        x *= x
        before = z
        z += x * y
        y += y
        if z == before:
            return z


def _tau(x: float) -> float:
    """Ertl 2017, equation for the registers that are saturated."""
    if x in {0, 1}:
        return 0.0
    y, z = 1.0, 1 - x
    while True:
        x = math.sqrt(x)
        before = z
        y *= 0.5
        z -= (1 - x) ** 2 * y
        if z == before:
            return z / 3
