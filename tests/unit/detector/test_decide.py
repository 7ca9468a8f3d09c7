"""The decider: what is held, said once, said again when it is worse, and called over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.examples import examples

from helios_core.alerts import Alert, AlertState, Family, Finding, Severity, alert_id
from helios_detector.decide import COOLDOWN_US, RESOLVE_US, Decider, Horizon

S = 1_000_000
STEP_S = 10
START_US = 1_772_409_600 * S
FIRED, RAISED, RESOLVED = AlertState.FIRED, AlertState.RAISED, AlertState.RESOLVED
LOW, MEDIUM, HIGH, CRITICAL = Severity
T = TypeVar("T")
# (detector, family): how long it must keep finding.
HOLDS_S = {
    ("rules", Family.ERRORS): 20,
    ("silence", Family.VOLUME): 0,
    ("patterns", Family.PATTERN): 0,
    ("baseline", Family.ERRORS): 30,
    ("baseline", Family.LATENCY): 60,
    ("baseline", Family.VOLUME): 60,
    ("baseline", Family.ANOMALY): 60,
    ("forest", Family.ANOMALY): 90,
}


def finding(detector: str, family: Family, severity: Severity = MEDIUM) -> Finding:
    return Finding(detector=detector, family=family, severity=severity, minutes=5.0)


def horizon(second: int, service: str = "web", version: str = "v1") -> Horizon:
    return Horizon(service, START_US + second * S, 300 * S, {"events": 7.0}, version, learning=False)


def run(decider: Decider, steps: Iterable[Sequence[Finding]], first_s: int = 0) -> list[tuple[int, Alert]]:
    """Decides one horizon every ten seconds; (second, alert) for each alert."""
    return [
        (first_s + i * STEP_S, alert)
        for i, findings in enumerate(steps)
        for alert in decider.decide(findings, horizon(first_s + i * STEP_S))
    ]


def said(alerts: Iterable[tuple[int, Alert]]) -> list[tuple[int, AlertState, Severity]]:
    return [(second, alert.state, alert.severity) for second, alert in alerts]


def errors(severity: Severity = MEDIUM) -> list[Finding]:
    return [finding("rules", Family.ERRORS, severity)]


def latency(severity: Severity = MEDIUM) -> list[Finding]:
    return [finding("baseline", Family.LATENCY, severity)]


NOTHING: list[Finding] = []


@pytest.mark.parametrize(("detector", "family"), [key for key in HOLDS_S if key[0] != "silence"])
def test_a_finding_is_believed_once_it_has_lasted(detector: str, family: Family) -> None:
    hold = HOLDS_S[detector, family]
    alerts = run(Decider(), [[finding(detector, family)]] * 40)
    ((second, alert),) = alerts
    assert (second, alert.state, alert.family) == (hold, FIRED, family)
    assert alert.decided_us == alert.seen_us == START_US + hold * S
    assert alert.onset_us == START_US


def test_silence_is_said_at_once_and_began_with_the_last_event() -> None:
    alerts = run(Decider(), [[finding("silence", Family.VOLUME, CRITICAL)]] * 40)
    assert said(alerts) == [(0, FIRED, CRITICAL)]
    assert alerts[0][1].onset_us == START_US - 300 * S


@pytest.mark.parametrize(("detector", "family"), [key for key, hold in HOLDS_S.items() if hold])
def test_what_ends_before_it_is_believed_is_never_said(detector: str, family: Family) -> None:
    steps = [[finding(detector, family)]] * (HOLDS_S[detector, family] // STEP_S) + [NOTHING] * 60
    decider = Decider()
    assert run(decider, steps) == []
    assert not decider.is_open
    assert not decider.is_suspicious


def test_a_short_absence_is_forgiven_and_a_longer_one_is_not() -> None:
    short = [latency()] * 4 + [NOTHING] + [latency()] * 4
    assert said(run(Decider(), short)) == [(60, FIRED, MEDIUM)]
    long = [latency()] * 4 + [NOTHING] * 3 + [latency()] * 4
    assert run(Decider(), long) == []


def test_what_is_held_or_open_is_suspicious() -> None:
    decider = Decider()
    run(decider, [latency()])
    assert (decider.is_open, decider.is_suspicious) == (False, True)
    run(decider, [latency()] * 10, 10)
    assert (decider.is_open, decider.is_suspicious) == (True, True)
    run(decider, [NOTHING] * 40, 110)
    assert (decider.is_open, decider.is_suspicious) == (False, False)


def test_it_is_said_once_and_the_repeats_are_counted() -> None:
    alerts = run(Decider(), [errors()] * 20 + [NOTHING] * 40)
    assert said(alerts) == [(20, FIRED, MEDIUM), (190 + RESOLVE_US // S, RESOLVED, MEDIUM)]
    assert [alert.suppressed for _, alert in alerts] == [0, 17]


def test_it_is_said_again_when_it_is_worse_and_only_then() -> None:
    severities = [MEDIUM] * 5 + [HIGH] * 5 + [MEDIUM] * 5 + [HIGH] * 5 + [CRITICAL] * 5
    alerts = run(Decider(), [errors(severity) for severity in severities])
    assert said(alerts) == [(20, FIRED, MEDIUM), (50, RAISED, HIGH), (200, RAISED, CRITICAL)]
    assert [alert.suppressed for _, alert in alerts] == [0, 2, 14]
    assert len({alert.episode for _, alert in alerts}) == 1
    assert {alert.onset_us for _, alert in alerts} == {START_US}


def test_it_is_over_after_five_minutes_without_a_finding() -> None:
    decider = Decider()
    assert said(run(decider, [errors()] * 3)) == [(20, FIRED, MEDIUM)]
    assert run(decider, [NOTHING] * 29, 30) == []
    assert said(run(decider, [NOTHING], 320)) == [(320, RESOLVED, MEDIUM)]
    assert run(decider, [NOTHING] * 50, 330) == []


def test_one_finding_within_five_minutes_keeps_it_open() -> None:
    alerts = run(Decider(), [errors()] * 3 + [NOTHING] * 29 + [errors()] + [NOTHING] * 31)
    assert said(alerts) == [(20, FIRED, MEDIUM), (320 + 300, RESOLVED, MEDIUM)]


def test_an_alert_says_when_its_family_was_last_found() -> None:
    steps = [errors()] * 5 + [errors(HIGH)] * 5 + [NOTHING] * 10 + [errors(LOW)] + [NOTHING] * 40
    alerts = run(Decider(), steps)
    assert [(second, alert.seen_us - START_US) for second, alert in alerts] == [
        (20, 20 * S),
        (50, 50 * S),
        (500, 200 * S),
    ]


def test_a_resolution_carries_no_findings() -> None:
    *_, (_, over) = run(Decider(), [errors()] * 3 + [NOTHING] * 40)
    assert over.state is RESOLVED
    assert over.findings == ()
    assert over.detectors == ()


def cooled(then: Sequence[Finding], after_s: int) -> list[tuple[int, Alert]]:
    """An alert that is over, and what is said when findings come again so many seconds later."""
    decider = Decider()
    ((over_s, _),) = run(decider, [errors()] * 3 + [NOTHING] * 30)[1:]
    first_s = over_s + after_s
    return [(second - over_s, alert) for second, alert in run(decider, [then] * 60, first_s)]


def test_the_same_is_not_said_again_within_ten_minutes() -> None:
    assert said(cooled(errors(MEDIUM), 60)) == [(COOLDOWN_US // S, FIRED, MEDIUM)]
    assert said(cooled(errors(LOW), 60)) == [(COOLDOWN_US // S, FIRED, LOW)]


def test_what_is_worse_breaks_through_the_cooldown() -> None:
    assert said(cooled(errors(HIGH), 60)) == [(80, FIRED, HIGH)]


def test_after_the_cooldown_it_is_new() -> None:
    assert said(cooled(errors(MEDIUM), 700)) == [(720, FIRED, MEDIUM)]


def test_what_the_cooldown_suppressed_is_counted() -> None:
    ((_, alert),) = cooled(errors(MEDIUM), 60)
    assert alert.suppressed == (600 - 80) // STEP_S


def test_another_episode_has_another_id() -> None:
    decider = Decider()
    alerts = run(decider, [errors()] * 3 + [NOTHING] * 120 + [errors()] * 3)
    assert [alert.state for _, alert in alerts] == [FIRED, RESOLVED, FIRED]
    assert alerts[0][1].episode == alerts[0][1].id == alerts[1][1].episode
    assert alerts[2][1].episode == alerts[2][1].id != alerts[0][1].id


def test_ids_are_those_of_what_was_decided() -> None:
    ((second, alert),) = run(Decider(), [errors()] * 3)
    assert alert.id == alert_id("web", Family.ERRORS, START_US + second * S)
    assert alert.model_version == "v1"  # of a model that each detector trains for itself: it names nothing
    assert run(Decider(), [errors()] * 3) == [(second, alert)]


def test_an_alert_says_what_its_horizon_was() -> None:
    both = [*errors(), *latency()]
    ((_, alert),) = run(Decider(), [both] * 4)
    assert alert.service == "web"
    assert alert.horizon_us == 300 * S
    assert alert.features == {"events": 7.0}
    assert alert.model_version == "v1"
    assert not alert.learning
    assert alert.findings == tuple(errors())
    assert alert.detectors == ("baseline", "rules")


def test_two_detectors_of_one_family_are_one_alert_of_the_worse() -> None:
    both = [finding("rules", Family.ERRORS, LOW), finding("baseline", Family.ERRORS, HIGH)]
    alerts = run(Decider(), [both] * 10)
    assert said(alerts) == [(20, FIRED, LOW), (30, RAISED, HIGH)]
    assert alerts[1][1].findings == tuple(both)


def test_families_are_said_apart() -> None:
    alerts = run(Decider(), [[*errors(), *latency()]] * 10)
    assert [(second, alert.family) for second, alert in alerts] == [(20, Family.ERRORS), (60, Family.LATENCY)]


def anomaly(severity: Severity = MEDIUM) -> list[Finding]:
    return [finding("forest", Family.ANOMALY, severity)]


def test_an_anomaly_is_held_back_while_another_family_is_open() -> None:
    """What is wrong has been said already; the forest only says that something is."""
    decider = Decider()
    run(decider, [errors()] * 3)
    alerts = run(decider, [anomaly()] * 60, 30)
    assert [(second, alert.family, alert.state) for second, alert in alerts] == [
        (20 + 300, Family.ERRORS, RESOLVED),
        (20 + 300, Family.ANOMALY, FIRED),
    ]


@pytest.mark.parametrize("first", ["errors", "anomaly"])
def test_an_anomaly_is_held_back_when_another_family_fires_at_the_same_horizon(first: str) -> None:
    """Whichever of them the service showed first in its life."""
    decider = Decider()
    run(decider, [errors() if first == "errors" else anomaly(), *[NOTHING] * 99])
    both = [anomaly()] * 7 + [[*anomaly(), *errors()]] * 5
    alerts = run(decider, both, 1_000)
    assert [(second, alert.family) for second, alert in alerts] == [(1_090, Family.ERRORS)]


def test_another_family_is_not_held_back_by_an_anomaly() -> None:
    decider = Decider()
    run(decider, [anomaly()] * 10)
    assert [alert.family for _, alert in run(decider, [errors()] * 3, 100)] == [Family.ERRORS]


def test_a_finding_that_got_worse_has_been_there_since_it_was_milder() -> None:
    steps = [latency(MEDIUM)] * 6 + [latency(HIGH)]
    assert said(run(Decider(), steps)) == [(60, FIRED, HIGH)]


@given(st.lists(st.sampled_from(list(Severity)), min_size=7, max_size=7))
def test_a_finding_that_is_always_there_is_believed_in_time_whatever_its_severity(severities: list[Severity]) -> None:
    ((second, alert),) = run(Decider(), [latency(severity) for severity in severities])
    assert (second, alert.severity, alert.onset_us) == (60, severities[-1], START_US)


POSSIBLE = [finding(detector, family, severity) for detector, family in HOLDS_S for severity in Severity]


def one_per_detector_and_family(findings: list[Finding]) -> list[Finding]:
    return list({(f.detector, f.family): f for f in findings}.values())


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[int, list[Finding]]]:
    """(seconds since the step before, findings): stretches of the same findings, and gaps."""
    steps: list[tuple[int, list[Finding]]] = []
    for _ in range(draw(st.integers(1, 12))):
        findings = draw(st.lists(st.sampled_from(POSSIBLE), max_size=4).map(one_per_detector_and_family))
        steps += [(STEP_S, findings)] * draw(st.integers(1, 40))
        if draw(st.booleans()):
            steps.append((draw(st.integers(1, 200)) * STEP_S, []))
    return steps


@settings(max_examples=examples(150), deadline=None)
@given(histories())
def test_every_family_fires_then_rises_then_resolves(steps: list[tuple[int, list[Finding]]]) -> None:
    decider, repeat = Decider(), Decider()
    second = 0
    open_: dict[Family, Alert] = {}
    ids: set[str] = set()
    for gap, findings in steps:
        second += gap
        alerts = decider.decide(findings, horizon(second))
        assert repeat.decide(findings, horizon(second)) == alerts
        for alert in alerts:
            before = open_.get(alert.family)
            assert alert.id not in ids
            ids.add(alert.id)
            assert alert.decided_us == START_US + second * S
            assert START_US - 300 * S <= alert.onset_us <= alert.seen_us <= alert.decided_us
            if alert.state is FIRED:
                assert before is None
                assert alert.episode == alert.id
            else:
                assert before is not None
                assert (alert.episode, alert.onset_us) == (before.episode, before.onset_us)
                if alert.state is RAISED:
                    assert alert.severity.rank > before.severity.rank
                else:
                    assert alert.severity is before.severity
            if alert.state is RESOLVED:
                del open_[alert.family]
                assert alert.family not in {f.family for f in findings}
            else:
                open_[alert.family] = alert
                assert alert.findings
                assert {f.family for f in alert.findings} == {alert.family}
                assert alert.severity == max((f.severity for f in alert.findings), key=lambda s: s.rank)
        assert decider.is_open == bool(open_)
        assert decider.is_suspicious or not open_


@settings(max_examples=examples(80), deadline=None)
@given(histories())
def test_after_five_quiet_minutes_nothing_is_open(steps: list[tuple[int, list[Finding]]]) -> None:
    decider = Decider()
    second = 0
    states: list[AlertState] = []
    for gap, findings in [*steps, *[(STEP_S, NOTHING)] * (RESOLVE_US // S // STEP_S)]:
        second += gap
        states += [alert.state for alert in decider.decide(findings, horizon(second))]
    assert not decider.is_open
    assert not decider.is_suspicious
    assert states.count(FIRED) == states.count(RESOLVED)
