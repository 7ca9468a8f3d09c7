"""Batches into the collector: accepted when they are safe, and bad ones named, kept and out of the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios.v1 import batch_pb2, service_pb2, views_pb2, windows_pb2
from helios_agent.cut import Cutter
from helios_collector.admission import Admission
from helios_collector.ingest import Ingest
from helios_core import wire
from helios_core.batches import MAX_SLICE_BYTES, BatchId
from helios_core.bus.base import Received, Record, Topic
from helios_core.bus.memory import MemoryBus
from helios_core.errors import BusUnavailable
from helios_core.records import slice_of
from helios_core.windows import WindowDelta

AGENT = b"0123456789abcdef"
NOW = 1_772_409_600_000_000


class Broken(MemoryBus):
    """A bus that cannot be reached so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    async def publish(self, records: Sequence[Record]) -> None:
        if self.times:
            self.times -= 1
            raise BusUnavailable("the bus is away")
        await super().publish(records)


async def on(bus: MemoryBus, topic: Topic) -> list[Received]:
    consumer = await bus.subscribe("test", [topic])
    return await consumer.poll(max_records=10_000, timeout_s=0)


def delta(service: str, events: int = 3) -> WindowDelta:
    made = WindowDelta(NOW, service, "host-1")
    made.levels[2] = events
    return made


def whole(*services: str) -> service_pb2.SendBatchRequest:
    """A batch as an agent cuts it."""
    (request,) = Cutter(AGENT, "host-1").cut(
        now_us=NOW, deltas=[delta(name) for name in services], samples={}, services=[], sources=[], watermark_us=NOW
    )
    return request


def request_of(batch: batch_pb2.Batch | bytes, **changes: Any) -> service_pb2.SendBatchRequest:
    """A batch of any content, rightly hashed unless told otherwise."""
    data = batch if isinstance(batch, bytes) else batch.SerializeToString()
    fields: dict[str, Any] = {
        "id": wire.id_to_proto(BatchId(AGENT, 7, 1)),
        "batch": data,
        "sha256": wire.content_hash(data),
        "contract_version": wire.CONTRACT_VERSION,
    }
    return service_pb2.SendBatchRequest(**(fields | changes))


def part(service: str, **fields: Any) -> batch_pb2.Slice:
    return batch_pb2.Slice(service=service, watermark_us=NOW, **fields)


async def test_a_batch_is_accepted_when_all_its_slices_are_on_the_bus() -> None:
    bus = MemoryBus()
    request = whole("cart", "users")
    answer = await Ingest(Admission(bus)).take_batch(request, "client")
    assert answer == service_pb2.SendBatchResponse(id=request.id, answer=service_pb2.ANSWER_ACCEPTED)
    received = await on(bus, Topic.WINDOWS)
    assert [one.key for one in received] == ["cart", "users"]
    for one in received:
        id_, content, decoded = slice_of(one)
        assert id_ == wire.id_from_proto(request.id)
        assert wire.content_hash(one.value).startswith(content)
        assert decoded.deltas == [delta(one.key)]
        assert decoded.watermark_us == NOW
        assert one.headers["host"] == "host-1"
    assert await on(bus, Topic.DEAD_LETTER) == []


async def test_all_slices_go_in_one_publish() -> None:
    published: list[int] = []

    class Counting(MemoryBus):
        async def publish(self, records: Sequence[Record]) -> None:
            published.append(len(records))
            await super().publish(records)

    await Ingest(Admission(Counting())).take_batch(whole("cart", "users", "search"), "client")
    assert published == [3]


async def test_a_batch_without_slices_is_accepted() -> None:
    bus = MemoryBus()
    answer = await Ingest(Admission(bus)).take_batch(request_of(batch_pb2.Batch(host="host-1")), "client")
    assert answer.answer == service_pb2.ANSWER_ACCEPTED
    assert not answer.rejected


@pytest.mark.parametrize("version", [0, 2, 2**32 - 1])
async def test_another_version_of_the_contract_is_denied(version: int) -> None:
    bus = MemoryBus()
    request = whole("cart")
    request.contract_version = version
    answer = await Ingest(Admission(bus)).take_batch(request, "client")
    assert answer.answer == service_pb2.ANSWER_DENIED
    assert answer.id == request.id
    assert f"speaks version {wire.CONTRACT_VERSION}" in answer.detail
    assert str(version) in answer.detail
    assert await on(bus, Topic.WINDOWS) == await on(bus, Topic.DEAD_LETTER) == []


GOOD = batch_pb2.Batch(host="host-1", slices=[part("cart")]).SerializeToString()
BAD = {
    "a hash of other bytes": request_of(GOOD, sha256=wire.content_hash(b"other")),
    "no hash": request_of(GOOD, sha256=b""),
    "bytes that are no batch": request_of(b"\xff\xff\xff\xff\xff"),
    "half a batch": request_of(GOOD[:-1]),
    "no agent": request_of(GOOD, id=batch_pb2.BatchId(incarnation=7, sequence=1)),
    "an agent of 15 bytes": request_of(GOOD, id=batch_pb2.BatchId(agent_id=b"x" * 15, sequence=1)),
    "no sequence": request_of(GOOD, id=batch_pb2.BatchId(agent_id=AGENT, incarnation=7)),
    "no id": request_of(GOOD, id=None),
    "a large one": request_of(b"\xff" * 3_500_000),
}


@pytest.mark.parametrize("kind", BAD)
async def test_what_is_no_batch_is_kept_named_and_accepted(kind: str) -> None:
    bus = MemoryBus()
    answer = await Ingest(Admission(bus)).take_batch(BAD[kind], "client")
    assert answer.answer == service_pb2.ANSWER_ACCEPTED
    assert answer.id == BAD[kind].id
    (rejection,) = answer.rejected
    assert rejection.whole
    assert rejection.reason
    (dead,) = await on(bus, Topic.DEAD_LETTER)
    assert dead.headers["kind"] == "batch"
    assert dead.headers["reason"] == rejection.reason
    content = BAD[kind].SerializeToString()
    assert dead.headers["bytes"] == str(len(content))
    assert dead.value
    assert content.startswith(dead.value)
    assert await on(bus, Topic.WINDOWS) == []
    assert (await Ingest(Admission(bus)).take_batch(whole("cart"), "client")).answer == service_pb2.ANSWER_ACCEPTED


TOO_LARGE = part("huge", samples=[{"service": "huge", "message": "x" * MAX_SLICE_BYTES}])
BAD_SLICES = {
    "without a service": part("").SerializeToString(),
    "a service of 257 bytes": part("x" * 257).SerializeToString(),
    "a service with a line feed": part("a\nb").SerializeToString(),
    "a service with an escape": part("\x1b[31mred").SerializeToString(),
    "a service that is no UTF-8": part("cart").SerializeToString().replace(b"cart", b"ca\xfft"),
    "bytes that are no slice": b"\xff\xff\xff\xff\xff",
    "half a slice": part("cart", backlog_bytes=2**40).SerializeToString()[:-1],
    "over the size": TOO_LARGE.SerializeToString(),
    "the service of another slice": part("users", backlog_bytes=1).SerializeToString(),
    "another slice again": part("users").SerializeToString(),
}


@pytest.mark.parametrize("kind", BAD_SLICES)
@pytest.mark.parametrize("place", [1, 2])
async def test_a_bad_slice_does_not_take_the_good_ones_with_it(kind: str, place: int) -> None:
    bus = MemoryBus()
    slices = [part("users").SerializeToString(), part("cart").SerializeToString()]
    slices.insert(place, BAD_SLICES[kind])
    batch = views_pb2.BatchView(host="host-1", slices=slices).SerializeToString()  # the bytes of a batch with them
    answer = await Ingest(Admission(bus)).take_batch(request_of(batch), "client")
    assert answer.answer == service_pb2.ANSWER_ACCEPTED
    (rejection,) = answer.rejected
    assert (rejection.index, rejection.whole) == (place, False)
    assert sorted(one.key for one in await on(bus, Topic.WINDOWS)) == ["cart", "users"]
    (dead,) = await on(bus, Topic.DEAD_LETTER)
    assert dead.headers["kind"] == "slice"
    assert dead.headers["reason"] == rejection.reason
    assert BAD_SLICES[kind].startswith(dead.value)
    assert len(dead.value) > len(BAD_SLICES[kind]) // 2


def test_what_is_looked_at_of_a_batch_is_what_it_says() -> None:
    """The views have the numbers of the messages that they are of."""
    for view, of in (
        (views_pb2.BatchView, batch_pb2.Batch),
        (views_pb2.SliceView, batch_pb2.Slice),
        (views_pb2.StoredView, batch_pb2.Slice),
        (views_pb2.DeltaView, windows_pb2.WindowDelta),
        (views_pb2.LatencyView, windows_pb2.LatencyHistogram),
    ):
        numbers = {field.name: field.number for field in of.DESCRIPTOR.fields}
        assert {field.name: field.number for field in view.DESCRIPTOR.fields}.items() <= numbers.items()


async def test_a_slice_is_put_on_the_bus_byte_for_byte() -> None:
    """Also what this release does not know of it: a reader may."""
    bus = MemoryBus()
    sent = part("cart").SerializeToString() + b"\xfa\x3e\x03new"  # field 1,007
    batch = views_pb2.BatchView(host="host-1", slices=[sent]).SerializeToString()
    assert not (await Ingest(Admission(bus)).take_batch(request_of(batch), "client")).rejected
    (received,) = await on(bus, Topic.WINDOWS)
    assert received.value == sent


async def test_a_host_of_any_length_does_not_stop_a_batch() -> None:
    bus = MemoryBus()
    slices = [part("cart", samples=[{"service": "cart", "message": "x" * 500_000}])]
    answer = await Ingest(Admission(bus)).take_batch(
        request_of(batch_pb2.Batch(host="ü" * 700_000, slices=slices)), "client"
    )
    assert answer.answer == service_pb2.ANSWER_ACCEPTED
    (received,) = await on(bus, Topic.WINDOWS)
    assert received.headers["host"].startswith("ü" * 100)


@pytest.mark.parametrize("request_", [whole("cart", "users"), *BAD.values()])
async def test_without_a_bus_nothing_is_accepted_and_nothing_refused(request_: service_pb2.SendBatchRequest) -> None:
    bus = Broken(2)
    now_s = 0.0
    ingest = Ingest(Admission(bus, now_s=lambda: now_s))
    for _ in range(2):
        now_s += 60
        answer = await ingest.take_batch(request_, "client")
        assert answer.answer == service_pb2.ANSWER_RETRY
        assert answer.retry_after_ms > 0
        assert answer.id == request_.id
        assert not answer.rejected
        assert "away" in answer.detail
    now_s += 60
    assert (await ingest.take_batch(request_, "client")).answer == service_pb2.ANSWER_ACCEPTED
    taken = len(await on(bus, Topic.WINDOWS)) + len(await on(bus, Topic.DEAD_LETTER))
    assert taken == (2 if request_ not in BAD.values() else 1)


@given(data=st.data())
async def test_no_bytes_break_it(data: st.DataObject) -> None:
    """A sound request with any bytes changed is answered, and is somewhere afterwards."""
    content = bytearray(request_of(batch_pb2.Batch(host="h", slices=[part("cart"), part("users")])).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        request = service_pb2.SendBatchRequest.FromString(bytes(content))
    except Exception:  # noqa: BLE001 - gRPC refuses it before it comes so far
        return
    bus = MemoryBus()
    answer = await Ingest(Admission(bus)).take_batch(request, "client")
    stored, dead = await on(bus, Topic.WINDOWS), await on(bus, Topic.DEAD_LETTER)
    if answer.answer == service_pb2.ANSWER_DENIED:
        assert request.contract_version != wire.CONTRACT_VERSION
        assert stored == dead == []
    else:
        assert answer.answer == service_pb2.ANSWER_ACCEPTED
        assert len(dead) == len(answer.rejected)
        assert stored or dead
