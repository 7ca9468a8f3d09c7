"""Silence: no events where, by the service's own rate at this time of day, many were due."""

from __future__ import annotations

from math import expm1
from typing import Final

from helios_core.alerts import Contribution, Family, Finding, Severity
from helios_detector.detectors.base import Evaluation

# exp(-20) is 2e-9: with this many due, silence is no chance even where the rate is guessed too high.
_MIN_DUE: Final = 20.0
_MIN_SILENT_US: Final = 60_000_000


class Silence:
    """Fires when a service whose source is still being read sends nothing."""

    name = "silence"

    def find(self, evaluation: Evaluation) -> list[Finding]:
        usual = evaluation.usual_events
        if usual is None or not evaluation.watched or evaluation.silent_us < _MIN_SILENT_US:
            return []
        minutes = evaluation.silent_us / 60e6
        rate = expm1(max(0.0, usual.low)) / evaluation.view.minutes
        if rate * minutes < _MIN_DUE:
            return []
        return [
            Finding(
                detector=self.name,
                family=Family.VOLUME,
                severity=Severity.CRITICAL,
                minutes=minutes,
                contributions=(Contribution(feature="events_per_minute", unit="events/min", actual=0.0, typical=rate),),
                detail="no events at all",
            )
        ]
