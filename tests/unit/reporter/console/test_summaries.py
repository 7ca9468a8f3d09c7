"""What stands in the live stream is bounded: the worst and the newest are shown, the rest is counted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.reporter.console.conftest import T0, S, delta, windows_record

from helios_core.bus.base import Topic
from helios_core.bus.memory import MemoryBus
from helios_core.clock import EventClock
from helios_core.model import Event, EventRecord, Level
from helios_core.records import events_record
from helios_reporter.console import ring, summaries
from helios_reporter.console.ring import Client, Ring, TooManyClients


def event(number: int, level: Level = Level.INFO) -> Event:
    return Event(T0 + number * S, "web", level, f"event {number} <b>", latency_us=1_500, host="h")


def test_of_many_events_the_worst_are_shown_and_the_rest_counted() -> None:
    async def received() -> Any:
        bus = MemoryBus(EventClock(T0))
        events = [event(n, Level.ERROR if n in (3, 60) else Level.INFO) for n in range(100)]
        await bus.publish([events_record(EventRecord("web", T0, events))])
        return await (await bus.subscribe("g", (Topic.EVENTS,))).poll(max_records=10, timeout_s=0)

    turn = summaries.summarise(asyncio.run(received()))
    assert len(turn.messages) == summaries.MAX_EVENTS
    assert turn.omitted_events == 100 - summaries.MAX_EVENTS
    assert [m["level"] for m in turn.messages].count("error") == 2
    assert [m["at"] for m in turn.messages] == sorted(m["at"] for m in turn.messages)


def test_beyond_its_budget_a_turn_decodes_the_newest_records_and_counts_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(summaries, "_MAX_RECORDS", 4)

    async def received() -> Any:
        bus = MemoryBus(EventClock(T0))
        await bus.publish([windows_record([delta("web", 10 * n, infos=n + 1)]) for n in range(6)])
        await bus.publish([events_record(EventRecord("web", T0, [event(n)])) for n in range(7)])
        return await (await bus.subscribe("g", (Topic.WINDOWS, Topic.EVENTS))).poll(max_records=500, timeout_s=0)

    records = asyncio.run(received())
    turn = summaries.summarise(records)
    assert turn.omitted_records == 5
    assert [window["events"] for window in turn.messages[0]["windows"]] == [3, 4, 5, 6]
    assert [message["text"].split(" <")[0] for message in turn.messages[1:]] == [f"event {n}" for n in range(3, 7)]
    monkeypatch.setattr(summaries, "_MAX_EVENT_BYTES", 1)
    assert summaries.summarise(records).omitted_records == 8  # one is always decoded


def test_of_many_windows_the_busiest_are_shown_and_the_rest_counted() -> None:
    async def received() -> Any:
        bus = MemoryBus(EventClock(T0))
        samples = [event(1, Level.ERROR)]
        await bus.publish(
            [windows_record([delta(f"s{n:03d}", 0, infos=n)], samples=samples if n == 1 else []) for n in range(150)]
        )
        return await (await bus.subscribe("g", (Topic.WINDOWS,))).poll(max_records=500, timeout_s=0)

    first, sample = summaries.summarise(asyncio.run(received())).messages
    assert (len(first["windows"]), first["omitted"]) == (100, 50)
    assert {window["events"] for window in first["windows"]} == set(range(50, 150))
    assert sample["source"] == "agent"


def test_the_ring_is_bounded_in_messages_and_bytes() -> None:
    made = Ring(5)
    for n in range(ring.MAX_MESSAGES + 10):
        made.push({"n": n})
    assert len(made.last(10_000)) == ring.MAX_MESSAGES
    assert made.after(made.last_id) == []
    assert made.after(5) is None
    assert len(made.after(14) or []) == ring.MAX_MESSAGES
    made.push({"text": "x" * ring.MAX_BYTES})
    assert made.last(10) == []
    assert made.after(made.last_id - 1) is None


def test_a_ring_takes_so_many_clients() -> None:
    made = Ring()
    for _ in range(ring.MAX_CLIENTS):
        made.join()
    with pytest.raises(TooManyClients, match="100 listeners"):
        made.join()
    made.leave(Client())
    assert made.clients == ring.MAX_CLIENTS
