"""Says how rare a score is for one service, from that service's own past scores; it decides nothing.

Below the join, the 98 % quantile of the history, the answer is the share of past scores at or above
the score, interpolated. Above it, a power law whose exponent is Hill's estimate (B. M. Hill, "A simple
general approach to inference about the tail of a distribution", Annals of Statistics 3(5), 1975).

The law cannot be put on the score itself. A forest's score is 2 ** -h, h being the mean path length
as a share of what is expected, and h cannot fall much below 0.3: a row outside the range of training
in every column still passes that many splits. Scores crowd together under 0.8, where a power law
believes in scores that cannot occur. It is put on what does shrink to nothing, the distance of h from
the shortest path:

    P(S >= s) = P(S >= join) * ((h(s) - shortest) / (h(join) - shortest)) ** exponent

Measured on forests over six kinds of simulated features, histories of 2,000 scores, ten seeds, fresh
normal data: per kind 0.99 % to 1.08 % of the tail probabilities were under 0.01, 0.08 % to 0.10 %
under 0.001, 0.002 % to 0.010 % under 0.0001; a single history is off by half of its 0.001. The law
in `score - median` gave 0.01 % to 0.08 % under 0.001, and found a saturated anomaly up to a hundred
times less rare. From 2,000 rows on it made no difference whether the forest was trained on them.

All of this is for scores that are exchangeable. Those of overlapping horizons resemble each other:
such a history is worth only as many scores as it has horizons that do not overlap.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helios_detector.errors import CalibrationError

# Fewer leave one score, or none, beyond the 98 % quantile.
MIN_SCORES = 100

# At most two decades beyond the data, however many there are: no claim rarer than one horizon in a
# hundred histories like this one.
MAX_EXTRAPOLATION = 100.0

# The estimate of ln P at p has a standard error of about ln(P(join) / p) / sqrt(k), k scores lying
# beyond the join (Hill's exponent has a relative error of 1 / sqrt(k)). An error of a decade is one
# step of severity: what would be less certain than that is not claimed. 100 scores reach down to
# 0.0004, 200 to 0.0001; from 400 on the other limit is the higher one.
MAX_LOG_ERROR = math.log(10.0)

_TAIL_SHARE = 0.02
# Rows outside the range of training in every column, in any direction, scored at most 0.75 to 0.81 in
# forests of 256 samples a tree over the six kinds of features (64 samples: 0.77; 1,024: 0.84).
_SATURATED_SCORE = 0.8
# A history that comes near it, or exceeds it, shows a forest that saturates later: then the shortest
# path is this share of the shortest in the history.
_SHORTEST_SHARE = 0.7
# Two imagined exceedances with the lowest mean exponent of the six simulated kinds keep the exponent
# sane when there are few real ones, or none; beside the 172 of a day of windows they weigh nothing.
_PRIOR_WEIGHT = 2.0
_PRIOR_EXPONENT = 4.0
# Interpolating between this many ranks is off by less than 0.004, and what is stored stays at about 8 kB.
_MAX_KNOTS = 256


@dataclass(frozen=True, slots=True)
class Calibration:
    """What is left of a history of scores; made by `fit` or `from_dict`."""

    observations: int
    scores: tuple[float, ...]  # increasing, from the smallest score of the history to the join
    shares: tuple[float, ...]  # of the history at or above each of them: from 1, decreasing
    exponent: float  # of the power law beyond the join
    shortest: float  # the mean path length, as a share of the expected one, at which it ends
    floor: float  # no tail probability is less

    @classmethod
    def fit(cls, scores: NDArray[np.float64]) -> Calibration:
        """From the history `(n,)` of scores in (0, 1), in any order.

        Anomalies among them make the tail heavier, so that later ones look less rare: with 0.5 % of
        strong ones among 2,000 scores, a saturated score has 0.0003 instead of the floor.

        Raises CalibrationError for fewer than MIN_SCORES of them, or one that is no score.
        """
        history = np.asarray(scores, dtype=np.float64)
        _check_history(history)
        history = np.sort(history)
        n = len(history)
        values, first = np.unique(history, return_index=True)
        shares = (n - first) / n
        # A score that more than 2 % share can be the largest of all; then it is the join itself.
        join = int(np.argmax(shares <= _TAIL_SHARE)) if shares[-1] <= _TAIL_SHARE else len(values) - 1
        beyond = history[history > values[join]]
        shortest = min(_path(_SATURATED_SCORE), _SHORTEST_SHARE * _path(history[-1]))
        room = -np.log2(history[history >= values[join]]) - shortest
        log_excess = float(np.log(room[0] / room).sum())
        weight = len(beyond) + _PRIOR_WEIGHT
        certain = _TAIL_SHARE * math.exp(-MAX_LOG_ERROR * math.sqrt(weight))
        knots = np.unique(np.linspace(0, join, min(join + 1, _MAX_KNOTS)).round().astype(int))
        return cls(
            observations=n,
            scores=tuple(values[knots].tolist()),
            shares=tuple(shares[knots].tolist()),
            exponent=weight / (log_excess + _PRIOR_WEIGHT / _PRIOR_EXPONENT),
            shortest=shortest,
            floor=min(float(shares[join]), max(1.0 / (MAX_EXTRAPOLATION * n), certain)),
        )

    def tail_probability(self, score: float) -> float:
        """P(S >= score) for this service's own scores: in [floor, 1], never rising with the score."""
        if math.isnan(score):
            raise CalibrationError("the score is NaN, which no forest gives: look at where it comes from")
        above = bisect_right(self.scores, score)
        if above == 0:
            return 1.0
        if above < len(self.scores):
            low, high = self.scores[above - 1], self.scores[above]
            part = (score - low) / (high - low)
            share = self.shares[above - 1] + part * (self.shares[above] - self.shares[above - 1])
            return max(self.shares[above], share)  # rounding must not undercut the next rank
        room = _path(score) - self.shortest if score < 1.0 else 0.0
        if room <= 0.0:
            return self.floor
        left = room / (_path(self.scores[-1]) - self.shortest)
        return max(self.floor, self.shares[-1] * math.pow(left, self.exponent))

    def to_dict(self) -> dict[str, Any]:
        """Numbers and lists of numbers, exact through JSON; `from_dict` takes it back."""
        stored = asdict(self)
        return stored | {"scores": list(self.scores), "shares": list(self.shares)}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Calibration:
        """Raises CalibrationError for anything that `to_dict` could not have given."""
        names = {field.name for field in fields(cls)}
        if set(stored) != names:
            raise CalibrationError(f"a calibration has {sorted(names)}, this one {sorted(map(str, stored))}")
        observations = stored["observations"]
        if type(observations) is not int or observations < MIN_SCORES:
            raise CalibrationError(f"observations is {observations!r}: it has to be an int from {MIN_SCORES}")
        calibration = cls(
            observations=observations,
            scores=_numbers("scores", stored["scores"]),
            shares=_numbers("shares", stored["shares"]),
            exponent=_number("exponent", stored["exponent"]),
            shortest=_number("shortest", stored["shortest"]),
            floor=_number("floor", stored["floor"]),
        )
        calibration._check()
        return calibration

    def _check(self) -> None:
        scores, shares = self.scores, self.shares
        conditions = {
            "as many scores as shares, and at least one": len(scores) == len(shares) > 0,
            "scores that increase": all(a < b for a, b in pairwise(scores)),
            "scores in (0, 1)": all(0.0 < score < 1.0 for score in scores),
            "shares that decrease from 1": shares[:1] == (1.0,) and all(a > b for a, b in pairwise(shares)),
            "an exponent above 0": self.exponent > 0.0,
            "a floor above 0 and at most the last share": 0.0 < self.floor <= min(shares, default=0.0),
        }
        failed = [condition for condition, holds in conditions.items() if not holds]
        if not failed and not 0.0 <= self.shortest < _path(scores[-1]):
            failed = ["a shortest path below that of the last score"]
        if failed:
            raise CalibrationError(f"a calibration needs {failed[0]}: fit it anew from the history")


def _path(score: float) -> float:
    """The mean path length that a score stands for, as a share of the expected one; score in (0, 1)."""
    return -math.log2(score)


def _check_history(history: NDArray[np.float64]) -> None:
    if history.ndim != 1 or len(history) < MIN_SCORES:
        raise CalibrationError(
            f"a history of shape {history.shape}: calibrating needs {MIN_SCORES} scores or more, in one row"
        )
    wrong = history[~((history > 0.0) & (history < 1.0))]
    if len(wrong):
        raise CalibrationError(f"{len(wrong)} of {len(history)} scores are outside (0, 1), such as {wrong[0]}")


def _number(name: str, value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise CalibrationError(f"{name} is {value!r}: it has to be a finite number")
    return float(value)


def _numbers(name: str, values: Any) -> tuple[float, ...]:
    if not isinstance(values, list | tuple):
        raise CalibrationError(f"{name} is {values!r}: it has to be a list of numbers")
    return tuple(_number(name, value) for value in values)
