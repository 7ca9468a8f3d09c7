"""What a collector keeps of its clients has a bound: the services they bring, and how far their clocks are off."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from grpc import aio
from structlog.testing import capture_logs

from helios.v1 import batch_pb2, events_pb2, service_pb2, service_pb2_grpc
from helios_collector import ingest
from helios_collector.admission import Admission
from helios_collector.http import HttpIngest
from helios_collector.ingest import Ingest, ServiceNames, client_of, peer_address
from helios_collector.servicer import serve
from helios_collector.telemetry import ClockSkew, Telemetry
from helios_core import wire
from helios_core.batches import BatchId
from helios_core.bus.base import Topic
from helios_core.bus.memory import MemoryBus
from helios_core.clock import EventClock
from helios_core.keys import Grant, Keys, Scope, hash_of
from helios_core.model import OVERFLOW_SERVICE

S = 1_000_000
NOW_US = 1_772_409_600 * S
AGENT = b"0123456789abcdef"
INGEST = Grant(frozenset({Scope.INGEST}))
KEYS = Keys({hash_of("one"): INGEST, hash_of("two"): INGEST})


async def keys_on(bus: MemoryBus, topic: Topic) -> list[str]:
    consumer = await bus.subscribe("test", [topic])
    return [record.key for record in await consumer.poll(max_records=100_000, timeout_s=0)]


# --- services --------------------------------------------------------------------------------------


def under(names: ServiceNames, client: str, *services: str) -> list[str]:
    return ["-" if names.under(name, client) == OVERFLOW_SERVICE else name for name in services]


def test_each_client_and_all_together_are_bounded() -> None:
    names = ServiceNames(limit=5, client_limit=3)
    assert under(names, "one", "a", "b", "c", "d", "a") == ["a", "b", "c", "-", "a"]
    assert under(names, "two", "a", "b", "e", "f", "g") == ["a", "b", "e", "f", "-"]
    assert under(names, "three", "h", "f", OVERFLOW_SERVICE) == ["-", "f", "-"]
    assert names.overflowed == ["d", "g", "h"]


def test_no_number_of_clients_and_names_makes_it_grow() -> None:
    names = ServiceNames(limit=50, client_limit=3)
    with capture_logs() as logs:
        for client in range(500):
            for service in range(5):
                names.under(f"{client}/{service} {'x' * 256}", str(client))
    assert len(names._known) == 51
    assert len(names._brought) <= 50
    assert len(names.overflowed) == 100
    assert max(map(len, names.overflowed)) == 80
    assert [(entry["event"], entry["client"]) for entry in logs] == [("services_overflowed", "0")]


@pytest.mark.parametrize(
    ("keys", "authorization", "api_key", "who"),
    [
        (Keys(None), "", "", "10.0.0.1"),
        (Keys(None), "Bearer any", "any", "10.0.0.1"),  # a key that nobody asked for makes no other client
        (KEYS, "Bearer one", "", hash_of("one")),
        (KEYS, "", "one", hash_of("one")),
        (KEYS, "bearer  two ", "one", hash_of("two")),
    ],
)
def test_a_client_is_its_key_or_where_it_is(keys: Keys, authorization: str, api_key: str, who: str) -> None:
    assert client_of(keys, authorization, api_key, "10.0.0.1") == who


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.0.0.1:4711", "10.0.0.1"),
        ("ipv6:[::1]:4711", "::1"),
        ("ipv6:%5B2001:db8::1%5D:4711", "2001:db8::1"),
        ("unix:/run/helios.sock", "unix:/run/helios.sock"),
        ("", ""),
    ],
)
def test_the_address_of_a_peer_has_no_port(peer: str, address: str) -> None:
    assert peer_address(peer) == address


async def test_http_counts_by_address_and_says_what_is_beyond() -> None:
    bus = MemoryBus()
    app = HttpIngest(Admission(bus), EventClock(NOW_US), Keys(None), names=ServiceNames(limit=10, client_limit=2))
    answers: list[Any] = []
    for address, port, services in (("10.0.0.1", 1, "ab"), ("10.0.0.1", 2, "cb"), ("10.0.0.2", 1, "cd")):
        transport = httpx.ASGITransport(app, client=(address, port))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            body = json.dumps([{"service": service, "message": "x"} for service in services])
            answers.append((await client.post("/api/v1/events", content=body)).json())
    assert [answer["accepted"] for answer in answers] == [2, 2, 2]
    assert [len(answer.get("warnings", [])) for answer in answers] == [0, 1, 0]
    assert await keys_on(bus, Topic.EVENTS) == ["a", "b", OVERFLOW_SERVICE, "b", "c", "d"]


async def test_grpc_counts_by_key_and_shares_the_names_with_http() -> None:
    bus = MemoryBus()
    names = ServiceNames(limit=3, client_limit=2)
    names.under("a", hash_of("one"))
    server = await serve(Admission(bus), EventClock(NOW_US), "127.0.0.1:0", KEYS, names=names)
    try:
        async with aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stub = service_pb2_grpc.HeliosStub(channel)
            for key, services in (("one", "bc"), ("two", "cd")):
                events = [
                    events_pb2.Event(time_us=NOW_US, service=service, signal=events_pb2.SIGNAL_LOG)
                    for service in services
                ]
                await stub.SendEvents(
                    service_pb2.SendEventsRequest(events=events), metadata=(("authorization", f"Bearer {key}"),)
                )
    finally:
        await server.stop(None)
    assert await keys_on(bus, Topic.EVENTS) == ["b", OVERFLOW_SERVICE, "c", OVERFLOW_SERVICE]


def batch(services: list[str], sequence: int = 1, **fields: Any) -> service_pb2.SendBatchRequest:
    slices = [batch_pb2.Slice(service=service, watermark_us=NOW_US, **fields) for service in services]
    data = batch_pb2.Batch(host="host-1", cut_us=NOW_US, slices=slices).SerializeToString()
    return service_pb2.SendBatchRequest(
        id=wire.id_to_proto(BatchId(AGENT, 7, sequence)),
        batch=data,
        sha256=wire.content_hash(data),
        contract_version=wire.CONTRACT_VERSION,
    )


async def test_slices_keep_their_names_so_that_a_batch_that_comes_again_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a restart of the collector, too: their names are part of their identity."""
    monkeypatch.setattr(ingest, "MAX_SERVICES", 1)
    request = batch([*"abc", OVERFLOW_SERVICE])
    bus = MemoryBus()
    for collector in (Ingest(Admission(bus)), Ingest(Admission(bus))):
        assert not (await collector.take_batch(request, "client")).rejected
    assert await keys_on(bus, Topic.WINDOWS) == [*"abc", OVERFLOW_SERVICE] * 2


# --- clocks ----------------------------------------------------------------------------------------


class Site:
    """Agents that cut every ten seconds; times are seconds."""

    def __init__(self, skew: ClockSkew | None = None) -> None:
        self.skew = skew or ClockSkew()

    def send(self, first: float, last: float, late: Any, host: str = "h") -> None:
        """Batches that are received so long after their cuts: a number, or a function of the time of receipt."""
        second = first
        while second < last:
            seconds = late(second) if callable(late) else late
            self.skew.saw(host.encode(), host, NOW_US + round((second - seconds) * S), NOW_US + round(second * S))
            second += 10


@pytest.mark.parametrize("off_s", [-3_600, -12, 0, 12, 3_600])
def test_a_clock_that_is_off_is_measured_in_a_minute_whatever_the_way_adds(off_s: float) -> None:
    site = Site()
    site.send(0, 60, lambda second: off_s + second / 10 % 3)
    assert site.skew.worst() == {}
    site.send(60, 70, off_s)
    assert site.skew.worst() == {"h": off_s}


@pytest.mark.parametrize("was_known", [True, False])
def test_what_was_spooled_is_no_skew(was_known: bool) -> None:
    """An agent that was cut off for an hour sends what it has: each batch a little less late."""

    def late(second: float) -> float:
        return max(0.1, (4_800 - second) * 6)

    site = Site()
    site.send(0, 600 if was_known else 0, 0.1)
    site.send(4_200, 4_700, late)
    assert site.skew.worst() == ({"h": 0.1} if was_known else {})
    site.send(4_700, 4_900, late)
    assert site.skew.worst() == {"h": 0.1}


def test_a_batch_from_the_future_tells_at_once_what_no_way_can_explain() -> None:
    site = Site()
    site.send(0, 70, lambda second: 40 if second == 30 else -20)
    assert site.skew.worst() == {"h": -20}
    site.send(70, 130, lambda second: 40 if second == 90 else 0)  # it was set right; one minute, one straggler
    site.send(130, 200, 0)
    assert site.skew.worst() == {"h": 0}


def test_a_batch_that_was_long_under_way_is_no_skew() -> None:
    site = Site()
    site.send(0, 10, 100)
    site.send(100, 110, 50)
    assert site.skew.worst() == {}
    site.send(200, 270, lambda second: 40 if second in (220, 250) else 0.2)
    assert site.skew.worst() == {}
    site.send(270, 400, 0.2)
    assert site.skew.worst() == {"h": 0.2}


def test_a_clock_that_was_set_right_is_right_a_minute_later() -> None:
    site = Site()
    site.send(0, 100, 12)
    assert site.skew.worst() == {"h": 12}
    site.send(100, 240, 0)
    assert site.skew.worst() == {"h": 0}
    site.send(240, 400, -12)
    assert site.skew.worst() == {"h": -12}
    site.send(400, 600, 0)
    assert site.skew.worst() == {"h": 0}


def test_the_worst_are_shown_and_those_that_are_gone_are_not() -> None:
    site = Site()
    for number in range(20):
        site.send(0, 100, number * (-1) ** number, f"h{number}")
    assert list(site.skew.worst().items()) == [("h15", -15), ("h16", 16), ("h17", -17), ("h18", 18), ("h19", -19)]
    site.send(500, 700, 1, "alive")
    assert site.skew.worst() == {"alive": 1}


def test_no_number_of_agents_makes_it_grow() -> None:
    site = Site(ClockSkew(10))
    for number in range(100):
        site.send(0, 100, 1, f"h{number}")
    assert len(site.skew._clocks) == 10


def test_it_is_said_every_ten_minutes_with_the_host_and_how_far_it_is_off() -> None:
    site = Site()
    with capture_logs() as logs:
        site.send(0, 1_000, 4, "right")
        assert logs == []
        site.send(0, 1_000, -17, "ahead")
    assert [entry["event"] for entry in logs] == ["agent_clock_skew"] * 2
    assert {entry["log_level"] for entry in logs} == {"warning"}
    assert logs[0]["seconds"] == {"ahead": -17}


async def test_a_batch_is_held_against_the_clock_of_the_collector() -> None:
    telemetry = Telemetry()
    clock = EventClock(NOW_US + 8 * S)
    collector = Ingest(Admission(MemoryBus()), telemetry, clock)
    metric = telemetry.registry.get_sample_value
    assert metric("helios_agent_clock_skew_seconds") == 0
    for sequence in range(1, 9):
        request = batch(["a"], sequence)
        sent = batch_pb2.Batch.FromString(request.batch)
        sent.cut_us = clock.now_us() + 8 * S
        request.batch = sent.SerializeToString()
        request.sha256 = wire.content_hash(request.batch)
        await collector.take_batch(request, "client")
        clock.advance_to(clock.now_us() + 10 * S)
    assert telemetry.skew.worst() == {"host-1": -8}
    assert metric("helios_agent_clock_skew_seconds") == 8


@pytest.mark.parametrize("kind", ["history", "replay", "no time"])
async def test_what_says_nothing_of_an_agents_clock_is_not_held_against_it(kind: str) -> None:
    telemetry = Telemetry(is_live=kind != "replay")
    clock = EventClock(NOW_US + 8 * S)
    collector = Ingest(Admission(MemoryBus()), telemetry, clock)
    for sequence in range(1, 9):
        request = batch(["a"], sequence, history=kind == "history")
        if kind == "no time":
            sent = batch_pb2.Batch.FromString(request.batch)
            sent.cut_us = 0
            request.batch = sent.SerializeToString()
            request.sha256 = wire.content_hash(request.batch)
        await collector.take_batch(request, "client")
        clock.advance_to(clock.now_us() + 10 * S)
    assert telemetry.skew._clocks == {}
