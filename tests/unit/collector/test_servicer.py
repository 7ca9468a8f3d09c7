"""Raw events over gRPC: each is on the bus, or in the dead letter and named, before the answer comes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc import aio

from helios.v1 import events_pb2, service_pb2, service_pb2_grpc
from helios_collector.admission import Admission
from helios_collector.servicer import serve
from helios_core import wire
from helios_core.bus.base import Record, Topic
from helios_core.bus.memory import MemoryBus
from helios_core.clock import EventClock
from helios_core.errors import BusUnavailable
from helios_core.keys import Grant, Keys, Scope, hash_of
from helios_core.model import MAX_EVENT_BYTES, Event

NOW = 1_772_409_600_000_000


class Site(MemoryBus):
    """A bus that can be away."""

    away = False

    async def publish(self, records: Sequence[Record]) -> None:
        if self.away:
            raise BusUnavailable("the bus is away")
        await super().publish(records)

    async def events(self) -> list[tuple[int, Event]]:
        """With when they were received."""
        consumer = await self.subscribe("test", [Topic.EVENTS])
        records = [wire.record_from_bytes(r.value) for r in await consumer.poll(max_records=10_000, timeout_s=0)]
        assert all(event.service == record.service for record in records for event in record.events)
        return [(record.received_us, event) for record in records for event in record.events]

    async def dead(self) -> list[str]:
        consumer = await self.subscribe("test", [Topic.DEAD_LETTER])
        return [record.headers["reason"] for record in await consumer.poll(max_records=10_000, timeout_s=0)]


@asynccontextmanager
async def served(bus: MemoryBus, keys: Keys | None = None) -> AsyncIterator[service_pb2_grpc.HeliosAsyncStub]:
    server = await serve(Admission(bus), EventClock(NOW), "127.0.0.1:0", keys or Keys(None))
    try:
        async with aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield service_pb2_grpc.HeliosStub(channel)
    finally:
        await server.stop(None)


def event(number: int, service: str = "cart", size: int = 10) -> events_pb2.Event:
    message = "x" * size
    return events_pb2.Event(time_us=NOW + number, service=service, message=message, signal=1, id=f"id-{number}")


async def test_events_of_several_services() -> None:
    bus = Site()
    sent = [event(number, f"service-{number % 3}") for number in range(30)]
    async with served(bus) as stub:
        answer = await stub.SendEvents(service_pb2.SendEventsRequest(events=sent))
    assert (answer.accepted, list(answer.rejected)) == (30, [])
    found = await bus.events()
    assert {received for received, _ in found} == {NOW}
    assert sorted(one.time_us - NOW for _, one in found) == list(range(30))


@pytest.mark.parametrize(("count", "size"), [(40_000, 1), (3_000, 1_000), (15, 255 * 1024), (16, 200 * 1024)])
async def test_as_many_events_of_one_service_as_a_message_holds(count: int, size: int) -> None:
    bus = Site()
    request = service_pb2.SendEventsRequest(events=[event(number, size=size) for number in range(count)])
    assert 1_000_000 < request.ByteSize() < 4 * 1024 * 1024
    async with served(bus) as stub:
        answer = await stub.SendEvents(request)
    assert (answer.accepted, list(answer.rejected)) == (count, [])
    assert [one.time_us - NOW for _, one in await bus.events()] == list(range(count))
    assert await bus.dead() == []


async def test_bad_events_are_named_and_kept_and_the_others_accepted() -> None:
    bus = Site()
    sent = [
        event(0), event(1, service=""), event(2, service="x" * 257), event(-NOW - 1), event(4, size=MAX_EVENT_BYTES),
        events_pb2.Event(time_us=NOW, service="cart", signal=1, latency_us=-1),
        events_pb2.Event(time_us=NOW, service="cart", signal=1, attributes=b"{"),
        events_pb2.Event(time_us=NOW, service="cart", signal=1, level=17),  # type: ignore[arg-type]
        event(8),
    ]  # fmt: skip
    async with served(bus) as stub:
        answer = await stub.SendEvents(service_pb2.SendEventsRequest(events=sent))
    assert answer.accepted == 2
    assert [one.index for one in answer.rejected] == [1, 2, 3, 4, 5, 6, 7]
    assert [one.reason for one in answer.rejected] == await bus.dead()
    assert [one.id for _, one in await bus.events()] == ["id-0", "id-8"]


async def test_without_a_bus_it_is_to_be_sent_again() -> None:
    bus = Site()
    bus.away = True
    async with served(bus) as stub:
        with pytest.raises(aio.AioRpcError) as raised:
            await stub.SendEvents(service_pb2.SendEventsRequest(events=[event(0), event(1, service="")]))
        assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
        assert "away" in (raised.value.details() or "")
        bus.away = False
        assert await bus.events() == []
        assert await bus.dead() == []


@pytest.mark.parametrize(
    ("key", "code"), [("", grpc.StatusCode.UNAUTHENTICATED), ("reads", grpc.StatusCode.PERMISSION_DENIED)]
)
async def test_without_the_right_key_nothing_is_taken(key: str, code: grpc.StatusCode) -> None:
    bus = Site()
    keys = Keys({hash_of("reads"): Grant(frozenset({Scope.READ}))})
    metadata = (("authorization", f"Bearer {key}"),) if key else ()
    async with served(bus, keys) as stub:
        with pytest.raises(aio.AioRpcError) as raised:
            await stub.SendEvents(service_pb2.SendEventsRequest(events=[event(0)]), metadata=metadata)
        assert raised.value.code() == code
        with pytest.raises(aio.AioRpcError) as raised:
            await stub.SendBatch(service_pb2.SendBatchRequest(), metadata=metadata)
        assert raised.value.code() == code
    assert await bus.events() == []


async def test_an_address_in_use_is_an_error_that_names_it() -> None:
    server = await serve(Admission(Site()), EventClock(NOW), "127.0.0.1:0", Keys(None))
    try:
        with pytest.raises(OSError, match=f"127.0.0.1:{server.port}"):
            await serve(Admission(Site()), EventClock(NOW), f"127.0.0.1:{server.port}", Keys(None))
    finally:
        await server.stop(None)
