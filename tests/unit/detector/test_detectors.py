"""Each detector by its contract: what it fires on, what it leaves alone, and that its reasons hold."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from math import ceil, expm1, log1p, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.examples import examples

from helios_core.alerts import Contribution, Family, Finding, Severity
from helios_core.features import CONTEXT_1, Expected, HorizonView
from helios_core.model import Level
from helios_core.sketches.latency import LatencyHistogram
from helios_detector.baseline import Band
from helios_detector.detectors import forest as forest_detector
from helios_detector.detectors.base import Detector, Evaluation, NewTemplate
from helios_detector.detectors.deviation import MIN_Z, Deviation
from helios_detector.detectors.patterns import MIN_COUNT, NewPattern
from helios_detector.detectors.rules import ErrorRateRule
from helios_detector.detectors.silence import Silence
from helios_detector.training import Forest, train

LOW, MEDIUM, HIGH, CRITICAL = Severity
END_US = 1_772_409_600_000_000


def view(
    events: int = 1_000,
    errors: int = 0,
    *,
    warnings: int = 0,
    latencies: int = 0,
    endpoints: float = 10.0,
    steady: float | None = None,
) -> HorizonView:
    return HorizonView(
        end_us=END_US,
        events=events,
        errors=errors,
        warnings=warnings,
        last_minute=events // 5,
        minutes=5.0,
        latency=LatencyHistogram.of([20_000] * latencies),
        unique_endpoints=endpoints,
        steady_error_rate=errors / max(1, events) if steady is None else steady,
    )


def evaluation(
    seen: HorizonView | None = None,
    *,
    minute: tuple[int, int] = (0, 0),
    latest: tuple[int, int] = (0, 0),
    steady: tuple[int, int] | None = None,
    bands: Mapping[str, Band] | None = None,
    measures: Mapping[str, float] | None = None,
    full: bool = True,
    silent_us: int = 0,
    learned: bool = True,
    new: tuple[NewTemplate, ...] = (),
) -> Evaluation:
    seen = seen or view()
    return Evaluation(
        service="web",
        view=seen,
        minute=minute,
        latest=latest,
        steady=steady or (seen.events, seen.errors),
        bands=bands or {},
        measures=measures or {},
        full=full,
        silent_us=silent_us,
        learned=learned,
        new_templates=new,
        usual_events=(bands or {}).get("log_events"),
    )


def band(value: float, sigma: float = 0.05, *, width: float = 0.0) -> Band:
    return Band(value, value - width, value + width, sigma)


def only(findings: list[Finding]) -> Finding:
    (one,) = findings
    return one


@pytest.mark.parametrize("detector", [ErrorRateRule(), Silence(), Deviation(), NewPattern()], ids=lambda d: d.name)
def test_nothing_is_found_where_nothing_is(detector: Detector) -> None:
    assert detector.find(evaluation()) == []
    assert detector.find(evaluation(view(0, endpoints=0.0))) == []
    unknown = {"log_events": Band(nan, nan, nan, 0.04), "error_rate": Band(nan, nan, nan, 0.002)}
    assert detector.find(evaluation(bands=unknown, measures=dict.fromkeys(unknown, nan))) == []


# --- rules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "errors", "severity"),
    [
        (1_000, 0, None),
        (1_000, 149, None),
        (1_000, 150, MEDIUM),
        (1_000, 299, MEDIUM),
        (1_000, 300, HIGH),
        (1_000, 499, HIGH),
        (1_000, 500, CRITICAL),
        (1_000, 1_000, CRITICAL),
        (10, 2, None),  # what a few events show may be chance
        (10, 7, CRITICAL),
        (100, 16, MEDIUM),
        (10, 10, CRITICAL),
        (9, 9, None),
    ],
)
def test_error_rates_over_five_minutes(events: int, errors: int, severity: Severity | None) -> None:
    found = ErrorRateRule().find(evaluation(view(events, errors), learned=False, full=False))
    assert [(f.severity, f.family, f.minutes) for f in found] == ([] if severity is None else [
        (severity, Family.ERRORS, 5.0)
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("minute", "fires"),
    [((100, 49), False), ((100, 50), True), ((10, 5), False), ((20, 10), True), ((9, 9), False), ((0, 0), False)],
)
def test_half_of_the_last_minute(minute: tuple[int, int], fires: bool) -> None:
    found = ErrorRateRule().find(evaluation(view(1_000, 50), minute=minute))
    assert [(f.severity, f.minutes) for f in found] == ([(HIGH, 1.0)] if fires else [])


@pytest.mark.parametrize(
    ("latest", "fires"), [((10, 10), True), ((9, 9), False), ((100, 90), True), ((100, 89), False)]
)
def test_an_outage_shows_in_twenty_seconds(latest: tuple[int, int], fires: bool) -> None:
    found = ErrorRateRule().find(evaluation(view(1_000, 10), latest=latest))
    assert [finding.severity for finding in found] == ([CRITICAL] if fires else [])


@pytest.mark.parametrize(("steady", "fires"), [((800, 1), False), ((800, 20), False), ((800, 50), True)])
def test_a_burst_within_a_minute_is_no_error_rate(steady: tuple[int, int], fires: bool) -> None:
    found = ErrorRateRule().find(evaluation(view(1_000, 300), steady=steady))
    assert bool(found) is fires


def test_where_errors_are_normal_a_rule_begins_above_them() -> None:
    bands = {"error_rate": band(0.25)}
    assert ErrorRateRule().find(evaluation(view(1_000, 340), bands=bands)) == []
    found = only(ErrorRateRule().find(evaluation(view(1_000, 360), bands=bands)))
    assert found.contributions[0].typical == 0.25
    assert found.severity is HIGH


@given(st.integers(10, 5_000), st.floats(0, 1), st.floats(0, 0.6) | st.none())
def test_at_its_limit_a_rule_stops_to_fire(events: int, share: float, normal: float | None) -> None:
    bands = {} if normal is None else {"error_rate": band(normal)}
    errors = round(events * share)
    for found in ErrorRateRule().find(evaluation(view(events, errors), bands=bands)):
        part = only_part(found)
        assert part.actual == errors / events
        assert part.limit is not None
        assert part.actual >= part.limit
        below = max(0, ceil(events * part.limit) - 1)
        assert ErrorRateRule().find(evaluation(view(events, below), bands=bands)) == []


def only_part(found: Finding) -> Contribution:
    (part,) = found.contributions
    assert part.share == 1.0
    return part


# --- baseline ------------------------------------------------------------------------------------


def judged(measure: str, value: float, usual: Band, seen: HorizonView | None = None) -> list[Finding]:
    return Deviation().find(evaluation(seen or view(), bands={measure: usual}, measures={measure: value}))


def test_traffic_that_doubles_is_no_finding_and_that_triples_is_one() -> None:
    usual = band(log1p(1_000), 0.04)
    assert judged("log_events", log1p(2_000), usual, view(2_000)) == []
    found = only(judged("log_events", log1p(3_000), usual, view(3_000)))
    assert found.family is Family.VOLUME
    assert only_part(found).actual == pytest.approx(3_000)
    assert only_part(found).typical == pytest.approx(1_000)


def test_traffic_that_falls_below_half_is_a_finding() -> None:
    usual = band(log1p(1_000), 0.04)
    assert judged("log_events", log1p(600), usual, view(600)) == []
    assert only(judged("log_events", log1p(300), usual, view(300))).family is Family.VOLUME


def test_few_events_scatter_and_are_left_alone() -> None:
    assert judged("log_events", log1p(45), band(log1p(3)), view(45)) == []
    assert judged("log_events", log1p(0), band(log1p(40)), view(0)) == []


@pytest.mark.parametrize("measure", ["error_rate", "warning_rate", "log_p50", "log_p95", "log_p99", "log_endpoints"])
def test_a_fall_of_anything_else_is_no_finding(measure: str) -> None:
    seen = view(10_000, 100, warnings=100, latencies=1_000, endpoints=100.0)
    assert judged(measure, 0.0, band(5.0, 0.001), seen) == []


@pytest.mark.parametrize(
    ("measure", "value", "usual", "family"),
    [
        ("error_rate", 0.10, band(0.005, 0.002), Family.ERRORS),
        ("warning_rate", 0.30, band(0.02, 0.004), Family.ANOMALY),
        ("log_p50", log1p(90), band(log1p(20), 0.02), Family.LATENCY),
        ("log_p95", log1p(90), band(log1p(20), 0.03), Family.LATENCY),
        ("log_p99", log1p(90), band(log1p(20), 0.05), Family.LATENCY),
        ("log_endpoints", log1p(200), band(log1p(20), 0.05), Family.ANOMALY),
    ],
)
def test_what_is_far_out_and_a_real_change_is_a_finding(
    measure: str, value: float, usual: Band, family: Family
) -> None:
    seen = view(10_000, 1_000, warnings=3_000, latencies=10_000, endpoints=200.0)
    assert only(judged(measure, value, usual, seen)).family is family
    assert judged(measure, value, replace(usual, sigma=10.0), seen) == []
    assert judged(measure, nan, usual, seen) == []


def test_the_season_widens_what_is_normal() -> None:
    usual = Band(log1p(1_000), log1p(900), log1p(5_000), 0.04)
    assert judged("log_events", log1p(5_000), usual, view(5_000)) == []


def test_a_burst_in_a_single_window_is_no_rise_of_the_error_rate() -> None:
    usual = band(0.004, 0.002)
    assert judged("error_rate", 0.06, usual, view(1_000, 60, steady=0.005)) == []
    assert judged("error_rate", 0.06, usual, view(1_000, 60, steady=0.05)) != []


@pytest.mark.parametrize(
    ("z", "severity"), [(6.9, None), (7.1, MEDIUM), (11.9, MEDIUM), (12.1, HIGH), (20.1, CRITICAL)]
)
def test_the_severity_is_how_many_spreads_it_lies_outside(z: float, severity: Severity | None) -> None:
    usual = band(log1p(20), 0.1)
    seen = view(10**6, latencies=10**6)
    found = judged("log_p50", usual.value + z * 0.1, usual, seen)
    assert [f.severity for f in found] == ([] if severity is None else [severity])


def test_nothing_is_judged_before_the_horizon_is_full() -> None:
    usual = {"log_events": band(log1p(1_000))}
    measures = {"log_events": log1p(9_000)}
    assert Deviation().find(evaluation(view(9_000), bands=usual, measures=measures)) != []
    assert Deviation().find(evaluation(view(9_000), bands=usual, measures=measures, full=False)) == []


MEASURES = ("log_events", "error_rate", "warning_rate", "log_p50", "log_p95", "log_p99", "log_endpoints")


@settings(max_examples=examples(200))
@given(
    st.dictionaries(st.sampled_from(MEASURES), st.floats(0, 12), max_size=7),
    st.dictionaries(
        st.sampled_from(MEASURES),
        st.builds(band, st.floats(0, 12), st.floats(0.001, 2), width=st.floats(0, 1)),
        max_size=7,
    ),
    st.integers(0, 10**6),
)
def test_whatever_it_is_shown_it_finds_at_most_one_thing_a_family(
    measures: dict[str, float], bands: dict[str, Band], events: int
) -> None:
    seen = view(events, events // 3, warnings=events // 4, latencies=min(events, 500), endpoints=events / 2)
    findings = Deviation().find(evaluation(seen, bands=bands, measures=measures))
    assert len({f.family for f in findings}) == len(findings)
    for found in findings:
        shares = [part.share for part in found.contributions]
        assert sum(shares) == pytest.approx(1)
        assert shares == sorted(shares, reverse=True)
        for part in found.contributions:
            assert part.actual is not None
            assert part.limit is not None
            assert part.typical is not None
            assert abs(part.limit - part.actual) <= abs(part.typical - part.actual) + 1e-6


@settings(max_examples=examples(200))
@given(st.floats(log1p(20), 9), st.floats(0.02, 0.5), st.floats(0, 0.5), st.floats(0, 12))
def test_at_its_limit_a_rise_stops_to_be_a_finding(usual: float, sigma: float, width: float, value: float) -> None:
    seen = view(10**4, latencies=5_000)
    normal = band(usual, sigma, width=width)
    for found in judged("log_p95", value, normal, seen):
        limit = log1p(only_part(found).limit or 0.0)
        assert judged("log_p95", limit - 1e-6, normal, seen) == []
        assert judged("log_p95", limit + 1e-6, normal, seen) != []


def test_at_its_limit_a_fall_stops_to_be_a_finding() -> None:
    usual = band(log1p(400), 0.04)
    found = only(judged("log_events", log1p(20), usual, view(20)))
    limit = only_part(found).limit or 0.0
    assert judged("log_events", log1p(limit + 1), usual, view(ceil(limit) + 1)) == []


def test_the_least_distance_of_a_finding_is_seven_spreads() -> None:
    assert MIN_Z == 7.0


# --- silence -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("per_5_min", "silent_s", "fires"),
    [
        (1_000, 50, False),  # not even a minute
        (1_000, 60, True),
        (100, 50, False),
        (100, 60, True),
        (50, 60, False),  # ten were due
        (50, 130, True),
        (0.25, 1_800, False),  # three an hour
        (0.25, 4 * 3_600, False),
        (0.0, 10**6, False),
    ],
)
def test_silence_fires_when_many_were_due(per_5_min: float, silent_s: int, fires: bool) -> None:
    bands = {"log_events": band(log1p(per_5_min))}
    found = Silence().find(evaluation(view(0), bands=bands, silent_us=silent_s * 1_000_000))
    assert bool(found) == fires
    for one in found:
        assert (one.family, one.severity, one.detector) == (Family.VOLUME, CRITICAL, "silence")
        assert only_part(one).actual == 0.0
        assert only_part(one).typical == pytest.approx(per_5_min / 5)


def test_silence_is_judged_by_the_least_that_the_season_allows() -> None:
    bands = {"log_events": Band(log1p(1_000), log1p(2), log1p(1_200), 0.04)}
    assert Silence().find(evaluation(view(0), bands=bands, silent_us=300_000_000)) == []


def test_silence_needs_a_baseline() -> None:
    assert Silence().find(evaluation(view(0), silent_us=3_600_000_000)) == []


# --- patterns ------------------------------------------------------------------------------------


def template(id_: int, count: int, level: Level = Level.ERROR, text: str = "no item <*>") -> NewTemplate:
    return NewTemplate(id_, text, int(level), count)


@pytest.mark.parametrize(
    ("level", "count", "severity"),
    [
        (Level.ERROR, MIN_COUNT, MEDIUM),
        (Level.ERROR, MIN_COUNT - 1, None),
        (Level.CRITICAL, MIN_COUNT, HIGH),
        (Level.WARN, 1_000, None),
        (Level.INFO, 1_000, None),
    ],
)
def test_a_new_error_that_keeps_coming_is_a_finding(level: Level, count: int, severity: Severity | None) -> None:
    found = NewPattern().find(evaluation(new=(template(1, count, level),)))
    assert [(f.severity, f.family, f.detail) for f in found] == (
        [] if severity is None else [(severity, Family.PATTERN, "no item <*>")]
    )


def test_while_a_service_is_new_all_its_patterns_are() -> None:
    assert NewPattern().find(evaluation(new=(template(1, 50),), learned=False)) == []


def test_the_commonest_new_error_is_named_first() -> None:
    new = (template(1, 6, text="a"), template(2, 20, text="b"), template(3, 4, text="c"))
    found = only(NewPattern().find(evaluation(new=new)))
    assert found.detail == "b"
    assert [part.actual for part in found.contributions] == [20.0, 6.0]
    assert sum(part.share for part in found.contributions) == pytest.approx(1)


@given(st.randoms(use_true_random=False))
def test_the_order_in_which_new_errors_were_seen_changes_nothing(shuffle: random.Random) -> None:
    new = [template(i, 7, Level.CRITICAL if i == 3 else Level.ERROR, f"text {i}") for i in range(5)]
    expected = NewPattern().find(evaluation(new=tuple(new)))
    shuffle.shuffle(new)
    assert NewPattern().find(evaluation(new=tuple(new))) == expected


# --- forest --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def forest() -> Forest:
    """Trained on a day and a half of views that differ by noise."""
    rng = np.random.default_rng(3)
    rows = np.stack([CONTEXT_1.vector(usual(rng)) for _ in range(2_000)])
    return train(rows, CONTEXT_1, END_US)


def usual(rng: np.random.Generator) -> HorizonView:
    events = int(rng.poisson(1_000))
    return HorizonView(
        end_us=END_US,
        events=events,
        errors=int(rng.poisson(5)),
        warnings=int(rng.poisson(20)),
        last_minute=int(rng.poisson(events / 5)),
        minutes=5.0,
        latency=LatencyHistogram.of(np.exp(rng.normal(10, 0.5, 200)).astype(int).tolist()),
        unique_endpoints=float(rng.integers(9, 12)),
        expected=Expected(log1p(1_000), 0.005, log1p(22), log1p(50), log1p(70)),
    )


def strange() -> HorizonView:
    made = usual(np.random.default_rng(5))
    made.events, made.errors, made.warnings, made.last_minute = 6_000, 300, 1_500, 4_000
    made.unique_endpoints = 90.0
    made.latency = LatencyHistogram.of([500_000] * 200)
    made.new_templates = 6
    return made


def test_what_is_usual_is_no_finding(forest: Forest) -> None:
    rng = np.random.default_rng(11)
    assert sum(forest_detector.find(forest, usual(rng)) is not None for _ in range(200)) == 0


def test_a_strange_combination_is_a_finding_with_its_reasons(forest: Forest) -> None:
    found = forest_detector.find(forest, strange())
    assert found is not None
    assert found.family is Family.ANOMALY
    assert found.score is not None
    assert 0 < found.score < 1
    assert found.tail_probability is not None
    assert found.tail_probability <= 1e-5
    shares = [part.share for part in found.contributions]
    assert 0 < len(shares) <= 5
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 1 + 1e-6
    values = dict(zip(CONTEXT_1.names, CONTEXT_1.vector(strange()).tolist(), strict=True))
    assert all(part.actual == values[part.feature] for part in found.contributions)


def test_with_a_feature_at_its_limit_it_is_no_finding(forest: Forest) -> None:
    """Features are made extreme one by one: the last one that made it a finding can unmake it."""

    def fires(row: NDArray[np.float32]) -> bool:
        rarity = forest.calibration.tail_probability(forest.scorer.score_one(row))
        return rarity <= forest_detector.SEVERITIES[-1][0]

    row = CONTEXT_1.vector(usual(np.random.default_rng(7)))
    for index in range(len(row)):
        row[index] += 5
        if fires(row):
            break
    assert fires(row)
    parts = forest_detector.explain(forest, row, forest.scorer.score_one(row))
    limits = [(CONTEXT_1.names.index(part.feature), part.limit) for part in parts if part.limit is not None]
    assert limits
    for index, limit in limits:
        changed = row.copy()
        changed[index] = limit
        assert not fires(changed)


def test_a_service_without_latency_is_scored_without_it(forest: Forest) -> None:
    features = CONTEXT_1.without_latency()
    kept = [CONTEXT_1.names.index(name) for name in features.names]
    rng = np.random.default_rng(3)
    rows = np.stack([CONTEXT_1.vector(usual(rng)) for _ in range(800)])[:, kept]
    own = train(rows, features, END_US)
    without = strange()
    without.latency = LatencyHistogram()
    found = forest_detector.find(own, without)
    assert found is None or all(part.actual is not None for part in found.contributions)
    assert own.scorer.n_features == len(features.names) < forest.scorer.n_features


def test_training_twice_gives_the_same_model(forest: Forest) -> None:
    rng = np.random.default_rng(3)
    rows = np.stack([CONTEXT_1.vector(usual(rng)) for _ in range(2_000)])
    again = train(rows, CONTEXT_1, END_US)
    assert again.version == forest.version
    assert again.calibration == forest.calibration


def test_shown_values_are_those_of_a_person() -> None:
    found = only(judged("log_p95", log1p(90), band(log1p(20), 0.03), view(latencies=1_000)))
    part = only_part(found)
    assert part.unit == "ms"
    assert part.actual == pytest.approx(90)
    assert part.typical == pytest.approx(20)
    assert part.limit == pytest.approx(expm1(log1p(20) + log1p(0.5)), rel=0.2)
