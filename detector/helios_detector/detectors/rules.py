"""Absolute rules: what is bad in any service, with or without a history."""

from __future__ import annotations

from typing import Final

from helios_core.alerts import Contribution, Family, Finding, Severity
from helios_detector.detectors.base import Evaluation

MIN_EVENTS: Final = 10
# (share of errors, severity) over the horizon, the worst first.
ERROR_RATES: Final = ((0.5, Severity.CRITICAL), (0.3, Severity.HIGH), (0.15, Severity.MEDIUM))
_MINUTE_RATE: Final = 0.5
_ABOVE_NORMAL: Final = 0.10  # where errors are normal, how far above them a rule begins


class ErrorRateRule:
    """15, 30 and 50 % of errors over 5 minutes, 50 % over the last minute; at least 10 events."""

    name = "rules"

    def find(self, evaluation: Evaluation) -> list[Finding]:
        band = evaluation.bands.get("error_rate")
        typical = max(0.0, band.value) if band is not None else None
        above = (typical or 0.0) + _ABOVE_NORMAL
        view = evaluation.view
        if view.events >= MIN_EVENTS and view.errors > 1:
            least = max(ERROR_RATES[-1][0], above)
            for limit, severity in ERROR_RATES:
                if view.error_rate >= max(limit, above):
                    return [_finding(severity, view.error_rate, typical, least, view.minutes)]
        events, errors = evaluation.minute
        if events >= MIN_EVENTS and errors / events >= max(_MINUTE_RATE, above):
            return [_finding(Severity.HIGH, errors / events, typical, max(_MINUTE_RATE, above), 1.0)]
        return []


def _finding(severity: Severity, rate: float, typical: float | None, limit: float, minutes: float) -> Finding:
    return Finding(
        detector="rules",
        family=Family.ERRORS,
        severity=severity,
        minutes=minutes,
        contributions=(Contribution(feature="error_rate", unit="share", actual=rate, typical=typical, limit=limit),),
    )
