"""The agent, live, in this process: it ends when it is told, waits where it should, and says what it leaves aside."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.unit.agent.metric_sources import Hanging, Told

from helios_agent import live as live_module
from helios_agent import polling
from helios_agent.cut import Cutter
from helios_agent.live import Live
from helios_agent.reduction import Reduction
from helios_agent.settings import AgentSettings, HeliosSettings, Settings, SourceSettings
from helios_agent.sources import MetricSample
from helios_agent.spool import Spool
from helios_agent.status import Status, read_status
from helios_agent.tail import Tail
from helios_agent.tracking import Checkpoint
from helios_core import wire
from helios_core.batches import MAX_SLICE_BYTES, Batch, Slice
from helios_core.clock import EventClock, SystemClock
from helios_core.model import agent_service

HOST = "host-1"
OWN = agent_service(HOST)
LINE = '{"timestamp": "2026-03-02T00:00:00Z", "service": "shop", "level": "INFO", "message": "hello"}\n'


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "_LOOK_EVERY_S", 0.005)
    monkeypatch.setattr(live_module, "_AFTER_WINDOW_US", 0)
    monkeypatch.setattr(live_module, "_DRAIN_S", 0.05)
    monkeypatch.setattr(live_module, "_STATUS_EVERY_S", 0.05)
    monkeypatch.setattr(polling, "_JOIN_S", 0.05)


@pytest.fixture
def nobody() -> Iterator[int]:
    """A port where nobody listens, that nobody else gets."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def settings(folder: Path, *sources: SourceSettings, port: int = 1, **agent: Any) -> Settings:
    return Settings(
        agent=AgentSettings(state_dir=str(folder / "state"), host=HOST, **agent),
        sources=sources,
        helios=HeliosSettings(endpoint=f"http://127.0.0.1:{port}"),
    )


def file_source(*paths: Path) -> SourceSettings:
    return SourceSettings(type="file", config={"paths": [str(path) for path in paths], "service": "shop"})


STDIN = SourceSettings(type="stdin", config={"service": "piped"})


class Running:
    """A `Live` on a thread of its own, with what it has spooled."""

    def __init__(
        self,
        made: Settings,
        folder: Path,
        *sources: Told,
        window_ms: int = 10_000,
        stdin: int = -1,
        interval_s: float = 0.005,
    ) -> None:
        self.spool = Spool(folder / "spool", max_bytes=made.agent.spool_max_bytes)
        cutter = Cutter(b"0123456789abcdef", HOST)
        self.live = Live(made, self.spool, cutter, SystemClock(), window_ms=window_ms, stdin=stdin)
        if sources:
            named = [("told", source) for source in sources]
            self.live.poller = polling.Poller(named, host=HOST, interval_s=interval_s, clock=SystemClock())
            self.live._own = [OWN]

    async def to_its_end(self, *, once: bool = False) -> None:
        await asyncio.wait_for(asyncio.to_thread(self.live.run, once=once), 10)

    async def while_it_runs(self, is_so: Callable[[], object]) -> None:
        """Until it is so; then it is stopped."""
        running = asyncio.create_task(asyncio.to_thread(self.live.run))
        try:
            async with asyncio.timeout(10):
                while not is_so():
                    assert not running.done()
                    await asyncio.sleep(0.002)
        finally:
            self.live.stop()
            await asyncio.wait_for(running, 10)

    def batches(self) -> list[Batch]:
        return [wire.batch_from_bytes(request.batch) for _, request in self.spool.after(None, 10_000)]

    def slices(self, service: str) -> list[Slice]:
        return [part for batch in self.batches() for part in batch.slices if part.service == service]

    def close(self) -> None:
        self.live.close()
        self.spool.close()


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def make(*sources: Told, of: tuple[SourceSettings, ...] = (), **named: Any) -> Running:
        agent = {name: named.pop(name) for name in ("spool_max_bytes", "batch_size") if name in named}
        running.append(Running(settings(tmp_path, *of, **agent), tmp_path, *sources, **named))
        return running[-1]

    yield make
    for one in running:
        one.close()


# ---- the end


async def _stopped(made: Settings, *, once: bool, when: Callable[[], object]) -> Status:
    """The last status of an agent that is stopped when it is so."""
    stop = asyncio.Event()
    running = asyncio.create_task(live_module.run(made, stop, once=once))
    async with asyncio.timeout(10):
        while not when():
            assert not running.done(), running.result()
            await asyncio.sleep(0.005)
        stop.set()
        return await running


def spooled(folder: Path) -> int:
    """The bytes in the spool of an agent that runs."""
    return sum(path.stat().st_size for path in folder.glob("state/spool/*.spool"))


async def test_once_ends_when_told_though_the_collector_is_away(tmp_path: Path, nobody: int) -> None:
    (tmp_path / "a.log").write_text(LINE * 10)
    made = settings(tmp_path, file_source(tmp_path / "a.log"), port=nobody)
    began_s = time.monotonic()
    status = await _stopped(made, once=True, when=lambda: spooled(tmp_path))
    assert time.monotonic() - began_s < 5
    assert (status.lines, status.acknowledged_batches) == (10, 0)
    assert status.spool_batches >= 1
    assert read_status(tmp_path / "state") == status


async def test_once_waits_for_the_collector_until_it_is_told(tmp_path: Path, nobody: int) -> None:
    (tmp_path / "a.log").write_text(LINE)
    stop = asyncio.Event()
    made = settings(tmp_path, file_source(tmp_path / "a.log"), port=nobody)
    running = asyncio.create_task(live_module.run(made, stop, once=True))
    await asyncio.sleep(0.3)
    assert not running.done()
    stop.set()
    assert (await asyncio.wait_for(running, 5)).spool_batches >= 1


async def test_a_running_agent_ends_when_told_though_the_collector_is_away(tmp_path: Path, nobody: int) -> None:
    (tmp_path / "a.log").write_text(LINE)
    made = settings(tmp_path, file_source(tmp_path / "a.log"), port=nobody)
    status = await _stopped(made, once=False, when=(tmp_path / "state" / "status.json").exists)
    assert status.spool_batches >= 1


async def test_what_was_read_and_not_counted_is_read_again(
    made: Callable[..., Running], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.log").write_text(LINE * 10)

    def fails(*words: Any, **named: Any) -> int:
        raise MemoryError

    running = made(of=(file_source(tmp_path / "a.log"),))
    with monkeypatch.context() as patch:
        patch.setattr(Reduction, "add", fails)
        with pytest.raises(MemoryError):
            await running.to_its_end()
    assert not running.spool.offsets
    running.close()
    running = made(of=(file_source(tmp_path / "a.log"),))
    await running.to_its_end(once=True)
    assert running.live.reduction.counts.events == 10


async def test_no_cut_follows_one_that_could_not_be_spooled(
    made: Callable[..., Running], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full until the moment at which the agent is told to end."""
    (tmp_path / "a.log").write_text(LINE * 10)
    running = made(of=(file_source(tmp_path / "a.log"),), window_ms=20)
    append = running.spool.append
    refused: list[int] = []

    def full(*words: Any) -> None:
        if len(refused) == 2:
            return append(*words)
        refused.append(running.live.reduction.counts.lines)
        if len(refused) == 2:
            running.live.stop()
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(running.spool, "append", full)
    monkeypatch.setattr(live_module, "_FULL_DISK_PAUSE_S", 0.001)
    await running.to_its_end()
    assert refused == [10, 10]
    assert not running.spool.offsets
    assert not running.batches()


# ---- clocks


def test_a_clock_that_is_set_lets_no_file_go(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text(LINE)
    clock = EventClock(SystemClock().now_us())
    spool = Spool(tmp_path / "spool")
    live = Live(settings(tmp_path, file_source(log)), spool, Cutter(b"a" * 16, HOST), clock, window_ms=10_000)
    ((_, tail),) = live.tails
    tail.discover()
    while live._turn():
        pass
    log.unlink()
    clock.advance_to(clock.now_us() + 3_600_000_000)
    live._cut()
    assert len(tail.files) == 1
    live.close()
    spool.close()


# ---- windows


@pytest.mark.parametrize("window_ms", [1_000, 10_000])
async def test_a_window_is_as_long_as_it_is_told(made: Callable[..., Running], tmp_path: Path, window_ms: int) -> None:
    minute = time.strftime("%Y-%m-%dT%H:%M", time.gmtime())
    lines = [LINE.replace("2026-03-02T00:00:00", f"{minute}:{second:02}") for second in range(20)]
    (tmp_path / "a.log").write_text("".join(lines))
    running = made(of=(file_source(tmp_path / "a.log"),), window_ms=window_ms)
    await running.to_its_end(once=True)
    deltas = [delta for part in running.slices("shop") for delta in part.deltas]
    assert {delta.duration_ms for delta in deltas} == {window_ms}
    assert len({delta.start_us for delta in deltas}) == 20_000 // window_ms


async def test_it_runs_with_windows_of_ten_seconds_unless_told(
    tmp_path: Path, nobody: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths: list[int] = []

    class Noted(Live):
        def __init__(self, *words: Any, window_ms: int, **named: Any) -> None:
            widths.append(window_ms)
            super().__init__(*words, window_ms=window_ms, **named)

    monkeypatch.setattr(live_module, "Live", Noted)
    await _stopped(settings(tmp_path, port=nobody), once=False, when=lambda: widths)
    stop = asyncio.Event()
    stop.set()
    await live_module.run(settings(tmp_path, port=nobody), stop, window_ms=2_000)
    assert widths == [10_000, 2_000]


# ---- what is open


def spread(path: Path, minutes: int) -> None:
    """Lines that are a minute apart, so that each opens a window: over 8 blocks of them."""
    began_s = int(time.time()) - 7 * 86_400
    times = [time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(began_s + minute * 60)) for minute in range(minutes)]
    path.write_text("".join(LINE.replace("2026-03-02T00:00:00", one) for one in times))


def test_what_is_open_is_bounded_however_many_files_there_are(
    made: Callable[..., Running], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("helios_agent.followed.BLOCK_BYTES", 4_096)
    for name in "abcdef":
        spread(tmp_path / f"{name}.log", 500)
    opened: list[int] = []
    running = made(of=(file_source(*(tmp_path / f"{name}.log" for name in "abcdef")),))
    add = running.live.reduction.add

    def watched(*words: Any) -> int:
        watermark_us = add(*words)
        opened.append(running.live.reduction.open_windows)
        return watermark_us

    monkeypatch.setattr(running.live.reduction, "add", watched)
    asyncio.run(running.to_its_end(once=True))
    assert running.live.reduction.counts.events == 3_000
    assert max(opened) < 400 + 4_096 / len(LINE)


def test_a_spool_that_becomes_full_in_a_turn_pauses_it_and_each_file_has_its_turn(
    made: Callable[..., Running], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("helios_agent.followed.BLOCK_BYTES", 65_536)
    for name in "abcd":
        spread(tmp_path / f"{name}.log", 6_000)
    running = made(of=(file_source(*(tmp_path / f"{name}.log" for name in "abcd")),), spool_max_bytes=1_000)
    live, spool = running.live, running.spool
    for _, tail in live.tails:
        tail.discover()
    for _ in range(8):
        before = live.reduction.counts.lines
        assert live._turn()
        assert not spool.wait_for_room(0)
        assert not live._turn()
        assert live.reduction.counts.lines - before <= 65_536 / len(LINE)
        for key, _ in spool.after(None, 1_000):
            spool.acknowledge(key)
    assert all(file.offset for file in live.files())


async def test_a_cut_within_a_turn_says_nothing_of_what_was_not_looked_at(
    made: Callable[..., Running], tmp_path: Path
) -> None:
    spread(tmp_path / "a.log", 450)
    running = made(of=(file_source(tmp_path / "a.log"),))
    before_us = running.live._looked_us
    for _, tail in running.live.tails:
        tail.discover()
    await asyncio.sleep(0.02)
    running.live._turn()
    (watermark_us,) = {part.watermark_us for part in running.slices("shop") if part.watermark_us}
    assert watermark_us <= before_us
    assert running.live._looked_us > before_us


# ---- standard input


async def test_a_line_that_is_too_long_on_stdin_is_counted(made: Callable[..., Running]) -> None:
    """The counting law, whatever the length; and no pause for each part of the line that comes."""
    descriptor, end = os.pipe()
    good, long = LINE.encode(), b"x" * 3_000_000

    def write() -> None:
        with os.fdopen(end, "wb") as file:
            file.write(good * 3 + long + b"\n" + good * 2 + b"half")

    running = made(of=(STDIN,), stdin=descriptor)
    writing = asyncio.create_task(asyncio.to_thread(write))
    began_s = time.monotonic()
    await running.to_its_end()
    await writing
    os.close(descriptor)
    assert time.monotonic() - began_s < 3
    counts = running.live.reduction.counts
    assert (counts.lines, counts.events, counts.unparsed, dict(counts.dropped)) == (7, 5, 1, {"line_too_long": 1})
    assert counts.bytes == 5 * len(good) + len(long) + 1 + len(b"half")
    assert counts.lines == counts.events + counts.continued + counts.unparsed + counts.dropped.total()


async def test_what_has_not_ended_of_a_line_that_is_too_long_gives_bytes_but_no_reason(
    made: Callable[..., Running], tmp_path: Path
) -> None:
    log = tmp_path / "a.log"
    long = b"x" * 3_000_000
    log.write_bytes(LINE.encode() + long)
    running = made(of=(file_source(log),))
    counts = running.live.reduction.counts
    await running.to_its_end(once=True)
    assert (counts.lines, counts.bytes, dict(counts.dropped)) == (1, len(LINE) + len(long), {})
    with log.open("ab") as file:
        file.write(b"x\n" + LINE.encode())
    await running.to_its_end(once=True)
    assert (counts.lines, counts.events, dict(counts.dropped)) == (3, 2, {"line_too_long": 1})
    assert counts.bytes == log.stat().st_size


# ---- the parser


async def test_a_first_line_of_another_kind_decides_nothing(made: Callable[..., Running], tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("Starting up\n")
    running = made(of=(file_source(log),))
    counts = running.live.reduction.counts
    await running.to_its_end(once=True)
    with log.open("a") as file:
        file.write(LINE * 100)
    await running.to_its_end(once=True)
    assert (counts.lines, counts.events, counts.mended["bad_time"]) == (101, 101, 1)


async def test_a_first_line_of_another_kind_on_stdin_decides_nothing(made: Callable[..., Running]) -> None:
    descriptor, end = os.pipe()
    running = made(of=(STDIN,), stdin=descriptor)
    counts = running.live.reduction.counts
    os.write(end, b"Starting up\n")

    async def write() -> None:
        while not counts.lines:  # noqa: ASYNC110 -- of another thread
            await asyncio.sleep(0.002)
        os.write(end, LINE.encode() * 100 + b"half")
        os.close(end)

    await asyncio.gather(running.to_its_end(), write())
    os.close(descriptor)
    assert (counts.lines, counts.events, counts.unparsed, counts.mended["bad_time"]) == (102, 101, 1, 1)


# ---- directories


def test_a_directory_where_a_file_should_be_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "logs" / "inner").mkdir(parents=True)
    patterns = [f"{tmp_path}/logs", f"{tmp_path}/logs/", f"{tmp_path}/logs/*"]
    tail = Tail(patterns, checkpoints={}, clock=EventClock(0))
    with capture_logs() as logs:
        for _ in range(3):
            tail.discover()
    tail.close()
    assert [(entry["event"], entry["path"], entry["log_level"]) for entry in logs] == [
        ("source_is_directory", f"{tmp_path}/logs", "warning"),
        ("source_is_directory", f"{tmp_path}/logs/", "warning"),
    ]  # and nothing of one that a glob happens to match
    assert logs[0]["hint"] == logs[1]["hint"] == f"name the files in it, for example {tmp_path}/logs/*.log"


# ---- files that give trouble


def test_names_that_are_no_text_and_files_that_cannot_be_read_do_not_stop_it(tmp_path: Path, nobody: int) -> None:
    bad = Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xe4d.log"))
    bad.write_text("no time, no level\n")
    (tmp_path / "good.log").write_text(LINE)
    (tmp_path / "memory.log").symlink_to("/proc/self/mem")  # its first page cannot be read
    source = SourceSettings(type="file", config={"paths": [f"{tmp_path}/*.log"], "parser": "plain"})
    made = settings(tmp_path, source, port=nobody)
    status = asyncio.run(_stopped(made, once=True, when=lambda: spooled(tmp_path)))
    assert (status.lines, status.overflowed) == (2, [])
    assert f"{tmp_path}/b?d.log" in [file.path for file in read_status(tmp_path / "state").files]
    with closing(Spool(tmp_path / "state" / "spool")) as spool:
        assert len(spool.offsets) == 2
        batches = [wire.batch_from_bytes(request.batch) for _, request in spool.after(None, 100)]
    assert f"{tmp_path}/b?d.log" in [source.path for batch in batches for source in batch.sources]


async def test_more_files_than_may_be_open_are_all_read(
    made: Callable[..., Running], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("helios_agent.tail.MAX_OPEN", 4)
    monkeypatch.setattr(live_module, "_HURRY_EVERY_S", 0.0)
    for number in range(30):
        (tmp_path / f"{number}.log").write_text(LINE.replace("hello", f"hello {number:02}"))
    running = made(of=(file_source(tmp_path / "*.log"),))
    await running.to_its_end(once=True)
    assert running.live.reduction.counts.events == 30
    assert len(running.spool.offsets) == 30
    assert all(isinstance(at, Checkpoint) and at.offset == len(LINE) + 3 for at in running.spool.offsets.values())
    ranges = [source for batch in running.batches() for source in batch.sources]
    assert len(ranges) == len({source.source for source in ranges}) == 30
    running.close()
    running = made(of=(file_source(tmp_path / "*.log"),))
    await running.to_its_end(once=True)
    assert running.live.reduction.counts.events == 0


async def test_the_status_says_how_many_files_had_to_wait(
    tmp_path: Path, nobody: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("helios_agent.tail.MAX_OPEN", 2)
    for number in range(5):
        (tmp_path / f"{number}.log").write_text(f"half of line {number}")
    for number in (1, 2):
        (tmp_path / f"{number}.log").write_text(f"too long {number}" + "x" * 2_000_000)  # nor can these be closed
    made = settings(tmp_path, file_source(tmp_path / "[12].log", tmp_path / "*.log"), port=nobody)
    stop = asyncio.Event()
    running = asyncio.create_task(live_module.run(made, stop))
    await asyncio.sleep(0.3)
    stop.set()
    assert (await running).files_left_out == 3


# ---- metrics


async def test_an_agent_of_metrics_alone_runs_on_and_is_heard_every_window(made: Callable[..., Running]) -> None:
    running = made(Told(), window_ms=20)
    await running.while_it_runs(lambda: len(running.slices(OWN)) >= 4)
    slices = running.slices(OWN)
    watermarks = [part.watermark_us for part in slices]
    assert watermarks == sorted(watermarks)
    assert all(later - earlier < 1_000_000 for earlier, later in pairwise(watermarks))
    assert [part.closing for part in slices] == [False] * (len(slices) - 1) + [True]
    assert {part.service for batch in running.batches() for part in batch.slices} == {OWN}


async def test_metrics_of_the_host_ride_in_the_agents_own_slice(made: Callable[..., Running]) -> None:
    running = made(Told(MetricSample("load", 1.5), MetricSample("depth", 3, {"queue": "mail"}, service="mail")))
    await running.to_its_end(once=True)
    (own,) = running.slices(OWN)
    (sample,) = own.metrics
    assert (sample.name, sample.value, sample.host, sample.service) == ("load", 1.5, HOST, "")
    assert abs(sample.time_us / 1e6 - time.time()) < 60
    (mail,) = running.slices("mail")
    assert [(sample.name, sample.labels) for sample in mail.metrics] == [("depth", {"queue": "mail"})]


async def test_once_collects_once(made: Callable[..., Running]) -> None:
    sources = [Told(MetricSample("a", 1)), Told(MetricSample("b", 2))]
    running = made(*sources)
    await running.to_its_end(once=True)
    assert [source.calls for source in sources] == [["initialize", "collect", "close"]] * 2
    assert sorted(sample.name for part in running.slices(OWN) for sample in part.metrics) == ["a", "b"]


async def test_once_ends_with_a_source_that_does_not_return(
    made: Callable[..., Running], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "_ONCE_S", 0.1)
    (tmp_path / "a.log").write_text(LINE)
    hanging = Hanging()
    running = made(hanging, Told(MetricSample("a", 1)), of=(file_source(tmp_path / "a.log"),))
    await running.to_its_end(once=True)
    hanging.let_go.set()
    assert running.live.reduction.counts.lines == 1
    assert [sample.name for part in running.slices(OWN) for sample in part.metrics] == ["a"]


async def test_once_with_a_source_that_does_not_return_ends_when_told(made: Callable[..., Running]) -> None:
    hanging = Hanging()
    running = made(hanging)
    ending = asyncio.create_task(running.to_its_end(once=True))
    while not hanging.calls:  # noqa: ASYNC110 -- of another thread
        await asyncio.sleep(0.002)
    running.live.stop()
    await ending
    hanging.let_go.set()


async def test_a_source_that_does_not_return_does_not_hold_the_end_up(made: Callable[..., Running]) -> None:
    hanging, other = Hanging(), Told(MetricSample("a", 1))
    running = made(hanging, other)
    began_s = time.monotonic()
    await running.while_it_runs(lambda: other.calls.count("collect") >= 3)
    assert time.monotonic() - began_s < 5
    hanging.let_go.set()


async def test_so_many_samples_make_a_cut(made: Callable[..., Running]) -> None:
    few, many = Told(MetricSample("a", 1)), Told(*[MetricSample("a", 1)] * 30)
    running = made(few, batch_size=20, window_ms=3_600_000, interval_s=60)
    await running.while_it_runs(lambda: few.calls)
    assert len(running.slices(OWN)) == 1  # at the end
    running = made(many, batch_size=20, window_ms=3_600_000)
    await running.while_it_runs(lambda: len(running.slices(OWN)) >= 3)
    assert len(running.slices(OWN)[1].metrics) >= 30


async def test_slices_of_many_samples_fit_the_contract(made: Callable[..., Running]) -> None:
    samples = [MetricSample(f"metric-{number}", number, {"text": "x" * 250}) for number in range(4_000)]
    running = made(Told(*samples))
    await running.to_its_end(once=True)
    slices = [part for part in running.slices(OWN) if part.metrics]
    assert len(slices) >= 3
    assert all(wire.slice_to_proto(part).ByteSize() <= MAX_SLICE_BYTES for part in slices)
    assert [part.watermark_us > 0 for part in slices] == [False] * (len(slices) - 1) + [True]
    assert [sample.name for part in slices for sample in part.metrics] == [sample.name for sample in samples]


async def test_a_full_spool_takes_no_metrics_either(made: Callable[..., Running], tmp_path: Path) -> None:
    """What nobody fetches for a month stays bounded: the oldest samples go, and are counted."""
    (tmp_path / "a.log").write_text(LINE)
    source = Told(*[MetricSample("a", 1, {"text": "x" * 200})] * 20)
    running = made(
        source, of=(file_source(tmp_path / "a.log"),), window_ms=20, batch_size=10, spool_max_bytes=40_000
    )  # fmt: skip
    sizes: list[int] = []

    def has_been_full_for_a_while() -> bool:
        if running.live.paused:
            sizes.append(running.spool.size_bytes)
        return len(sizes) > 50

    await running.while_it_runs(has_been_full_for_a_while)
    assert 40_000 <= sizes[0] == sizes[-1] < 80_000
    assert source.calls.count("collect") > 10


async def test_bad_samples_do_not_stop_the_agent(made: Callable[..., Running]) -> None:
    """Each of these once ended the thread that reads, or took its whole slice to the dead letter."""
    bad = [
        MetricSample("a", 1, {"path": "\udcff"}),
        MetricSample("b", 1, time_us=1.5),  # type: ignore[arg-type]
        MetricSample("c", 1, time_us=-1),
        MetricSample("d", 1, {"n": 1}),  # type: ignore[dict-item]
        MetricSample("e", 1, service="two\nlines"),
    ]
    running = made(Told(*bad, MetricSample("good", 1)))
    await running.to_its_end(once=True)
    assert [sample.name for part in running.slices(OWN) for sample in part.metrics] == ["good"]
    assert running.live.poller.dropped["bad_sample"] == len(bad)


async def test_the_status_says_how_the_sources_do(tmp_path: Path, nobody: int) -> None:
    made = settings(tmp_path, SourceSettings(type="system"), port=nobody, collection_interval=0.05)
    status = await _stopped(made, once=True, when=lambda: spooled(tmp_path))
    (system,) = status.metrics
    assert (system.type, system.collections, system.failures, system.error) == ("system", 1, 0, "")
    assert system.samples > 3
    assert status.metrics_dropped == {}
