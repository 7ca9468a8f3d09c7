"""The engine: what alerts and what must not, whatever the order, grouping and pace in which its input comes."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from functools import cache
from math import cos, pi

import numpy as np
import pytest
from numpy.typing import NDArray

from helios_agent.parsers.base import Block, ParserContext, lines_of
from helios_agent.parsers.json_lines import JsonLines
from helios_core.alerts import Alert, AlertState, Family, Severity
from helios_core.columns import Columns, Notable
from helios_core.model import Level
from helios_core.windows import WindowBuilder, WindowDelta
from helios_detector.engine import Engine
from helios_detector.simulate.placement import Injection
from helios_detector.simulate.scenario import DEFAULT_START, Scenario, Simulation
from helios_detector.training import Forest

S = 1_000_000
HOUR_S = 3_600
DAY_S = 86_400
START_S = int(DEFAULT_START.timestamp())
LATENESS_S = 60
FIRED, RAISED, RESOLVED = AlertState.FIRED, AlertState.RAISED, AlertState.RESOLVED


def engine(window_s: int = 10) -> Engine:
    return Engine(window_ms=window_s * 1_000, allowed_lateness_us=LATENESS_S * S)


def decided(made: Engine, service: str, until_s: float) -> list[Alert]:
    """All the horizons that end by then."""
    return made.advance(service, round((until_s + LATENESS_S) * S))


# --- traffic from the simulator: nothing looks ahead, nothing depends on how the input comes --------


def simulated(*, batch_s: int | None = None) -> list[WindowDelta]:
    """The deltas of the gateway, in order of time; with `batch_s` cut into batches that long."""
    found: list[WindowDelta] = []
    parser: JsonLines | None = None
    builder = WindowBuilder("h")
    for chunk in Simulation(SCENARIO).chunks(batch_s or HOUR_S):
        if parser is None:
            parser = JsonLines.make(ParserContext("none", 0), lines_of(chunk.data)[:100])
        builder.add(parser.parse(Block(chunk.data, 0)).events)
        if batch_s is not None:
            found += builder.take()
    found += builder.take()
    return [delta for delta in found if delta.service == "gateway"]


HOURS = 30
SCENARIO = Scenario(
    days=HOURS / 24,
    services=2,
    seed=5,
    rate_scale=0.2,
    anomalies=0,
    injections=(
        Injection("error_spike", 25 * HOUR_S, 900, "gateway"),
        Injection("latency_shift", 26 * HOUR_S, 1_200, "gateway"),
        Injection("silence", 27 * HOUR_S, 1_200, "gateway"),
        Injection("traffic_spike", 28 * HOUR_S, 900, "gateway"),
        Injection("new_error_pattern", 29 * HOUR_S, 1_200, "gateway"),
    ),
)
END_S = START_S + HOURS * HOUR_S


@pytest.fixture(scope="module")
def deltas() -> list[WindowDelta]:
    return simulated()


@pytest.fixture(scope="module")
def alerts(deltas: list[WindowDelta]) -> list[Alert]:
    """Decided after all of the input had come."""
    made = engine()
    made.observe("gateway", deltas)
    return decided(made, "gateway", END_S)


def test_what_was_put_in_is_found(alerts: list[Alert]) -> None:
    """Else what follows would compare nothing."""
    families = {alert.family for alert in alerts if alert.state is FIRED}
    assert families >= {Family.ERRORS, Family.LATENCY, Family.VOLUME}
    assert not any(alert.learning for alert in alerts)
    assert all(alert.model_version for alert in alerts)
    assert len({alert.id for alert in alerts}) == len(alerts)


@pytest.mark.slow
@pytest.mark.parametrize("hours", [25.1, 27.1])
def test_what_is_decided_of_truncated_input_is_the_beginning_of_what_is_decided_of_all(
    deltas: list[WindowDelta], alerts: list[Alert], hours: float
) -> None:
    """In the middle of an incident, too."""
    until_us = round((START_S + hours * HOUR_S) * S)
    made = engine()
    made.observe("gateway", [delta for delta in deltas if delta.start_us < until_us])
    part = decided(made, "gateway", until_us / S)
    assert part == [alert for alert in alerts if alert.decided_us <= until_us]
    assert part[-1].state is not RESOLVED


def fed(batches: Iterable[tuple[Sequence[WindowDelta], int]]) -> list[Alert]:
    """Alerts of batches that come each with a watermark; no alert is decided before its watermark."""
    made = engine()
    found: list[Alert] = []
    for batch, watermark_us in batches:
        made.observe("gateway", batch)
        came = made.advance("gateway", watermark_us)
        assert all(alert.decided_us + LATENESS_S * S <= watermark_us for alert in came)
        found += came
    assert made.late_events == 0
    return found


def test_order_grouping_and_pace_change_no_alert(alerts: list[Alert]) -> None:
    """Lines come in batches of seven seconds, which cut windows, out of order within the lateness.

    As each alert is decided with the input up to its watermark alone, this is the strictest prefix test.
    """
    shuffle = random.Random(3)
    first, *others = simulated(batch_s=7)
    # A part comes up to 40 s after its window began, and the watermark stays behind.
    others.sort(key=lambda delta: delta.start_us + shuffle.randrange(40 * S))
    batches: list[tuple[list[WindowDelta], int]] = []
    batch = [first]
    for i, delta in enumerate(others):
        batch.append(delta)
        if shuffle.random() < 0.3:
            ahead = min((later.start_us for later in others[i + 1 : i + 60]), default=END_S * S)
            batches.append((batch, ahead + LATENESS_S * S))
            batch = []
    batches.append((batch, (END_S + LATENESS_S) * S))
    assert len(batches) > 2_000
    assert fed(batches) == alerts


def test_a_service_begins_with_its_first_window_and_not_with_the_delta_that_came_first() -> None:
    one, other = engine(), engine()
    windows = [quiet(START_S + second) for second in (0, 10, 20)]
    one.observe("web", windows)
    other.observe("web", windows[::-1])
    assert other.learning_until() == one.learning_until()


def test_what_comes_too_late_makes_no_service_older() -> None:
    made = engine()
    made.observe("web", [quiet(START_S), quiet(START_S + 10)])
    decided(made, "web", START_S + 20)
    made.observe("web", [quiet(START_S - 2 * DAY_S)])
    assert made.late_events == 3
    assert made.learning_until() == {"web": (START_S + DAY_S) * S}
    assert made.learning() == {"web": (2, 8_640)}


# --- traffic made by hand --------------------------------------------------------------------------


PER_WINDOW = 30
# Latencies of many windows, drawn once: a log-normal round 20 ms.
LATENCIES_US = np.exp(np.random.default_rng(7).normal(np.log(20_000), 0.5, 20_000)).astype(int)
Templates = Sequence[tuple[Level, str, int]]


def quiet(second: int, service: str = "web") -> WindowDelta:
    """A window with three events."""
    delta = WindowDelta(second // 10 * 10 * S, service, "h")
    delta.levels[Level.INFO] = 3
    return delta


def window(
    second: int,
    *,
    per_window: float = PER_WINDOW,
    error_share: float = 0.004,
    errors: int = 0,
    slower: float = 1.0,
    outliers_ms: Sequence[int] = (),
    templates: Templates = (),
) -> WindowDelta:
    """Ten seconds of a service whose traffic has a daily shape; `errors` come on top of the usual ones."""
    usual = per_window * (1 - 0.3 * cos(2 * pi * (second % DAY_S) / DAY_S))
    rng = np.random.default_rng(second)
    count = int(rng.poisson(usual))
    delta = WindowDelta(second * S, "web", "h")
    failed = int(rng.binomial(count, error_share))
    delta.levels[Level.INFO] = count - failed
    delta.levels[Level.ERROR] = failed + errors
    first = int(rng.integers(0, len(LATENCIES_US) - count - 1))
    delta.latency.add([int(v * slower) for v in LATENCIES_US[first : first + count]])
    delta.latency.add([ms * 1_000 for ms in outliers_ms])
    delta.endpoints.add_hashes(range(8))
    for level, text, times in [(Level.ERROR, "usual failure <*>", failed + errors), *templates]:
        if times:
            delta.templates.add(level, text, times)
    return delta


LEARNED_S = START_S + 26 * HOUR_S


@pytest.fixture(scope="module")
def learned() -> Engine:
    """26 hours of ordinary traffic: no alert, and a forest."""
    made = engine()
    made.observe("web", [window(second) for second in range(START_S, LEARNED_S, 10)])
    assert decided(made, "web", LEARNED_S) == []
    assert made.learning() == {}
    return made


@pytest.fixture
def web(learned: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """A copy of it for one test; its forest is shared, for a session of the runtime cannot be copied."""
    monkeypatch.setattr(Forest, "__deepcopy__", lambda self, _: self, raising=False)
    return copy.deepcopy(learned)


Make = Callable[[int], WindowDelta | None]


def play(made: Engine, minutes: float, make: Make, *, then_minutes: float = 20) -> list[Alert]:
    """Windows made for each ten seconds, then ordinary ones; all alerts."""
    end_s = LEARNED_S + round(minutes * 60)
    windows = [make(second) for second in range(LEARNED_S, end_s, 10)]
    windows += [window(second) for second in range(end_s, end_s + round(then_minutes * 60), 10)]
    made.observe("web", [delta for delta in windows if delta is not None])
    return decided(made, "web", end_s + then_minutes * 60)


def after(alert: Alert) -> float:
    """Seconds from the beginning of what was played."""
    return alert.decided_us / S - LEARNED_S


def test_hours_of_ordinary_traffic_do_not_alert(web: Engine) -> None:
    assert play(web, 180, window) == []


def test_an_outage_fires_within_a_minute_and_resolves(web: Engine) -> None:
    found = play(web, 10, lambda s: window(s, error_share=0.8))
    errors = [alert for alert in found if alert.family is Family.ERRORS]
    assert errors[0].state is FIRED
    assert errors[-1].state is RESOLVED
    assert errors[-1].severity is Severity.CRITICAL
    assert after(errors[0]) <= 70
    assert LEARNED_S * S <= errors[0].onset_us <= errors[0].decided_us
    assert errors[0].features["error_rate"] is not None


def test_slower_answers_fire(web: Engine) -> None:
    found = play(web, 15, lambda s: window(s, slower=3.0))
    assert (found[0].family, found[0].state) == (Family.LATENCY, FIRED)
    assert after(found[0]) < 300


def test_silence_of_a_busy_service_fires_once_and_resolves(web: Engine) -> None:
    found = play(web, 12, lambda s: None)
    silent = [alert for alert in found if alert.detectors and "silence" in alert.detectors]
    assert [(alert.family, alert.state, alert.severity) for alert in silent] == [
        (Family.VOLUME, FIRED, Severity.CRITICAL)
    ]
    assert 60 <= after(silent[0]) <= 70
    assert silent[0].onset_us == LEARNED_S * S
    volume = [alert.state for alert in found if alert.family is Family.VOLUME]
    assert volume[-1] is RESOLVED


def test_silence_is_not_decided_while_nothing_says_that_the_source_is_read(web: Engine) -> None:
    """Without a watermark there is no horizon, however long it lasts."""
    assert web.advance("web", (LEARNED_S + LATENESS_S) * S) == []
    web.observe("web", [window(LEARNED_S + HOUR_S)])
    assert web.advance("web", (LEARNED_S + LATENESS_S + 5) * S) == []


def test_a_deploy_dip_does_not_alert(web: Engine) -> None:
    """Half of the traffic and some errors for fifty seconds."""

    def deploy(second: int) -> WindowDelta:
        dip = second - LEARNED_S < 50
        return window(second, per_window=15 if dip else 30, error_share=0.06 if dip else 0.004)

    assert play(web, 10, deploy) == []


def test_a_complete_stop_of_half_a_minute_does_not_alert(web: Engine) -> None:
    assert play(web, 10, lambda s: None if s - LEARNED_S < 30 else window(s)) == []


def test_a_lone_outlier_does_not_alert(web: Engine) -> None:
    assert play(web, 10, lambda s: window(s, outliers_ms=(60_000,) if s == LEARNED_S else ())) == []


def test_a_small_burst_of_errors_does_not_alert(web: Engine) -> None:
    """One client that retries: eight failures within ten seconds."""
    assert play(web, 10, lambda s: window(s, errors=8 if s == LEARNED_S else 0)) == []


def new_error(text: str, level: Level = Level.ERROR, *, from_s: int = 0, times: int = 2) -> Make:
    """A message that comes for a minute."""

    def make(second: int) -> WindowDelta:
        fresh = from_s <= second - LEARNED_S < from_s + 60
        return window(second, errors=0, templates=[(level, text, times)] if fresh else [])

    return make


def test_a_new_error_that_keeps_coming_fires(web: Engine) -> None:
    found = play(web, 5, new_error("disk <*> is full"))
    assert [(alert.family, alert.state) for alert in found] == [(Family.PATTERN, FIRED), (Family.PATTERN, RESOLVED)]
    assert found[0].findings[0].detail == "disk <*> is full"
    assert after(found[0]) == 30  # the fifth of two in ten seconds


def test_a_new_warning_does_not_alert(web: Engine) -> None:
    assert play(web, 5, new_error("cache <*> is nearly full", Level.WARN)) == []


def test_a_new_error_that_came_four_times_does_not_alert(web: Engine) -> None:
    def make(second: int) -> WindowDelta:
        return window(second, templates=[(Level.ERROR, "odd <*>", 1)] if second - LEARNED_S < 40 else [])

    assert play(web, 5, make) == []


def test_an_error_that_was_known_is_not_new(web: Engine) -> None:
    assert play(web, 5, new_error("usual failure <*>")) == []


def test_a_service_that_shows_new_errors_all_the_time_is_left_alone(web: Engine) -> None:
    """Messages without a fixed text: each of them is a template of its own."""
    letters = "abcdefghijklmnopqrstuvwxyz"

    def noisy(second: int) -> WindowDelta:
        index = (second - LEARNED_S) // 60
        return window(second, templates=[(Level.ERROR, f"trouble {letters[index % 26]}{letters[index // 26]}", 1)])

    found = play(web, 180, noisy)
    fired = [after(alert) for alert in found if alert.state is not RESOLVED]
    assert all(second < 25 * 60 for second in fired)


def test_which_of_two_new_errors_came_first_changes_no_alert(learned: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Forest, "__deepcopy__", lambda self, _: self, raising=False)
    made = [copy.deepcopy(learned) for _ in range(2)]
    windows = [window(second) for second in range(LEARNED_S, LEARNED_S + 300, 10)]
    extra = []
    for host, text in (("a", "disk <*> is full"), ("b", "no route to <*>")):
        delta = WindowDelta(LEARNED_S * S, "web", host)
        delta.levels[Level.ERROR] = 5
        delta.templates.add(Level.ERROR, text, 5)
        extra.append(delta)
    for one, own in zip(made, (extra, extra[::-1]), strict=True):
        one.observe("web", [*own, *windows])
    first, second = (decided(one, "web", LEARNED_S + 300) for one in made)
    assert first
    assert first == second


def test_a_horizon_is_decided_once(web: Engine) -> None:
    before = web.decided
    web.observe("web", [window(second, error_share=0.9) for second in range(LEARNED_S, LEARNED_S + 600, 10)])
    found = decided(web, "web", LEARNED_S + 600)
    assert web.decided == before + 60
    assert found
    assert decided(web, "web", LEARNED_S + 600) == []
    assert decided(web, "web", LEARNED_S) == []
    assert web.decided == before + 60


def test_what_comes_after_its_horizon_is_late_and_counted(web: Engine) -> None:
    play(web, 1, window, then_minutes=1)
    late = window(LEARNED_S)
    web.observe("web", [late])
    assert web.late_events == late.events
    assert decided(web, "web", LEARNED_S + 120) == []


def test_what_is_within_the_lateness_is_not_late(web: Engine) -> None:
    play(web, 1, window, then_minutes=1)
    web.observe("web", [window(LEARNED_S + 120)])
    assert web.late_events == 0


def test_a_service_without_a_window_has_nothing_to_decide() -> None:
    assert engine().advance("nobody", 10**18) == []


def test_services_do_not_touch_each_other(web: Engine) -> None:
    other = [quiet(second, "other") for second in range(LEARNED_S, LEARNED_S + 600, 10)]
    for delta in other:
        delta.levels = [0, 0, 5, 0, 15, 0]
    web.observe("other", other)
    assert play(web, 10, window, then_minutes=0) == []
    found = decided(web, "other", LEARNED_S + 600)
    assert found
    assert {alert.service for alert in found} == {"other"}
    assert all(alert.learning for alert in found)


# --- the first day, and services with hardly an event: windows of a minute are quicker here --------


def minute_window(second: int, events: int, errors: int = 0, templates: Templates = ()) -> WindowDelta:
    delta = WindowDelta(second * S, "web", "h", duration_ms=60_000)
    delta.levels[Level.INFO] = events - errors
    delta.levels[Level.ERROR] = errors
    for level, text, times in templates:
        delta.templates.add(level, text, times)
    return delta


def test_on_its_first_day_only_what_is_bad_in_any_service_alerts() -> None:
    """Traffic that ramps up, new messages, odd combinations: all of it is new."""
    made = engine(60)
    letters = "abcdefghijklmnopqrstuvwxyz"
    rng = np.random.default_rng(1)
    deltas = []
    for index in range(1_400):
        templates = [(Level.ERROR, f"failure {letters[index // 60 % 26]}", 6)] if index % 60 == 0 else []
        deltas.append(minute_window(START_S + index * 60, 200 + int(rng.poisson(20)), 6 if templates else 0, templates))
    made.observe("web", deltas)
    assert decided(made, "web", START_S + 1_400 * 60) == []
    assert made.learning() == {"web": (1_400, 1_440)}
    made.observe("web", [minute_window(START_S + (1_400 + i) * 60, 200, 190) for i in range(10)])
    found = decided(made, "web", START_S + 1_410 * 60)
    assert [(alert.family, alert.learning, alert.model_version) for alert in found if alert.state is FIRED] == [
        (Family.ERRORS, True, "")
    ]


def test_after_its_first_day_it_has_a_model() -> None:
    made = engine(60)
    rng = np.random.default_rng(1)
    made.observe("web", [minute_window(START_S + i * 60, int(rng.poisson(200)), i % 2) for i in range(1_500)])
    assert decided(made, "web", START_S + 1_500 * 60) == []
    assert made.learning() == {}
    assert made.learning_until() == {"web": (START_S + DAY_S) * S}
    made.observe("web", [minute_window(START_S + (1_500 + i) * 60, 200, 190) for i in range(10)])
    found = decided(made, "web", START_S + 1_510 * 60)
    assert found
    assert not any(alert.learning for alert in found)
    assert all(alert.model_version for alert in found)


@pytest.mark.parametrize("errors", [0, 1])
def test_a_service_with_three_events_an_hour_never_alerts(errors: int) -> None:
    """Neither its silence nor its lone errors mean anything."""
    made = engine(60)
    rng = random.Random(1)
    minutes = sorted(rng.sample(range(3 * 1_440), 3 * 72))
    made.observe(
        "web", [minute_window(START_S + m * 60, 1, errors if i % 3 == 0 else 0) for i, m in enumerate(minutes)]
    )
    found = [alert for m in range(0, 3 * 1_440, 5) for alert in decided(made, "web", START_S + m * 60)]
    assert found == []


@cache
def silent_from(first: int, minutes: int, step_s: int) -> list[Alert]:
    """Alerts of a service of 200 events a minute that is silent for a while, then goes on for an hour."""
    made = engine(60)
    rng = np.random.default_rng(2)
    last = first + minutes + 60
    windows = [minute_window(START_S + i * 60, int(rng.poisson(200))) for i in range(last)]
    made.observe("web", [delta for i, delta in enumerate(windows) if not first <= i < first + minutes])
    untils = [*range(START_S + first * 60, START_S + last * 60, step_s), START_S + last * 60]
    return [alert for until in untils for alert in decided(made, "web", until)]


def volume(alerts: list[Alert], first: int) -> list[tuple[AlertState, float]]:
    """(state, minutes after the silence began) of the alerts on volume."""
    found = [alert for alert in alerts if alert.family is Family.VOLUME]
    return [(alert.state, (alert.decided_us / S - START_S) / 60 - first) for alert in found]


SECOND_DAY, THIRD_DAY = 1_500, 2_940


def test_silence_is_one_alert_until_it_ends() -> None:
    (fired, first), (resolved, last) = volume(silent_from(THIRD_DAY, 30, 60), THIRD_DAY)
    assert (fired, first) == (FIRED, 1)
    assert resolved is RESOLVED
    assert last > 30


def test_silence_is_one_alert_until_it_ends_on_the_second_day_too() -> None:
    found = volume(silent_from(SECOND_DAY, 25, 60), SECOND_DAY)
    assert all(minute > 25 for state, minute in found if state is RESOLVED)


def test_half_an_hour_of_silence_is_decided_alike_at_any_pace() -> None:
    fine = silent_from(THIRD_DAY, 30, 60)
    assert fine
    assert silent_from(THIRD_DAY, 30, 3_600) == fine


@pytest.mark.slow
def test_hours_of_silence_are_decided_alike_at_any_pace() -> None:
    assert silent_from(THIRD_DAY, 300, 36_000) == silent_from(THIRD_DAY, 300, 60)


def block(*rows: tuple[float, Level, int | None, str | None]) -> Columns:
    return Columns(
        time_us=[round((START_S + second) * S) for second, *_ in rows],
        service="web",
        level=[int(level) for _, level, *_ in rows],
        latency_us=[latency for *_, latency, _ in rows],
        endpoint=[endpoint for *_, endpoint in rows],
        notable=[Notable(i, "failed") for i, row in enumerate(rows) if row[1] >= Level.WARN],
    )


def test_an_alert_shows_the_numbers_of_its_horizon() -> None:
    builder = WindowBuilder("h")
    builder.add(block(*[(i, Level.ERROR if i % 2 else Level.INFO, 1_000 * i, f"/a/{i % 3}x") for i in range(60)]))
    made = engine()
    made.observe("web", builder.take())
    (fired, *_) = decided(made, "web", START_S + 60)
    events = fired.features["events"]
    assert events is not None
    seconds = (fired.decided_us / S) - START_S
    assert events == seconds
    assert fired.features["errors"] == seconds // 2
    assert fired.features["error_rate"] == 0.5
    values: NDArray[np.float64] = np.arange(seconds)
    assert fired.features["p95_latency_ms"] == pytest.approx(
        float(np.quantile(values, 0.95, method="inverted_cdf")), rel=0.011
    )
    assert fired.features["unique_endpoints"] == 3
    assert fired.horizon_us == timedelta(minutes=5) // timedelta(microseconds=1)
    assert fired.learning
    assert fired.model_version == ""


def test_what_is_missing_in_a_horizon_is_shown_as_missing() -> None:
    made = engine(60)
    made.observe("web", [minute_window(START_S + i * 60, 20, 20) for i in range(3)])
    (fired, *_) = decided(made, "web", START_S + 180)
    assert fired.features["p99_latency_ms"] is None
    assert fired.features["events"] == 40.0
