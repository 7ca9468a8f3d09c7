"""Robust z: how many of its own spreads a measure lies outside what its season allows.

A finding needs both: to be far out for this service, and to be a change that a person would call one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import expm1, isnan, log1p, sqrt
from typing import Final

from helios_core.alerts import Contribution, Family, Finding, Severity
from helios_core.features import HorizonView
from helios_detector.baseline import Band
from helios_detector.detectors.base import Evaluation

# Robust z at which a finding begins, and at which it is worse.
_SEVERITIES: Final = ((20.0, Severity.CRITICAL), (12.0, Severity.HIGH), (7.0, Severity.MEDIUM))
_LIMIT_STEPS: Final = 30
MIN_Z: Final = _SEVERITIES[-1][0]


def _identity(value: float) -> float:
    return value


@dataclass(frozen=True, slots=True)
class Watch:
    """How one measure is judged.

    Attributes:
        measure: its name.
        family: what a finding is about.
        feature, unit: how it is shown.
        shown: from the measure's scale to the one shown.
        sampling: the variance that counting alone gives a value of the measure in this horizon.
        up, down: the change, in the measure's unit, below which a rise or fall is no finding; None
            when that direction is none at all.
        enough: whether the horizon has events enough for it.
    """

    measure: str
    family: Family
    feature: str
    unit: str
    shown: Callable[[float], float]
    sampling: Callable[[HorizonView, Band, float], float]
    up: float | None
    down: float | None
    enough: Callable[[HorizonView, Band], bool]


def _counting(view: HorizonView, band: Band, value: float) -> float:
    """Of the logarithm of a Poisson count."""
    return 1 / (1 + max(min(expm1(max(value, 0.0)), expm1(max(band.value, 0.0))), 0.0))


def _binomial(view: HorizonView, band: Band, value: float) -> float:
    share = min(max(band.value, 1 / (view.events + 1)), 0.5)
    return share * (1 - share) / max(1, view.events)


def _few(view: HorizonView, band: Band, value: float) -> float:
    """Quantiles of few latencies scatter: about 1/n on the logarithm, times what tails add."""
    return 2.0 / max(1, view.latency.count)


WATCHES: Final = (
    Watch(
        "log_events", Family.VOLUME, "events_per_5_min", "events", expm1, _counting,
        up=log1p(1.2), down=-log1p(-0.5), enough=lambda v, b: max(v.events, expm1(max(b.value, 0))) >= 50,
    ),
    Watch(
        "error_rate", Family.ERRORS, "error_rate", "share", _identity, _binomial,
        up=0.02, down=None, enough=lambda v, b: v.errors >= 8 and v.steady_error_rate - b.high >= 0.01,
    ),
    Watch(
        "warning_rate", Family.ANOMALY, "warning_rate", "share", _identity, _binomial,
        up=0.10, down=None, enough=lambda v, b: v.warnings >= 20,
    ),
    Watch(
        "log_p50", Family.LATENCY, "p50_latency", "ms", expm1, _few,
        up=log1p(0.4), down=None, enough=lambda v, b: v.latency.count >= 30,
    ),
    Watch(
        "log_p95", Family.LATENCY, "p95_latency", "ms", expm1, _few,
        up=log1p(0.5), down=None, enough=lambda v, b: v.latency.count >= 60,
    ),
    Watch(
        "log_p99", Family.LATENCY, "p99_latency", "ms", expm1, _few,
        up=log1p(0.8), down=None, enough=lambda v, b: v.latency.count >= 200,
    ),
    Watch(
        "log_endpoints", Family.ANOMALY, "unique_endpoints", "endpoints", expm1, _counting,
        up=log1p(1.5), down=None, enough=lambda v, b: v.unique_endpoints >= 20,
    ),
)  # fmt: skip


class Deviation:
    """Fires when a measure lies far outside its band."""

    name = "baseline"

    def find(self, evaluation: Evaluation) -> list[Finding]:
        if not evaluation.full:
            return []
        found: dict[Family, list[tuple[float, Contribution]]] = {}
        for watch in WATCHES:
            band, value = evaluation.bands.get(watch.measure), evaluation.measures.get(watch.measure)
            if band is None or value is None or isnan(value) or not watch.enough(evaluation.view, band):
                continue
            if not evaluation.watched and value < band.value:
                continue  # what an agent that is away would have brought is missing, not down
            judged = _judge(watch, band, value, evaluation.view)
            if judged is not None:
                found.setdefault(watch.family, []).append(judged)
        return [self._finding(family, parts, evaluation.view.minutes) for family, parts in found.items()]

    def _finding(self, family: Family, parts: list[tuple[float, Contribution]], minutes: float) -> Finding:
        parts.sort(key=lambda part: -part[0])
        total = sum(z for z, _ in parts)
        worst = parts[0][0]
        severity = next(severity for limit, severity in _SEVERITIES if worst >= limit)
        return Finding(
            detector=self.name,
            family=family,
            severity=severity,
            minutes=minutes,
            tail_probability=None,
            contributions=tuple(
                Contribution(
                    feature=part.feature,
                    unit=part.unit,
                    actual=part.actual,
                    typical=part.typical,
                    limit=part.limit,
                    share=z / total,
                )
                for z, part in parts
            ),
            detail=f"{worst:.0f} spreads from normal",
        )


def _judge(watch: Watch, band: Band, value: float, view: HorizonView) -> tuple[float, Contribution] | None:
    """(z, contribution) when the measure is out; None when it is not."""
    sigma = sqrt(band.sigma**2 + watch.sampling(view, band, value))
    change, least = (value - band.high, watch.up) if value >= band.value else (band.low - value, watch.down)
    if least is None or change < least or change / sigma < MIN_Z:
        return None
    limit = _limit(watch, band, value, view, least)
    return change / sigma, Contribution(
        feature=watch.feature,
        unit=watch.unit,
        actual=watch.shown(value),
        typical=watch.shown(band.value),
        limit=watch.shown(limit),
    )


def _limit(watch: Watch, band: Band, value: float, view: HorizonView, least: float) -> float:
    """Where it would stop to be a finding: nearer to normal a count scatters less, so it is looked for in steps."""
    limit = value
    for _ in range(_LIMIT_STEPS):
        away = max(MIN_Z * sqrt(band.sigma**2 + watch.sampling(view, band, limit)), least)
        limit = band.high + away if value >= band.value else band.low - away
    return limit
