"""What the tests of the console share: a store with real documents, the console, a socket without a network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from helios_core import wire
from helios_core.alerts import Alert, AlertState, Contribution, Family, Finding, Severity
from helios_core.batches import BatchId, Slice
from helios_core.bus.base import Record, Topic
from helios_core.bus.memory import MemoryBus
from helios_core.clock import EventClock
from helios_core.keys import Grant, Keys, Scope, hash_of
from helios_core.records import slice_record
from helios_core.service import Context
from helios_core.store.base import SliceWrite
from helios_core.store.sqlite import SqliteStore
from helios_core.windows import WindowDelta
from helios_core.wire.batches import slice_to_proto
from helios_reporter.console.app import Console
from helios_reporter.service import run

S = 1_000_000
T0 = 1_772_409_600 * S
KEY = "a-key-that-may-read"


@pytest.fixture
async def store() -> AsyncIterator[SqliteStore]:
    made = SqliteStore(":memory:")
    yield made
    await made.close()


@pytest.fixture
def clock() -> EventClock:
    return EventClock(T0 + 3_600 * S)


@pytest.fixture
def bus(clock: EventClock) -> MemoryBus:
    return MemoryBus(clock)


@pytest.fixture
def parts() -> dict[str, Any]:
    return {}


MakeConsole = Callable[..., Console]


@pytest.fixture
def make_console(store: SqliteStore, bus: MemoryBus, clock: EventClock, parts: dict[str, Any]) -> MakeConsole:
    """A console; with `keyed` it needs a key."""

    def make(*, keyed: bool = False) -> Console:
        scopes = {hash_of(KEY): Grant(frozenset({Scope.READ})), hash_of("ingest"): Grant(frozenset({Scope.INGEST}))}
        return Console(bus=bus, store=store, clock=clock, keys=Keys(scopes if keyed else None), parts=lambda: parts)

    return make


@pytest.fixture
async def client(make_console: MakeConsole) -> AsyncIterator[httpx.AsyncClient]:
    """Of an open console."""
    async with browser(make_console()) as made:
        yield made


@asynccontextmanager
async def _browser(console: Console, host: str = "127.0.0.1:8080") -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=console)
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as made:
        yield made


browser = _browser


@pytest.fixture(name="browser")
def browser_fixture() -> Any:
    return _browser


def alert(
    service: str,
    second: int,
    state: AlertState = AlertState.FIRED,
    family: Family = Family.ERRORS,
    severity: Severity = Severity.HIGH,
    detail: str = "",
) -> Alert:
    part = Contribution(feature="error_rate", unit="share", actual=0.4, typical=0.01)
    found = Finding(
        detector="rules", family=family, severity=severity, minutes=5.0, contributions=(part,), detail=detail
    )  # fmt: skip
    return Alert(
        id=f"{service}.{family}.{second}",
        episode=f"{service}.{family}",
        service=service,
        family=family,
        state=state,
        severity=severity,
        decided_us=T0 + second * S,
        onset_us=T0,
        seen_us=T0 + second * S,
        horizon_us=300 * S,
        detectors=("rules",),
        findings=() if state is AlertState.RESOLVED else (found,),
        features={},
    )


@pytest.fixture(name="alert")
def alert_fixture() -> Callable[..., Alert]:
    return alert


@pytest.fixture
def report(store: SqliteStore, tmp_path: Path) -> Callable[[Sequence[Alert]], Awaitable[None]]:
    """The real reporter over these alerts: incidents, evidence and reports in the store."""

    async def reported(alerts: Sequence[Alert]) -> None:
        own = MemoryBus()
        await own.publish([Record(Topic.ANOMALY_ALERTS, "web", one.to_bytes()) for one in alerts])
        context = Context(
            data_dir=tmp_path,
            clock=EventClock(),
            bus=own,
            store=store,
            collector=asyncio.get_running_loop().create_future(),
        )
        context.drain.set()
        await run(context)

    return reported


def delta(
    service: str, second: int, *, infos: int = 0, errors: int = 0, latency_us: Sequence[int] = (),
    host: str = "a", duration_ms: int = 10_000, signal: int = 1,
) -> WindowDelta:  # fmt: skip
    made = WindowDelta(T0 + second * S, service, host, signal, duration_ms)
    made.levels[2], made.levels[4] = infos, errors
    made.latency.add(list(latency_us))
    return made


@pytest.fixture(name="delta")
def delta_fixture() -> Callable[..., WindowDelta]:
    return delta


@pytest.fixture
def apply(store: SqliteStore) -> Callable[[Sequence[WindowDelta]], Awaitable[None]]:
    """Puts windows into the store, each once."""
    sequence = 0

    async def applied(deltas: Sequence[WindowDelta]) -> None:
        nonlocal sequence
        for one in deltas:
            sequence += 1
            part = Slice(one.service, 0, deltas=[one])
            await store.apply([SliceWrite(BatchId(b"a" * 16, 1, sequence), 0, b"c", wire.stored_slice(part))])

    return applied


def windows_record(deltas: Sequence[WindowDelta], **parts: Any) -> Record:
    """A record of the topic `windows`."""
    part = Slice(deltas[0].service, T0, deltas=list(deltas), **parts)
    return slice_record(BatchId(b"a" * 16, 1, 1), part.service, slice_to_proto(part).SerializeToString(), "a")


@pytest.fixture(name="windows_record")
def windows_record_fixture() -> Callable[..., Record]:
    return windows_record


class Socket:
    """A WebSocket of the console, without a network."""

    def __init__(self, console: Console, query: str = "", headers: dict[str, str] | None = None) -> None:
        self._to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._from_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.blocked = asyncio.Event()
        self.blocked.set()
        headers = {"host": "localhost", **(headers or {})}
        scope = {
            "type": "websocket",
            "path": "/api/v1/ws/events",
            "raw_path": b"/api/v1/ws/events",
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "subprotocols": [],
            "scheme": "ws",
            "root_path": "",
        }
        self._to_app.put_nowait({"type": "websocket.connect"})
        self._task = asyncio.create_task(console(scope, self._to_app.get, self._send))

    async def _send(self, message: Any) -> None:
        await self.blocked.wait()
        await self._from_app.put(dict(message))

    async def raw(self) -> dict[str, Any]:
        async with asyncio.timeout(5):
            return await self._from_app.get()

    async def json(self) -> dict[str, Any]:
        message = await self.raw()
        while message["type"] == "websocket.accept":
            message = await self.raw()
        assert message["type"] == "websocket.send", message
        return dict(msgspec.json.decode(message["text"]))

    async def of(self, kind: str) -> dict[str, Any]:
        """The next message of a kind."""
        while (message := await self.json())["type"] != kind:
            pass
        return message

    async def close(self) -> None:
        self._to_app.put_nowait({"type": "websocket.disconnect", "code": 1000})
        async with asyncio.timeout(5):
            await self._task

    async def over(self) -> None:
        """Until the console has let it go."""
        async with asyncio.timeout(5):
            await self._task


Connect = Callable[..., Socket]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Opens sockets, and closes them at the end."""
    opened: list[Socket] = []

    def made(console: Console, query: str = "", headers: dict[str, str] | None = None) -> Socket:
        opened.append(Socket(console, query, headers))
        return opened[-1]

    yield made
    for socket in opened:
        socket.blocked.set()
        if not socket._task.done():
            await socket.close()


@asynccontextmanager
async def _fed(console: Console) -> AsyncIterator[None]:
    """The console reads the bus while this lasts."""
    drain = asyncio.Event()
    task = asyncio.create_task(console.run(drain))
    await asyncio.sleep(0.02)
    try:
        yield
    finally:
        drain.set()
        async with asyncio.timeout(5):
            await task


@pytest.fixture
def fed() -> Any:
    return _fed
