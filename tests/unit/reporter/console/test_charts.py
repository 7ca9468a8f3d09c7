"""The charts: a point says exactly what one large window would have said, whatever the windows were."""

from __future__ import annotations

import random
from math import isnan, nan
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.reporter.console.conftest import T0, S, alert, delta

from helios_core.alerts import AlertState, Family, Severity
from helios_core.sketches.latency import LatencyHistogram
from helios_core.store.sqlite import SqliteStore
from helios_core.windows import WindowDelta
from helios_reporter.console.charts import MAX_POINTS, choose_step, service_windows

HOUR = 3_600


async def chart(
    store: SqliteStore, from_s: float, to_s: float, *, step_s: int = 0, now_s: float = 1e9
) -> dict[str, Any]:
    return await service_windows(
        store,
        "web",
        from_us=T0 + round(from_s * S),
        to_us=T0 + round(to_s * S),
        now_us=T0 + round(now_s * S),
        step_us=step_s * S,
    )


def merged(deltas: list[WindowDelta], from_s: float, step_s: float) -> tuple[float, float, list[float]]:
    """(events per minute, error rate, quantiles in ms) of one step, from the deltas themselves."""
    latency = LatencyHistogram()
    events = errors = 0
    for one in deltas:
        if from_s <= (one.start_us - T0) / S < from_s + step_s:
            latency.merge(one.latency)
            events, errors = events + one.events, errors + one.errors
    quantiles = [q / 1_000 for q in latency.quantiles_us((0.5, 0.95, 0.99))]
    return events * 60 / step_s, errors / events if events else nan, quantiles


def same(value: float | None, expected: float) -> bool:
    return value is None if isnan(expected) else value == pytest.approx(expected, rel=1e-12)


def assert_is_merged(found: dict[str, Any], deltas: list[WindowDelta]) -> None:
    for i, t in enumerate(found["t"]):
        traffic, rate, quantiles = merged(deltas, t - T0 / S, found["step_s"])
        if found["events_per_minute"][i] is not None:
            assert found["events_per_minute"][i] == pytest.approx(traffic)
        else:
            assert traffic == 0
        assert same(found["error_rate"][i], rate)
        for name, quantile in zip(("p50_ms", "p95_ms", "p99_ms"), quantiles, strict=True):
            assert same(found[name][i], quantile)


async def test_points_are_merged_over_hosts_and_steps(store: SqliteStore, apply: Any) -> None:
    deltas = [
        delta(
            "web", second, infos=second % 7, errors=second % 3, latency_us=[1_000 * (second % 11 + 1), 9_000], host=host
        )
        for second in range(0, 600, 10)
        for host in ("a", "b")
    ]
    await apply(deltas)
    for step_s in (0, 30, 60, 300):
        found = await chart(store, 0, 600, step_s=step_s)
        assert found["step_s"] == (step_s or 10)
        assert len(found["t"]) == 600 // found["step_s"]
        assert_is_merged(found, deltas)


async def test_live_and_historical_windows_stand_in_one_chart(store: SqliteStore, apply: Any) -> None:
    """60 s of history, 10 s live: no point holds a part of a window."""
    deltas = [
        delta("web", second, infos=120, errors=12, latency_us=[5_000] * 5, duration_ms=60_000)
        for second in range(0, 600, 60)
    ]
    deltas += [delta("web", second, infos=20, errors=2, latency_us=[50_000] * 3) for second in range(600, 1_200, 10)]
    await apply(deltas)
    found = await chart(store, 0, 1_200)
    assert found["step_s"] == 60
    assert found["events_per_minute"] == [132.0] * 20
    assert found["error_rate"] == [pytest.approx(12 / 132)] * 20
    assert_is_merged(found, deltas)


async def test_without_windows_there_is_no_traffic_and_no_latency(store: SqliteStore, apply: Any) -> None:
    """Silence between what is known is 0; before and beyond it nothing is known."""
    await apply([delta("web", 60, infos=1), delta("web", 120, infos=1), delta("api", 300, infos=5)])
    found = await chart(store, 0, 420, step_s=60)
    assert found["events_per_minute"] == [None, 1.0, 1.0, 0.0, 0.0, 0.0, None]
    assert found["error_rate"] == [None, 0.0, 0.0, None, None, None, None]
    assert found["p95_ms"] == [None] * 7


async def test_a_service_that_was_never_seen_has_no_values(store: SqliteStore, apply: Any) -> None:
    await apply([delta("api", 0, infos=5)])
    found = await chart(store, 0, 60)
    assert found["events_per_minute"] == [None] * 6
    assert found["shading"] == []


async def test_the_step_under_way_is_left_out(store: SqliteStore, apply: Any) -> None:
    await apply([delta("web", second, infos=6) for second in range(0, 100, 10)])
    found = await chart(store, 0, 95, now_s=95)
    assert [t - T0 / S for t in found["t"]] == [0, 10, 20, 30, 40, 50, 60, 70, 80]
    assert set(found["events_per_minute"]) == {36.0}


async def test_a_service_with_logs_and_spans_is_counted_once(store: SqliteStore, apply: Any) -> None:
    """Counts are those of the logs, latency that of the spans."""
    await apply([
        delta("web", 0, infos=10, errors=5, latency_us=[1_000_000]),
        delta("web", 0, infos=15, latency_us=[20_000] * 15, signal=2),
    ])  # fmt: skip
    found = await chart(store, 0, 10)
    assert (found["events_per_minute"], found["error_rate"]) == ([90.0], [pytest.approx(1 / 3)])
    assert found["p99_ms"] == [pytest.approx(20, rel=0.011)]
    only_spans = delta("spans", 0, infos=4, latency_us=[1_000], signal=2)
    await apply([only_spans])
    found = await service_windows(store, "spans", from_us=T0, to_us=T0 + 10 * S, now_us=T0 + HOUR * S)
    assert found["events_per_minute"] == [24.0]


@given(
    span_s=st.integers(1, 31 * 86_400),
    durations=st.lists(
        st.sampled_from([1_000, 5_000, 7_000, 10_000, 15_000, 60_000, 300_000]), max_size=4, unique=True
    ),
    wanted_s=st.integers(0, 86_400),
)
def test_a_step_bounds_the_points_and_divides_no_window(span_s: int, durations: list[int], wanted_s: int) -> None:
    step_us = choose_step(span_s * S, durations, wanted_s * S)
    assert step_us >= wanted_s * S
    assert span_s * S / step_us + 1 <= MAX_POINTS + 1e-9 or step_us >= span_s * S
    assert all(step_us % (duration_ms * 1_000) == 0 for duration_ms in durations)


def test_durations_without_a_common_step_take_the_longest() -> None:
    assert choose_step(60 * S, [86_399_000, 86_398_000]) == 86_399 * S


async def test_a_week_has_at_most_720_points(client: httpx.AsyncClient, apply: Any) -> None:
    await apply([delta("web", second, infos=1) for second in range(-7 * 86_400, 0, 7_200)])
    answer = await client.get(f"/api/v1/services/web/windows?from={T0 / S - 7 * 86_400}&to={T0 / S}")
    found = answer.json()
    lengths = {len(found[name]) for name in ("t", "events_per_minute", "error_rate", "p50_ms", "p95_ms", "p99_ms")}
    assert lengths == {len(found["t"])}
    assert 160 < len(found["t"]) <= MAX_POINTS
    assert found["from"] == "2026-02-23T00:00:00.000Z"


async def test_without_parameters_it_is_the_last_hour(client: httpx.AsyncClient, apply: Any) -> None:
    await apply([delta("web", 0, infos=1)])
    found = (await client.get("/api/v1/services/web/windows?from=2026-03-02T00:00:00+00:00")).json()
    again = (await client.get("/api/v1/services/web/windows")).json()
    assert found == again
    assert (found["from"], found["to"]) == ("2026-03-02T00:00:00.000Z", "2026-03-02T01:00:00.000Z")
    assert found["t"][-1] == T0 / S + HOUR - 20  # the last step is not over for long enough


async def test_anomalous_intervals_are_shaded_on_the_axis(store: SqliteStore, report: Any) -> None:
    await report([
        alert("web", 60),
        alert("web", 90, family=Family.LATENCY, severity=Severity.CRITICAL),
        alert("web", 600, AlertState.RESOLVED),
        alert("api", 60),
    ])  # fmt: skip
    found = (await chart(store, 0, HOUR))["shading"]
    assert {shade["incident"] for shade in found} == {found[0]["incident"]}
    assert [(s["family"], s["severity"], s["from"] - T0 / S, s["to"] and s["to"] - T0 / S) for s in found] == [
        ("errors", "high", 0.0, 600.0),
        ("latency", "critical", 0.0, None),
    ]
    assert (await chart(store, -HOUR, 0))["shading"] == []
    assert len((await chart(store, 601, HOUR))["shading"]) == 1


@pytest.mark.parametrize("step_s", [10, 60, 120, 300, 900, 3_600, 86_400])
async def test_rollups_show_what_windows_show(store: SqliteStore, apply: Any, step_s: int) -> None:
    """With all rolled up, half, or nothing; and with windows that came late."""

    async def shown() -> dict[str, Any]:
        return await service_windows(
            store, "web", from_us=T0, to_us=T0 + 4 * HOUR * S, now_us=T0 + 50 * HOUR * S, step_us=step_s * S
        )

    rng = random.Random(step_s)
    seconds = [rng.randrange(4 * HOUR // 10) * 10 for _ in range(300)]
    await apply([
        delta("web", second, infos=3, errors=second % 3, latency_us=[second + 2, 5 * second + 7], host=rng.choice("ab"))
        for second in seconds
    ])  # fmt: skip
    without = await shown()
    assert await store.roll_up(T0 + 2 * HOUR * S, 60) == 60
    assert await shown() == without
    while await store.roll_up(T0 + 9 * HOUR * S, 50):
        pass
    assert await shown() == without
    await apply([delta("web", 600, infos=50, latency_us=[9])])
    late = await shown()
    assert late != without
    while await store.roll_up(T0 + 9 * HOUR * S, 50):
        pass
    assert await shown() == late
