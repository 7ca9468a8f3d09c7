"""Incidents: alerts join by a stated link, and never because they overlap in time."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.examples import examples

from helios_core.alerts import Alert, AlertState, Family, Severity
from helios_reporter.incidents import JOIN_US, MAX_AGE_US, Incident, Incidents, IncidentState

FIRED, RAISED, RESOLVED = AlertState.FIRED, AlertState.RAISED, AlertState.RESOLVED
MINUTE_US = 60_000_000
T0 = 1_772_409_600_000_000


def alert(service: str, minute: float, state: AlertState = FIRED, **changed: Any) -> Alert:
    """An alert decided that many minutes after T0; its episode is that of the service and the family."""
    family = changed.get("family", Family.ERRORS)
    decided_us = T0 + round(minute * MINUTE_US)
    fields: dict[str, Any] = {
        "id": f"{service}/{family}/{minute}/{state}",
        "episode": f"{service}/{family}",
        "service": service,
        "family": family,
        "state": state,
        "severity": Severity.MEDIUM,
        "decided_us": decided_us,
        "onset_us": decided_us,
        "seen_us": decided_us,
        "horizon_us": 5 * MINUTE_US,
        "detectors": ("rules",),
        "findings": (),
        "features": {},
    }
    return Alert(**(fields | changed))


def taken(incidents: Incidents, made: Alert, *, linked: bool = False) -> Incident:
    """The alert taken; with `linked` all that are candidates have shared traces."""
    links = {candidate.id: "7 shared traces" for candidate in incidents.candidates(made)} if linked else {}
    incident = incidents.take(made, links)
    assert incident is not None
    return incident


def test_the_first_alert_opens_an_incident() -> None:
    incident = taken(Incidents(), alert("web", 0, onset_us=T0 - MINUTE_US))
    assert incident.state is IncidentState.TRIGGERED
    assert incident.services == ["web"]
    assert (incident.opened_us, incident.updated_us, incident.onset_us) == (T0, T0, T0 - MINUTE_US)
    assert incident.resolved_us is None
    assert [(member.reason, member.is_link) for member in incident.members] == [("opened the incident", False)]


def test_its_id_depends_on_what_opened_it_alone() -> None:
    assert taken(Incidents(), alert("web", 0)).id == taken(Incidents(), alert("web", 0)).id
    assert taken(Incidents(), alert("web", 0)).id != taken(Incidents(), alert("api", 0)).id


@pytest.mark.parametrize("minute", [0, 3, 90, 120])
def test_another_family_of_the_same_service_joins_and_says_why(minute: float) -> None:
    incidents = Incidents()
    first = taken(incidents, alert("web", 0))
    second = taken(incidents, alert("web", minute, family=Family.LATENCY))
    assert second.id == first.id
    assert [member.reason for member in second.members][1] == "same service (web)"
    assert not second.members[1].is_link


def test_an_incident_takes_no_alert_after_two_hours() -> None:
    incidents = Incidents()
    first = taken(incidents, alert("web", 0))
    late = taken(incidents, alert("web", MAX_AGE_US / MINUTE_US + 1, family=Family.LATENCY))
    assert late.id != first.id
    assert incidents.candidates(alert("api", 121)) == [late]
    assert incidents.candidates(alert("api", 121, onset_us=T0)) == []


def test_what_overlaps_in_time_alone_stays_apart() -> None:
    incidents = Incidents()
    first = taken(incidents, alert("web", 0))
    second = taken(incidents, alert("api", 0))
    assert first.id != second.id
    assert (first.services, second.services) == (["web"], ["api"])


def test_shared_traces_join_another_service() -> None:
    incidents = Incidents()
    first = taken(incidents, alert("web", 0))
    second = taken(incidents, alert("api", 2), linked=True)
    assert second.id == first.id
    assert second.services == ["web", "api"]
    assert (second.members[1].reason, second.members[1].is_link) == ("7 shared traces", True)


@pytest.mark.parametrize(("after_us", "near"), [(-JOIN_US, True), (JOIN_US, True), (JOIN_US + 1, False)])
def test_a_link_is_looked_for_where_onsets_are_within_five_minutes(after_us: int, near: bool) -> None:
    incidents = Incidents()
    first = taken(incidents, alert("web", 10))
    later = alert("api", 30, onset_us=first.onset_us + after_us)
    assert bool(incidents.candidates(later)) == near


def test_a_link_is_looked_for_by_onset_and_not_by_decision() -> None:
    incidents = Incidents()
    taken(incidents, alert("web", 0))
    assert incidents.candidates(alert("api", 40, onset_us=T0 + MINUTE_US))
    assert not incidents.candidates(alert("api", 1, onset_us=T0 - 6 * MINUTE_US))


def test_the_nearest_member_counts_for_a_cascade() -> None:
    """Each hop within five minutes of the one before."""
    incidents = Incidents()
    first = taken(incidents, alert("a", 0))
    for hop, service in enumerate(["b", "c", "d"], start=1):
        joined = taken(incidents, alert(service, 4 * hop), linked=True)
        assert joined.id == first.id
    assert joined.services == ["a", "b", "c", "d"]


def test_an_incident_of_the_own_service_is_no_candidate() -> None:
    incidents = Incidents()
    taken(incidents, alert("web", 0))
    assert incidents.candidates(alert("web", 1, family=Family.LATENCY)) == []


def test_a_link_to_what_is_closed_opens_an_incident() -> None:
    incident = Incidents().take(alert("web", 0), {"gone": "3 shared traces"})
    assert incident is not None
    assert [member.reason for member in incident.members] == ["opened the incident"]


def test_the_services_are_in_order_of_their_onsets() -> None:
    incidents = Incidents()
    taken(incidents, alert("web", 2))
    incident = taken(incidents, alert("database", 3, onset_us=T0), linked=True)
    assert incident.services == ["database", "web"]
    assert incident.onset_us == T0


def test_it_is_resolved_when_all_of_it_is() -> None:
    incidents = Incidents()
    taken(incidents, alert("web", 0))
    taken(incidents, alert("web", 1, family=Family.LATENCY))
    half = taken(incidents, alert("web", 10, RESOLVED))
    assert (half.state, half.resolved_us) == (IncidentState.TRIGGERED, None)
    assert [member.family for member in half.open_members()] == ["latency"]
    whole = taken(incidents, alert("web", 12, RESOLVED, family=Family.LATENCY))
    assert (whole.state, whole.resolved_us) == (IncidentState.RESOLVED, T0 + 12 * MINUTE_US)
    assert whole.open_members() == []
    assert incidents.candidates(alert("api", 12, onset_us=T0)) == []


def test_what_comes_after_it_was_resolved_is_another_incident() -> None:
    incidents = Incidents()
    first = taken(incidents, alert("web", 0))
    taken(incidents, alert("web", 6, RESOLVED))
    again = taken(incidents, alert("web", 30, episode="web/second"))
    assert again.id != first.id


def test_a_rise_makes_it_worse_and_a_resolution_no_better() -> None:
    incidents = Incidents()
    taken(incidents, alert("web", 0))
    worse = taken(incidents, alert("web", 1, RAISED, severity=Severity.CRITICAL))
    assert worse.severity is Severity.CRITICAL
    assert len(worse.members) == 1
    assert [a.state for a in worse.members[0].alerts] == [FIRED, RAISED]
    mild = taken(incidents, alert("web", 2, family=Family.VOLUME, severity=Severity.LOW))
    assert mild.severity is Severity.CRITICAL


def test_the_end_of_what_is_not_known_is_passed_over() -> None:
    assert Incidents().take(alert("web", 0, RESOLVED), {}) is None


def test_a_rise_of_what_is_not_known_opens_an_incident() -> None:
    """After its beginning was lost."""
    assert taken(Incidents(), alert("web", 0, RAISED)).state is IncidentState.TRIGGERED


def test_an_alert_that_comes_twice_changes_nothing() -> None:
    """Topics are at least once."""
    incidents = Incidents()
    taken(incidents, alert("web", 0))
    incident = taken(incidents, alert("web", 1, RAISED, severity=Severity.HIGH))
    before = msgspec.json.encode(incident)
    assert incidents.take(alert("web", 0), {}) is None
    assert incidents.take(alert("web", 1, RAISED, severity=Severity.HIGH), {}) is None
    assert msgspec.json.encode(incident) == before


def test_it_goes_on_with_what_was_stored() -> None:
    first = Incidents()
    stored = msgspec.json.encode(taken(first, alert("web", 0)))
    second = Incidents([msgspec.json.decode(stored, type=Incident)])
    joined = taken(second, alert("web", 1, family=Family.LATENCY))
    assert len(joined.members) == 2
    assert taken(second, alert("web", 9, RESOLVED)).state is IncidentState.TRIGGERED
    assert taken(second, alert("web", 9, RESOLVED, family=Family.LATENCY)).state is IncidentState.RESOLVED


@settings(max_examples=examples(60))
@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from(list(Family)), st.floats(0, 30), st.booleans()), max_size=25
    )
)
def test_every_open_episode_is_in_one_incident(steps: list[tuple[str, Family, float, bool]]) -> None:
    incidents = Incidents()
    found: dict[str, Incident] = {}
    open_: dict[str, str] = {}
    minute = 0.0
    for number, (service, family, gap, linked) in enumerate(steps):
        minute += gap
        name = f"{service}/{family}"
        state = RESOLVED if name in open_ else FIRED
        if state is FIRED:
            open_[name] = f"{name}/{number}"
        incident = taken(incidents, alert(service, minute, state, family=family, episode=open_[name]), linked=linked)
        if state is RESOLVED:
            del open_[name]
        found[incident.id] = incident
        members = [m for i in found.values() for m in i.members]
        assert len({m.episode for m in members}) == len(members)
        assert {m.episode for m in members if m.resolved_us is None} == set(open_.values())
        for one in found.values():
            assert (one.state is IncidentState.RESOLVED) == (not one.open_members())
            assert one.services[0] in {m.service for m in one.members if m.onset_us == one.onset_us}
            for member in one.members[1:]:
                assert member.alerts[0].decided_us - one.opened_us <= MAX_AGE_US
                assert member.is_link == (member.reason == "7 shared traces")
