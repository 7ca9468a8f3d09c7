"""A receiver's clock that is set: who is heard of stays alive, who is not is lost, and nothing is decided twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from helios_agent.parsers.base import Parser, ParserContext
from helios_agent.parsers.json_lines import JsonLines
from helios_agent.reduction import Reduction
from helios_core import wire
from helios_core.alerts import Alert, AlertState, Family
from helios_core.batches import BatchId, Slice
from helios_core.bus.base import Bus, Commit, Lag, Partition, Received, Record, Topic
from helios_core.bus.embedded import EmbeddedBus
from helios_core.bus.memory import MemoryBus
from helios_core.model import Event, EventRecord, Level, agent_service
from helios_core.records import events_record, slice_record
from helios_core.service import IDLE_AFTER_US, Context
from helios_core.windows import WindowDelta
from helios_detector.engine import Engine
from helios_detector.service import DetectorService
from helios_detector.watermarks import Watermarks

S = 1_000_000
T0 = 1_772_409_600  # seconds: midnight
A, B = b"a" * 16, b"b" * 16


def us(second: float) -> int:
    return round((T0 + second) * S)


class SetClock:
    """A machine's clock that somebody sets."""

    def __init__(self, second: float = 0) -> None:
        self.second = second

    def now_us(self) -> int:
        return us(self.second)


@dataclass
class Step:
    """What the clock says at a poll, and what was taken: each record at a time of its own, or at that of the poll."""

    second: float
    records: Sequence[Record | tuple[float, Record]] = ()


@dataclass
class Script:
    """A bus whose reader is told what each poll brings; it is its own consumer."""

    steps: list[Step]
    clock: SetClock = field(default_factory=SetClock)
    drain: asyncio.Event = field(default_factory=asyncio.Event)
    offsets: dict[Partition, int] = field(default_factory=dict)
    published: list[Alert] = field(default_factory=list)
    lags: list[int] = field(default_factory=list)  # of the first polls; none later

    async def subscribe(self, group: str, topics: Sequence[Topic], *, at_end: bool = False) -> Script:
        return self

    async def publish(self, records: Sequence[Record]) -> None:
        self.published += [Alert.from_bytes(record.value) for record in records]

    async def poll(self, *, max_records: int, timeout_s: float) -> list[Received]:
        if not self.steps:
            self.drain.set()
            return []
        step = self.steps.pop(0)
        self.clock.second = step.second
        received = []
        for entry in step.records:
            second, record = entry if isinstance(entry, tuple) else (step.second, entry)
            partition = Partition(record.topic, 0)
            offset = self.offsets[partition] = self.offsets.get(partition, -1) + 1
            received.append(Received(partition, offset, us(second), record.key, record.value, dict(record.headers)))
        return received

    async def commit(self, commits: Mapping[Partition, Commit]) -> None:
        return None

    async def committed(self) -> Mapping[Partition, Commit]:
        return {}

    @property
    def partitions(self) -> frozenset[Partition]:
        return frozenset()

    @property
    def log(self) -> str:
        return ""

    @property
    def departures(self) -> int:
        return 0

    async def rewind(self) -> None:
        return None

    async def lag(self) -> Lag:
        return Lag(self.lags.pop(0) if self.lags else 0, self.clock.now_us())

    async def close(self) -> None:
        return None


class Agent:
    """Its slices in sequence, each with one window of a hundred events; its own clock is right."""

    def __init__(self, id_: bytes = A, host: str = "h1") -> None:
        self._id, self._host, self._sequence = id_, host, 0

    def send(self, watermark_s: float) -> Record:
        self._sequence += 1
        delta = WindowDelta(us(watermark_s // 10 * 10 - 10), "web", self._host)
        delta.levels[Level.INFO] = 100
        data = wire.slice_to_proto(Slice("web", us(watermark_s), deltas=[delta])).SerializeToString()
        return slice_record(BatchId(self._id, 1, self._sequence), "web", data, self._host)

    def batch(self, watermark_s: float) -> list[Record]:
        """The same with the agent's own slice."""
        sent = self.send(watermark_s)
        own = agent_service(self._host)
        data = wire.slice_to_proto(Slice(own, us(watermark_s))).SerializeToString()
        return [sent, slice_record(BatchId(self._id, 1, self._sequence), own, data, self._host)]


def raw(second: float, *, at: float, count: int = 20) -> Record:
    events = [Event(us(second), "api", Level.INFO, "x", host="c") for _ in range(count)]
    return events_record(EventRecord("api", us(at), events))


async def ran(script: Script, folder: Path) -> DetectorService:
    script.clock.second = script.steps[0].second
    context = Context(
        data_dir=folder,
        clock=script.clock,
        bus=script,
        store=None,  # type: ignore[arg-type]  # the detector does not use it
        collector=asyncio.get_running_loop().create_future(),
        drain=script.drain,
        idle_after_us=IDLE_AFTER_US,
    )
    service = DetectorService(context)
    await service.run()
    return service


async def logged(script: Script, folder: Path) -> tuple[DetectorService, list[str]]:
    """The detector, and the warnings about the clock."""
    with capture_logs() as logs:
        service = await ran(script, folder)
    return service, [entry["event"] for entry in logs if entry["event"].startswith("clock_stepped")]


# --- back ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("back_s", [30, 300, 3_600, 90_000])
async def test_an_agent_that_ends_is_lost_a_minute_after_the_clock_was_set_back(tmp_path: Path, back_s: int) -> None:
    agent = Agent()
    steps = [Step(s, agent.batch(s)) for s in range(10, 110, 10)]
    steps += [Step(100 - back_s + s) for s in range(1, 59)]
    script = Script([*steps])
    _, warned = await logged(script, tmp_path / "one")
    assert (script.published, warned) == ([], ["clock_stepped_back"])
    agent = Agent()
    steps = [Step(s, agent.batch(s)) for s in range(10, 110, 10)]
    steps += [Step(100 - back_s + s) for s in range(1, 80)]
    script = Script([*steps])
    await ran(script, tmp_path / "two")
    (lost,) = script.published
    assert (lost.family, lost.state) == (Family.AGENT, AlertState.FIRED)
    assert us(100 - back_s) <= lost.onset_us <= us(102 - back_s)


@pytest.mark.parametrize("back_s", [30, 300])
async def test_agents_that_go_on_are_neither_lost_nor_held_up(tmp_path: Path, back_s: int) -> None:
    """Their own clocks are right: what they have read is decided as before."""
    agent = Agent()
    steps = [Step(s, [agent.send(s)]) for s in range(10, 110, 10)]
    steps += [Step(s - back_s, [agent.send(s)]) for s in range(110, 610, 10)]
    script = Script(steps)
    service, warned = await logged(script, tmp_path)
    assert script.published == []
    assert warned == ["clock_stepped_back"]
    assert service.engine.decided == 59
    assert service.engine.late_events == 0


async def test_an_agent_that_ends_holds_its_services_back_for_half_a_minute_as_ever(tmp_path: Path) -> None:
    a, b = Agent(A, "h1"), Agent(B, "h2")
    steps = [Step(s, [a.send(s), b.send(s)]) for s in range(10, 110, 10)]
    steps += [Step(s - 300, [a.send(s)]) for s in range(110, 150, 10)]
    service = await ran(Script(steps), tmp_path)
    assert service.engine.decided == 13  # of a's 14 windows the last waits for what may be late


async def test_what_raw_events_have_decided_is_not_decided_again(tmp_path: Path) -> None:
    """Until the old time comes again they are late, counted, and said."""
    steps = [Step(s, [raw(s - 5, at=s)]) for s in range(10, 610, 10)]
    steps += [Step(s, [raw(s - 5, at=s)]) for s in range(500, 710, 10)]
    script = Script(steps)
    ends: list[int] = []
    move = Engine._move

    def moved(self: Engine, state: object) -> int:
        ends.append(move(self, state))  # type: ignore[arg-type]
        return ends[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "_move", moved)
        service, warned = await logged(script, tmp_path)
    assert warned == ["clock_stepped_back"]
    assert script.published == []
    assert ends == [us(s) for s in range(10, 700, 10)]
    metric = service._context.metrics.get_sample_value
    assert metric("helios_detection_events_processed_total") == 81 * 20
    assert metric("helios_late_events_total") == service.status()["late_events"] == 10 * 20


@pytest.mark.parametrize("lags", [[], [1_000] * 100])  # as it happens, and of what it reads after a restart
async def test_records_from_before_and_after_in_one_poll(tmp_path: Path, lags: list[int]) -> None:
    """Neither is an hour without news, nor is what came before taken for what came after."""
    agent = Agent()
    steps = [Step(s, [agent.send(s), raw(s - 5, at=s)]) for s in range(10, 110, 10)]
    mixed = [
        (100.1, agent.send(100.1)), (-259.8, agent.send(100.2)), (100.2, raw(99, at=100.2)),
        (100.3, raw(99, at=100.3)), (-259.7, raw(99, at=-259.7)), (-259.6, raw(99, at=-259.6)),
    ]  # fmt: skip
    steps += [Step(-259.5, mixed), *[Step(s - 360, [agent.send(s)]) for s in range(110, 210, 10)]]
    script = Script(steps, lags=lags)
    service, warned = await logged(script, tmp_path)
    assert warned == ["clock_stepped_back"]
    assert script.published == []
    seen = service._context.metrics.get_sample_value("helios_detection_events_processed_total")
    assert seen == 10 * 120 + 2 * 100 + 4 * 20 + 10 * 100


async def test_a_record_that_was_long_under_way_is_no_step(tmp_path: Path) -> None:
    agent = Agent()
    steps: list[Step] = [Step(s, [(s - 7, agent.send(s - 7))]) for s in range(10, 200)]
    _, warned = await logged(Script(steps), tmp_path)
    assert warned == []


async def test_each_step_is_said_once(tmp_path: Path) -> None:
    steps = [Step(s) for first in (1_000, 700, 400) for s in range(first, first + 20)]
    _, warned = await logged(Script([Step(999, [raw(990, at=999)]), *steps]), tmp_path)
    assert warned == ["clock_stepped_back"] * 2


@pytest.mark.parametrize("kind", ["a clock that was set back", "a record that was long under way"])
async def test_what_it_reads_after_a_time_off_loses_nobody_for_that_time(tmp_path: Path, kind: str) -> None:
    """The bus stood still for ten hours, as the machine did; further back on it time went back once."""
    agent = Agent()
    back_s = 300 if kind == "a clock that was set back" else 0
    steps = [Step(s, agent.batch(s)) for s in range(10, 110, 10)]
    if not back_s:
        steps.append(Step(109.5, [(89.5, raw(85, at=90))]))
    steps += [Step(s - back_s, agent.batch(s)) for s in range(110, 310, 10)]
    ends_s = 300 - back_s + 36_000
    lags = [1_000] * len(steps)
    script = Script([*steps, Step(ends_s), Step(ends_s + 1), Step(ends_s + 2, agent.batch(36_302))], lags=lags)
    await ran(script, tmp_path)
    assert script.published == []


# --- forward ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("forward_s", [90, 7_200, 30 * 86_400])
@pytest.mark.parametrize("first", ["a record", "the clock"])
async def test_while_the_machine_slept_nobody_was_silent(
    tmp_path: Path, forward_s: int, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = Agent()
    steps = [Step(s, [agent.send(s), raw(s - 5, at=s)]) for s in range(10, 610, 10)]
    after = 600 + forward_s
    steps += [Step(after), Step(after + 0.5)] if first == "the clock" else []
    steps += [Step(after + s, [agent.send(600 + s), raw(after + s, at=after + s)]) for s in range(1, 100, 10)]
    script = Script(steps)
    looks: list[int] = []
    waiting: Callable[[Watermarks, int, int], set[str]] = Watermarks.waiting

    def counted(self: Watermarks, now_us: int, since_us: int) -> set[str]:
        looks.append(now_us)
        return waiting(self, now_us, since_us)

    monkeypatch.setattr(Watermarks, "waiting", counted)
    _, warned = await logged(script, tmp_path)
    assert warned == ["clock_stepped_forward"]
    assert script.published == []
    assert len(looks) < 800


async def test_an_agent_that_does_not_come_back_is_lost_a_minute_later(tmp_path: Path) -> None:
    agent = Agent()
    steps = [Step(s, agent.batch(s)) for s in range(10, 110, 10)]
    script = Script([*steps, *[Step(7_300 + s) for s in range(62)]])
    await ran(script, tmp_path)
    (lost,) = script.published
    assert (lost.family, lost.state, lost.onset_us) == (Family.AGENT, AlertState.FIRED, us(100))


@pytest.mark.parametrize("lag", [1, 199])
async def test_an_agent_is_lost_also_where_something_always_comes(tmp_path: Path, lag: int) -> None:
    """There is never a moment at which all that came is read."""
    gone, agent = Agent(A, "h1"), Agent(B, "h2")
    steps = [Step(s, [*gone.batch(s), *agent.batch(s)]) for s in range(10, 110, 10)]
    steps += [Step(100 + s, agent.batch(100 + s)) for s in range(1, 80)]
    script = Script(steps, lags=[lag] * (len(steps) - 1))
    await ran(script, tmp_path)
    (lost,) = script.published
    assert (lost.family, lost.state, lost.onset_us, lost.hosts) == (Family.AGENT, AlertState.FIRED, us(100), ("h1",))


async def test_nobody_is_lost_while_much_is_left_to_read(tmp_path: Path) -> None:
    """It reads what came while it was down, and ends before it has caught up."""
    gone, agent = Agent(A, "h1"), Agent(B, "h2")
    steps = [Step(s, [*gone.batch(s), *agent.batch(s)]) for s in range(10, 110, 10)]
    steps += [Step(100 + s, agent.batch(100 + s)) for s in range(1, 80)]
    script = Script(steps, lags=[1_000] * (len(steps) + 1))
    await ran(script, tmp_path)
    assert script.published == []


# --- what carries events there ---------------------------------------------------------------------

STEPS_S = (100, 100.2, 40, 40.1, 5_000, 4_999, 101)


@pytest.mark.parametrize("kind", ["memory", "embedded"])
async def test_a_bus_gives_every_record_in_order_whatever_its_clock_does(tmp_path: Path, kind: str) -> None:
    clock = SetClock()
    bus: Bus = MemoryBus(clock) if kind == "memory" else EmbeddedBus(tmp_path / "bus.db", clock=clock)
    topics = (Topic.WINDOWS, Topic.EVENTS)
    consumer = await bus.subscribe("test", topics)
    found: list[Received] = []
    for number, second in enumerate(STEPS_S):
        clock.second = second
        await bus.publish([Record(topic, "web", b"%d" % number) for topic in topics])
        if number % 3 == 2:
            found += await consumer.poll(max_records=2, timeout_s=0)
    while received := await consumer.poll(max_records=3, timeout_s=0):
        found += received
    for topic in topics:
        assert [int(one.value) for one in found if one.partition.topic is topic] == list(range(len(STEPS_S)))
    await bus.close()


def test_an_agent_counts_every_line_whatever_its_clock_does() -> None:
    clock = SetClock(100)
    reduction = Reduction("h1", clock, earliest_us=us(-30 * 86_400), latest=clock, window_ms=10_000)
    parser: Parser = JsonLines.make(ParserContext("web", us(100)), [b'{"level": "info", "message": "x"}'])
    events = 0
    for second in STEPS_S:
        clock.second = second
        reduction.add(parser, b'{"level": "info", "message": "x"}\n' * 7, "web")
        deltas, _ = reduction.take()
        events += sum(delta.events for delta in deltas)
    assert events == reduction.counts.lines == reduction.counts.events == 7 * len(STEPS_S)


def test_a_service_that_its_agent_has_no_news_of_is_looked_at_by_the_new_time() -> None:
    watermarks = Watermarks(IDLE_AFTER_US)
    for service in ("web", "api"):
        watermarks.heard(service, A, "h1", us(100), us(100))
    watermarks.received("cart", us(100))
    assert watermarks.step_to(us(-3_600)) == ["cart"]
    watermarks.heard("web", A, "h1", us(120), us(-3_580))
    assert watermarks.waiting(us(-3_570), us(-3_571)) == {"api", "cart"}
    assert watermarks.waiting(us(5), us(4)) & {"cart"} == set()  # raw events that have not come for an hour
