"""Random numbers that depend on the seed and a name only, so that no draw can disturb another."""

from __future__ import annotations

from zlib import crc32

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def generator(seed: int, *name: str | int) -> np.random.Generator:
    """A generator of its own for each name: `generator(7, "checkout", "noise")`."""
    parts = [part if isinstance(part, int) else crc32(part.encode()) for part in name]
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, *parts])))


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """64 well mixed bits from each value: the output function of SplitMix64 (Steele et al., 2014)."""
    mixed = values * _GOLDEN
    mixed ^= mixed >> np.uint64(30)
    mixed *= _MIX_1
    mixed ^= mixed >> np.uint64(27)
    mixed *= _MIX_2
    mixed ^= mixed >> np.uint64(31)
    return mixed


def unit(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Numbers in [0, 1) from 64 random bits each."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
