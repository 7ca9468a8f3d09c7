"""The live stream: what comes on the bus and what changes in the store reaches who listens, once and in order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog.testing
from starlette.websockets import WebSocket
from tests.unit.reporter.console.conftest import T0, Connect, MakeConsole, S, alert, delta, windows_record

from helios_core.alerts import AlertState
from helios_core.bus.base import Record, Topic
from helios_core.bus.memory import MemoryBus
from helios_core.clock import EventClock
from helios_core.errors import BusUnavailable, StoreUnavailable
from helios_core.model import Event, EventRecord, Level
from helios_core.records import events_record
from helios_core.store.sqlite import SqliteStore
from helios_reporter.console import feed, live, ring, summaries

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "_PAUSE_S", 0.0)
    monkeypatch.setattr(feed, "_POLL_S", 0.05)
    monkeypatch.setattr(feed, "_LOOK_S", 0.05)
    monkeypatch.setattr(feed, "_AFTER_ALERT_S", 0.01)
    monkeypatch.setattr(feed, "_UNAVAILABLE_S", 0.01)


def event(number: int, level: Level = Level.INFO) -> Event:
    return Event(T0 + number * S, "web", level, f"event {number} {HOSTILE}", latency_us=1_500, host="h")


async def test_records_become_messages_with_ascending_ids(
    make_console: MakeConsole, bus: MemoryBus, connect: Connect, fed: Any
) -> None:
    console = make_console()
    async with fed(console):
        socket = connect(console)
        first = await socket.json()
        assert (first["type"], first["messages"]) == ("snapshot", [])
        deltas = [delta("web", 10, infos=8, errors=2, latency_us=[5_000], host=host) for host in ("a", "b")]
        await bus.publish([windows_record(deltas), Record(Topic.ANOMALY_ALERTS, "web", alert("web", 60).to_bytes())])
        await bus.publish([events_record(EventRecord("web", T0, [event(1)]))])
        found = {message["type"]: message for message in [await socket.json() for _ in range(3)]}
    assert found["windows"]["windows"] == [
        {
            "service": "web", "start": "2026-03-02T00:00:10.000Z", "duration_s": 10.0, "events": 20, "errors": 4,
            "hosts": 2, "p95_ms": 5.0,
        }
    ]  # fmt: skip
    assert found["windows"]["at"] == "2026-03-02T00:00:20.000Z"
    assert (found["alert"]["family"], found["alert"]["severity"], found["alert"]["service"]) == (
        "errors",
        "high",
        "web",
    )
    assert found["alert"]["text"] == "error rate 40 %, typically 1 %"
    assert found["event"]["text"] == f"event 1 {HOSTILE}"
    assert (found["event"]["level"], found["event"]["latency_ms"], found["event"]["source"]) == ("info", 1.5, "api")
    ids = sorted(message["id"] for message in found.values())
    assert ids == list(range(ids[0], ids[0] + 3))
    assert ids[0] > first["id"]


async def test_what_came_with_nobody_there_is_in_the_snapshot(
    make_console: MakeConsole, bus: MemoryBus, connect: Connect, fed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is decoded when somebody comes, not before."""
    decoded: list[int] = []
    monkeypatch.setattr(feed, "summarise", lambda records: decoded.append(len(records)) or summaries.summarise(records))
    console = make_console()
    async with fed(console):
        await bus.publish([windows_record([delta("web", second, infos=1)]) for second in (0, 10)])
        await asyncio.sleep(0.1)
        assert decoded == []
        snapshot = await connect(console).json()
        assert decoded == [2]
    (message,) = snapshot["messages"]
    assert [window["start"][-7:] for window in message["windows"]] == ["00.000Z", "10.000Z"]
    assert snapshot["id"] == message["id"]


async def test_a_group_that_only_watches_begins_at_the_end_and_commits_nothing(
    make_console: MakeConsole, bus: MemoryBus, connect: Connect, fed: Any
) -> None:
    await bus.publish([windows_record([delta("web", 0, infos=1)])])
    console = make_console()
    async with fed(console):
        assert (await connect(console).json())["messages"] == []
    assert bus._commits == {}


async def test_who_comes_back_gets_what_it_missed_and_nothing_twice(
    make_console: MakeConsole, bus: MemoryBus, connect: Connect, fed: Any
) -> None:
    console = make_console()
    alerts = [Record(Topic.ANOMALY_ALERTS, "web", alert("web", second).to_bytes()) for second in range(5)]
    async with fed(console):
        first = connect(console)
        await first.json()
        await bus.publish(alerts[:2])
        last = [await first.of("alert"), await first.of("alert")][-1]["id"]
        await first.close()
        await bus.publish(alerts[2:])
        await asyncio.sleep(0.1)
        second = connect(console, f"after={last}")
        missed = await second.json()
        assert [message["id"] for message in missed["messages"]] == [last + 1, last + 2, last + 3]
        again = await connect(console, f"after={missed['id']}").json()
        assert (again["type"], again["messages"]) == ("snapshot", [])


@pytest.mark.parametrize("after", ["1", "99999999999999", "0"])
async def test_who_missed_more_than_is_kept_is_told(
    make_console: MakeConsole, connect: Connect, fed: Any, after: str
) -> None:
    console = make_console()
    async with fed(console):
        console.feed.ring.push({"type": "alert"})
        socket = connect(console, f"after={after}")
        assert await socket.json() == {"type": "gap", "after": int(after)}
        assert len((await socket.json())["messages"]) == 1


@pytest.mark.parametrize("after", ["", "x", "-1", "²", "9" * 30])
async def test_an_after_that_is_no_id_is_none(
    make_console: MakeConsole, connect: Connect, fed: Any, after: str
) -> None:
    console = make_console()
    async with fed(console):
        assert (await connect(console, f"after={after}").json())["type"] == "snapshot"


async def test_a_slow_client_loses_the_oldest_and_is_told(
    make_console: MakeConsole, connect: Connect, fed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring, "MAX_QUEUED", 4)
    console = make_console()
    async with fed(console):
        slow, quick_one = connect(console), connect(console)
        await slow.json()
        await quick_one.json()
        slow.blocked.clear()
        console.feed.ring.push({"type": "alert", "n": -1})
        await asyncio.sleep(0.02)  # it is being sent, and does not get away
        for n in range(10):
            console.feed.ring.push({"type": "alert", "n": n})
            assert (await quick_one.of("alert"))["n"] == n - 1
        slow.blocked.set()
        assert (await slow.json())["n"] == -1
        told = await slow.json()
        assert (told["type"], told["dropped"]) == ("dropped", 6)
        assert [(await slow.json())["n"] for _ in range(4)] == [6, 7, 8, 9]
        await slow.close()
        assert console.feed.stats["dropped"] == 6


async def test_a_client_that_takes_nothing_is_let_go(
    make_console: MakeConsole, connect: Connect, fed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_SEND_S", 0.05)
    console = make_console()
    async with fed(console):
        socket = connect(console)
        await socket.json()
        socket.blocked.clear()
        console.feed.ring.push({"type": "alert"})
        await socket.over()
        assert console.feed.stats["clients"] == 0


async def test_there_is_a_heartbeat_when_nothing_comes(
    make_console: MakeConsole, connect: Connect, fed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = make_console()
    stream = live.Live(console.feed, EventClock(T0), heartbeat_s=0.02)
    async with fed(console):
        socket = connect(_only(stream))
        snapshot = await socket.json()
        beat = await socket.json()
    assert beat == {"type": "heartbeat", "id": snapshot["id"], "at": "2026-03-02T00:00:00.000Z"}


def _only(stream: live.Live) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await stream.serve(WebSocket(scope, receive, send))

    return app


async def test_too_many_clients_are_asked_to_come_later(
    make_console: MakeConsole, connect: Connect, fed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring, "MAX_CLIENTS", 2)
    console = make_console()
    async with fed(console):
        kept = [connect(console), connect(console)]
        for socket in kept:
            await socket.json()
        third = connect(console)
        assert (await third.raw())["type"] == "websocket.accept"
        refused = await third.raw()
        assert (refused["type"], refused["code"]) == ("websocket.close", 1013)
        await kept[0].close()
        assert (await connect(console).json())["type"] == "snapshot"


async def test_when_the_console_stops_it_lets_everybody_go(
    make_console: MakeConsole, connect: Connect, fed: Any
) -> None:
    console = make_console()
    async with fed(console):
        socket = connect(console)
        await socket.json()
    closed = await socket.raw()
    assert (closed["type"], closed["code"]) == ("websocket.close", 1001)


async def test_undecodable_records_are_counted_and_do_no_harm(
    make_console: MakeConsole, bus: MemoryBus, connect: Connect, fed: Any
) -> None:
    console = make_console()
    async with fed(console):
        socket = connect(console)
        await socket.json()
        with structlog.testing.capture_logs() as logs:
            await bus.publish([
                Record(Topic.ANOMALY_ALERTS, "web", b"{broken"),
                Record(Topic.WINDOWS, "web", b"\xff\xff", {"agent": "00"}),
                Record(Topic.WINDOWS, "web", b""),
                Record(Topic.EVENTS, "web", b"\xff\xff\xff"),
                Record(Topic.ANOMALY_ALERTS, "web", alert("web", 60).to_bytes()),
            ])  # fmt: skip
            assert (await socket.json())["type"] == "alert"
            await asyncio.sleep(0.1)
    assert console.feed.stats["undecodable"] == 4
    assert [entry["event"] for entry in logs] == ["console_skips_undecodable_records"]


async def test_incidents_are_pushed_when_they_change(
    make_console: MakeConsole, bus: MemoryBus, connect: Connect, fed: Any, report: Any
) -> None:
    await report([alert("old", 1)])
    console = make_console()
    async with fed(console):
        socket = connect(console)
        assert (await socket.json())["messages"] == []  # the API has what was there before
        await report([alert("web", 60)])
        pushed = await socket.of("incident")
        assert pushed["incident"]["title"] == "web: more errors"
        assert (pushed["incident"]["state"], pushed["incident"]["revision"]) == ("triggered", 1)
        await report([alert("web", 600, AlertState.RESOLVED)])
        pushed = await socket.of("incident")
        assert (pushed["incident"]["state"], pushed["incident"]["revision"]) == ("resolved", 2)
        await report([alert("old", 700, AlertState.RESOLVED)])
        assert (await socket.of("incident"))["incident"]["services"] == ["old"]


async def test_an_alert_makes_the_feed_look_soon(
    make_console: MakeConsole, bus: MemoryBus, connect: Connect, fed: Any, report: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "_LOOK_S", 60)
    console = make_console()
    async with fed(console):
        socket = connect(console)
        await socket.json()
        await report([alert("web", 60)])
        await bus.publish([Record(Topic.ANOMALY_ALERTS, "web", alert("web", 60).to_bytes())])
        assert (await socket.of("incident"))["incident"]["services"] == ["web"]


async def test_with_nobody_there_for_long_the_store_is_left_alone(
    make_console: MakeConsole, clock: EventClock, store: SqliteStore, fed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = make_console()
    clock.advance_to(clock.now_us() + 301 * S)
    asked: list[str] = []
    query = store.query

    async def counting(name: str, **parameters: Any) -> Any:
        asked.append(name)
        return await query(name, **parameters)

    monkeypatch.setattr(store, "query", counting)
    async with fed(console):
        await asyncio.sleep(0.2)
    assert asked == []


async def test_a_store_or_a_bus_that_is_away_is_waited_for(
    make_console: MakeConsole, bus: MemoryBus, store: SqliteStore, connect: Connect, fed: Any, report: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    subscribe, query = bus.subscribe, store.query
    faults = {"bus": 2, "poll": 2, "store": 2}

    class Faulty:
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        async def poll(self, **words: Any) -> Any:
            if faults["poll"]:
                faults["poll"] -= 1
                raise BusUnavailable("busy")
            return await self._inner.poll(**words)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    async def subscribing(*words: Any, **names: Any) -> Any:
        if faults["bus"]:
            faults["bus"] -= 1
            raise BusUnavailable("away")
        return Faulty(await subscribe(*words, **names))

    async def querying(name: str, **parameters: Any) -> Any:
        if faults["store"]:
            faults["store"] -= 1
            raise StoreUnavailable("locked")
        return await query(name, **parameters)

    monkeypatch.setattr(bus, "subscribe", subscribing)
    monkeypatch.setattr(store, "query", querying)
    console = make_console()
    with structlog.testing.capture_logs() as logs:
        async with fed(console):
            socket = connect(console)
            await socket.json()
            await asyncio.sleep(0.2)
            await bus.publish([Record(Topic.ANOMALY_ALERTS, "web", alert("web", 60).to_bytes())])
            assert (await socket.of("alert"))["service"] == "web"
    assert faults == {"bus": 0, "poll": 0, "store": 0}
    assert {entry["event"] for entry in logs} == {"console_waits_for_the_bus", "console_waits_for_the_store"}


async def test_far_behind_the_feed_goes_on_at_the_end(
    make_console: MakeConsole, bus: MemoryBus, connect: Connect, fed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "_MAX_RECORDS", 10)
    monkeypatch.setattr(feed, "_MAX_LAG", 20)
    console = make_console()
    async with fed(console):
        socket = connect(console)
        await socket.json()
        await bus.publish([Record(Topic.ANOMALY_ALERTS, "web", alert("web", n).to_bytes()) for n in range(100)])
        for _ in range(10):
            await socket.of("alert")
        await asyncio.sleep(0.1)
        await bus.publish([Record(Topic.ANOMALY_ALERTS, "web", alert("web", 500).to_bytes())])
        assert (await socket.of("alert"))["at"] == "2026-03-02T00:08:20.000Z"
    assert console.feed.stats["skipped"] == 90


async def test_what_is_held_for_nobody_is_bounded(
    make_console: MakeConsole, bus: MemoryBus, connect: Connect, fed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "_MAX_HELD", 3)
    console = make_console()
    async with fed(console):
        await bus.publish([windows_record([delta("web", 10 * n, infos=1)]) for n in range(10)])
        await asyncio.sleep(0.1)
        (message,) = (await connect(console).json())["messages"]
    assert len(message["windows"]) == 3
    assert console.feed.stats["omitted_records"] == 7
