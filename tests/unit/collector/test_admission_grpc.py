"""What comes in at once is bounded over gRPC: what is refused says when to come again, and clients lose nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc import aio
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from tests.unit.collector.test_admission_http import Bus

import helios
from helios.retry_info import TRAILER, retry_after_s
from helios.v1 import batch_pb2, events_pb2, service_pb2, service_pb2_grpc
from helios_collector import admission as module
from helios_collector import faults
from helios_collector.admission import Admission
from helios_collector.ingest import Ingest, ServiceNames
from helios_collector.otlp.receiver import Receiver
from helios_collector.servicer import serve
from helios_collector.telemetry import Telemetry
from helios_core import wire
from helios_core.batches import BatchId
from helios_core.bus.base import Topic
from helios_core.clock import EventClock
from helios_core.errors import BusUnavailable
from helios_core.keys import Keys, Scope
from helios_core.settings import Limits

NOW_US = 1_772_409_600_000_000
AWAY = BusUnavailable("the bus is away")


class AnyKey(Keys):
    """Every key will do: they only tell clients apart."""

    def __init__(self) -> None:
        super().__init__(None)

    @property
    def are_open(self) -> bool:
        return False

    def fault(self, authorization: str, api_key: str, scope: Scope) -> None:
        return None


class Site:
    """A collector, at a time that only the test moves."""

    def __init__(self, now_s: Callable[[], float] | None = None, **limits: Any) -> None:
        self.bus = Bus()
        self.telemetry = Telemetry()
        self.now_s = 0.0
        self.admission = Admission(self.bus, Limits(**limits), self.telemetry, now_s=now_s or (lambda: self.now_s))
        self.ingest = Ingest(self.admission, self.telemetry, EventClock(NOW_US))

    @property
    def pending(self) -> float | None:
        return self.telemetry.registry.get_sample_value("helios_ingest_pending_bytes")

    def refused(self, reason: str) -> float:
        return self.telemetry.registry.get_sample_value("helios_ingest_refusals_total", {"reason": reason}) or 0

    async def ids(self) -> list[str]:
        consumer = await self.bus.subscribe("test", [Topic.EVENTS])
        records = await consumer.poll(max_records=1_000, timeout_s=0)
        return [event.id for record in records for event in wire.record_from_bytes(record.value).events]


class Stubs:
    """The calls of one client."""

    def __init__(self, channel: aio.Channel, port: int) -> None:
        self.port = port
        self._own = service_pb2_grpc.HeliosStub(channel)
        self._logs = logs_service_pb2_grpc.LogsServiceStub(channel)

    def call(self, kind: str, size: int = 10, key: str = "one") -> Any:
        """A call of one event of so many bytes or more."""
        metadata = (("authorization", f"Bearer {key}"),)
        if kind == "events":
            return self._own.SendEvents(events(1, size), metadata=metadata, timeout=5)
        return self._logs.Export(logs(size), metadata=metadata, timeout=5)

    def batch(self, request: service_pb2.SendBatchRequest, key: str = "one") -> Any:
        return self._own.SendBatch(request, metadata=(("authorization", f"Bearer {key}"),), timeout=5)

    def stream(self, requests: list[service_pb2.SendBatchRequest]) -> Any:
        return self._own.Stream(iter(requests), metadata=(("authorization", "Bearer one"),), timeout=5)


@asynccontextmanager
async def served(site: Site, keys: Keys | None = None) -> AsyncIterator[Stubs]:
    clock, telemetry = EventClock(NOW_US), site.telemetry
    receiver = Receiver(site.admission, clock, ServiceNames(), telemetry)
    server = await serve(site.admission, clock, "127.0.0.1:0", keys or AnyKey(), telemetry, receiver=receiver)
    try:
        async with aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield Stubs(channel, server.port)
    finally:
        await server.stop(None)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for is in the code under test
            await asyncio.sleep(0.001)


async def refusal(call: Awaitable[Any]) -> tuple[grpc.StatusCode, float]:
    """The status, and when RetryInfo says to come again."""
    with pytest.raises(aio.AioRpcError) as raised:
        await call
    trailers = dict(raised.value.trailing_metadata() or ())
    after_s = retry_after_s(trailers[TRAILER])
    assert after_s is not None
    return raised.value.code(), after_s


def batch(size: int = 500, sequence: int = 1) -> service_pb2.SendBatchRequest:
    """A batch of so many bytes, 500 or more."""
    made = batch_pb2.Batch(cut_us=NOW_US, slices=[batch_pb2.Slice(service="shop", watermark_us=NOW_US)])
    made.host = "h" * (size - 100)
    made.host += "h" * (size - made.ByteSize())
    data = made.SerializeToString()
    assert len(data) == size
    return service_pb2.SendBatchRequest(
        id=wire.id_to_proto(BatchId(b"0123456789abcdef", 7, sequence)),
        batch=data,
        sha256=wire.content_hash(data),
        contract_version=wire.CONTRACT_VERSION,
    )


def events(count: int = 1, size: int = 10) -> service_pb2.SendEventsRequest:
    one = events_pb2.Event(time_us=NOW_US, service="shop", message="x" * size, signal=events_pb2.SIGNAL_LOG)
    return service_pb2.SendEventsRequest(events=[one] * count)


def logs(size: int) -> logs_service_pb2.ExportLogsServiceRequest:
    request = logs_service_pb2.ExportLogsServiceRequest()
    record = request.resource_logs.add().scope_logs.add().log_records.add(time_unix_nano=NOW_US * 1_000)
    record.body.string_value = "x" * size
    return request


CALLS = pytest.mark.parametrize("kind", ["events", "logs"])


# --- room ------------------------------------------------------------------------------------------


@CALLS
async def test_no_room_is_unavailable_with_when_to_come_again(kind: str) -> None:
    site = Site(pending_bytes=1_024)
    site.bus.go.clear()
    async with served(site) as stubs:
        first = stubs.call(kind, 5_000)
        await until(lambda: site.bus.calls)
        assert 5_000 < (site.pending or 0) < 5_200
        code, after_s = await refusal(stubs.call(kind, key="two"))
        assert (code, site.bus.calls, site.refused("memory")) == (grpc.StatusCode.UNAVAILABLE, 1, 1)
        assert after_s > 0
        site.bus.go.set()
        await first
        assert site.pending == 0
        await stubs.call(kind, key="two")


@CALLS
@pytest.mark.parametrize("end", ["cancelled", "fault", "away"])
async def test_memory_is_given_back_however_a_call_ends(kind: str, end: str) -> None:
    site = Site(pending_bytes=1_024)
    site.bus.go.clear()
    async with served(site) as stubs:
        call = stubs.call(kind, 5_000)
        await until(lambda: site.bus.calls)
        assert (site.pending or 0) > 5_000
        if end == "cancelled":
            call.cancel()
            await asyncio.sleep(0.2)
            # What has joined a round is in it until that is over, and so is the memory that it takes.
            assert (site.pending == 0) is (kind == "batch")
            site.bus.go.set()
            await until(lambda: site.pending == 0)
        else:
            site.bus.faults = [ZeroDivisionError("a bug") if end == "fault" else AWAY]
            site.bus.go.set()
            assert (await refusal(call))[0] is grpc.StatusCode.UNAVAILABLE
        assert site.pending == 0
        site.bus.go.set()
        site.now_s += 60
        await stubs.call(kind, 5_000)
        assert site.pending == 0


@pytest.mark.parametrize("via", ["SendBatch", "Stream"])
@pytest.mark.parametrize("why", ["memory", "rate", "bus"])
async def test_a_batch_that_is_not_taken_is_answered_so(via: str, why: str) -> None:
    site = Site(pending_bytes=1_024, bytes_per_second=1_000)
    async with served(site) as stubs:
        with site.admission.entered("other") as other:
            if why == "memory":
                other.hold(2_000)
            elif why == "rate":
                assert (await stubs.batch(batch(9_000))).answer == service_pb2.ANSWER_ACCEPTED
            else:
                site.bus.faults = [AWAY]
                await refusal(stubs.call("events"))
            calls = site.bus.calls
            requests = [batch(sequence=number) for number in (2, 3)]
            if via == "Stream":
                answers = [answer async for answer in stubs.stream(requests)]
            else:
                answers = [await stubs.batch(requests[0])]
        (answer,) = answers  # what comes after it in a stream is not taken either
        assert (answer.answer, answer.id) == (service_pb2.ANSWER_RETRY, requests[0].id)
        assert (site.bus.calls, site.pending) == (calls, 0)
        assert answer.retry_after_ms >= 1_000
        assert answer.detail
        assert site.refused(why) >= 1
        if why == "rate":
            assert (await stubs.batch(requests[0], key="two")).answer == service_pb2.ANSWER_ACCEPTED
        site.now_s += answer.retry_after_ms / 1_000
        assert (await stubs.batch(requests[0])).answer == service_pb2.ANSWER_ACCEPTED


@pytest.mark.parametrize("end", ["taken", "cancelled"])
async def test_a_batch_holds_what_it_is_until_it_is_over(end: str) -> None:
    site = Site(pending_bytes=1_024)
    site.bus.go.clear()
    async with served(site) as stubs:
        first = stubs.batch(batch(5_000))
        await until(lambda: site.bus.calls)
        assert site.pending == 5_000
        assert (await stubs.batch(batch(sequence=2))).answer == service_pb2.ANSWER_RETRY
        if end == "cancelled":
            first.cancel()
        else:
            site.bus.go.set()
            assert (await first).answer == service_pb2.ANSWER_ACCEPTED
        await until(lambda: site.pending == 0)


# --- the bus ---------------------------------------------------------------------------------------


@CALLS
async def test_while_the_bus_is_away_calls_end_at_once(kind: str) -> None:
    site = Site()
    async with served(site) as stubs:
        site.bus.faults = [AWAY, AWAY]
        code, after_s = await refusal(stubs.call(kind))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert 1 <= after_s <= 2
        for _ in range(3):
            code, after_s = await refusal(stubs.call(kind, key="two"))
            assert (code, site.bus.calls) == (grpc.StatusCode.UNAVAILABLE, 1)
            assert 1 <= after_s <= 2
        site.now_s = 1
        await refusal(stubs.call(kind))
        assert site.bus.calls == 2
        site.now_s = 2.9
        await refusal(stubs.call(kind))
        assert site.bus.calls == 2
        site.now_s = 3
        await stubs.call(kind)
        await stubs.call(kind)
        assert site.bus.calls == 4


@CALLS
async def test_a_call_that_probes_and_is_cancelled_lets_the_next(kind: str) -> None:
    site = Site()
    async with served(site) as stubs:
        site.bus.faults = [AWAY]
        await refusal(stubs.call(kind))
        site.now_s = 1
        site.bus.go.clear()
        probe = stubs.call(kind)
        await until(lambda: site.bus.calls == 2)
        await refusal(stubs.call(kind))
        assert site.bus.calls == 2
        probe.cancel()
        site.bus.go.set()
        await until(lambda: site.pending == 0)
        await stubs.call(kind)


# --- rates -----------------------------------------------------------------------------------------


@CALLS
async def test_a_client_beyond_its_rate_and_another_that_is_not(kind: str) -> None:
    site = Site(bytes_per_second=1_000)
    async with served(site) as stubs:
        await stubs.call(kind, 7_000)
        code, after_s = await refusal(stubs.call(kind))
        assert (code, site.refused("rate")) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 1)
        assert 5 < after_s < 5.2
        await stubs.call(kind, key="two")
        site.now_s = after_s - 0.01
        await refusal(stubs.call(kind))
        site.now_s = after_s
        await stubs.call(kind)


@pytest.mark.parametrize("debt", [4, 13, 12_345])
async def test_after_exactly_the_wait_that_it_was_told_a_batch_is_taken(debt: int) -> None:
    site = Site(bytes_per_second=10_000)
    await site.ingest.take_batch(batch(20_000 - 600), "agent")
    await site.ingest.take_batch(batch(600 + debt), "agent")
    answer = await site.ingest.take_batch(batch(sequence=2), "agent")
    assert answer.answer == service_pb2.ANSWER_RETRY
    site.now_s += answer.retry_after_ms / 1_000
    answer = await site.ingest.take_batch(batch(sequence=2), "agent")
    assert (answer.answer, answer.retry_after_ms) == (service_pb2.ANSWER_ACCEPTED, 0)


async def test_after_exactly_the_wait_of_retry_info_a_call_is_taken() -> None:
    site = Site(bytes_per_second=10_000)
    async with served(site) as stubs:
        overhead = events(1, 20_000).ByteSize() - 20_000
        await stubs.call("events", 20_013 - overhead)
        site.now_s += (await refusal(stubs.call("events")))[1]
        await stubs.call("events")


# --- clients ---------------------------------------------------------------------------------------


def numbered(name: str, count: int) -> list[helios.Event]:
    return [helios.Event("shop", "x", time=NOW_US, id=f"{name}-{number}") for number in range(count)]


@pytest.mark.parametrize("via", ["send_events", "log"])
@pytest.mark.parametrize("why", ["memory", "rate", "bus"])
async def test_a_client_that_is_refused_sends_again_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, via: str, why: str
) -> None:
    for where, name in ((module, "_FULL_S"), (module, "_FIRST_PAUSE_S"), (faults, "_RETRY_AFTER_S")):
        monkeypatch.setattr(where, name, 0.01)
    # Time goes on with each refusal.
    site = Site(lambda: 0.06 * sum(map(site.refused, ("rate", "bus"))), pending_bytes=1_024, events_per_second=2_000)
    async with served(site, Keys(None)) as stubs, client_of(stubs) as client:
        with site.admission.entered("other") as other:
            if why == "memory":
                other.hold(2_000)
            elif why == "rate":
                await client.send_events(numbered("early", 4_100))
            else:
                site.bus.faults = [AWAY] * 2
            sent = numbered("late", 100)
            if via == "log":
                assert all(map(client.log, sent))
                sending = asyncio.create_task(client.flush(timeout_s=5))
            else:
                sending = asyncio.create_task(sent_all(client, sent))
            await until(lambda: site.refused(why))
        await sending
        assert not any(client.stats.dropped.values())
    assert [id_ for id_ in await site.ids() if id_.startswith("late")] == [event.id for event in sent]
    assert site.pending == 0


def client_of(stubs: Stubs) -> helios.AsyncClient:
    return helios.AsyncClient(f"http://127.0.0.1:{stubs.port}", retry=helios.RetryPolicy(initial_delay_s=0.01))


async def sent_all(client: helios.AsyncClient, sent: list[helios.Event]) -> None:
    assert (await client.send_events(sent, timeout_s=5)).accepted == len(sent)


async def test_a_client_sends_a_batch_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FULL_S", 0.01)
    site = Site(pending_bytes=1_024)
    async with served(site, Keys(None)) as stubs, client_of(stubs) as client:
        with site.admission.entered("other") as other:
            other.hold(2_000)
            sending = asyncio.create_task(client.send_batch(batch(), timeout_s=5))
            await until(lambda: site.refused("memory"))
        assert (await sending).answer == service_pb2.ANSWER_ACCEPTED
