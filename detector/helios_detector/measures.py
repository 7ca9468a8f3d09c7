"""What is measured of a horizon: for the baseline, as the features' expectation, and as an alert shows it."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan, log1p
from typing import Final

from helios_core.features import Expected, HorizonView
from helios_detector.baseline import Band

# The least spread that is believed, by measure.
FLOORS: Final = {
    "log_events": 0.04,
    "error_rate": 0.002,
    "warning_rate": 0.004,
    "log_p50": 0.02,
    "log_p95": 0.03,
    "log_p99": 0.05,
    "log_endpoints": 0.05,
}


def expectation(bands: Mapping[str, Band]) -> Expected:
    """What the features are held against; NaN where the baseline knows nothing yet."""

    def value(name: str) -> float:
        return bands[name].value if name in bands else float("nan")

    return Expected(
        log_events=value("log_events"),
        error_rate=value("error_rate"),
        log_p50=value("log_p50"),
        log_p95=value("log_p95"),
        log_p99=value("log_p99"),
    )


def measured(view: HorizonView) -> dict[str, float]:
    """The measures of the baseline; NaN where they are missing."""
    p50, p95, p99 = view.quantiles_ms()
    return {
        "log_events": log1p(view.events),
        "error_rate": view.error_rate,
        "warning_rate": view.warnings / view.events if view.events else 0.0,
        "log_p50": log1p(p50),
        "log_p95": log1p(p95),
        "log_p99": log1p(p99),
        "log_endpoints": log1p(view.unique_endpoints) if view.unique_endpoints else float("nan"),
    }


def shown(view: HorizonView) -> dict[str, float | None]:
    """The horizon's numbers as an alert carries them."""
    p50, p95, p99 = view.quantiles_ms()
    numbers = {
        "events": float(view.events),
        "errors": float(view.errors),
        "error_rate": view.error_rate,
        "p50_latency_ms": p50,
        "p95_latency_ms": p95,
        "p99_latency_ms": p99,
        "unique_endpoints": view.unique_endpoints,
    }
    return {name: None if isnan(value) else value for name, value in numbers.items()}
