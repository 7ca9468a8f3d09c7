"""Alerts about agents: the same for the same loss, over with the same episode, and never too large."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from helios_core.alerts import Alert, AlertState, Family
from helios_core.bus.base import Record, Topic, check
from helios_core.model import agent_service
from helios_detector import agents
from helios_detector.watermarks import FORGOTTEN_AFTER_US, LOST_AFTER_US, Agent

S = 1_000_000
T0 = 1_772_409_600 * S
ID = b"0123456789abcdef"


def agent(*services: str, id_: bytes = ID, host: str = "h1", heard_us: int = T0) -> Agent:
    return Agent(id_, host, heard_us, lost_us=heard_us, services=dict.fromkeys(services or ("web",)))


AGENTS = st.builds(
    lambda id_, host, heard_us, names: Agent(id_, host, heard_us, lost_us=heard_us, services=dict.fromkeys(names)),
    st.binary(min_size=16, max_size=16),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.integers(0, 2**52),
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20), max_size=12),
)


@given(AGENTS)
def test_the_same_loss_is_the_same_alert_and_comes_back_from_the_bus(made: Agent) -> None:
    alert = agents.lost(made)
    assert agents.lost(made) == alert
    assert Alert.from_bytes(alert.to_bytes()) == alert
    assert alert.id == alert.episode


@given(AGENTS, st.integers(0, 2**40))
def test_the_end_has_the_episode_of_the_beginning(made: Agent, later_us: int) -> None:
    began = agents.lost(made)
    ended = agents.ended(began, made.heard_us + LOST_AFTER_US + later_us + 1)
    assert (ended.episode, ended.service, ended.family) == (began.episode, began.service, began.family)
    assert ended.id != began.id
    assert ended.state is AlertState.RESOLVED
    assert ended == agents.ended(began, ended.decided_us)
    assert Alert.from_bytes(ended.to_bytes()) == ended


def test_a_loss_says_which_host_since_when_and_what_is_not_watched() -> None:
    alert = agents.lost(agent("web", "api"))
    assert (alert.state, alert.family) == (AlertState.FIRED, Family.AGENT)
    assert (alert.service, alert.hosts) == (agent_service("h1"), ("h1",))
    assert (alert.onset_us, alert.decided_us) == (T0, T0 + LOST_AFTER_US)
    (finding,) = alert.findings
    assert "web, api" in finding.detail
    assert [(part.feature, part.actual) for part in finding.contributions] == [("services_unwatched", 2.0)]


def test_losses_of_other_agents_and_times_are_other_alerts() -> None:
    """Two agents on hosts of the same name, too."""
    made = [
        agents.lost(one)
        for one in (agent(), agent(id_=b"x" * 16), agent(heard_us=T0 + 1), agent(host="h2"))
    ]  # fmt: skip
    assert len({alert.id for alert in made}) == 4


def test_two_ends_at_the_same_time_are_two_alerts() -> None:
    one, other = (agents.ended(agents.lost(made), T0 + 90 * S) for made in (agent(), agent(id_=b"x" * 16)))
    assert one.id != other.id
    assert one.episode != other.episode


def test_what_is_named_is_bounded() -> None:
    names = [f"service-{number:04}" for number in range(2_000)]
    alert = agents.lost(agent(*names))
    (finding,) = alert.findings
    assert len(finding.detail) < 1_000
    assert "service-0000" in finding.detail
    assert "1992 more" in finding.detail
    assert finding.contributions[0].actual == 2_000.0


def test_long_names_fit_on_the_bus() -> None:
    alert = agents.lost(agent(*(f"{number:03}" + "x" * 253 for number in range(2_000)), host="h" * 255))
    check([Record(Topic.ANOMALY_ALERTS, alert.service, alert.to_bytes())])
    assert len(alert.to_bytes()) < 8_192


# --- what was said ---------------------------------------------------------------------------------


@given(AGENTS)
def test_a_loss_is_open_until_its_end_is_said_whoever_says_them(made: Agent) -> None:
    said, loss = agents.Said(), agents.lost(made)
    assert said.of(made) == []
    for _ in range(2):
        said.take(loss)
        assert said.of(made) == [loss]
    for _ in range(2):
        said.take(agents.ended(loss, made.lost_us + 90 * S))
        assert said.of(made) == []


def test_a_loss_that_is_read_after_its_end_was_said_is_not_open_again() -> None:
    """Who says both reads its own loss only then."""
    said, loss = agents.Said(), agents.lost(agent())
    said.take(loss)
    said.take(agents.ended(loss, T0 + 90 * S))
    said.take(loss)
    assert said.of(agent()) == []


def test_a_loss_is_of_its_agent_and_not_of_another_on_a_host_of_the_same_name() -> None:
    one, other = agent(), agent(id_=b"x" * 16, heard_us=T0 + 7)
    said, losses = agents.Said(), [agents.lost(one), agents.lost(other)]
    for loss in losses:
        said.take(loss)
    assert (said.of(one), said.of(other)) == (losses[:1], losses[1:])
    said.take(agents.ended(losses[0], T0 + 90 * S))
    assert (said.of(one), said.of(other)) == ([], losses[1:])


def test_two_losses_of_one_agent_that_two_detectors_said_end_as_two_alerts() -> None:
    ends = [agents.ended(agents.lost(agent(heard_us=T0 + n)), T0 + 90 * S) for n in range(2)]
    assert len({alert.id for alert in ends}) == len({alert.episode for alert in ends}) == 2


def test_what_else_is_said_is_no_loss() -> None:
    said = agents.Said()
    said.take(msgspec.structs.replace(agents.lost(agent()), family=Family.ERRORS))
    assert said.of(agent()) == []


def test_a_loss_is_given_up_after_a_day_also_when_nothing_is_known_of_its_agent() -> None:
    said, loss = agents.Said(), agents.lost(agent())
    said.take(loss)
    assert said.given_up(T0 + FORGOTTEN_AFTER_US - 1) == []
    assert said.given_up(T0 + FORGOTTEN_AFTER_US) == [loss]
    said.take(agents.ended(loss, T0 + FORGOTTEN_AFTER_US))
    assert said.given_up(T0 + 2 * FORGOTTEN_AFTER_US) == []


def test_losses_that_never_end_are_bounded() -> None:
    said = agents.Said()
    gone = [agent(id_=number.to_bytes(16, "big")) for number in range(1_000)]
    for one in gone:
        said.take(agents.lost(one))
    assert sum(len(said.of(one)) for one in gone) == 100
    assert said.of(gone[-1]) == [agents.lost(gone[-1])]
