"""The shipper and the collector over a loopback port: every batch arrives once, whatever happens between them."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import pytest
from grpc import aio
from structlog.testing import capture_logs

from helios.v1 import service_pb2, service_pb2_grpc
from helios_agent import shipper as shipper_module
from helios_agent.cut import Cutter
from helios_agent.shipper import Denied, Shipper
from helios_agent.spool import Spool
from helios_collector import admission, faults
from helios_collector.admission import Admission
from helios_collector.ingest import Ingest
from helios_collector.servicer import serve
from helios_collector.writer import StoreWriter
from helios_core import wire
from helios_core.batches import MAX_UNACKNOWLEDGED
from helios_core.bus.base import Received, Record, Topic
from helios_core.bus.memory import MemoryBus
from helios_core.clock import SystemClock
from helios_core.errors import BusUnavailable
from helios_core.keys import Grant, Keys, Scope, hash_of
from helios_core.model import Event, Level
from helios_core.store.sqlite import SqliteStore
from helios_core.windows import WindowDelta

AGENT = b"0123456789abcdef"
START = 1_772_409_600_000_000
Answering = Callable[[service_pb2.SendBatchRequest], Awaitable[service_pb2.SendBatchResponse]]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipper_module, "_FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(shipper_module, "_LONGEST_PAUSE_S", 0.1)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path / "spool")
    yield made
    made.close()


class Site(MemoryBus):
    """A bus that can be slow, and away."""

    def __init__(self) -> None:
        super().__init__()
        self.away = 0
        self.delay_s = 0.0

    async def publish(self, records: Sequence[Record]) -> None:
        await asyncio.sleep(self.delay_s)
        if self.away:
            self.away -= 1
            raise BusUnavailable("the bus is away")
        await super().publish(records)

    async def received(self, topic: Topic = Topic.WINDOWS) -> list[Received]:
        consumer = await self.subscribe("test", [topic])
        return await consumer.poll(max_records=100_000, timeout_s=0)


def fill(spool: Spool, cutter: Cutter, cuts: int, *, events: int = 3, sample_chars: int = 0) -> None:
    """Cuts of one batch with two slices each."""
    for number in range(cuts):
        deltas = []
        for name in ("cart", "users"):
            delta = WindowDelta(START + number * 10_000_000, name, "host-1")
            delta.levels[Level.INFO] = events
            deltas.append(delta)
        samples = (
            {"cart": [Event(START, "cart", Level.ERROR, "x" * sample_chars, counted=True)]} if sample_chars else {}
        )
        batches = cutter.cut(
            now_us=START, deltas=deltas, samples=samples, services=[], sources=[], watermark_us=START + number
        )
        spool.append(batches, {"source": number})


@asynccontextmanager
async def collector(bus: Site, port: int = 0, keys: Keys | None = None) -> AsyncIterator[int]:
    """The real one."""
    server = await serve(Admission(bus), SystemClock(), f"127.0.0.1:{port}", keys or Keys(None))
    try:
        yield server.port
    finally:
        await server.stop(None)


class Scripted(service_pb2_grpc.HeliosServicer):
    """Answers as it is told; counts what is unacknowledged."""

    def __init__(self, answer: Answering) -> None:
        self._answer = answer
        self.unanswered = 0
        self.most_unanswered = 0
        self.sequences: list[int] = []

    async def Stream(
        self, request_iterator: AsyncIterator[service_pb2.SendBatchRequest], context: object
    ) -> AsyncIterator[service_pb2.SendBatchResponse]:
        waiting: asyncio.Queue[service_pb2.SendBatchRequest | None] = asyncio.Queue()
        self.unanswered = 0

        async def receive() -> None:
            async for request in request_iterator:
                self.sequences.append(request.id.sequence)
                self.unanswered += 1
                self.most_unanswered = max(self.most_unanswered, self.unanswered)
                waiting.put_nowait(request)
            waiting.put_nowait(None)

        receiving = asyncio.create_task(receive())
        try:
            while (request := await waiting.get()) is not None:
                response = await self._answer(request)
                self.unanswered -= 1
                yield response
                if response.answer in (service_pb2.ANSWER_RETRY, service_pb2.ANSWER_DENIED):
                    return
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)


@asynccontextmanager
async def scripted(servicer: Scripted) -> AsyncIterator[int]:
    server = aio.server()
    service_pb2_grpc.add_HeliosServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


def accepted(request: service_pb2.SendBatchRequest) -> service_pb2.SendBatchResponse:
    return service_pb2.SendBatchResponse(id=request.id, answer=service_pb2.ANSWER_ACCEPTED)


@asynccontextmanager
async def shipping(
    spool: Spool, port: int, *, key: str = ""
) -> AsyncIterator[tuple[Shipper, asyncio.Event, asyncio.Task[None]]]:
    """A shipper at work; it is not waited for."""
    metadata = (("authorization", f"Bearer {key}"),) if key else ()
    shipper = Shipper(spool, f"127.0.0.1:{port}", metadata=metadata)
    drain = asyncio.Event()
    running = asyncio.create_task(shipper.run(drain))
    try:
        yield shipper, drain, running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def shipped(spool: Spool, port: int, timeout_s: float = 15) -> Shipper:
    """Everything, to the end."""
    async with shipping(spool, port) as (shipper, drain, running):
        drain.set()
        await asyncio.wait_for(running, timeout_s)
        return shipper


async def until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - of another thread and of gRPC's
            await asyncio.sleep(0.002)


async def check(bus: Site, cuts: int, events: int = 3) -> None:
    """Each slice is on the bus, the same bytes each time, in order; and in the store once."""
    seen: dict[tuple[str, str, str], bytes] = {}
    for record in await bus.received():
        place = (record.headers["incarnation"], record.headers["sequence"], record.key)
        assert seen.setdefault(place, record.value) == record.value
    assert len(seen) == 2 * cuts
    assert [int(sequence) for _, sequence, name in seen if name == "cart"] == list(range(1, cuts + 1))
    assert await bus.received(Topic.DEAD_LETTER) == []
    store = SqliteStore(":memory:")
    drained = asyncio.Event()
    drained.set()
    await StoreWriter(bus, store).run(drained)
    (row,) = await store.query("totals")
    await store.close()
    assert row["events"] == 2 * cuts * events


async def test_everything_arrives_once(spool: Spool) -> None:
    bus = Site()
    fill(spool, Cutter(AGENT, "host-1"), 300)
    async with collector(bus) as port:
        shipper = await shipped(spool, port)
    assert len(spool) == 0
    assert (shipper.counts.sent, shipper.counts.acknowledged, shipper.counts.retries) == (300, 300, 0)
    assert len(await bus.received()) == 600
    await check(bus, 300)


async def test_what_is_cut_while_it_ships_goes_at_once(spool: Spool) -> None:
    bus = Site()
    cutter = Cutter(AGENT, "host-1")
    async with collector(bus) as port, shipping(spool, port) as (shipper, drain, running):
        for number in range(1, 6):
            started = time.monotonic()
            await asyncio.to_thread(fill, spool, cutter, 1)
            await until(lambda number=number: shipper.counts.acknowledged == number)
            assert time.monotonic() - started < 1 if number > 1 else True
        assert not running.done()
        drain.set()
        await asyncio.wait_for(running, 10)
    await check(bus, 5)


async def test_with_nothing_to_ship_it_ends_when_told(spool: Spool) -> None:
    async with collector(Site()) as port, shipping(spool, port) as (_, drain, running):
        await asyncio.sleep(0.05)
        assert not running.done()
        drain.set()
        await asyncio.wait_for(running, 5)


async def test_batches_of_earlier_runs_go_first(tmp_path: Path) -> None:
    incarnations = []
    for _ in range(3):
        spool = Spool(tmp_path / "spool")
        cutter = Cutter(AGENT, "host-1")
        incarnations.append(f"{cutter.incarnation:016x}")
        fill(spool, cutter, 20)
        spool.close()
    spool = Spool(tmp_path / "spool")
    bus = Site()
    async with collector(bus) as port:
        await shipped(spool, port)
    spool.close()
    found = [(one.headers["incarnation"], int(one.headers["sequence"])) for one in await bus.received()]
    assert found == [(name, number) for name in incarnations for number in range(1, 21) for _ in range(2)]


# ---- a collector that comes and goes


async def test_a_collector_that_is_restarted_gets_everything_once(spool: Spool) -> None:
    bus = Site()
    bus.delay_s = 0.001
    fill(spool, Cutter(AGENT, "host-1"), 400)
    async with collector(bus) as port:
        pass
    async with shipping(spool, port) as (shipper, drain, running):
        drain.set()
        for share in (100, 200, 300):
            async with collector(bus, port):
                await until(lambda share=share: shipper.counts.acknowledged >= share or not len(spool))
        assert not running.done()
        bus.delay_s = 0
        async with collector(bus, port):
            await asyncio.wait_for(running, 15)
    assert len(spool) == 0
    assert shipper.counts.retries >= 3
    await check(bus, 400)


async def test_a_collector_that_is_there_later_gets_everything(spool: Spool) -> None:
    bus = Site()
    fill(spool, Cutter(AGENT, "host-1"), 10)
    async with collector(bus) as port:
        pass
    async with shipping(spool, port) as (shipper, drain, running):
        drain.set()
        await until(lambda: shipper.counts.retries >= 2)
        assert len(spool) == 10
        async with collector(bus, port):
            await asyncio.wait_for(running, 15)
    await check(bus, 10)


async def test_an_agent_that_is_killed_sends_the_same_again(tmp_path: Path) -> None:
    bus = Site()
    bus.delay_s = 0.002
    spool = Spool(tmp_path / "spool")
    fill(spool, Cutter(AGENT, "host-1"), 200)
    async with collector(bus) as port:
        for _ in range(4):
            async with shipping(spool, port) as (shipper, _, _running):
                await until(lambda shipper=shipper: shipper.counts.acknowledged >= 20)
            spool.close()
            spool = Spool(tmp_path / "spool")  # what was acknowledged and not freed comes again
        bus.delay_s = 0
        await shipped(spool, port)
    spool.close()
    await check(bus, 200)


@pytest.mark.parametrize("away", [1, 5])
async def test_a_collector_without_a_bus_gets_it_later(
    spool: Spool, away: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "_RETRY_AFTER_S", 0.02)
    monkeypatch.setattr(admission, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(admission, "_LONGEST_PAUSE_S", 0.01)
    bus = Site()
    bus.away = away
    fill(spool, Cutter(AGENT, "host-1"), 100)
    async with collector(bus) as port:
        shipper = await shipped(spool, port)
    assert shipper.counts.retries == away
    await check(bus, 100)


async def test_a_pause_that_is_asked_for_has_a_bound(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector may ask for 49 days."""
    monkeypatch.setattr(shipper_module, "MAX_RETRY_AFTER_S", 0.05)
    asked = 3

    async def answer(request: service_pb2.SendBatchRequest) -> service_pb2.SendBatchResponse:
        nonlocal asked
        asked -= 1
        if asked < 0:
            return accepted(request)
        return service_pb2.SendBatchResponse(answer=service_pb2.ANSWER_RETRY, retry_after_ms=2**32 - 1)

    fill(spool, Cutter(AGENT, "host-1"), 10)
    async with scripted(Scripted(answer)) as port:
        shipper = await shipped(spool, port)
    assert shipper.counts.acknowledged == 10


async def test_a_stream_without_answers_is_made_anew(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipper_module, "_ANSWER_TIMEOUT_S", 0.3)
    silent = 25

    async def answer(request: service_pb2.SendBatchRequest) -> service_pb2.SendBatchResponse:
        nonlocal silent
        silent -= 1
        if silent in (0, 10):  # with others unanswered before it, and with none
            await asyncio.sleep(3_600)
        return accepted(request)

    fill(spool, Cutter(AGENT, "host-1"), 100)
    async with scripted(Scripted(answer)) as port:
        with capture_logs() as logs:
            shipper = await shipped(spool, port)
    assert shipper.counts.acknowledged == 100
    assert [entry["event"] for entry in logs] == ["collector_silent"] * 2


async def test_a_stream_on_which_nothing_is_unanswered_stays(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipper_module, "_ANSWER_TIMEOUT_S", 0.1)
    bus = Site()
    cutter = Cutter(AGENT, "host-1")
    async with collector(bus) as port, shipping(spool, port) as (shipper, drain, running):
        for number in (1, 2):
            fill(spool, cutter, 1)
            await until(lambda number=number: shipper.counts.acknowledged == number)
            await asyncio.sleep(0.3)
        drain.set()
        await asyncio.wait_for(running, 10)
    assert shipper.counts.retries == 0


async def test_a_slow_collector_gets_everything_once(spool: Spool) -> None:
    bus = Site()
    bus.delay_s = 0.01
    fill(spool, Cutter(AGENT, "host-1"), 100, sample_chars=2_000)
    async with collector(bus) as port:
        shipper = await shipped(spool, port)
    assert shipper.counts.retries == 0
    assert shipper.counts.sent == 100
    await check(bus, 100)


async def test_large_batches_arrive(spool: Spool) -> None:
    bus = Site()
    cutter = Cutter(AGENT, "host-1")
    names = [f"service-{number}" for number in range(30)]
    samples = {name: [Event(START, name, Level.ERROR, "x" * 100_000, counted=True)] * 4 for name in names}
    batches = cutter.cut(now_us=START, deltas=[], samples=samples, services=[], sources=[], watermark_us=START)
    assert max(len(batch.batch) for batch in batches) > 2_700_000
    spool.append(batches, {})
    async with collector(bus) as port:
        await shipped(spool, port)
    assert sorted(one.key for one in await bus.received()) == sorted(names)


# ---- what it is told


async def test_no_more_than_the_limit_is_unacknowledged(spool: Spool) -> None:
    gate = asyncio.Event()

    async def answer(request: service_pb2.SendBatchRequest) -> service_pb2.SendBatchResponse:
        await gate.wait()
        return accepted(request)

    servicer = Scripted(answer)
    fill(spool, Cutter(AGENT, "host-1"), 3 * MAX_UNACKNOWLEDGED)
    async with scripted(servicer) as port, shipping(spool, port) as (_, drain, running):
        drain.set()
        await until(lambda: servicer.unanswered >= MAX_UNACKNOWLEDGED)
        await asyncio.sleep(0.2)
        assert servicer.sequences == list(range(1, MAX_UNACKNOWLEDGED + 1))
        gate.set()
        await asyncio.wait_for(running, 10)
    assert servicer.most_unanswered == MAX_UNACKNOWLEDGED
    assert servicer.sequences == list(range(1, 3 * MAX_UNACKNOWLEDGED + 1))


@pytest.mark.parametrize("stray", ["for another batch", "twice"])
async def test_a_stray_acceptance_advances_nothing(spool: Spool, stray: str) -> None:
    gate = asyncio.Event()

    async def answer(request: service_pb2.SendBatchRequest) -> service_pb2.SendBatchResponse:
        if request.id.sequence > 10 and not gate.is_set():
            await gate.wait()
        response = accepted(request)
        if request.id.sequence <= 10 and not gate.is_set():
            response.id.sequence = 9_999 if stray == "for another batch" else 1
        return response

    servicer = Scripted(answer)
    fill(spool, Cutter(AGENT, "host-1"), 3 * MAX_UNACKNOWLEDGED)
    async with scripted(servicer) as port, shipping(spool, port):
        await until(lambda: len(servicer.sequences) >= MAX_UNACKNOWLEDGED)
        await asyncio.sleep(0.2)
        expected = 0 if stray == "for another batch" else 1
        assert len(spool) == 3 * MAX_UNACKNOWLEDGED - expected
        assert len(servicer.sequences) == MAX_UNACKNOWLEDGED + expected


async def test_it_waits_as_long_as_it_is_asked_to(spool: Spool) -> None:
    asked: list[float] = []
    heard: list[float] = []

    async def answer(request: service_pb2.SendBatchRequest) -> service_pb2.SendBatchResponse:
        heard.append(time.monotonic())
        if request.id.sequence % 4 == 3 and len(asked) < request.id.sequence // 4 + 1:
            asked.append(time.monotonic())
            return service_pb2.SendBatchResponse(
                id=request.id, answer=service_pb2.ANSWER_RETRY, retry_after_ms=300, detail="busy"
            )
        return accepted(request)

    servicer = Scripted(answer)
    fill(spool, Cutter(AGENT, "host-1"), 12)
    async with scripted(servicer) as port:
        await shipped(spool, port)
    assert len(asked) == 3
    for at in asked:
        assert min(later for later in heard if later > at) - at >= 0.3


async def test_an_answer_that_it_does_not_know_advances_nothing(spool: Spool) -> None:
    unknown = iter([service_pb2.ANSWER_UNSPECIFIED, 77])

    async def answer(request: service_pb2.SendBatchRequest) -> service_pb2.SendBatchResponse:
        with suppress(StopIteration):
            return service_pb2.SendBatchResponse(id=request.id, answer=next(unknown))  # type: ignore[arg-type]
        return accepted(request)

    servicer = Scripted(answer)
    fill(spool, Cutter(AGENT, "host-1"), 3)
    async with scripted(servicer) as port:
        shipper = await shipped(spool, port)
    assert shipper.counts.acknowledged == 3
    assert servicer.sequences[-3:] == [1, 2, 3]


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN])
async def test_a_status_of_grpc_advances_nothing(spool: Spool, code: grpc.StatusCode) -> None:
    class Failing(Scripted):
        failures = 2

        async def Stream(self, request_iterator, context):  # type: ignore[no-untyped-def]
            if Failing.failures:
                Failing.failures -= 1
                await context.abort(code, "not now")
            async for response in super().Stream(request_iterator, context):
                yield response

    async def answer(request: service_pb2.SendBatchRequest) -> service_pb2.SendBatchResponse:
        return accepted(request)

    fill(spool, Cutter(AGENT, "host-1"), 5)
    async with scripted(Failing(answer)) as port:
        shipper = await shipped(spool, port)
    assert (shipper.counts.acknowledged, shipper.counts.retries) == (5, 2)


async def test_a_refusal_keeps_the_spool(spool: Spool) -> None:
    async def answer(request: service_pb2.SendBatchRequest) -> service_pb2.SendBatchResponse:
        if request.id.sequence <= 4:
            return accepted(request)
        detail = "upgrade the agent"
        return service_pb2.SendBatchResponse(id=request.id, answer=service_pb2.ANSWER_DENIED, detail=detail)

    fill(spool, Cutter(AGENT, "host-1"), 200)
    async with scripted(Scripted(answer)) as port, shipping(spool, port) as (_, _drain, running):
        with pytest.raises(Denied, match=f"127.0.0.1:{port} refuses: upgrade the agent"):
            await asyncio.wait_for(running, 10)
    assert [key[1] for key, _ in spool.after(None, 1_000)] == list(range(5, 201))


async def test_another_version_of_the_contract_is_refused(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = Site()
    fill(spool, Cutter(AGENT, "host-1"), 5)
    monkeypatch.setattr(wire, "CONTRACT_VERSION", 2)
    async with collector(bus) as port, shipping(spool, port) as (_, _drain, running):
        with pytest.raises(Denied, match="speaks version 2 of the contract, the agent 1"):
            await asyncio.wait_for(running, 10)
    assert len(spool) == 5
    assert await bus.received() == []


async def test_a_key_that_is_revoked_ships_nothing_more(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helios_core.keys._LOOK_S", 0.0)
    there = {hash_of("good"): Grant(frozenset({Scope.INGEST}))}
    bus = Site()
    cutter = Cutter(AGENT, "host-1")
    fill(spool, cutter, 5)
    async with (
        collector(bus, keys=Keys(None, lambda: there)) as port,
        shipping(spool, port, key="good") as (shipper, _, running),
    ):
        await until(lambda: shipper.counts.acknowledged == 5)
        there = {}
        fill(spool, cutter, 3)
        with pytest.raises(Denied, match="not known here"):
            await asyncio.wait_for(running, 10)
    assert len(spool) == 3
    await check(bus, 5)


@pytest.mark.parametrize(
    ("key", "reason"), [("", "an API key is needed"), ("other", "not known"), ("reads", "not for")]
)
async def test_without_the_right_key_it_is_refused(spool: Spool, key: str, reason: str) -> None:
    bus = Site()
    keys = Keys({hash_of("good"): Grant(frozenset({Scope.INGEST})), hash_of("reads"): Grant(frozenset({Scope.READ}))})
    fill(spool, Cutter(AGENT, "host-1"), 5)
    async with collector(bus, keys=keys) as port:
        async with shipping(spool, port, key=key) as (_, _drain, running):
            with pytest.raises(Denied, match=reason):
                await asyncio.wait_for(running, 10)
        assert len(spool) == 5
        async with shipping(spool, port, key="good") as (_, drain, running):
            drain.set()
            await asyncio.wait_for(running, 10)
    await check(bus, 5)


async def test_rejected_items_are_counted_and_free_their_batch(spool: Spool) -> None:
    bus = Site()
    cutter = Cutter(AGENT, "host-1")
    fill(spool, cutter, 2)
    (bad,) = cutter.cut(now_us=START, deltas=[], samples={}, services=["cart"], sources=[], watermark_us=START)
    bad.sha256 = b"x" * 32
    spool.append([bad], {})
    fill(spool, cutter, 2)
    async with collector(bus) as port:
        shipper = await shipped(spool, port)
    assert (shipper.counts.acknowledged, shipper.counts.rejected_items) == (5, 1)
    assert len(await bus.received()) == 8
    assert len(await bus.received(Topic.DEAD_LETTER)) == 1


# ---- its own troubles


async def test_a_spool_that_cannot_be_read_for_a_while_does_not_stop_it(spool: Spool) -> None:
    bus = Site()
    fill(spool, Cutter(AGENT, "host-1"), 150)
    original = spool.after
    troubles = iter([None, OSError(errno.EIO, "input/output error"), None, OSError(errno.EMFILE, "too many files")])

    def after(key: tuple[int, int] | None, limit: int) -> list[tuple[tuple[int, int], service_pb2.SendBatchRequest]]:
        trouble = next(troubles, None)
        if trouble is not None:
            raise trouble
        return original(key, limit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool, "after", after)
        async with collector(bus) as port:
            await shipped(spool, port)
    await check(bus, 150)


async def test_ingest_is_the_same_for_a_single_batch(spool: Spool) -> None:
    bus = Site()
    fill(spool, Cutter(AGENT, "host-1"), 3)
    async with collector(bus) as port, aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = service_pb2_grpc.HeliosStub(channel)
        for _, request in spool.after(None, 3):
            assert await stub.SendBatch(request) == await Ingest(Admission(Site())).take_batch(request, "client")
    await check(bus, 3)
