"""The past: it is learned from and never alerts, in windows of any width, and what comes after it is live at once."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from functools import cache
from math import cos, pi

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.examples import examples

from helios_core.alerts import Alert, AlertState, Family
from helios_core.model import Level, Signal
from helios_core.windows import WindowDelta
from helios_detector.engine import Engine

S = 1_000_000
LATENESS_S = 2
MINUTE_S, HOUR_S, DAY_S = 60, 3_600, 86_400
NOW_S = 1_772_409_600 + 10 * DAY_S  # where the past ends: midnight
FIRED, RESOLVED = AlertState.FIRED, AlertState.RESOLVED


def engine(window_s: int = 10) -> Engine:
    return Engine(window_ms=window_s * 1_000, allowed_lateness_us=LATENESS_S * S)


@cache
def ten_seconds(start: int, errors: float) -> tuple[int, int, list[int], list[int]]:
    """(events, errors, some latencies, endpoints) of a service whose traffic follows the hour of the day."""
    rng = np.random.default_rng(start)
    count = int(rng.poisson(50 * (1 - 0.3 * cos(2 * pi * (start % DAY_S) / DAY_S))))
    failed = int(rng.binomial(count, max(errors, 0.004)))
    latencies = [int(v) for v in rng.lognormal(9.9, 0.5, min(count, 8))]
    return count, failed, latencies, [int(v) for v in rng.integers(0, 12, 6)]


def window(second: int, seconds: int = 10, *, errors: float = 0.0) -> WindowDelta:
    """The same traffic in the same seconds, however they are cut."""
    made = WindowDelta(second * S, "web", "h", duration_ms=seconds * 1_000)
    for start in range(second, second + seconds, 10):
        count, failed, latencies, endpoints = ten_seconds(start, errors)
        made.levels[Level.INFO] += count - failed
        made.levels[Level.ERROR] += failed
        made.latency.add(latencies)
        made.endpoints.add_hashes(endpoints)
    return made


def plain(second: int, seconds: int = 10, *, events: int = 50, errors: int = 0, host: str = "h") -> WindowDelta:
    """A window of so many events, without anything else."""
    made = WindowDelta(second * S, "web", host, duration_ms=seconds * 1_000)
    made.levels[Level.INFO], made.levels[Level.ERROR] = events - errors, errors
    return made


def past(made: Engine, deltas: Sequence[WindowDelta], until_s: float) -> None:
    """Read at once: the watermark is at the end."""
    made.observe("web", deltas)
    assert made.advance("web", round(until_s * S), history=True) == []


def live(made: Engine, deltas: Iterable[WindowDelta]) -> list[Alert]:
    """Windows that come at their ends, each with a watermark there."""
    found = []
    for delta in deltas:
        made.observe("web", [delta])
        found += made.advance("web", delta.end_us)
    return found


# --- nothing of the past alerts --------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [10, 60])
def test_what_is_bad_in_the_past_does_not_alert(seconds: int) -> None:
    made = engine()
    first = NOW_S - 4 * HOUR_S
    deltas = [
        plain(
            s, seconds, events=5 * seconds, errors=5 * seconds if first + 3 * HOUR_S < s < first + 3.5 * HOUR_S else 0
        )
        for s in range(first, NOW_S, seconds)
    ]
    for delta in deltas:
        made.observe("web", [delta])
        assert made.advance("web", delta.end_us, history=True) == []
    assert made.decided == 0
    assert made.late_events == 0


@pytest.mark.parametrize("seconds", [10, 60])
def test_no_horizon_of_the_past_alerts_when_what_is_live_begins(seconds: int) -> None:
    """It ended within an outage, and its last windows were not yet decided."""
    made = engine()
    first = NOW_S - HOUR_S
    past(
        made,
        [
            plain(s, seconds, events=5 * seconds, errors=5 * seconds * (s >= NOW_S - 180))
            for s in range(first, NOW_S, seconds)
        ],
        NOW_S,
    )
    found = live(made, (plain(s, events=50) for s in range(NOW_S, NOW_S + 900, 10)))
    assert [alert for alert in found if alert.decided_us <= NOW_S * S] == []


def test_nothing_is_decided_while_a_horizon_would_cut_a_wide_window() -> None:
    """Five minutes long: the first live horizon lies wholly behind the past."""
    made = engine()
    past(made, [plain(s, 60, events=300) for s in range(NOW_S - HOUR_S, NOW_S, 60)], NOW_S + LATENESS_S)
    decided = []
    for s in range(NOW_S, NOW_S + 400, 10):
        live(made, [plain(s)])
        decided.append((s + 10 - NOW_S, made.decided))
    assert [count for at, count in decided if at <= 300] == [0] * 30
    assert decided[-1] == (400, 10)  # of the ends 300 to 390


def test_a_silence_between_past_and_present_is_no_silence() -> None:
    """Nobody was there to read."""
    made = engine()
    past(made, [window(s, 60) for s in range(NOW_S - 6 * HOUR_S, NOW_S - HOUR_S, 60)], NOW_S - HOUR_S + LATENESS_S)
    found = live(made, (window(s) for s in range(NOW_S, NOW_S + 900, 10)))
    assert found == []
    assert made.late_events == 0


# --- what is learned -------------------------------------------------------------------------------


def learned_of(made: Engine) -> dict[str, str]:
    """What the baseline expects of each measure through the day that follows, as text: NaN is NaN."""
    measures = made._services["web"].measures
    return {
        name: repr([measure.band((NOW_S + minute * MINUTE_S) * S) for minute in range(0, 1_440, 45)])
        for name, measure in measures.items()
    }


def test_windows_of_any_width_teach_the_same() -> None:
    fine, wide = engine(), engine()
    first = NOW_S - 16 * HOUR_S
    past(fine, [window(s, 10) for s in range(first, NOW_S, 10)], NOW_S + LATENESS_S)
    past(wide, [window(s, 60) for s in range(first, NOW_S, 60)], NOW_S + LATENESS_S + 50)  # more of it cannot come
    assert fine.learning() == wide.learning()
    assert learned_of(fine) == learned_of(wide)
    one, other = fine.train("web"), wide.train("web")
    assert one is not None
    assert other is not None
    assert (one.rows, one.trained_us, one.version) == (other.rows, other.trained_us, other.version)


def test_what_is_learned_counts_as_learning() -> None:
    made = engine()
    past(made, [plain(s, 60, events=300) for s in range(NOW_S - 12 * HOUR_S, NOW_S, 60)], NOW_S + 60 + LATENESS_S)
    ((seen, needed),) = made.learning().values()
    assert needed == DAY_S // 10
    assert 12 * HOUR_S // 10 - 6 <= seen <= 12 * HOUR_S // 10 + 6


@settings(max_examples=examples(20), deadline=None)
@given(st.integers(0, 10**6))
def test_history_that_is_cut_in_parts_is_never_late_and_teaches_the_same(seed: int) -> None:
    """A minute of the past comes in the slices of several cuts, each with the watermark of its own end."""
    shuffle = random.Random(seed)
    whole, parts = engine(), engine()
    first, last = NOW_S - 3 * HOUR_S, NOW_S
    past(whole, [plain(s, 60, events=60) for s in range(first, last, 60)], last + LATENESS_S)
    second = first
    while second < last:
        cut = min(last, second + shuffle.randrange(1, 150))
        deltas = []
        for start in range(second // 60 * 60, cut, 60):
            seconds = min(cut, start + 60) - max(second, start)
            deltas.append(plain(start, 60, events=seconds))
        parts.observe("web", deltas)
        assert parts.advance("web", cut * S, history=True) == []
        second = cut
    assert parts.advance("web", (last + LATENESS_S) * S, history=True) == []
    assert parts.late_events == whole.late_events == 0
    assert parts.learning() == whole.learning()
    assert learned_of(parts) == learned_of(whole)


def test_hosts_that_are_read_one_after_another_are_not_mixed_up_with_late_ones() -> None:
    """Both hosts' slices of a minute come before the watermark passes it."""
    made = engine()
    for s in range(NOW_S - 2 * HOUR_S, NOW_S, 60):
        made.observe("web", [plain(s, 60, host="a")])
        made.advance("web", (s + 58) * S, history=True)
        made.observe("web", [plain(s, 60, host="b")])
        made.advance("web", (s + 60) * S, history=True)
    assert made.late_events == 0


# --- from the past to the present ------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [10, 60])
def test_a_burst_of_errors_right_after_the_change_is_found(seconds: int) -> None:
    made = engine()
    past(made, [window(s, seconds) for s in range(NOW_S - 5 * HOUR_S, NOW_S, seconds)], NOW_S + LATENESS_S)
    found = live(made, (window(s, errors=0.6 if s >= NOW_S + 300 else 0) for s in range(NOW_S, NOW_S + 480, 10)))
    errors = [alert for alert in found if alert.family is Family.ERRORS]
    assert errors
    assert errors[0].state is FIRED
    assert errors[0].decided_us <= (NOW_S + 390) * S
    assert errors[0].onset_us >= (NOW_S + 300) * S
    assert made.late_events == 0


@pytest.mark.parametrize("seconds", [10, 60])
def test_ordinary_traffic_after_the_change_does_not_alert(seconds: int) -> None:
    made = engine()
    past(made, [window(s, seconds) for s in range(NOW_S - 16 * HOUR_S, NOW_S, seconds)], NOW_S + LATENESS_S)
    assert live(made, (window(s) for s in range(NOW_S, NOW_S + 1_800, 10))) == []


@pytest.mark.slow
def test_after_a_week_of_the_past_there_is_a_forest_at_the_first_live_minute() -> None:
    made = engine()
    deltas = []
    for s in range(NOW_S - 7 * DAY_S, NOW_S, 60):
        count, failed, latencies, endpoints = ten_seconds(s, 0.0)
        delta = plain(s, 60, events=6 * count, errors=failed)
        delta.latency.add(latencies)
        delta.endpoints.add_hashes(endpoints)
        deltas.append(delta)
    past(made, deltas, NOW_S + LATENESS_S)
    assert made.learning() == {}
    found = live(made, (window(s) for s in range(NOW_S, NOW_S + 320, 10)))
    assert made.decided > 0
    assert made.models() != {}
    found += live(made, (window(s, errors=0.6) for s in range(NOW_S + 320, NOW_S + 500, 10)))
    assert found
    assert not found[0].learning
    assert found[0].model_version == made.models()["web"]


# --- logs and spans of one service -----------------------------------------------------------------


def signal(
    second: int, kind: Signal, *, events: int = 30, latency_ms: float | None = None, endpoints: int = 0, errors: int = 0
) -> WindowDelta:
    made = WindowDelta(second * S, "web", "h", int(kind))
    made.levels[Level.INFO], made.levels[Level.ERROR] = events - errors, errors
    if latency_ms is not None:
        made.latency.add([round(latency_ms * 1_000)] * events)
    made.endpoints.add_hashes(range(1, endpoints + 1))
    return made


def shown(made: Engine, windows: Sequence[WindowDelta]) -> dict[str, float | None]:
    """The features of the first alert: half of the events are errors."""
    made.observe("web", windows)
    alerts = made.advance("web", max(delta.end_us for delta in windows) + LATENESS_S * S)
    assert alerts
    assert alerts[0].state is FIRED
    return alerts[0].features | {"end_s": alerts[0].decided_us / S - NOW_S}


SECONDS = range(NOW_S, NOW_S + 300, 10)


def test_a_service_with_logs_and_spans_is_not_counted_twice() -> None:
    logs = [signal(s, Signal.LOG, errors=15) for s in SECONDS]
    spans = [signal(s, Signal.SPAN, events=100, errors=50) for s in SECONDS]
    alone = shown(engine(), logs)
    both = shown(engine(), [*spans, *logs])
    assert both == alone
    assert alone["events"] == 3 * (alone["end_s"] or 0)


def test_latency_comes_from_the_spans_when_they_have_any() -> None:
    logs = [signal(s, Signal.LOG, errors=15, latency_ms=900, endpoints=1) for s in SECONDS]
    spans = [signal(s, Signal.SPAN, latency_ms=20, endpoints=7) for s in SECONDS]
    found = shown(engine(), [*logs, *spans])
    assert found["events"] == 3 * (found["end_s"] or 0)
    assert found["p95_latency_ms"] == pytest.approx(20, rel=0.011)
    assert found["unique_endpoints"] == 7


def test_latency_comes_from_the_logs_while_the_spans_have_none() -> None:
    logs = [signal(s, Signal.LOG, errors=15, latency_ms=900, endpoints=3) for s in SECONDS]
    spans = [signal(s, Signal.SPAN) for s in SECONDS]
    found = shown(engine(), [*spans, *logs])
    assert found["p95_latency_ms"] == pytest.approx(900, rel=0.011)
    assert found["unique_endpoints"] == 3


def test_a_service_of_spans_alone_is_counted() -> None:
    found = shown(engine(), [signal(s, Signal.SPAN, errors=15, latency_ms=20, endpoints=7) for s in SECONDS])
    assert found["events"] == 3 * (found["end_s"] or 0)
    assert found["errors"] == 1.5 * (found["end_s"] or 0)
    assert found["p95_latency_ms"] == pytest.approx(20, rel=0.011)
    assert found["unique_endpoints"] == 7


def test_endpoints_of_spans_without_latency_are_counted() -> None:
    found = shown(engine(), [signal(s, Signal.SPAN, errors=15, endpoints=7) for s in SECONDS])
    assert found["unique_endpoints"] == 7


@settings(max_examples=examples(30), deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_signals_changes_no_decision(shuffle: random.Random) -> None:
    logs = [signal(s, Signal.LOG, errors=15, latency_ms=900) for s in SECONDS]
    spans = [signal(s, Signal.SPAN, latency_ms=20) for s in SECONDS]
    mixed = [*logs, *spans]
    shuffle.shuffle(mixed)
    assert shown(engine(), mixed) == shown(engine(), [*logs, *spans])
