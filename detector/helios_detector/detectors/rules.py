"""Absolute rules: what is bad in any service, with or without a history."""

from __future__ import annotations

from math import expm1, log
from typing import Final

from helios_core.alerts import Contribution, Family, Finding, Severity
from helios_detector.detectors.base import Evaluation

MIN_EVENTS: Final = 10
# (share of errors, severity) over the horizon, the worst first.
ERROR_RATES: Final = ((0.5, Severity.CRITICAL), (0.3, Severity.HIGH), (0.15, Severity.MEDIUM))
_MINUTE_RATE: Final = 0.5
_OUTAGE_RATE: Final = 0.9
_LATEST_MINUTES: Final = 1 / 3
_ABOVE_NORMAL: Final = 0.10  # where errors are normal, how far above them a rule begins
# A few errors among a few events may be chance: exp(-12) is 6e-6, and a day has 288 separate horizons.
_CHANCE: Final = 12.0
_MIN_STEADY: Final = 2
_STEADY_ABOVE_NORMAL: Final = 0.03
_LEAST_TYPICAL: Final = 0.005
_UNKNOWN_TYPICAL: Final = 0.02  # of a service that is new
# (minutes, times more or less than what is due at most or at least) of a volume that is bad in any service.
_VOLUME_TIMES: Final = ((1.0, 10.0), (5.0, 5.0))
_MIN_DUE: Final = 40.0  # events in the span: exp(-20) is the chance of a tenth of them
_MIN_FLOOD: Final = 500  # fewer in the span are no flood, however few are usual


class ErrorRateRule:
    """15, 30 and 50 % of errors over 5 minutes (10 events at least); 50 % over a minute, 90 % over 20 s (10 errors).

    90 % of the last 20 s is an outage. Of several the worst.

    Errors of a single minute are a burst, which passes: over 5 minutes there must be some outside the worst.
    """

    name = "rules"

    def find(self, evaluation: Evaluation) -> list[Finding]:
        band = evaluation.bands.get("error_rate")
        typical = max(0.0, band.value) if band is not None else None
        above = (typical or 0.0) + _ABOVE_NORMAL
        view = evaluation.view
        usual = _UNKNOWN_TYPICAL if typical is None else max(typical, _LEAST_TYPICAL)
        found: list[Finding] = []
        events, errors = evaluation.latest
        if errors >= MIN_EVENTS and errors / events >= max(_OUTAGE_RATE, above):
            found.append(
                _finding(Severity.CRITICAL, errors / events, typical, max(_OUTAGE_RATE, above), _LATEST_MINUTES)
            )
        events, errors = evaluation.minute
        if errors >= MIN_EVENTS and errors / events >= max(_MINUTE_RATE, above):
            severity = Severity.CRITICAL if errors / events >= _OUTAGE_RATE else Severity.HIGH
            found.append(_finding(severity, errors / events, typical, max(_MINUTE_RATE, above), 1.0))
        steady_events, steady_errors = evaluation.steady
        lasts = steady_errors >= _MIN_STEADY and steady_errors / steady_events >= usual + _STEADY_ABOVE_NORMAL
        if lasts and view.events >= MIN_EVENTS and is_beyond_chance(view.errors, view.events, usual):
            least = max(ERROR_RATES[-1][0], above)
            for limit, severity in ERROR_RATES:
                if view.error_rate >= max(limit, above):
                    found.append(_finding(severity, view.error_rate, typical, least, view.minutes))
                    break
        return sorted(found, key=lambda finding: -finding.severity.rank)[:1]


class VolumeRule:
    """A tenth or ten times what is due in a minute, a fifth or five times what is due in five.

    What is due needs half an hour of a service, not the hours that the baseline needs to know how it varies.
    """

    name = "rules"

    def find(self, evaluation: Evaluation) -> list[Finding]:
        usual, view = evaluation.usual_events, evaluation.view
        if usual is None or not evaluation.full:
            return []
        low, typical, high = (expm1(max(0.0, value)) / view.minutes for value in (usual.low, usual.value, usual.high))
        for minutes, times in _VOLUME_TIMES:
            events = evaluation.minute[0] if minutes == 1.0 else view.events
            rate = events / minutes
            fell = evaluation.watched and low * minutes >= _MIN_DUE and rate <= low / times
            if fell or (events >= _MIN_FLOOD and rate >= high * times):
                limit = low / times if fell else high * times
                return [
                    Finding(
                        detector=self.name,
                        family=Family.VOLUME,
                        severity=Severity.HIGH,
                        minutes=minutes,
                        contributions=(
                            Contribution(
                                feature="events_per_minute",
                                unit="events/min",
                                actual=rate,
                                typical=typical,
                                limit=limit,
                            ),
                        ),
                    )
                ]
        return []


def is_beyond_chance(errors: int, events: int, usual: float) -> bool:
    """So many errors or more, where each event fails with probability `usual`, come by chance too rarely.

    By Chernoff's bound, which is at most a few times too careful: P(X >= k) <= exp(-n KL(k/n || usual)).
    """
    rate = errors / events
    if rate <= usual:
        return False
    divergence = rate * log(rate / usual)
    if rate < 1:
        divergence += (1 - rate) * log((1 - rate) / (1 - usual))
    return events * divergence >= _CHANCE


def _finding(severity: Severity, rate: float, typical: float | None, limit: float, minutes: float) -> Finding:
    return Finding(
        detector="rules",
        family=Family.ERRORS,
        severity=severity,
        minutes=minutes,
        contributions=(Contribution(feature="error_rate", unit="share", actual=rate, typical=typical, limit=limit),),
    )
