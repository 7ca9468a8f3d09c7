"""The rule on volume: what is bad in any service, also before the baseline is to be relied on."""

from __future__ import annotations

from dataclasses import replace
from math import log1p

import pytest

from helios_core.alerts import Family, Severity
from helios_core.features import HorizonView
from helios_core.sketches.latency import LatencyHistogram
from helios_core.windows import WindowDelta
from helios_detector.baseline import Band
from helios_detector.detectors.base import Evaluation
from helios_detector.detectors.rules import VolumeRule
from helios_detector.engine import Engine

MINUTE_US = 60_000_000


def evaluation(*, per_minute: float, minute: int, five: int, width: float = 0.0) -> Evaluation:
    usual = log1p(per_minute * 5)
    return Evaluation(
        service="web",
        view=HorizonView(
            end_us=0,
            events=five,
            errors=0,
            warnings=0,
            last_minute=minute,
            minutes=5.0,
            latency=LatencyHistogram(),
            unique_endpoints=0.0,
        ),
        minute=(minute, 0),
        latest=(minute // 3, 0),
        steady=(five, 0),
        bands={},
        measures={},
        full=True,
        silent_us=0,
        learned=False,
        usual_events=Band(usual, usual - width, usual + width, 0.05),
    )


@pytest.mark.parametrize(
    ("per_minute", "minute", "five", "minutes"),
    [
        (100, 9, 420, 1.0),  # a tenth in the last minute
        (100, 11, 420, None),
        (100, 100, 500, None),
        (100, 20, 99, 5.0),  # a fifth over five
        (100, 20, 101, None),
        (100, 1_000, 1_400, 1.0),  # ten times
        (100, 999, 1_400, None),
        (100, 900, 2_500, 5.0),  # five times over five
        (39, 0, 150, None),  # too few are due in a minute
        (9, 0, 9, 5.0),  # and enough in five
        (7, 0, 0, None),
        (0.05, 400, 400, None),  # many for a quiet service, and yet no flood
        (0.05, 500, 500, 1.0),
    ],
)
def test_a_fraction_or_a_multiple_of_what_is_due(
    per_minute: float, minute: int, five: int, minutes: float | None
) -> None:
    found = VolumeRule().find(evaluation(per_minute=per_minute, minute=minute, five=five))
    assert [finding.minutes for finding in found] == ([] if minutes is None else [minutes])
    for finding in found:
        assert (finding.family, finding.severity) == (Family.VOLUME, Severity.HIGH)
        (one,) = finding.contributions
        assert one.actual == pytest.approx((minute if minutes == 1.0 else five) / (minutes or 1))
        assert one.typical == pytest.approx(per_minute)
        assert one.limit is not None
        assert (one.actual <= one.limit) == (one.limit < per_minute)  # beyond the limit that it names


def test_what_the_season_allows_is_no_fall_and_no_flood() -> None:
    assert VolumeRule().find(evaluation(per_minute=100, minute=9, five=99)) != []
    assert VolumeRule().find(evaluation(per_minute=100, minute=9, five=99, width=2.0)) == []


def test_nothing_is_said_of_what_is_not_known() -> None:
    fallen = evaluation(per_minute=100, minute=0, five=0)
    assert VolumeRule().find(fallen) != []
    assert VolumeRule().find(replace(fallen, watched=False)) == []  # an agent is away
    assert VolumeRule().find(replace(fallen, full=False)) == []
    assert VolumeRule().find(replace(fallen, usual_events=None)) == []


def fed(engine: Engine, until_minute: int, *, per_window: int, since_minute: int = 0) -> list[str]:
    alerts = []
    for window in range(since_minute * 6, until_minute * 6):
        start_us = window * 10_000_000
        if per_window:
            delta = WindowDelta(start_us, "web", "h1")
            delta.levels[2] = per_window
            engine.observe("web", [delta])
        alerts += [f"{a.family} {a.state}" for a in engine.advance("web", start_us + 10_000_000)]
    return alerts


@pytest.mark.parametrize(("known_minutes", "found"), [(20, False), (45, True)])
def test_a_service_of_less_than_an_hour_that_falls_silent(known_minutes: int, found: bool) -> None:
    engine = Engine(window_ms=10_000, allowed_lateness_us=2_000_000)
    assert fed(engine, known_minutes, per_window=20) == []
    silent = fed(engine, known_minutes + 8, per_window=0, since_minute=known_minutes)
    assert silent == (["volume fired"] if found else [])


def test_a_service_of_less_than_an_hour_that_nearly_stops_and_one_that_is_flooded() -> None:
    for per_window in (1, 400):
        engine = Engine(window_ms=10_000, allowed_lateness_us=2_000_000)
        assert fed(engine, 45, per_window=20) == []
        assert fed(engine, 48, per_window=per_window, since_minute=45)[:1] == ["volume fired"]


def test_pauses_of_a_young_service_that_pauses_are_no_silence() -> None:
    engine = Engine(window_ms=10_000, allowed_lateness_us=2_000_000)
    alerts = []
    for minute in range(0, 110, 20):
        alerts += fed(engine, minute + 10, per_window=40, since_minute=minute)
        alerts += fed(engine, minute + 20, per_window=0, since_minute=minute + 10)
    assert alerts == []
