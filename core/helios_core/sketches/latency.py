"""The latency histogram: OpenTelemetry's exponential histogram at fixed scale 5, with exact sums.

Scale 5 means a base of 2^(1/32); bucket i holds the integer microseconds in
(2^(i/32), 2^((i+1)/32)] (OpenTelemetry metrics data model, "ExponentialHistogram"). One scale for
all makes merging the addition of counts, which is exact in any order.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from math import ceil, isqrt, sqrt
from operator import mul
from typing import Final

SCALE: Final = 5
MAX_LATENCY_US: Final = 3_600_000_000  # one hour; longer ones are clamped
ZERO_THRESHOLD_US: Final = 1
# 2·lo·hi/(lo+hi) of a bucket is off by (base - 1)/(base + 1) at most.
RELATIVE_ERROR: Final = (2 ** (1 / 32) - 1) / (2 ** (1 / 32) + 1)


def _floor_power(k: int) -> int:
    """floor(2^(k/32)), exactly: five nested integer square roots."""
    root = 1 << k
    for _ in range(SCALE):
        root = isqrt(root)
    return root


N_BUCKETS: Final = 1016  # up to one hour: ceil(32 · log2(3.6e9))
# The largest integer of each bucket. Buckets 0 to 30 hold no integer above the zero threshold, so
# that a value of 0 or 1 finds index 0 and nothing else does.
_UPPER: Final = [_floor_power(i + 1) for i in range(N_BUCKETS)]


_SEARCH_FROM: Final = 128  # values; below it one search for each is quicker


def _counts(ordered: Sequence[int]) -> Counter[int]:
    """How many of the sorted values are in each bucket: one search for each value, or for each bucket of many."""
    if len(ordered) < _SEARCH_FROM:
        return Counter(map(bisect_left, repeat(_UPPER), ordered))
    counts: Counter[int] = Counter()
    index, begin = bisect_left(_UPPER, ordered[0]), 0
    while begin < len(ordered):
        end = bisect_right(ordered, _UPPER[index], begin)
        if end > begin:
            counts[index] = end - begin
            begin = end
        index += 1
    return counts


def bucket_of(value_us: int) -> int:
    """The bucket of an integer 2 ≤ value_us ≤ MAX_LATENCY_US; 0 for a value in the zero bucket."""
    return bisect_left(_UPPER, value_us)


def bucket_value(index: int) -> float:
    """The value that stands for bucket `index`: the harmonic mean of its bounds, µs."""
    low, high = 2 ** (index / 32), 2 ** ((index + 1) / 32)
    return 2 * low * high / (low + high)


def check_buckets(offset: int, n_buckets: int) -> None:
    """A ValueError when `n_buckets` from bucket `offset` on reach beyond the last."""
    if offset + n_buckets > N_BUCKETS:
        raise ValueError(f"a latency histogram with a bucket outside 0 to {N_BUCKETS - 1}")


def check_sums(count: int, *, sum_us: int, min_us: int, max_us: int) -> None:
    """A ValueError when these cannot be those of `count` latencies."""
    if not 0 <= min_us <= max_us <= MAX_LATENCY_US or sum_us < 0:
        raise ValueError(f"a latency histogram with min {min_us}, max {max_us}, sum {sum_us} µs")
    if count and not count * min_us <= sum_us <= count * max_us:
        raise ValueError(f"a latency histogram whose sum {sum_us} µs is not between count·min and count·max")


class LatencyHistogram:
    """Latencies of a window: counts by bucket, exact count, sum, sum of squares, least and most.

    All of it is integers, so that merging is exact in any order. An empty histogram has
    `min_us` and `max_us` of 0, which mean nothing then.
    """

    __slots__ = ("buckets", "max_us", "min_us", "sum_squares_us2", "sum_us", "zero_count")

    def __init__(self) -> None:
        self.zero_count = 0
        self.buckets: Counter[int] = Counter()
        self.sum_us = 0
        self.sum_squares_us2 = 0
        self.min_us = 0
        self.max_us = 0

    @classmethod
    def of(cls, values_us: Iterable[int]) -> LatencyHistogram:
        """The histogram of integer microseconds ≥ 0."""
        histogram = cls()
        histogram.add(list(values_us))
        return histogram

    @classmethod
    def from_parts(
        cls,
        *,
        zero_count: int,
        buckets: Mapping[int, int],
        sum_us: int,
        sum_squares_us2: int,
        min_us: int,
        max_us: int,
    ) -> LatencyHistogram:
        """From its stored parts; a ValueError when they cannot belong together."""
        histogram = cls()
        histogram.zero_count = zero_count
        histogram.buckets = Counter({i: n for i, n in buckets.items() if n})
        if zero_count < 0 or any(n < 0 for n in histogram.buckets.values()):
            raise ValueError("a latency histogram with a negative count")
        if min(buckets, default=0) < 0:
            raise ValueError("a latency histogram with a bucket below 0")
        check_buckets(max(buckets, default=-1), 1)
        check_sums(histogram.count, sum_us=sum_us, min_us=min_us, max_us=max_us)
        if sum_squares_us2 < 0:
            raise ValueError(f"a latency histogram with a sum of squares of {sum_squares_us2} µs²")
        histogram.sum_us, histogram.sum_squares_us2 = sum_us, sum_squares_us2
        histogram.min_us, histogram.max_us = min_us, max_us
        return histogram

    def add(self, values_us: Sequence[int]) -> None:
        """Adds integer microseconds ≥ 0 (a negative one is a ValueError); above 1 h is clamped."""
        if not values_us:
            return
        ordered = sorted(values_us)
        least, most = ordered[0], ordered[-1]
        if least < 0:
            raise ValueError(f"a latency of {least} µs: latencies are not negative")
        if most > MAX_LATENCY_US:
            ordered = [min(v, MAX_LATENCY_US) for v in ordered]
            least, most = ordered[0], MAX_LATENCY_US
        self.min_us = min(self.min_us, least) if self.count else least
        counts = _counts(ordered)
        self.zero_count += counts.pop(0, 0)
        self.buckets.update(counts)
        self.sum_us += sum(ordered)
        self.sum_squares_us2 += sum(map(mul, ordered, ordered))
        self.max_us = max(self.max_us, most)

    def merge(self, other: LatencyHistogram) -> None:
        """Adds what `other` has counted."""
        if not other.count:
            return
        self.min_us = min(self.min_us, other.min_us) if self.count else other.min_us
        self.max_us = max(self.max_us, other.max_us)
        self.zero_count += other.zero_count
        self.buckets.update(other.buckets)
        self.sum_us += other.sum_us
        self.sum_squares_us2 += other.sum_squares_us2

    @property
    def count(self) -> int:
        return self.zero_count + self.buckets.total()

    @property
    def mean_us(self) -> float:
        """NaN when empty."""
        return self.sum_us / self.count if self.count else float("nan")

    @property
    def stddev_us(self) -> float:
        """Population standard deviation from the exact sums; NaN when empty."""
        n = self.count
        if not n:
            return float("nan")
        return sqrt(n * self.sum_squares_us2 - self.sum_us * self.sum_us) / n

    def quantile_us(self, q: float) -> float:
        """The nearest-rank quantile, within RELATIVE_ERROR of the exact one; NaN when empty."""
        return self.quantiles_us((q,))[0]

    def quantiles_us(self, quantiles: Sequence[float]) -> list[float]:
        """Several quantiles in one pass; they are given in ascending order."""
        if not all(0 <= q <= 1 for q in quantiles) or list(quantiles) != sorted(quantiles):
            raise ValueError(f"quantiles {quantiles}: ascending numbers from 0 to 1")
        n = self.count
        if not n:
            return [float("nan")] * len(quantiles)
        indexes = sorted(self.buckets)
        position, seen = -1, self.zero_count
        found = []
        for q in quantiles:
            rank = max(1, ceil(q * n))
            while seen < rank and position + 1 < len(indexes):
                position += 1
                seen += self.buckets[indexes[position]]
            value = bucket_value(indexes[position]) if position >= 0 else float(ZERO_THRESHOLD_US)
            found.append(min(max(value, float(self.min_us)), float(self.max_us)))
        return found

    def take_back(self, other: LatencyHistogram) -> None:
        """Undoes an earlier merge of `other`. Least and most stay: they are bounds from then on."""
        self.zero_count -= other.zero_count
        for index, count in other.buckets.items():
            left = self.buckets[index] - count
            if left:
                self.buckets[index] = left
            else:
                del self.buckets[index]
        self.sum_us -= other.sum_us
        self.sum_squares_us2 -= other.sum_squares_us2

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LatencyHistogram):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"LatencyHistogram(count={self.count}, {self.min_us} to {self.max_us} µs)"
