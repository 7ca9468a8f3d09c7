"""Normal traffic of a service: day, week, growth and autocorrelated noise, as an intensity over time."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from helios_detector.simulate.model import DAY_S, HOUR_S, MINUTE_S, WEEK_S, Service
from helios_detector.simulate.seeding import generator

Floats = NDArray[np.float64]

_NOISE_MEMORY = 0.93
"""Correlation of the noise of one minute with that of the next: half of it is gone after ten minutes."""
_EPOCH_WEEKDAY_S = 3 * DAY_S
"""1970-01-01 was a Thursday."""
_WEEK_KNOTS_H = (0.0, 6.0, 114.0, 122.0, 168.0)
"""The weekend fades out on Monday until 06:00 and in on Friday from 18:00 to Saturday 02:00."""


class Traffic:
    """Expected events a second of one service, minute by minute."""

    def __init__(self, service: Service, start_s: int, total_s: int, seed: int) -> None:
        self._start_s = start_s
        self._grid = np.arange(start_s, start_s + total_s + 2 * MINUTE_S, MINUTE_S)
        growth = np.exp(np.log1p(service.growth) * (self._grid - start_s) / WEEK_S)
        self.usual = service.per_second * _shape(service, self._grid) * growth
        """Without noise; index is the minute since the start."""
        self._noisy = self.usual * np.exp(_noise(service, len(self._grid), seed))

    def rate(self, at_s: NDArray[np.int64]) -> Floats:
        """Events a second at the given times, the noise of the minute included."""
        rate: Floats = np.interp(at_s, self._grid, self._noisy)
        return rate

    def expected(self, first_s: int, last_s: int) -> float:
        """Mean of the usual rate over an interval."""
        first = (first_s - self._start_s) // MINUTE_S
        last = (last_s - self._start_s) // MINUTE_S
        return float(self.usual[first : max(last, first + 1)].mean())


def _shape(service: Service, at_s: NDArray[np.int64]) -> Floats:
    """The rate relative to its mean over a week."""
    reference = np.arange(0, WEEK_S, 15 * MINUTE_S)
    mean = _relative(service, reference).mean()
    return _relative(service, at_s) / float(mean)


def _relative(service: Service, at_s: NDArray[np.int64]) -> Floats:
    hour = at_s % DAY_S / HOUR_S
    turn = 2 * np.pi * (hour - service.peak_hour) / 24
    # The second harmonic makes the night shorter and steeper than a sine.
    day = np.exp(service.amplitude * (np.cos(turn) + 0.25 * np.cos(2 * turn)))
    week_hour = (at_s + _EPOCH_WEEKDAY_S) % WEEK_S / HOUR_S
    weekend = service.weekend
    week = np.interp(week_hour, _WEEK_KNOTS_H, (weekend, 1.0, 1.0, weekend, weekend))
    return np.asarray(day * week, dtype=np.float64)


def _noise(service: Service, minutes: int, seed: int) -> Floats:
    spread = service.kind.noise
    steps = generator(seed, service.name, "noise").standard_normal(minutes)
    steps *= spread * np.sqrt(1 - _NOISE_MEMORY**2)
    steps[0] = steps[0] / np.sqrt(1 - _NOISE_MEMORY**2)
    return np.fromiter(accumulate(steps, lambda past, step: _NOISE_MEMORY * past + step), np.float64, minutes)
