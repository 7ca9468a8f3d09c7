"""Feature sets: named, ordered, versioned lists of numbers computed from a horizon.

Training and serving call the same code. A model carries the name and the hash of its set, and is
refused for any other. What is missing (latency of a service without any) is NaN, never 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from math import log1p, nan
from typing import Final

import numpy as np
from numpy.typing import NDArray

from helios_core.clock import from_us
from helios_core.sketches.latency import LatencyHistogram

_US_PER_MS: Final = 1_000.0
_QUANTILES: Final = (0.5, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Expected:
    """What the baseline expects of a horizon: the context of `context-1`. NaN where it knows nothing.

    Attributes:
        log_events: of log1p(events).
        error_rate: 0 to 1.
        log_p50, log_p95, log_p99: of log1p(latency in ms).
    """

    log_events: float = nan
    error_rate: float = nan
    log_p50: float = nan
    log_p95: float = nan
    log_p99: float = nan


@dataclass(slots=True)
class HorizonView:
    """What features are computed from: the counts of one horizon, merged over all hosts.

    Attributes:
        end_us: its end, exclusive.
        events, errors, warnings: counts of the signal.
        last_minute: events of its last minute.
        minutes: its length.
        latency: of its events.
        unique_endpoints: estimated.
        steady_error_rate: the error rate without its worst window.
        new_templates: templates of WARN and above that the service had not shown before.
        expected: the baseline's expectation.
    """

    end_us: int
    events: int
    errors: int
    warnings: int
    last_minute: int
    minutes: float
    latency: LatencyHistogram
    unique_endpoints: float
    steady_error_rate: float = 0.0
    new_templates: int = 0
    expected: Expected = Expected()
    _latency_ms: tuple[float, ...] = ()

    @property
    def error_rate(self) -> float:
        return self.errors / self.events if self.events else 0.0

    def quantiles_ms(self) -> tuple[float, ...]:
        """p50, p95 and p99; computed once."""
        if not self._latency_ms:
            self._latency_ms = tuple(q / _US_PER_MS for q in self.latency.quantiles_us(_QUANTILES))
        return self._latency_ms


@dataclass(frozen=True, slots=True)
class Feature:
    """One number of a horizon."""

    name: str
    unit: str
    compute: Callable[[HorizonView], float]
    needs_latency: bool = False


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """An ordered list of features under a name and a version."""

    name: str
    version: int
    features: tuple[Feature, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features)

    @property
    def hash(self) -> str:
        """Of name, version, and each feature's name and unit in order: 16 hexadecimal digits."""
        lines = [f"{self.name} {self.version}", *(f"{feature.name} [{feature.unit}]" for feature in self.features)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

    def vector(self, view: HorizonView) -> NDArray[np.float32]:
        """(n_features,) float32, NaN where a value is missing."""
        return np.array([feature.compute(view) for feature in self.features], dtype=np.float32)

    def without_latency(self) -> FeatureSet:
        """The set for a service that has no latency: a column of NaN teaches a tree nothing."""
        kept = tuple(feature for feature in self.features if not feature.needs_latency)
        return FeatureSet(f"{self.name}-no-latency", self.version, kept)


def _latency(name: str, unit: str, compute: Callable[[HorizonView], float]) -> Feature:
    return Feature(name, unit, compute, needs_latency=True)


def _ratio(upper: float, lower: float) -> float:
    return upper / lower if lower > 0 else nan


CORE_7: Final = FeatureSet(
    "core-7",
    1,
    (
        Feature("total_events", "events", lambda v: float(v.events)),
        Feature("error_rate", "share", lambda v: v.error_rate),
        _latency("avg_latency", "ms", lambda v: v.latency.mean_us / _US_PER_MS),
        _latency("p95_latency", "ms", lambda v: v.quantiles_ms()[1]),
        _latency("p99_latency", "ms", lambda v: v.quantiles_ms()[2]),
        _latency("latency_stddev", "ms", lambda v: v.latency.stddev_us / _US_PER_MS),
        Feature("unique_endpoints", "endpoints", lambda v: v.unique_endpoints),
    ),
)

FULL_12: Final = FeatureSet(
    "full-12",
    1,
    (
        Feature("event_count", "events", lambda v: float(v.events)),
        Feature("error_rate", "share", lambda v: v.error_rate),
        _latency("p50_latency", "ms", lambda v: v.quantiles_ms()[0]),
        _latency("p95_latency", "ms", lambda v: v.quantiles_ms()[1]),
        _latency("p99_latency", "ms", lambda v: v.quantiles_ms()[2]),
        _latency("latency_stddev", "ms", lambda v: v.latency.stddev_us / _US_PER_MS),
        Feature("hour_of_day", "h UTC", lambda v: float(from_us(v.end_us).hour)),
        _latency("p95_over_p50", "ratio", lambda v: _ratio(v.quantiles_ms()[1], v.quantiles_ms()[0])),
        _latency("p99_over_p95", "ratio", lambda v: _ratio(v.quantiles_ms()[2], v.quantiles_ms()[1])),
        Feature("log_event_count", "log1p(events)", lambda v: log1p(v.events)),
        _latency("log_p95_latency", "log1p(ms)", lambda v: log1p(v.quantiles_ms()[1])),
        _latency("log_p99_latency", "log1p(ms)", lambda v: log1p(v.quantiles_ms()[2])),
    ),
)

CONTEXT_1: Final = FeatureSet(
    "context-1",
    1,
    (
        Feature("log_events_residual", "log1p(events)", lambda v: log1p(v.events) - v.expected.log_events),
        Feature("error_rate", "share", lambda v: v.error_rate),
        Feature("error_rate_residual", "share", lambda v: v.error_rate - v.expected.error_rate),
        _latency("log_p50_residual", "log1p(ms)", lambda v: log1p(v.quantiles_ms()[0]) - v.expected.log_p50),
        _latency("log_p95_residual", "log1p(ms)", lambda v: log1p(v.quantiles_ms()[1]) - v.expected.log_p95),
        _latency("log_p99_residual", "log1p(ms)", lambda v: log1p(v.quantiles_ms()[2]) - v.expected.log_p99),
        Feature("rate_of_change", "ratio", lambda v: _ratio(v.last_minute * v.minutes, float(v.events))),
        Feature("warning_share", "share", lambda v: v.warnings / v.events if v.events else 0.0),
        Feature("new_template_rate", "templates/min", lambda v: v.new_templates / v.minutes),
        Feature("log_unique_endpoints", "log1p(endpoints)", lambda v: log1p(v.unique_endpoints)),
    ),
)

FEATURE_SETS: Final = {made.name: made for made in (CORE_7, FULL_12, CONTEXT_1)}
