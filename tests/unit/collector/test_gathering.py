"""Raw events of many requests in few records: all safe together, or all told; none lost, and none in the way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios.v1 import events_pb2
from helios_collector.gathering import Gathering
from helios_core import wire
from helios_core.bus.base import Record, check
from helios_core.errors import BusUnavailable
from helios_core.records import dead_letter

NOW_US = 1_772_409_600_000_000


def event(service: str, message: str) -> bytes:
    return wire.event_field(events_pb2.Event(time_us=NOW_US, service=service, message=message, level=2, signal=1))


class Bus:
    """What is published, held up while `go` is not set. A fake."""

    def __init__(self) -> None:
        self.rounds: list[tuple[list[Record], int]] = []
        self.under_way = self.most_under_way = 0
        self.faults: list[Exception] = []
        self.go = asyncio.Event()
        self.go.set()

    async def publish(self, records: Sequence[Record], requests: int) -> None:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self.go.wait()
            if self.faults:
                raise self.faults.pop(0)
            self.rounds.append((list(records), requests))
        finally:
            self.under_way -= 1

    def messages(self) -> list[tuple[str, str]]:
        return [
            (record.service, one.message)
            for records, _ in self.rounds
            for record in map(wire.record_from_bytes, (r.value for r in records if r.topic == "events"))
            for one in record.events
        ]


async def test_one_request_alone_goes_at_once() -> None:
    bus = Bus()
    await Gathering(bus.publish).publish(NOW_US, {"web": [event("web", "a"), event("web", "b")]})
    (((record,), requests),) = bus.rounds
    assert (record.key, requests) == ("web", 1)
    assert wire.record_from_bytes(record.value).received_us == NOW_US
    assert bus.messages() == [("web", "a"), ("web", "b")]


async def test_what_comes_together_shares_a_record_for_each_service() -> None:
    bus = Bus()
    gathering = Gathering(bus.publish)
    await asyncio.gather(
        *(gathering.publish(NOW_US + n, {f"s{n % 3}": [event(f"s{n % 3}", str(n))]}) for n in range(30))
    )
    ((records, requests),) = bus.rounds
    assert ([record.key for record in records], requests) == (["s0", "s1", "s2"], 30)
    assert {wire.record_from_bytes(record.value).received_us for record in records} == {NOW_US + 29}
    assert sorted(int(message) for _, message in bus.messages()) == list(range(30))


async def test_while_two_rounds_are_under_way_what_comes_gathers_for_the_next() -> None:
    bus = Bus()
    bus.go.clear()
    gathering = Gathering(bus.publish)
    waiting = []
    for n in range(50):
        waiting.append(asyncio.create_task(gathering.publish(NOW_US, {"web": [event("web", str(n))]})))
        for _ in range(3):
            await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    bus.go.set()
    await asyncio.gather(*waiting)
    assert (len(bus.rounds), bus.most_under_way) == (3, 2)
    assert [requests for _, requests in bus.rounds] == [1, 1, 48]


async def test_a_round_that_fails_is_told_to_all_of_it_and_to_nobody_else() -> None:
    bus = Bus()
    bus.faults = [BusUnavailable("away")]
    gathering = Gathering(bus.publish)
    made = [gathering.publish(NOW_US, {"web": [event("web", str(n))]}) for n in range(5)]
    assert {type(answer) for answer in await asyncio.gather(*made, return_exceptions=True)} == {BusUnavailable}
    await gathering.publish(NOW_US, {"web": [event("web", "later")]})
    assert bus.messages() == [("web", "later")]


async def test_who_goes_away_takes_nobody_elses_events_with_it() -> None:
    bus = Bus()
    bus.go.clear()
    gathering = Gathering(bus.publish)
    tasks = [asyncio.create_task(gathering.publish(NOW_US, {"web": [event("web", str(n))]})) for n in range(2)]
    await asyncio.sleep(0.01)
    tasks[0].cancel()
    bus.go.set()
    await tasks[1]
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    assert bus.messages() == [("web", "0"), ("web", "1")]


async def test_a_failure_that_nobody_waits_for_any_more_is_no_warning() -> None:
    bus = Bus()
    bus.faults = [BusUnavailable("away")]
    gathering = Gathering(bus.publish)
    task = asyncio.create_task(gathering.publish(NOW_US, {"web": [event("web", "a")]}))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0.01)
    await gathering.publish(NOW_US, {"web": [event("web", "b")]})
    assert bus.messages() == [("web", "b")]


async def test_an_answer_that_fails_takes_nobody_elses_with_it() -> None:
    bus = Bus()
    gathering = Gathering(bus.publish)
    told: list[Exception | None] = []

    def fails(_: Exception | None) -> None:
        raise ZeroDivisionError

    gathering.join(NOW_US, {"web": [event("web", "a")]}, (), fails)
    gathering.join(NOW_US, {"web": [event("web", "b")]}, (), told.append)
    await gathering.publish(NOW_US, {"web": [event("web", "c")]})
    assert told == [None]


async def test_a_round_that_is_cancelled_is_to_be_sent_again() -> None:
    bus = Bus()
    bus.go.clear()
    gathering = Gathering(bus.publish)
    told: list[Exception | None] = []
    gathering.join(NOW_US, {"web": [event("web", "a")]}, (), told.append)
    await asyncio.sleep(0.01)
    (task,) = gathering._running
    task.cancel()
    await asyncio.wait([task])
    assert [type(error) for error in told] == [BusUnavailable]


async def test_what_a_request_brings_beside_its_events_goes_with_them() -> None:
    bus = Bus()
    gathering = Gathering(bus.publish)
    await gathering.publish(NOW_US, {}, [dead_letter("event", "no service", b"{}")])
    await gathering.publish(NOW_US, {}, [])
    ((records, _),) = bus.rounds
    assert [record.topic for record in records] == ["dead-letter"]


@given(st.lists(st.integers(1, 250_000), min_size=1, max_size=12))
async def test_records_are_as_large_as_the_bus_takes_and_keep_the_order(sizes: list[int]) -> None:
    bus = Bus()
    events = [event("web", f"{n} " + "x" * size) for n, size in enumerate(sizes)]
    await Gathering(bus.publish).publish(NOW_US, {"web": events})
    found = [int(message.split()[0]) for _, message in bus.messages()]
    assert found == list(range(len(sizes)))
    for records, _ in bus.rounds:
        check(records)
