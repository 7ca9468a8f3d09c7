"""Watermarks: the least over the live sources of a service, never back, and agents that are not heard of said once."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios_core.service import IDLE_AFTER_US
from helios_detector import watermarks
from helios_detector.watermarks import Agent, Watermarks

S = 1_000_000
T0 = 1_772_409_600  # seconds
DAY_S = 86_400
A, B, C = b"a" * 16, b"b" * 16, b"c" * 16


class Site:
    """Watermarks spoken to in seconds after T0."""

    def __init__(self, idle_after_us: int | None = IDLE_AFTER_US) -> None:
        self.watermarks = Watermarks(idle_after_us)

    def heard(
        self,
        agent: bytes,
        watermark_s: float | None,
        now_s: float,
        service: str = "web",
        *,
        own: bool = True,
        closing: bool = False,
    ) -> Agent | None:
        watermark_us = 0 if watermark_s is None else us(watermark_s)
        return self.watermarks.heard(
            service, agent, f"host-{agent[:1].decode()}", watermark_us, us(now_s), own=own, closing=closing
        )

    def received(self, now_s: float, service: str = "web") -> None:
        self.watermarks.received(service, us(now_s))

    def of(self, now_s: float, service: str = "web") -> float | None:
        found = self.watermarks.of(service, us(now_s)).watermark_us
        return found / S - T0 if found else None

    def lost(self, now_s: float, since_s: float = -1_000) -> list[bytes]:
        return [agent.id for agent in self.watermarks.newly_lost(us(now_s), us(since_s))]

    def forgotten(self, now_s: float) -> list[bytes]:
        before = list(self.watermarks._agents)
        self.watermarks.forget(us(now_s))
        return [id_ for id_ in before if id_ not in self.watermarks._agents]


def us(second: float) -> int:
    return round((T0 + second) * S)


# --- how far a service has been read ---------------------------------------------------------------


def test_what_was_never_heard_of_has_no_watermark() -> None:
    site = Site()
    assert site.of(0) is None


def test_it_is_the_least_over_the_agents() -> None:
    site = Site()
    site.heard(A, 10, 11)
    site.heard(B, 4, 11)
    site.heard(C, 30, 31)
    assert site.of(31) == 4
    site.heard(B, 12, 32)
    assert site.of(32) == 10


def test_services_do_not_touch_each_other() -> None:
    site = Site()
    site.heard(A, 10, 11, "web")
    site.heard(B, 4, 11, "api")
    assert (site.of(11, "web"), site.of(11, "api")) == (10, 4)


def test_it_never_goes_back() -> None:
    site = Site()
    site.heard(A, 10, 11)
    assert site.of(11) == 10
    site.heard(A, 5, 12)
    assert site.of(12) == 10
    site.heard(B, 1, 13)
    assert site.of(13) == 10


@pytest.mark.parametrize(("silent_s", "least"), [(29.9, 4), (30, 50), (45, 50)])
def test_an_agent_that_is_silent_for_half_a_minute_does_not_hold_back(silent_s: float, least: float) -> None:
    site = Site()
    site.heard(B, 4, 0)
    site.heard(A, 50, silent_s)
    assert site.of(silent_s) == least


def test_idle_is_by_the_receivers_clock_and_not_by_event_time() -> None:
    """An agent that reads yesterday's lines is alive as long as it is heard."""
    site = Site()
    for second in range(0, 300, 10):
        site.heard(B, -DAY_S + second, second)
        site.heard(A, second, second)
        assert site.of(second) == -DAY_S + second


def test_an_agent_that_comes_back_holds_back_again() -> None:
    site = Site()
    site.heard(B, 4, 0)
    site.heard(A, 40, 40)
    assert site.of(40) == 40
    site.heard(B, 20, 41)
    site.heard(A, 50, 50)
    assert site.of(50) == 40
    site.heard(B, 45, 51)
    assert site.of(51) == 45


def test_without_a_live_source_it_stays_where_it_is() -> None:
    site = Site()
    site.heard(A, 10, 11)
    assert site.of(11) == 10
    assert site.of(10_000) == 10


def test_raw_events_follow_the_receivers_clock() -> None:
    site = Site()
    site.received(7)
    assert site.of(7) == 7
    assert site.of(3_600) == 3_600


def test_an_agent_holds_back_a_service_that_also_has_raw_events() -> None:
    site = Site()
    site.heard(A, 4, 11)
    site.received(12)
    assert site.of(12) == 4


@pytest.mark.parametrize("first", ["says", "says nothing"])
def test_a_slice_that_says_nothing_of_the_watermark_does_not_move_it(first: str) -> None:
    """The parts of a cut slice but the last."""
    site = Site()
    if first == "says":
        site.heard(A, 10, 11)
    site.heard(A, None, 12)
    assert site.of(12) == (10 if first == "says" else None)
    site.heard(A, 20, 13)
    assert site.of(13) == 20


def test_a_slice_that_says_nothing_of_the_watermark_keeps_its_agent_alive() -> None:
    site = Site()
    site.heard(B, 4, 0)
    site.heard(B, None, 25)
    site.heard(A, 50, 50)
    assert site.of(50) == 4


def test_an_agent_that_ends_in_good_order_is_not_waited_for() -> None:
    site = Site()
    site.heard(A, 10, 11)
    site.heard(B, 4, 11, closing=True)
    assert site.of(11) == 10


def test_what_the_last_agent_had_read_when_it_ended_counts() -> None:
    site = Site()
    site.heard(A, 10, 11)
    site.heard(A, 17, 18, closing=True)
    assert site.of(18) == 17


def test_what_it_had_read_counts_also_when_another_agent_is_idle() -> None:
    """A source that is silent for half a minute holds nothing back, its neighbour's last news neither."""
    site = Site()
    site.heard(A, 10, 10)
    site.heard(B, 10, 10)
    site.heard(B, 50, 50)
    assert site.of(50) == 50
    site.heard(B, 57, 58, closing=True)
    assert site.of(58) == 57


def test_an_agent_ends_for_each_of_its_services() -> None:
    """A batch has a slice for each service; all of them say that it ends."""
    site = Site()
    for service in ("web", "api", "cart"):
        site.heard(A, 10, 11, service)
    for service in ("web", "api", "cart"):
        site.heard(A, 15, 16, service, closing=True)
    assert [site.of(16, service) for service in ("web", "api", "cart")] == [15, 15, 15]
    assert site.lost(10_000) == []


def test_an_agent_that_starts_again_after_its_end_counts_again() -> None:
    site = Site()
    site.heard(A, 10, 11, closing=True)
    site.heard(B, 50, 51)
    site.heard(A, 40, 51)
    assert site.of(51) == 40


@dataclass
class Model:
    """What the design says, counted anew at each question."""

    agents: dict[bytes, tuple[float, float]] = field(default_factory=dict)  # watermark, heard
    raw: bool = False
    before: float = 0

    def of(self, now_s: float) -> float:
        live = [w for w, heard_s in self.agents.values() if now_s - heard_s < 30]
        if self.raw:
            live.append(now_s)
        self.before = max(self.before, min(live, default=0))
        return self.before


STEPS = st.lists(
    st.tuples(
        st.integers(0, 40),  # seconds that pass
        st.sampled_from([A, B, C, None]),  # who is heard; None: raw events
        st.none() | st.integers(-60, 60),  # its watermark from the clock; None says nothing
        st.integers(0, 9),  # of ten steps one or two are raw events
    ),
    max_size=40,
)


@given(STEPS)
def test_at_any_time_it_is_the_least_over_what_is_live_and_never_less_than_before(
    steps: list[tuple[int, bytes | None, int | None, int]],
) -> None:
    site, model = Site(), Model()
    now_s = 1_000.0
    for passed, agent, ahead, chance in steps:
        now_s += passed
        if agent is None and chance == 0:
            site.received(now_s)
            model.raw = True
        elif agent is not None:
            watermark_s = None if ahead is None else now_s + ahead
            site.heard(agent, watermark_s, now_s)
            known = model.agents.get(agent, (0, 0))[0]
            model.agents[agent] = (max(known, watermark_s or 0), now_s)
        assert (site.of(now_s) or 0) == model.of(now_s)


# --- agents that are not heard of ------------------------------------------------------------------


def test_an_agent_is_lost_after_a_minute_and_said_once() -> None:
    site = Site()
    site.heard(A, 10, 0)
    assert site.lost(59.9) == []
    assert site.lost(60) == [A]
    assert site.lost(61) == []
    assert site.lost(7_200) == []


def test_of_several_detectors_the_one_that_reads_the_agents_own_slice_says_that_it_is_lost() -> None:
    reader, other = Site(), Site()
    for site in (reader, other):
        site.heard(A, 0, 0, "web", own=False)
    reader.heard(A, 0, 0.5, "helios-agent@host-a")
    assert (reader.lost(61), other.lost(61)) == ([A], [])
    assert other.heard(A, 90, 90, "web", own=False) is None
    assert reader.heard(A, 90, 90, "web", own=False) is None, "it waits for the slice that it said it by"
    assert reader.heard(A, 90, 90.5, "helios-agent@host-a") is not None
    assert (reader.forgotten(2 * DAY_S), other.forgotten(2 * DAY_S)) == ([A], [A])


def test_each_agent_is_lost_by_itself() -> None:
    site = Site()
    site.heard(A, 0, 0)
    site.heard(B, 0, 30)
    site.heard(C, 0, 80)
    assert site.lost(75) == [A]
    assert site.lost(90) == [B]
    assert site.lost(95) == []


def test_an_agent_is_heard_of_by_any_of_its_services() -> None:
    site = Site()
    site.heard(A, 0, 0, "web")
    for second in range(10, 300, 10):
        site.heard(A, second, second, "api")
        assert site.lost(second) == []


def test_a_lost_agent_names_its_host_when_it_was_heard_and_what_it_read() -> None:
    site = Site()
    site.heard(A, 0, 0, "web")
    site.heard(A, 0, 10, "api")
    (agent,) = site.watermarks.newly_lost(us(70), us(-10))
    assert (agent.id, agent.host, agent.heard_us, agent.lost_us) == (A, "host-a", us(10), us(10))
    assert sorted(agent.services) == ["api", "web"]


@pytest.mark.parametrize(("since_s", "now_s", "found"), [(500, 500, []), (500, 559, []), (500, 560, [A])])
def test_nobody_is_lost_because_the_receiver_was_down(since_s: float, now_s: float, found: list[bytes]) -> None:
    site = Site()
    site.heard(A, 0, 0)
    assert site.lost(now_s, since_s) == found


def test_a_lost_agent_that_comes_back_may_be_lost_again() -> None:
    site = Site()
    site.heard(A, 0, 0)
    assert site.lost(60) == [A]
    back = site.heard(A, 90, 90)
    assert back is not None
    assert (back.id, back.lost_us, back.heard_us) == (A, 0, us(90))
    site.heard(A, 100, 100)
    assert site.lost(159) == []
    assert site.lost(160) == [A]


def test_an_agent_that_ended_in_good_order_is_never_lost() -> None:
    site = Site()
    site.heard(A, 0, 0)
    site.heard(A, 10, 10, closing=True)
    assert site.lost(70) == site.lost(DAY_S * 2) == site.forgotten(DAY_S * 2) == []


def test_an_agent_that_was_lost_and_ends_in_good_order_is_found_and_not_lost_again() -> None:
    site = Site()
    site.heard(A, 0, 0)
    assert site.lost(60) == [A]
    assert site.heard(A, 90, 90, closing=True) is not None, "whoever said that it was lost says that it is back"
    assert site.lost(DAY_S) == site.forgotten(DAY_S * 2) == []


def test_a_lost_agent_is_forgotten_after_a_day() -> None:
    site = Site()
    site.heard(A, 0, 0)
    assert site.lost(60) == [A]
    assert site.forgotten(DAY_S - 1) == []
    assert site.forgotten(DAY_S) == [A]
    assert site.forgotten(DAY_S + 1) == []
    assert site.lost(DAY_S + 2) == []
    site.heard(A, DAY_S + 10, DAY_S + 10)
    assert site.lost(DAY_S + 80) == [A]


def test_an_agent_that_is_heard_is_not_forgotten() -> None:
    site = Site()
    for second in range(0, 2 * DAY_S, 50):
        site.heard(A, second, second)
        assert site.forgotten(second) == []


@given(st.lists(st.tuples(st.integers(0, 200), st.sampled_from([A, B, None]), st.booleans()), max_size=40))
def test_an_agent_is_lost_once_for_each_time_that_it_is_away(steps: list[tuple[int, bytes | None, bool]]) -> None:
    """Whatever the times: only when it was away for a minute, and again only when it was heard of in between."""
    site = Site()
    heard: dict[bytes, float] = {}
    away: set[bytes] = set()
    now_s = 0.0
    for passed, agent, closing in steps:
        now_s += passed
        if agent is not None:
            site.heard(agent, now_s, now_s, closing=closing)
            away.discard(agent)
            heard[agent] = now_s
            if closing:
                del heard[agent]
        expected = {one for one, at_s in heard.items() if now_s - at_s >= 60} - away
        assert set(site.lost(now_s)) == expected
        away |= expected


# --- where nobody can go away, and limits ----------------------------------------------------------


def test_where_no_source_can_go_away_nobody_is_idle_and_nobody_lost() -> None:
    site = Site(idle_after_us=None)
    site.heard(B, 4, 0)
    site.heard(A, 50, 100_000)
    assert site.of(100_000) == 4
    assert site.lost(10 * DAY_S) == site.forgotten(10 * DAY_S) == []
    site.heard(B, 60, 10 * DAY_S)
    assert site.of(10 * DAY_S) == 50


def test_agents_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watermarks, "MAX_AGENTS", 100)
    site = Site()
    for number in range(1_000):
        site.heard(number.to_bytes(16, "big"), 10, 0)
    assert len(site.lost(60)) == 100
    assert len(site.watermarks._services["web"].agents) <= 100


def test_an_agent_beyond_the_limit_that_ends_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watermarks, "MAX_AGENTS", 1)
    site = Site()
    site.heard(A, 10, 0)
    site.heard(B, 4, 0)
    site.heard(B, 5, 1, closing=True)
    site.heard(A, 10, 2)
    assert site.of(2) == 10


# --- what nobody could hear, and clocks that are wrong ---------------------------------------------


def test_while_nobody_listened_no_agent_became_idle() -> None:
    site = Site()
    site.heard(A, 10, 11)
    site.heard(B, 12, 12)
    assert site.watermarks.resume(us(600)) == []
    site.heard(A, 615, 615)
    assert site.of(615) == 12
    site.heard(A, 630, 630)
    assert site.of(631) == 630


def test_of_raw_events_nothing_is_known_while_nobody_listened() -> None:
    site = Site()
    site.received(10, "api")
    site.heard(A, 10, 11, "web")
    site.received(10, "web")
    assert site.watermarks.resume(us(600)) == ["api"]


def test_a_clock_that_is_far_ahead_moves_no_watermark() -> None:
    site = Site()
    site.heard(A, 10, 11)
    site.heard(A, 30 * DAY_S, 20)
    assert site.of(20) == 10
    site.heard(A, 30, 30)
    assert site.of(30) == 30


def test_an_agent_that_lives_holds_no_service_back_that_it_has_no_news_of() -> None:
    """It moved to another host: the watermark goes on, and that nothing comes is known."""
    site = Site()
    site.heard(A, 10, 11, "web")
    site.heard(B, 10, 11, "web")
    for second in range(20, 400, 10):
        site.heard(A, second, second, "api")
        site.heard(B, second, second, "web")
    assert site.of(391, "web") == 390
    assert site.watermarks.of("web", us(391)).watched
    assert site.watermarks.waiting(us(405), us(404)) == {"web"}


def test_how_far_the_past_was_read_holds_for_nothing_that_is_live() -> None:
    site = Site()
    site.watermarks.read_history("web", us(62))
    assert site.of(40) == 62
    site.heard(A, 40, 41)
    assert site.of(41) == 40
