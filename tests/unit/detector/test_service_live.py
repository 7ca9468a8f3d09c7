"""The live detector: over many agents, raw events, restarts and bad records, what it says is said once and is right."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tests.examples import examples

from helios_core import wire
from helios_core.alerts import Alert, AlertState, Family
from helios_core.batches import BatchId, Slice
from helios_core.bus.base import Commit, Lag, Partition, Received, Record, Topic, first_of, in_order_of_time
from helios_core.bus.memory import MemoryBus
from helios_core.clock import EventClock
from helios_core.model import Event, EventRecord, Level, Signal, agent_service
from helios_core.records import events_record, slice_record
from helios_core.service import IDLE_AFTER_US, Context
from helios_core.windows import WindowDelta
from helios_detector.agents import lost
from helios_detector.service import GROUP, DetectorService, Outcome
from helios_detector.watermarks import Agent

S = 1_000_000
T0 = 1_772_409_600  # seconds: midnight
FIRED, RAISED, RESOLVED = AlertState.FIRED, AlertState.RAISED, AlertState.RESOLVED
PARTITIONS = 3
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)  # each example is a run of the detector: too slow to shrink
A, B = b"a" * 16, b"b" * 16


def us(second: float) -> int:
    return round((T0 + second) * S)


class Killed(Exception):
    """The end of the process."""


@dataclass
class Step:
    """What has arrived by a second after T0, and what to look at when it was taken."""

    second: float
    records: Sequence[Record] = ()
    then: Callable[[], None] | None = None


@dataclass
class Site:
    """A bus of several partitions whose reader is driven by hand: each poll brings the next step.

    Attributes:
        departures: how often the reader's partitions were another's meanwhile.
        kills: at which operation (poll, publish, commit: counted over all runs) the process ends.
        order: shuffles partitions within a poll; the order of each is kept.
    """

    steps: list[Step]
    kills: Mapping[int, str] = field(default_factory=dict)
    order: random.Random | None = None
    clock: EventClock = field(default_factory=EventClock)
    drain: asyncio.Event = field(default_factory=asyncio.Event)
    logs: dict[Partition, list[Received]] = field(default_factory=dict)
    commits: dict[Partition, Commit] = field(default_factory=dict)
    published: list[Alert] = field(default_factory=list)
    operations: int = 0
    taken: int = 0
    dies_every: int = 0  # steps, when all of one was taken and committed
    deaths: int = 0
    departures: int = 0

    def reached(self, name: str) -> None:
        """Ends the process when it is told to, before the operation or after it."""
        if name.removeprefix("after ") == name:
            self.operations += 1
        if self.kills.get(self.operations) == name:
            raise Killed(name)

    def put(self, records: Iterable[Record]) -> None:
        for record in records:
            partition = Partition(record.topic, crc32(record.key.encode()) % PARTITIONS)
            log = self.logs.setdefault(partition, [])
            log.append(
                Received(partition, len(log), self.clock.now_us(), record.key, record.value, dict(record.headers))
            )

    async def publish(self, records: Sequence[Record]) -> None:
        self.reached("publish")
        assert {record.topic for record in records} == {Topic.ANOMALY_ALERTS}
        self.published += [Alert.from_bytes(record.value) for record in records]
        self.put(records)
        self.reached("after publish")

    async def subscribe(self, group: str, topics: Sequence[Topic], *, at_end: bool = False) -> Reader:
        assert group == GROUP
        assert set(topics) == {Topic.WINDOWS, Topic.EVENTS, Topic.ANOMALY_ALERTS}
        return Reader(self)

    async def close(self) -> None:
        return None


class Reader:
    """The detector's member of the group on a `Site`."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._next: dict[Partition, int] = {p: commit.next_offset for p, commit in site.commits.items()}

    def _unread(self) -> dict[Partition, int]:
        found = {p: len(log) - self._next.get(p, 0) for p, log in self._site.logs.items()}
        return {p: count for p, count in found.items() if count}

    async def poll(self, *, max_records: int, timeout_s: float) -> list[Received]:
        site = self._site
        site.reached("poll")
        if not self._unread():
            before = site.steps[site.taken - 1] if site.taken else None
            if before is not None and before.then is not None:
                check, before.then = before.then, None
                check()
            if site.dies_every and site.taken == site.dies_every * (site.deaths + 1) < len(site.steps):
                site.deaths += 1
                raise Killed("poll")
            if site.taken == len(site.steps):
                site.drain.set()
                return []
            step = site.steps[site.taken]
            site.taken += 1
            site.clock.advance_to(us(step.second))
            site.put(step.records)
        unread = (site.logs[p][self._next.get(p, 0) :] for p in self._unread())
        found = first_of(in_order_of_time(unread), max_records)
        for record in found:
            self._next[record.partition] = record.offset + 1
        if site.order is None:
            return found
        turns = [record.partition for record in found]
        site.order.shuffle(turns)
        queues = {p: iter([record for record in found if record.partition == p]) for p in turns}
        return [next(queues[p]) for p in turns]

    async def commit(self, commits: Mapping[Partition, Commit]) -> None:
        self._site.reached("commit")
        for partition, commit in commits.items():
            assert commit.next_offset >= self._site.commits.get(partition, Commit(0)).next_offset, "it went back"
        self._site.commits.update(commits)
        self._site.reached("after commit")

    async def committed(self) -> Mapping[Partition, Commit]:
        return dict(self._site.commits)

    @property
    def partitions(self) -> frozenset[Partition]:
        return frozenset()

    @property
    def log(self) -> str:
        return ""

    @property
    def departures(self) -> int:
        return self._site.departures

    async def rewind(self) -> None:
        self._next = {}

    async def lag(self) -> Lag:
        return Lag(sum(self._unread().values()), self._site.clock.now_us())

    async def close(self) -> None:
        return None


def context(site: Site, folder: Path) -> Context:
    return Context(
        data_dir=folder,
        clock=site.clock,
        bus=site,
        store=None,  # type: ignore[arg-type]  # the detector does not use it
        collector=asyncio.get_running_loop().create_future(),
        drain=site.drain,
        idle_after_us=IDLE_AFTER_US,
    )


async def ran(site: Site, folder: Path) -> Outcome:
    """Until all steps are done; a new process after each kill."""
    site.clock.advance_to(us(site.steps[0].second))
    while True:
        try:
            async with asyncio.timeout(60):
                return await DetectorService(context(site, folder)).run()
        except Killed:
            continue


class Sender:
    """An agent: its slices in sequence."""

    def __init__(self, agent: bytes = A, host: str = "h1", incarnation: int = 1) -> None:
        self._agent, self._host, self._incarnation, self._sequence = agent, host, incarnation, 0

    def send(
        self,
        watermark_s: float | None,
        *deltas: WindowDelta,
        service: str = "web",
        history: bool = False,
        closing: bool = False,
        again: bool = False,
    ) -> Record:
        """One batch of one slice; `again` under the identity of the one before."""
        self._sequence += not again
        for delta in deltas:
            delta.host, delta.service = self._host, service
        part = Slice(
            service,
            0 if watermark_s is None else us(watermark_s),
            history=history,
            closing=closing,
            deltas=list(deltas),
        )
        id_ = BatchId(self._agent, self._incarnation, self._sequence)
        return slice_record(id_, service, wire.slice_to_proto(part).SerializeToString(), self._host)

    def batch(self, watermark_s: float, *deltas: WindowDelta, closing: bool = False) -> list[Record]:
        """One batch with the agent's own slice in it, as agents send them."""
        sent = self.send(watermark_s, *deltas, closing=closing)
        return [sent, self.send(watermark_s, service=agent_service(self._host), closing=closing, again=True)]


def delta(second: float, events: int = 100, errors: int = 0, *, seconds: int = 10) -> WindowDelta:
    made = WindowDelta(us(second), "web", "h1", duration_ms=seconds * 1_000)
    made.levels[Level.INFO] = events - errors
    made.levels[Level.ERROR] = errors
    return made


def raw(second: float, count: int = 20, errors: int = 0, *, at: float, seconds: int = 10) -> Record:
    """Events of so many seconds from `second`, received at `at`; the errors are spread evenly."""
    events = [
        Event(
            us(second + seconds * n / count),
            "api",
            Level.ERROR if (n + 1) * errors // count > n * errors // count else Level.INFO,
            "x",
            host="c",
        )
        for n in range(count)
    ]
    return events_record(EventRecord("api", us(at), events))


def stories(alerts: Sequence[Alert], *families: Family) -> list[tuple[str, Family, AlertState]]:
    return [(a.service, a.family, a.state) for a in alerts if not families or a.family in families]


# --- several sources of one service ----------------------------------------------------------------


async def test_the_slower_agent_holds_horizons_back_until_it_is_idle(tmp_path: Path) -> None:
    a, b = Sender(A, "h1"), Sender(B, "h2")
    ends: list[tuple[float, int]] = []
    steps: list[Step] = []
    for second in range(10, 200, 10):
        records = [a.send(second, delta(second - 10))]
        if second <= 100:  # it reads, but has got no further than to 40
            records.append(b.send(min(second, 40), *([delta(second - 10)] if second <= 40 else [])))
        steps.append(Step(second, records))
    site = Site(steps)
    service = DetectorService(context(site, tmp_path))
    for step in steps:
        step.then = lambda at=step.second: ends.append((at, service.status()["decided"]))
    site.clock.advance_to(us(0))
    await service.run()
    decided = dict(ends)
    assert decided[40] == 3  # to 30: 40 less the lateness
    assert decided[100] == 3
    assert decided[120] == 3
    assert decided[130] == 12  # silent for half a minute: to 120
    assert decided[190] == 18


# --- several members of the group ------------------------------------------------------------------


@pytest.mark.parametrize("marked", [True, False])
async def test_what_time_alone_decided_is_known_for_each_partition(tmp_path: Path, marked: bool) -> None:
    """One member had `api` and died at 325. Another had `web`, went on to 350, and is given all."""
    agent = Sender(b"w" * 16, "hw")
    site = Site([Step(352), Step(353), Step(360), Step(400)])
    for second in range(10, 360, 10):
        site.clock.advance_to(us(second))
        site.put([agent.send(second, delta(second - 10), service="web")])
        site.clock.advance_to(us(second + 0.1))
        if second <= 330:
            site.put([raw(second - 10, *((20, 0) if second <= 300 else (400, 360)), at=second)])
    assert len({partition.number for partition in site.logs}) == 2
    for partition, log in site.logs.items():
        until_us = us(350 if partition.topic is Topic.WINDOWS else 325)
        taken = [record for record in log if record.time_us <= until_us]
        site.commits[partition] = Commit(len(taken), str(until_us).encode() if marked else b"")
    await ran(site, tmp_path)
    # Of a release that did not say it, only what came with a record of its own is known to be unsaid.
    assert stories(site.published)[:1] == ([("api", Family.ERRORS, FIRED)] if marked else [])
    assert all(int(commit.metadata) >= us(350) for commit in site.commits.values() if marked)


async def test_partitions_that_were_anothers_meanwhile_are_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def steps() -> list[Step]:
        good = [Step(second, [raw(second - 10, at=second)]) for second in range(10, 310, 10)]
        bad = [Step(second, [raw(second - 10, 400, 360, at=second)]) for second in range(310, 400, 10)]
        return [*good, *bad, Step(402), Step(403), Step(410)]

    whole = Site(steps())
    await ran(whole, tmp_path / "one")
    site = Site(steps())
    polled = Reader.poll

    async def poll(self: Reader, **how: float) -> list[Received]:
        """Another has all, takes and commits what comes from 310 on, and leaves without deciding it."""
        got = await polled(self, **how)  # type: ignore[arg-type]
        if not site.departures and site.steps[site.taken - 1].second == 310:
            for step in site.steps[site.taken : -3]:
                site.taken += 1
                site.clock.advance_to(us(step.second))
                site.put(step.records)
            self._next = {partition: len(log) for partition, log in site.logs.items()}
            site.departures += 1
        return got

    monkeypatch.setattr(Reader, "poll", poll)
    await ran(site, tmp_path / "two")
    assert whole.published
    assert [alert.id for alert in site.published] == [alert.id for alert in whole.published]


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_two_hosts_are_merged_exactly(tmp_path: Path, seed: int) -> None:
    """What two agents say, in any order of arrival, is what one says that sees all of it."""
    shuffle = random.Random(seed)
    one, a, b = Sender(A, "h1"), Sender(A, "h1"), Sender(B, "h2")
    whole: list[Step] = []
    parts: list[Step] = []
    for second in range(10, 900, 10):
        errors = 110 if 200 <= second < 320 else 0
        whole.append(Step(second, [one.send(second, delta(second - 10, 200, errors))]))
        some = shuffle.randrange(10, 90)
        failed = shuffle.randrange(min(errors, some) + 1)
        two = [
            a.send(second, delta(second - 10, 200 - some, errors - failed)),
            b.send(second, delta(second - 10, some, failed)),
        ]
        shuffle.shuffle(two)
        parts.append(Step(second, two))
    first, second_site = Site(whole), Site(parts)
    alone = await ran(first, tmp_path / "one")
    together = await ran(second_site, tmp_path / "two")
    assert {state for *_, state in stories(first.published, Family.ERRORS)} >= {FIRED, RESOLVED}
    assert [(a.id, a.features, a.onset_us, a.severity) for a in first.published] == [
        (a.id, a.features, a.onset_us, a.severity) for a in second_site.published
    ]
    assert together.decided == alone.decided
    assert together.late_events == alone.late_events == 0
    assert second_site.published[0].hosts == ("h1", "h2")


# --- what time alone decides -----------------------------------------------------------------------


async def test_a_service_without_an_agent_is_decided_as_time_passes(tmp_path: Path) -> None:
    """Its last events are bad, and nothing comes after them."""
    steps = [Step(second, [raw(second - 10, at=second)]) for second in range(10, 310, 10)]
    steps += [Step(second, [raw(second - 10, 400, 360, at=second)]) for second in range(310, 330, 10)]
    steps += [Step(330, [raw(320, 400, 360, at=330)])]
    steps += [Step(330 + tick) for tick in (1, 1.5, 2, 3, 4)]
    site = Site(steps)
    outcome = await ran(site, tmp_path)
    (alert,) = site.published
    assert (alert.service, alert.family, alert.state) == ("api", Family.ERRORS, FIRED)
    assert alert.decided_us == us(330)
    assert outcome.decided == 33
    assert outcome.late_events == 0


async def test_nothing_is_decided_twice_however_often_time_is_looked_at(tmp_path: Path) -> None:
    steps = [Step(10, [raw(0, at=10)])] + [Step(10 + tick / 4) for tick in range(1, 200)]
    outcome = await ran(Site(steps), tmp_path)
    assert outcome.decided == 5  # to 50: 59.75 less the lateness


def learned(
    sender: Sender, service: str, hours: float = 3, *, window_s: int = 60, closing: bool = True
) -> list[Record]:
    """History until T0: 200 events a minute, sent in one slice."""
    first = -round(hours * 3_600)
    deltas = [delta(second, 200 * window_s // 60, seconds=window_s) for second in range(first, 0, window_s)]
    return [sender.send(2, *deltas, service=service, history=True, closing=closing)]


async def test_silence_of_a_service_without_an_agent_alerts(tmp_path: Path) -> None:
    steps = [Step(3, learned(Sender(), "api"))]
    steps += [Step(second, [raw(second - 10, 34, at=second)]) for second in range(10, 610, 10)]
    steps += [Step(second) for second in range(610, 800, 10)]
    site = Site(steps)
    await ran(site, tmp_path)
    assert stories(site.published) == [("api", Family.VOLUME, FIRED)]
    (alert,) = site.published
    assert {finding.detector for finding in alert.findings} >= {"silence"}
    assert us(660) <= alert.decided_us <= us(690)
    assert alert.onset_us == us(600)


async def test_raw_events_after_history_are_live(tmp_path: Path) -> None:
    """`helios learn`, then events over HTTP: they alert."""
    steps = [Step(3, learned(Sender(), "api"))]
    steps += [Step(s, [raw(s - 10, 34, 30 if s > 400 else 0, at=s)]) for s in range(10, 610, 10)]
    site = Site(steps)
    await ran(site, tmp_path)
    assert ("api", Family.ERRORS, FIRED) in stories(site.published)


async def test_the_past_of_one_host_does_not_hide_what_is_live_on_another(tmp_path: Path) -> None:
    """A host is added to a service, and its old logs are read first: what is live may wait, and is decided then."""
    live, old = Sender(A, "h1"), Sender(B, "h2")
    steps = []
    for s in range(10, 610, 10):
        records = [live.send(s, delta(s - 10, 100, 90 if 20 < s <= 100 else 0))]
        if s <= 400:
            records.append(old.send(s - 86_400, delta(s - 86_410), history=True, closing=s == 400))
        steps.append(Step(s, records))
    site = Site(steps)
    await ran(site, tmp_path)
    assert ("web", Family.ERRORS, FIRED) in stories(site.published)


async def test_silence_of_a_live_agents_service_alerts(tmp_path: Path) -> None:
    """The agent is alive and caught up: it says so, and has nothing to say."""
    agent = Sender()
    steps = [Step(3, learned(agent, "web", closing=False))]
    steps += [Step(s, [agent.send(s, *([delta(s - 10, 34)] if s <= 600 else []))]) for s in range(10, 800, 10)]
    site = Site(steps)
    await ran(site, tmp_path)
    assert stories(site.published) == [("web", Family.VOLUME, FIRED)]


# --- agents that are not heard of ------------------------------------------------------------------


async def test_a_lost_agent_is_said_once_and_is_found_again(tmp_path: Path) -> None:
    agent = Sender()
    steps = [Step(s, agent.batch(s, delta(s - 10))) for s in range(10, 110, 10)]
    steps += [Step(s) for s in range(101, 400)]
    steps += [Step(s, agent.batch(s, delta(s - 10))) for s in range(400, 500, 10)]
    site = Site(steps)
    await ran(site, tmp_path)
    fired, resolved = site.published
    assert [a.state for a in (fired, resolved)] == [FIRED, RESOLVED]
    assert fired.family is resolved.family is Family.AGENT
    assert fired.episode == resolved.episode == fired.id
    assert fired.service == resolved.service == "helios-agent@h1"
    assert fired.onset_us == us(100)
    assert resolved.decided_us == us(400)
    assert fired.hosts == ("h1",)


async def test_the_services_of_a_lost_agent_are_not_called_silent(tmp_path: Path) -> None:
    """Silence is an alert only when the service's agents are alive; otherwise it is the agent that is lost."""
    agent = Sender()
    steps = [Step(3, learned(agent, "web", closing=False))]
    steps += [Step(s, agent.batch(s, delta(s - 10, 34))) for s in range(10, 610, 10)]
    steps += [Step(s) for s in range(610, 1_200, 10)]
    site = Site(steps)
    await ran(site, tmp_path)
    assert stories(site.published) == [("helios-agent@h1", Family.AGENT, FIRED)]


@pytest.mark.parametrize("spans", ["all the time", "once, long ago"])
async def test_a_service_of_a_lost_agent_that_also_has_raw_events_is_not_called_silent(
    tmp_path: Path, spans: str
) -> None:
    """Its logs come from the agent, its spans over OTLP or HTTP: that the logs end is the agent's loss."""
    agent = Sender()

    def span(second: int) -> Record:
        events = [Event(us(second - 9 + n), "web", Level.INFO, "x", 20_000, signal=Signal.SPAN) for n in range(5)]
        return events_record(EventRecord("web", us(second), events))

    steps = [Step(3, learned(agent, "web", closing=False))]
    for s in range(10, 1_200, 10):
        records = agent.batch(s, delta(s - 10, 34)) if s <= 600 else []
        if spans == "all the time" or s == 100:
            records.append(span(s))
        steps.append(Step(s, records))
    site = Site(steps)
    await ran(site, tmp_path)
    assert stories(site.published) == [("helios-agent@h1", Family.AGENT, FIRED)]


async def test_an_agent_that_ended_in_good_order_is_not_lost(tmp_path: Path) -> None:
    agent = Sender()
    steps = [
        Step(s, [agent.send(s, delta(s - 10), service=name, closing=s == 100) for name in ("web", "api", "cart")])
        for s in range(10, 110, 10)
    ]
    steps += [Step(s) for s in range(110, 400, 10)]
    site = Site(steps)
    outcome = await ran(site, tmp_path)
    assert site.published == []
    assert outcome.decided == 3 * 9


async def test_no_agent_is_lost_because_the_detector_was_down(tmp_path: Path) -> None:
    agent = Sender()
    before = [Step(s, agent.batch(s, delta(s - 10))) for s in range(10, 60, 10)]
    site = Site(before)
    await ran(site, tmp_path)
    site.steps += [Step(1_000 + s, agent.batch(50) if s > 40 else []) for s in range(0, 50, 10)]
    site.drain.clear()
    site.clock.advance_to(us(1_000))
    await ran(site, tmp_path)
    assert [a for a in site.published if a.state is not RESOLVED] == []


async def test_an_agent_that_was_lost_before_a_restart_is_found_after_it(tmp_path: Path) -> None:
    agent = Sender()
    site = Site([Step(10, agent.batch(10, delta(0))), *[Step(s) for s in range(20, 120, 10)]])
    await ran(site, tmp_path)
    (lost,) = site.published
    site.steps += [Step(200), Step(210, agent.batch(205, delta(200))), Step(220)]
    site.drain.clear()
    site.clock.advance_to(us(200))
    await ran(site, tmp_path)
    resolved = [a for a in site.published if a.state is RESOLVED]
    assert [(a.episode, a.family) for a in resolved] == [(lost.episode, Family.AGENT)]


@pytest.mark.parametrize("said_s", [70, 71.5, 85, 300])
async def test_what_another_detector_said_of_an_agent_is_ended_and_not_said_again(
    tmp_path: Path, said_s: float
) -> None:
    """It had heard of the agent last at another time: its clock was wrong, or it had not read the newest slice."""
    agent, host = Sender(), agent_service("h1")
    other = lost(Agent(A, "h1", us(said_s - 60), lost_us=us(said_s - 60), services={"web": None}))
    steps = [Step(s, agent.batch(s, delta(s - 10))) for s in range(10, 110, 10)]
    steps.append(Step(301, [Record(Topic.ANOMALY_ALERTS, host, other.to_bytes())]))
    steps += [Step(s) for s in range(302, 400)]
    steps += [Step(s, agent.batch(s, delta(s - 10))) for s in range(400, 500, 10)]
    site = Site([*(Step(s) for s in range(5, 9)), *steps])
    await ran(site, tmp_path)
    found = [a for a in site.published if a.episode == other.episode]
    assert [(a.state, a.decided_us) for a in found] == [(RESOLVED, us(400))]
    assert {a.episode for a in site.published if a.state is FIRED} == {
        a.episode for a in site.published if a.state is RESOLVED and a is not found[0]
    }


async def test_that_an_agent_is_lost_is_not_said_while_another_loss_of_it_is_open(tmp_path: Path) -> None:
    agent, host = Sender(), agent_service("h1")
    other = lost(Agent(A, "h1", us(40), lost_us=us(40), services={"web": None}))
    steps = [Step(s, agent.batch(s, delta(s - 10))) for s in range(10, 60, 10)]
    steps.append(Step(101, [Record(Topic.ANOMALY_ALERTS, host, other.to_bytes())]))
    steps += [Step(s) for s in range(102, 400)]
    steps += [Step(s, agent.batch(s, delta(s - 10))) for s in range(400, 450, 10)]
    site = Site(steps)
    await ran(site, tmp_path)
    assert [(a.state, a.episode) for a in site.published] == [(RESOLVED, other.episode)]


async def test_the_end_of_what_nobody_said_is_not_said(tmp_path: Path) -> None:
    """The detector was down while the agent was away."""
    agent = Sender()
    site = Site([Step(s, agent.batch(s, delta(s - 10))) for s in range(10, 60, 10)])
    await ran(site, tmp_path)
    site.steps += [Step(1_000, agent.batch(1_000, delta(990))), Step(1_001), Step(1_010, agent.batch(1_010))]
    site.drain.clear()
    await ran(site, tmp_path)
    assert site.published == []


async def test_a_loss_of_which_nothing_else_is_known_any_more_is_given_up_after_a_day(tmp_path: Path) -> None:
    """The bus keeps the loss, and no slice of the agent."""
    gone, agent = lost(Agent(A, "h1", us(40), lost_us=us(40), services={"web": None})), Sender(B, "h2")
    steps = [Step(100, [Record(Topic.ANOMALY_ALERTS, agent_service("h1"), gone.to_bytes())])]
    steps += [Step(s, agent.batch(s)) for first in (100, 86_400) for s in range(first + 10, first + 100, 10)]
    site = Site(steps)
    await ran(site, tmp_path)
    ends = [a for a in site.published if a.episode == gone.episode]
    assert [(a.state, a.decided_us) for a in ends] == [(RESOLVED, us(86_440))]


@pytest.mark.parametrize("closing", [False, True])
async def test_an_agent_that_returns_before_its_loss_is_on_the_bus_is_found_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, closing: bool
) -> None:
    """Its slice stands before the loss there; if it was the last one the loss ends after a day."""
    agent = Sender()
    steps = [Step(s, agent.batch(s, delta(s - 10))) for s in range(10, 110, 10)]
    steps += [Step(s) for s in (*range(101, 161), 162, 163)]
    steps += [] if closing else [Step(170, agent.batch(170)), Step(180, agent.batch(180))]
    site = Site([*steps, *(Step(s) for s in range(86_480, 86_520))])
    publish = Site.publish
    slipped = False

    async def late(self: Site, records: Sequence[Record]) -> None:
        nonlocal slipped
        if slipped:
            await publish(self, records)
            return
        slipped = True
        self.put(agent.batch(160, closing=closing))
        self.clock.advance_to(self.clock.now_us() + 100_000)
        await publish(self, records)
        if closing:
            raise Killed("before it reads the slice")

    monkeypatch.setattr(Site, "publish", late)
    await ran(site, tmp_path)
    assert [(a.family, a.state) for a in site.published] == [(Family.AGENT, FIRED), (Family.AGENT, RESOLVED)]


async def test_a_first_start_that_reads_alerts_publishes_none_of_the_past_again(tmp_path: Path) -> None:
    """The release before did not read them, so that none of them is committed."""
    steps = [Step(3, learned(Sender(), "api"))]
    steps += [Step(second, [raw(second - 10, 34, at=second)]) for second in range(10, 610, 10)]
    site = Site([*steps, *(Step(second) for second in range(610, 900, 5))])
    await ran(site, tmp_path)
    said = list(site.published)
    assert said
    site.commits = {p: commit for p, commit in site.commits.items() if p.topic is not Topic.ANOMALY_ALERTS}
    site.drain.clear()
    await ran(site, tmp_path)
    assert site.published == said


class NoClock:
    """Of a machine whose clock nobody should look at."""

    def now_us(self) -> int:
        raise AssertionError("the detector looked at the clock of its machine")


async def test_what_the_clock_of_its_machine_says_changes_nothing(tmp_path: Path, expected: list[Alert]) -> None:
    site = Site(eventful())
    site.clock.advance_to(us(site.steps[0].second))
    await DetectorService(replace(context(site, tmp_path), clock=NoClock())).run()
    assert by_id(site.published) == by_id(expected)


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_lost_agent_that_is_given_up_after_a_day_is_over(tmp_path: Path, restarts: bool) -> None:
    """Also when the detector was restarted late: else its incident would never end."""
    agent = Sender()
    site = Site([Step(10, agent.batch(10, delta(0))), *[Step(s) for s in range(20, 120, 10)]])
    later = [Step(86_400 + s) for s in range(20, 160, 10)]
    if not restarts:
        site.steps += later
    await ran(site, tmp_path)
    if restarts:
        site.steps += later
        site.drain.clear()
        site.clock.advance_to(us(86_420))
        await ran(site, tmp_path)
    lost = [a for a in site.published if a.state is FIRED]
    assert len({a.id for a in lost}) == 1
    assert [a.episode for a in site.published if a.state is RESOLVED] == [lost[0].id]


# --- restarts --------------------------------------------------------------------------------------


def eventful() -> list[Step]:
    """Errors on a service of two agents, and on one without; an agent is idle for a while, but not lost."""
    a, b = Sender(A, "h1"), Sender(B, "h2")
    steps = []
    for s in range(20, 1_220, 20):
        bad = 80 if 120 < s <= 240 else 0
        records = [a.send(s, delta(s - 20, 100, bad), delta(s - 10, 100, bad))]
        if s != 400:  # not heard of for forty seconds
            records.append(b.send(s, delta(s - 20, 50), delta(s - 10, 50)))
        bad = 40 if 300 < s <= 420 else 0
        records.append(raw(s - 20, 100, 2 * bad, at=s, seconds=20))
        steps.append(Step(s, records))
    return steps


OPERATIONS = ("poll", "publish", "after publish", "commit", "after commit")


async def undisturbed() -> list[Alert]:
    with tempfile.TemporaryDirectory() as folder:
        site = Site(eventful())
        await ran(site, Path(folder))
    told = [story for story in stories(site.published) if story[2] is not RAISED]
    assert Counter(told) == {(name, Family.ERRORS, state): 1 for name in ("web", "api") for state in (FIRED, RESOLVED)}
    return site.published


@pytest.fixture(scope="module")
def expected() -> list[Alert]:
    """What it says when nothing disturbs it."""
    return asyncio.run(undisturbed())


def by_id(alerts: Sequence[Alert]) -> dict[str, Alert]:
    """Each once; what came again is what came before."""
    found: dict[str, Alert] = {}
    for alert in alerts:
        assert found.setdefault(alert.id, alert) == alert
    return found


@pytest.mark.parametrize("k", [3, 20])
async def test_killed_at_every_kth_poll_it_says_the_same_and_nothing_twice(
    tmp_path: Path, expected: list[Alert], k: int
) -> None:
    """All that was taken before is committed: nothing is said again."""
    site = Site(eventful(), dies_every=k)
    await ran(site, tmp_path)
    assert site.deaths == (len(site.steps) - 1) // k
    assert len(site.published) == len(expected)
    assert by_id(site.published) == by_id(expected)


@settings(max_examples=examples(8), deadline=None, phases=PHASES)
@given(st.dictionaries(st.integers(1, 130), st.sampled_from(OPERATIONS), max_size=8))
def test_killed_at_any_step_it_says_the_same(expected: list[Alert], kills: dict[int, str]) -> None:
    """What was published and not committed may come again, with the same id and content."""

    async def run() -> None:
        site = Site(eventful(), kills=kills)
        with tempfile.TemporaryDirectory() as folder:
            await ran(site, Path(folder))
        assert by_id(site.published) == by_id(expected)

    asyncio.run(run())


async def test_a_restart_reads_all_that_it_finds_before_it_looks_at_the_clock(tmp_path: Path) -> None:
    """More records than one poll takes: none of them is late because it was read after a restart."""
    agent = Sender()
    steps = [
        Step(s, [raw(s - 10, 20, 18 if s > 2_300 else 0, at=s), agent.send(s, delta(s - 10))])
        for s in range(10, 2_510, 10)
    ]
    expected = Site(steps)
    outcome = await ran(expected, tmp_path / "one")
    assert outcome.late_events == 0
    assert ("api", Family.ERRORS, FIRED) in stories(expected.published)
    again = Site([Step(2_510)], logs=expected.logs)
    outcome = await ran(again, tmp_path / "two")
    assert outcome.late_events == 0
    assert by_id(again.published) == by_id(expected.published)


async def test_what_was_late_before_a_restart_is_late_after_it(tmp_path: Path) -> None:
    """Errors came too late to be decided on: after a restart they are no open alert that holds back the next."""
    steps = []
    for s in range(10, 110, 10):
        steps += [Step(s, [raw(s - 10, 20, at=s)]), Step(s + 2.5)]
        if s > 50:
            steps.append(Step(s + 3, [raw(s - 10, 80, 80, at=s + 3)]))
    outage = [Step(s, [raw(s - 10, 100, 90, at=s)]) for s in range(410, 510, 10)]
    quiet = [Step(s, [raw(s - 10, 20, at=s)]) for s in range(110, 410, 10)]
    one = Site([*steps, *quiet, *outage])
    await ran(one, tmp_path / "one")
    assert stories(one.published)[:1] == [("api", Family.ERRORS, FIRED)]
    other = Site([*steps, *quiet])
    await ran(other, tmp_path / "two")
    other.steps += outage
    other.drain.clear()
    await ran(other, tmp_path / "two")
    assert by_id(other.published) == by_id(one.published)


# --- what the bus does -----------------------------------------------------------------------------


@settings(max_examples=examples(6), deadline=None, phases=PHASES)
@given(st.integers(0, 10**6), st.booleans())
def test_the_order_of_partitions_changes_nothing(expected: list[Alert], seed: int, restarts: bool) -> None:
    async def run() -> None:
        site = Site(eventful(), order=random.Random(seed), dies_every=9 if restarts else 0)
        with tempfile.TemporaryDirectory() as folder:
            await ran(site, Path(folder))
        assert len(site.published) == len(expected)
        assert by_id(site.published) == by_id(expected)

    asyncio.run(run())


async def test_a_slice_that_comes_twice_counts_once(tmp_path: Path) -> None:
    """Republished by a collector that did not see its answer: another offset, the same identity."""
    agent = Sender()
    once = [Step(s, [agent.send(s, delta(s - 10, 100, 80 if s > 310 else 0))]) for s in range(10, 410, 10)]
    twice = [Step(step.second, [*step.records, *step.records]) for step in once]
    first, second = Site(once), Site(twice)
    await ran(first, tmp_path / "one")
    await ran(second, tmp_path / "two")
    assert first.published
    assert by_id(second.published) == by_id(first.published)
    assert len(second.published) == len(first.published)


async def test_a_slice_in_conflict_with_one_before_changes_nothing(tmp_path: Path) -> None:
    agent = Sender()
    steps = []
    for s in range(10, 410, 10):
        good = agent.send(s, delta(s - 10, 100))
        steps.append(Step(s, [good, agent.send(s + 5_000, delta(s - 10, 500, 500), again=True)]))
    site = Site(steps)
    outcome = await ran(site, tmp_path)
    assert site.published == []
    assert outcome.decided == 39
    assert outcome.late_events == 0


IDENTITY = {"agent": "aa" * 16, "incarnation": "1", "sequence": "1", "hash": "00"}
BAD = {
    "no slice": Record(Topic.WINDOWS, "web", b"\xff\xff\xff", IDENTITY),
    "no identity": Record(Topic.WINDOWS, "web", b""),
    "a sequence that is no number": Record(Topic.WINDOWS, "web", b"", IDENTITY | {"sequence": "x"}),
    "no service": Record(Topic.WINDOWS, "web", b"", IDENTITY),
    "no events": Record(Topic.EVENTS, "api", b"\xff\xff\xff"),
    "events without a service": Record(Topic.EVENTS, "api", b""),
}


@pytest.mark.parametrize("kind", BAD)
async def test_a_record_that_is_nothing_is_skipped_and_the_good_beside_it_are_taken(tmp_path: Path, kind: str) -> None:
    agent = Sender()
    steps = []
    for s in range(10, 410, 10):
        errors = 80 if s > 310 else 0
        good = [agent.send(s, delta(s - 10, 100, errors)), raw(s - 10, 100, errors, at=s)]
        steps.append(Step(s, [good[0], BAD[kind], good[1], BAD[kind]]))
    site = Site(steps)
    await ran(site, tmp_path)
    assert {(a.service, a.state) for a in site.published if a.family is Family.ERRORS} >= {
        ("web", FIRED),
        ("api", FIRED),
    }
    assert all(commit.next_offset == len(site.logs[partition]) for partition, commit in site.commits.items())


async def test_samples_that_an_agent_counted_are_not_counted_again(tmp_path: Path) -> None:
    agent = Sender()
    steps = []
    for s in range(10, 410, 10):
        events = [Event(us(s - 5), "web", Level.ERROR, "x", counted=True) for _ in range(100)]
        record = events_record(EventRecord("web", us(s), events))
        steps.append(Step(s, [agent.send(s, delta(s - 10, 20)), record]))
    site = Site(steps)
    outcome = await ran(site, tmp_path)
    assert site.published == []
    assert outcome.late_events == 0


async def test_over_the_bus_in_memory_it_ends_when_it_is_told_to(tmp_path: Path) -> None:
    clock = EventClock(us(0))
    bus = MemoryBus(clock)
    agent = Sender()
    for s in range(10, 610, 10):
        clock.advance_to(us(s))
        await bus.publish([agent.send(s, delta(s - 10, 100, 80 if s > 400 else 0))])
    drain = asyncio.Event()
    made = Context(
        data_dir=tmp_path,
        clock=clock,
        bus=bus,
        store=None,  # type: ignore[arg-type]
        collector=asyncio.get_running_loop().create_future(),
        drain=drain,
        idle_after_us=IDLE_AFTER_US,
    )
    service = DetectorService(made)
    running = asyncio.create_task(service.run())
    alerts = await bus.subscribe("test", [Topic.ANOMALY_ALERTS])
    (record, *_) = await alerts.poll(max_records=10, timeout_s=10)
    alert = Alert.from_bytes(record.value)
    assert (alert.family, alert.state) == (Family.ERRORS, FIRED)
    assert record.key == "web"
    drain.set()
    outcome = await asyncio.wait_for(running, 10)
    assert made.status()["detector"]["decided"] == outcome.decided == 59
    text = made.metrics.get_sample_value
    assert text("helios_anomalies_detected_total", {"family": "errors", "severity": alert.severity.value}) == 1.0
    assert text("helios_detection_events_processed_total") == 6_000.0
