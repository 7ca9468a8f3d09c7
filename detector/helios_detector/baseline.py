"""What is normal for a service at a time of day, learned as it goes: level, season and spread of a measure.

A measure is expected to be its profile at the time of day (96 bins of 15 minutes, learned over days)
plus a slow offset that follows weekends and growth. Its spread is a clipped mean of absolute
residuals, so that an incident does not widen what is normal. What has happened at the same time on
most of the last three days is part of the season, also if it alarmed (a nightly batch). Nothing
looks ahead.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import exp, inf, isnan, nan
from statistics import median_low
from typing import Final

N_BINS: Final = 96
_DAY_US: Final = 86_400_000_000
_BIN_US: Final = _DAY_US // N_BINS
_SECONDS_A_STEP: Final = 60.0
_PROFILE_GAIN: Final = 0.3  # of a new day in a bin
_OFFSET_S: Final = 3_600.0  # time constant of the slow offset once there is a profile
_LEVEL_S: Final = 1_200.0  # and of the level while there is none
_SPREAD_STEPS: Final = 1_440.0  # a day of minutes
_DAYS_REMEMBERED: Final = 3
_CLIP: Final = 4.0  # residuals enter what is learned up to this many spreads
_MEAN_TO_SIGMA: Final = 1.2533  # sqrt(pi/2): a mean absolute residual of a normal variable to its sigma


@dataclass(frozen=True, slots=True)
class Band:
    """What is expected of a measure: its value, the range that the season allows, and sigma."""

    value: float
    low: float
    high: float
    sigma: float


class Measure:
    """One measure of one service. It is fed once a minute, and asked at any time.

    Args:
        floor: the least spread that is believed, in the measure's unit.

    Attributes:
        steps: minutes that were learned.
        least, most: of what was learned, ever.
    """

    __slots__ = (
        "_around", "_bin", "_bin_n", "_bin_sum", "_days", "_floor", "_level", "_offset", "_profile", "_recent", "_seen",
        "_spread", "least", "most", "steps",
    )  # fmt: skip

    def __init__(self, floor: float) -> None:
        self._floor = floor
        self._profile = [nan] * N_BINS
        self._level = nan
        self._offset = 0.0
        self._spread = 0.0
        # Of each bin (when, least, most) of the last days, whatever was thought of them; one more than
        # are remembered, for today's may be among them. And the bin that is being filled.
        self._days: list[deque[tuple[int, float, float]]] = [deque(maxlen=_DAYS_REMEMBERED + 1) for _ in range(N_BINS)]
        self._seen: tuple[int, int, float, float] = (-1, 0, nan, nan)
        self._bin = -1
        self._bin_sum = 0.0
        self._bin_n = 0
        # What was last worked out of the profile and of the days, and for which bins; it changes with the bin only.
        self._around: tuple[int, float, float, float, float] | None = None
        self._recent: tuple[int, tuple[float, float] | None] | None = None
        self.steps = 0
        self.least = inf
        self.most = -inf

    def band(self, time_us: int) -> Band:
        """What is expected at that time; NaN while nothing is known."""
        seasonal, low, high = self._season(time_us)
        if isnan(seasonal):
            seasonal = low = high = self._level
        sigma = max(self._floor, self._spread * _MEAN_TO_SIGMA)
        low, high = low + self._offset, high + self._offset
        seen = self._recurring(time_us)
        if seen is not None:
            low, high = min(low, seen[0]), max(high, seen[1])
        return Band(seasonal + self._offset, low, high, sigma)

    def see(self, time_us: int, value: float) -> None:
        """One more minute, normal or not: what recurs by the day is normal in the end."""
        if isnan(value):
            return
        index = time_us % _DAY_US // _BIN_US
        known, _, least, most = self._seen
        if index == known:
            self._seen = (index, time_us, min(least, value), max(most, value))
            return
        if known >= 0:
            self._days[known].append(self._seen[1:])
            self._recent = None
        self._seen = (index, time_us, value, value)

    def learn(self, time_us: int, value: float) -> None:
        """One more minute that is held to be normal."""
        if isnan(value):
            return
        self.steps += 1
        self.least, self.most = min(self.least, value), max(self.most, value)
        seasonal, low, high = self._season(time_us)
        known = not isnan(seasonal)
        if isnan(self._level):
            self._level = value
        expected = (seasonal if known else self._level) + self._offset
        residual = value - expected
        # Within the range of the season there is nothing to learn about the spread.
        outside = max(0.0, low + self._offset - value, value - high - self._offset) if known else abs(residual)
        limit = _CLIP * max(self._floor, self._spread * _MEAN_TO_SIGMA)
        clipped = max(-limit, min(limit, residual)) if self.steps > 10 else residual
        gain = max(1 / self.steps, 1 / _SPREAD_STEPS)
        self._spread += gain * (min(max(outside, abs(residual) / 2), limit or abs(residual)) - self._spread)
        self._level += (1 - exp(-_SECONDS_A_STEP / _LEVEL_S)) * (self._level + clipped - self._level)
        if known:
            self._offset += (1 - exp(-_SECONDS_A_STEP / _OFFSET_S)) * clipped
        else:
            self._offset = 0.0
        self._learn_profile(time_us, expected + clipped)

    def _recurring(self, time_us: int) -> tuple[float, float] | None:
        """The (least, most) round this time of day that most of the last days have shown."""
        if self._recent is not None and self._recent[0] == time_us // _BIN_US:
            return self._recent[1]
        index = time_us % _DAY_US // _BIN_US
        around = [
            [day for day in self._days[(index + step) % N_BINS] if time_us - day[0] > _DAY_US // 2]
            for step in (-1, 0, 1)
        ]
        days = min(_DAYS_REMEMBERED, *map(len, around))
        found = None
        if days:
            least = [min(seen[-1 - back][1] for seen in around) for back in range(days)]
            most = [max(seen[-1 - back][2] for seen in around) for back in range(days)]
            found = -median_low([-value for value in least]), median_low(most)
        self._recent = (time_us // _BIN_US, found)
        return found

    def _learn_profile(self, time_us: int, value: float) -> None:
        index = time_us % _DAY_US // _BIN_US
        if index != self._bin:
            if self._bin >= 0 and self._bin_n:
                mean = self._bin_sum / self._bin_n
                known = self._profile[self._bin]
                self._profile[self._bin] = mean if isnan(known) else known + _PROFILE_GAIN * (mean - known)
                self._around = None
            self._bin, self._bin_sum, self._bin_n = index, 0.0, 0
        self._bin_sum += value
        self._bin_n += 1

    def _season(self, time_us: int) -> tuple[float, float, float]:
        """(interpolated profile, least and most of the bins around) at a time; NaN where there is none."""
        position = time_us % _DAY_US / _BIN_US - 0.5
        left = int(position // 1)
        share = position - left
        if self._around is None or self._around[0] != left:
            around = [self._profile[(left + step) % N_BINS] for step in (-1, 0, 1, 2)]
            known = [value for value in around if not isnan(value)]
            self._around = (left, around[1], around[2], min(known, default=nan), max(known, default=nan))
        _, a, b, least, most = self._around
        if isnan(a) or isnan(b):
            return nan, nan, nan
        return a + share * (b - a), least, most
