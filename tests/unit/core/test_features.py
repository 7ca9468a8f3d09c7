"""Feature sets: their vectors equal numpy on the raw events, and what a model depends on does not change unseen."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.examples import examples

from helios_core.clock import from_us, to_us
from helios_core.columns import Columns
from helios_core.features import CONTEXT_1, CORE_7, FEATURE_SETS, FULL_12, Expected, FeatureSet, HorizonView
from helios_core.model import Level
from helios_core.sketches.latency import MAX_LATENCY_US, RELATIVE_ERROR, LatencyHistogram
from helios_core.windows import WindowBuilder
from helios_detector.horizon import ServiceHorizon

START_US = 1_772_409_600_000_000  # 2026-03-02T00:00:00Z
WINDOW_MS = 10_000
HORIZON_US = 300_000_000


@dataclass(frozen=True)
class Raw:
    """One event as it was before anything was counted."""

    after_us: int
    host: str
    level: Level
    latency_us: int | None
    endpoint: str | None


LATENCIES = st.integers(0, 10) | st.integers(0, 5_000_000) | st.integers(0, 2 * MAX_LATENCY_US)
EVENTS = st.builds(
    Raw,
    after_us=st.integers(0, HORIZON_US - 1),
    host=st.sampled_from(["h1", "h2", "h3"]),
    level=st.sampled_from(list(Level)),
    latency_us=st.none() | LATENCIES,
    endpoint=st.none() | st.sampled_from(["/a", "/b?x=1", "/b?x=2", "/orders/17", "/orders/18"]),
)
HOURS = st.integers(0, 23)


def view_of(events: list[Raw], start_us: int = START_US, cuts: int = 1) -> HorizonView:
    """The horizon [start, start + 5 min) of events that came in `cuts` batches from each host."""
    horizon = ServiceHorizon(WINDOW_MS * 1_000)
    for host in sorted({event.host for event in events}):
        own = [event for event in events if event.host == host]
        builder = WindowBuilder(host, duration_ms=WINDOW_MS)
        for batch in (own[i::cuts] for i in range(cuts)):
            builder.add(
                Columns(
                    time_us=[start_us + event.after_us for event in batch],
                    service="web",
                    level=[int(event.level) for event in batch],
                    latency_us=[event.latency_us for event in batch],
                    endpoint=[event.endpoint for event in batch],
                )
            )
            for delta in builder.take():
                horizon.add(delta)
    while (horizon.end_us or 0) < start_us + HORIZON_US:
        horizon.advance()
    return horizon.view(Expected(), 0)


def named(features: FeatureSet, view: HorizonView) -> dict[str, float]:
    return dict(zip(features.names, features.vector(view).tolist(), strict=True))


def latencies_ms(events: list[Raw]) -> NDArray[np.float64]:
    return np.array([min(e.latency_us, MAX_LATENCY_US) for e in events if e.latency_us is not None]) / 1_000


def exact_ms(values: NDArray[np.float64], q: float) -> float:
    """The nearest-rank quantile; anything below a microsecond is one."""
    return max(float(np.quantile(values, q, method="inverted_cdf")), 0.001)


def near(value: float, rel: float) -> object:
    return pytest.approx(value, rel=rel, abs=1e-9)


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(EVENTS, min_size=1, max_size=120), st.integers(1, 4))
def test_core_7_is_what_numpy_computes_of_the_raw_events(events: list[Raw], cuts: int) -> None:
    values = named(CORE_7, view_of(events, cuts=cuts))
    errors = sum(event.level in (Level.ERROR, Level.CRITICAL) for event in events)
    endpoints = {(e.endpoint or "").partition("?")[0].replace("17", "18") for e in events if e.endpoint}
    assert values["total_events"] == len(events)
    assert values["error_rate"] == np.float32(errors / len(events))
    assert values["unique_endpoints"] == len(endpoints)
    ms = latencies_ms(events)
    if not len(ms):
        assert all(math.isnan(values[name]) for name in ("avg_latency", "p95_latency", "p99_latency", "latency_stddev"))
        return
    assert values["avg_latency"] == near(float(ms.mean()), 1e-6)
    assert values["latency_stddev"] == near(float(ms.std()), 1e-6)
    assert values["p95_latency"] == near(exact_ms(ms, 0.95), 0.011)
    assert values["p99_latency"] == near(exact_ms(ms, 0.99), 0.011)


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(EVENTS, min_size=1, max_size=120), st.integers(1, 4), HOURS)
def test_full_12_is_what_numpy_computes_of_the_raw_events(events: list[Raw], cuts: int, hour: int) -> None:
    start_us = START_US + hour * 3_600_000_000
    values = named(FULL_12, view_of(events, start_us, cuts))
    errors = sum(event.level in (Level.ERROR, Level.CRITICAL) for event in events)
    assert values["event_count"] == len(events)
    assert values["error_rate"] == np.float32(errors / len(events))
    assert values["hour_of_day"] == hour
    assert values["log_event_count"] == near(math.log1p(len(events)), 1e-6)
    ms = latencies_ms(events)
    if not len(ms):
        assert all(math.isnan(value) for name, value in values.items() if "latency" in name or "_over_" in name)
        return
    p50, p95, p99 = (exact_ms(ms, q) for q in (0.5, 0.95, 0.99))
    assert values["p50_latency"] == near(p50, 0.011)
    assert values["p95_latency"] == near(p95, 0.011)
    assert values["p99_latency"] == near(p99, 0.011)
    assert values["latency_stddev"] == near(float(ms.std()), 1e-6)
    assert values["p95_over_p50"] == near(p95 / p50, 0.023)
    assert values["p99_over_p95"] == near(p99 / p95, 0.023)
    assert values["log_p95_latency"] == pytest.approx(math.log1p(p95), abs=0.011)
    assert values["log_p99_latency"] == pytest.approx(math.log1p(p99), abs=0.011)


def view(**changed: float) -> HorizonView:
    """A horizon of 200 events."""
    made = HorizonView(
        end_us=to_us(from_us(START_US)) + HORIZON_US,
        events=200,
        errors=10,
        warnings=30,
        last_minute=60,
        minutes=5.0,
        latency=LatencyHistogram.of([10_000] * 90 + [50_000] * 8 + [200_000] * 2),
        unique_endpoints=9.0,
        new_templates=2,
        expected=Expected(log_events=5.0, error_rate=0.01, log_p50=2.0, log_p95=3.0, log_p99=4.0),
    )
    for name, value in changed.items():
        setattr(made, name, value)
    return made


def test_context_1_is_the_distance_from_what_is_expected_and_the_shape_of_the_horizon() -> None:
    values = named(CONTEXT_1, view())
    assert values["log_events_residual"] == near(math.log1p(200) - 5.0, 1e-6)
    assert values["error_rate"] == near(0.05, 1e-6)
    assert values["error_rate_residual"] == near(0.04, 1e-6)
    assert values["log_p50_residual"] == pytest.approx(math.log1p(10) - 2.0, abs=RELATIVE_ERROR)
    assert values["log_p95_residual"] == pytest.approx(math.log1p(50) - 3.0, abs=RELATIVE_ERROR)
    assert values["log_p99_residual"] == pytest.approx(math.log1p(200) - 4.0, abs=RELATIVE_ERROR)
    assert values["rate_of_change"] == near(60 / (200 / 5), 1e-6)
    assert values["warning_share"] == near(0.15, 1e-6)
    assert values["new_template_rate"] == near(0.4, 1e-6)
    assert values["log_unique_endpoints"] == near(math.log(10), 1e-6)


@pytest.mark.parametrize("features", FEATURE_SETS.values(), ids=FEATURE_SETS)
def test_missing_latency_is_missing_and_never_zero(features: FeatureSet) -> None:
    vector = features.vector(view(latency=LatencyHistogram()))
    assert vector.dtype == np.float32
    assert vector.shape == (len(features.names),)
    for feature, value in zip(features.features, vector, strict=True):
        assert math.isnan(value) == feature.needs_latency


@pytest.mark.parametrize("features", FEATURE_SETS.values(), ids=FEATURE_SETS)
def test_an_empty_horizon_has_a_vector(features: FeatureSet) -> None:
    empty = view(events=0, errors=0, warnings=0, last_minute=0, latency=LatencyHistogram(), unique_endpoints=0.0)
    values = named(features, empty)
    assert values["error_rate"] == 0.0
    assert not any(math.isinf(value) for value in values.values())


def test_what_the_baseline_does_not_know_is_missing() -> None:
    values = named(CONTEXT_1, view(expected=Expected()))
    assert {name for name, value in values.items() if math.isnan(value)} == {
        name for name in CONTEXT_1.names if name.endswith("_residual")
    }


# A model carries the hash of its set and is refused for any other: whoever changes a row here changes
# what every trained model means, and has to raise the version of the set.
PINNED = {
    "core-7": (
        1,
        "d42ae139c1040eb0",
        [
            ("total_events", "events"),
            ("error_rate", "share"),
            ("avg_latency", "ms"),
            ("p95_latency", "ms"),
            ("p99_latency", "ms"),
            ("latency_stddev", "ms"),
            ("unique_endpoints", "endpoints"),
        ],
    ),
    "full-12": (
        1,
        "2e183fe4c3a9f2fc",
        [
            ("event_count", "events"),
            ("error_rate", "share"),
            ("p50_latency", "ms"),
            ("p95_latency", "ms"),
            ("p99_latency", "ms"),
            ("latency_stddev", "ms"),
            ("hour_of_day", "h UTC"),
            ("p95_over_p50", "ratio"),
            ("p99_over_p95", "ratio"),
            ("log_event_count", "log1p(events)"),
            ("log_p95_latency", "log1p(ms)"),
            ("log_p99_latency", "log1p(ms)"),
        ],
    ),
    "context-1": (
        1,
        "34bc99ef1a75c055",
        [
            ("log_events_residual", "log1p(events)"),
            ("error_rate", "share"),
            ("error_rate_residual", "share"),
            ("log_p50_residual", "log1p(ms)"),
            ("log_p95_residual", "log1p(ms)"),
            ("log_p99_residual", "log1p(ms)"),
            ("rate_of_change", "ratio"),
            ("warning_share", "share"),
            ("new_template_rate", "templates/min"),
            ("log_unique_endpoints", "log1p(endpoints)"),
        ],
    ),
}


def test_the_sets_are_the_pinned_ones() -> None:
    made = {
        name: (features.version, features.hash, [(feature.name, feature.unit) for feature in features.features])
        for name, features in FEATURE_SETS.items()
    }
    assert made == PINNED


@pytest.mark.parametrize(
    ("name", "kept", "hash_"),
    [
        ("core-7", {"total_events", "error_rate", "unique_endpoints"}, "80057318cc4d0a4e"),
        ("full-12", {"event_count", "error_rate", "hour_of_day", "log_event_count"}, "07e99e0261155a85"),
        (
            "context-1",
            {
                "log_events_residual", "error_rate", "error_rate_residual", "rate_of_change", "warning_share",
                "new_template_rate", "log_unique_endpoints",
            },
            "6a2e82db027927a4",
        ),
    ],
)  # fmt: skip
def test_a_service_without_latency_gets_the_rest_in_order_under_another_name(
    name: str, kept: set[str], hash_: str
) -> None:
    whole = FEATURE_SETS[name]
    rest = whole.without_latency()
    assert rest.names == tuple(n for n in whole.names if n in kept)
    assert set(rest.names) == kept
    assert rest.name == f"{name}-no-latency"
    assert rest.hash == hash_ != whole.hash
    values = named(whole, view())
    assert named(rest, view()) == {n: values[n] for n in rest.names}
    assert not np.isnan(rest.vector(view(latency=LatencyHistogram()))).any()


def test_the_hash_depends_on_names_units_order_and_version() -> None:
    first, *others = CORE_7.features
    changed = [
        FeatureSet("core-7", 2, CORE_7.features),
        FeatureSet("core-8", 1, CORE_7.features),
        FeatureSet("core-7", 1, (*others, first)),
        FeatureSet("core-7", 1, tuple(others)),
    ]
    assert len({made.hash for made in (CORE_7, *changed)}) == 5
    assert FeatureSet("core-7", 1, CORE_7.features).hash == CORE_7.hash
