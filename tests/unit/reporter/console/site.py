"""A console on a real port, with a store and a bus in memory: for the tests in a browser."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from helios_core import wire
from helios_core.alerts import Alert, AlertState, Contribution, Family, Finding, Severity
from helios_core.batches import BatchId, Slice
from helios_core.bus.base import Record, Topic
from helios_core.bus.memory import MemoryBus
from helios_core.clock import EventClock, SystemClock
from helios_core.keys import Grant, Keys, Scope, hash_of
from helios_core.model import Level
from helios_core.service import Context
from helios_core.store.base import SliceWrite
from helios_core.store.sqlite import SqliteStore
from helios_core.windows import WindowDelta
from helios_reporter.service import run as run_reporter

_T = TypeVar("_T")
S = 1_000_000


class Site:
    """A console on a port of its own, served from a thread with its own event loop."""

    def __init__(self, folder: Path, *, keyed: bool = False) -> None:
        self._folder = folder
        self._keys = Keys({hash_of("the-key"): Grant(frozenset({Scope.READ}))} if keyed else None)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="site", daemon=True)
        self.now_us = SystemClock().now_us()
        self.url = ""

    def start(self) -> Site:
        self._thread.start()
        self.call(self._start)
        return self

    def call(self, work: Callable[[], Awaitable[_T]]) -> _T:
        async def working() -> _T:
            return await work()

        return asyncio.run_coroutine_threadsafe(working(), self._loop).result(30)

    async def _start(self) -> None:
        uvicorn = pytest.importorskip("uvicorn", reason="pip install 'helios-observability[console]'")
        from helios_reporter.console.app import Console

        self.bus = MemoryBus()
        self.store = SqliteStore(":memory:")
        self._drain = asyncio.Event()
        self.console = console = Console(
            bus=self.bus,
            store=self.store,
            clock=SystemClock(),
            keys=self._keys,
            parts=lambda: {"detector": {"learning": {"checkout": [312, 8640]}}},
        )
        self._feeding = asyncio.create_task(console.run(self._drain))
        config = uvicorn.Config(console, host="127.0.0.1", port=0, ws="wsproto", log_config=None, lifespan="off")
        self._server = uvicorn.Server(config)
        self._server.capture_signals = _nothing  # type: ignore[method-assign]  # this is no main thread
        self._serving = asyncio.create_task(self._server.serve())
        while not self._server.started:  # noqa: ASYNC110 -- uvicorn has no event for it
            await asyncio.sleep(0.01)
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}/"

    def stop(self) -> None:
        async def stopping() -> None:
            self._drain.set()
            await self._feeding
            self._server.should_exit = True
            await self._serving
            await self.store.close()

        self.call(stopping)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def alert(
        self, service: str, minutes_ago: float, *, state: AlertState = AlertState.FIRED, detail: str = ""
    ) -> Alert:
        at_us = self.now_us - round(minutes_ago * 60 * S)
        family = Family.PATTERN if detail else Family.ERRORS
        part = Contribution(feature="new_template" if detail else "error_rate", unit="share", actual=0.4, typical=0.01)
        found = Finding(
            detector="rules", family=family, severity=Severity.HIGH, minutes=5.0, contributions=(part,), detail=detail
        )
        return Alert(
            id=f"{hash(service):x}.{at_us}",
            episode=f"{hash(service):x}",
            service=service,
            family=family,
            state=state,
            severity=Severity.HIGH,
            decided_us=at_us,
            onset_us=at_us - 60 * S,
            seen_us=at_us,
            horizon_us=300 * S,
            detectors=("rules",),
            findings=() if state is AlertState.RESOLVED else (found,),
            features={},
        )

    def windows(self, service: str, minutes: int, message: str = "") -> None:
        """The last minutes of a service, with one sampled event."""
        start_us = self.now_us // (10 * S) * (10 * S) - minutes * 60 * S
        deltas = []
        for index in range(minutes * 6):
            delta = WindowDelta(start_us + index * 10 * S, service, "host-1")
            delta.levels[2], delta.levels[4] = 40 + index % 9, index % 4
            delta.latency.add([20_000 + 900 * index, 150_000])
            if message:
                delta.templates.add(Level.ERROR, message)
            deltas.append(delta)
        part = Slice(service, 0, deltas=deltas)
        write = SliceWrite(BatchId(f"{hash(service):016x}".encode()[:16], 1, 1), 0, b"c", wire.stored_slice(part))
        self.call(lambda: self.store.apply([write]))

    def report(self, *alerts: Alert) -> None:
        """What the reporter makes of them is in the store."""

        async def reporting() -> None:
            own = MemoryBus()
            await own.publish([Record(Topic.ANOMALY_ALERTS, "k", alert.to_bytes()) for alert in alerts])
            context = Context(
                data_dir=self._folder,
                clock=EventClock(),
                bus=own,
                store=self.store,
                collector=asyncio.get_running_loop().create_future(),
            )
            context.drain.set()
            await run_reporter(context)

        self.call(reporting)

    def publish(self, *records: Record) -> None:
        self.call(lambda: self.bus.publish(records))


def _nothing() -> Any:
    return contextlib.nullcontext()
