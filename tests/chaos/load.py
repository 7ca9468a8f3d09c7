"""Steady load in three ways, and what was sent: every event's id, and what each window has to hold."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx

from helios import AsyncClient, Event, HeliosClientError

WINDOW_US: Final = 10_000_000
_TICK_S: Final = 0.1
_BAD_S: Final = 60  # each service in turn fails for so long
_AT_ONCE: Final = 200  # events of a request, at most
_ROTATE_LINES: Final = 1_500
Window = tuple[str, int]  # service, and when it starts, µs


@dataclass
class Sent:
    """What is to be in the store in the end.

    Attributes:
        ids: of the events that were sent one by one; those of lines are nowhere kept.
        events, errors: of each window of each service.
        refused: answers that said to come again, and connections that failed, by what they were.
    """

    ids: set[str] = field(default_factory=set)
    events: Counter[Window] = field(default_factory=Counter)
    errors: Counter[Window] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    def note(self, service: str, time_us: int, *, is_error: bool) -> None:
        window = service, time_us // WINDOW_US * WINDOW_US
        self.events[window] += 1
        self.errors[window] += is_error


@dataclass
class Load:
    """What is sent until it stops.

    Args:
        per_second: events of each service.
        services: of all senders, to know whose turn it is to fail.
        rng: what is random.

    Attributes:
        making: how many make events at present.
    """

    per_second: float
    services: Sequence[str]
    rng: random.Random
    sent: Sent = field(default_factory=Sent)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    making: int = 0

    def drawn(self, service: str) -> tuple[int, bool, float]:
        """An event: when (µs), whether it is an error, and its latency, ms."""
        failing = self.services[int(time.time() / _BAD_S) % len(self.services)] == service
        is_error = self.rng.random() < (0.7 if failing else 0.02)
        return time.time_ns() // 1_000, is_error, round(self.rng.lognormvariate(3, 0.6), 3)

    async def ticks(self, rate: float) -> Any:
        """How many events are due, again and again until the load stops."""
        due, last_s = 0.0, time.monotonic()
        self.making += 1
        while not self.stopped.is_set():
            await asyncio.sleep(_TICK_S)
            due, last_s = due + (time.monotonic() - last_s) * rate, time.monotonic()
            yield int(due)
            due -= int(due)
        self.making -= 1

    def goes_on(self) -> bool:
        """More may come, from any of those that make it."""
        return not self.stopped.is_set() or self.making > 0


async def over_http(load: Load, url: str, services: Sequence[str]) -> None:
    """Events with ids, in batches: each is sent until it is accepted."""
    backlog: list[dict[str, Any]] = []

    async def make() -> None:
        async for due in load.ticks(load.per_second * len(services)):
            backlog.extend(_event(load, load.rng.choice(services)) for _ in range(due))

    async def send(client: httpx.AsyncClient) -> None:
        while backlog or load.goes_on():
            batch, backlog[:_AT_ONCE] = backlog[:_AT_ONCE], []
            if not batch:
                await asyncio.sleep(_TICK_S)
                continue
            while not await _accepted(load, client, url, batch):
                pass

    async with httpx.AsyncClient(timeout=10) as client, asyncio.TaskGroup() as group:
        group.create_task(make())
        group.create_task(send(client))
        group.create_task(send(client))


def _event(load: Load, service: str) -> dict[str, Any]:
    time_us, is_error, latency_ms = load.drawn(service)
    id_ = f"{service}-{len(load.sent.ids)}"
    load.sent.ids.add(id_)
    load.sent.note(service, time_us, is_error=is_error)
    return {
        "service": service,
        "time": datetime.fromtimestamp(time_us / 1e6, UTC).isoformat(),
        "level": "ERROR" if is_error else "INFO",
        "message": "no database" if is_error else "done",
        "id": id_,
        "metadata": {"n": id_, "latency_ms": latency_ms},
    }


async def _accepted(load: Load, client: httpx.AsyncClient, url: str, batch: list[dict[str, Any]]) -> bool:
    try:
        answer = await client.post(f"{url}/api/v1/events", json=batch)
    except httpx.TransportError as error:
        load.sent.refused[f"http {type(error).__name__}"] += 1
        await asyncio.sleep(0.3)
        return False
    if answer.status_code == 202 and answer.json()["accepted"] == len(batch):
        return True
    load.sent.refused[f"http {answer.status_code}"] += 1
    await asyncio.sleep(min(float(answer.headers.get("retry-after", "0.3")), 3))
    return False


async def by_client(load: Load, endpoint: str, service: str) -> None:
    """Events with ids, by the client library."""
    backlog: list[Event] = []

    async def make() -> None:
        async for due in load.ticks(load.per_second):
            for _ in range(due):
                made = _event(load, service)
                backlog.append(
                    Event(
                        service,
                        made["message"],
                        level=made["level"],
                        time=datetime.fromisoformat(made["time"]),
                        latency_ms=made["metadata"]["latency_ms"],
                        attributes={"n": made["id"]},
                    )
                )

    async def send(client: AsyncClient) -> None:
        while backlog or load.goes_on():
            batch, backlog[:_AT_ONCE] = backlog[:_AT_ONCE], []
            while batch:
                try:
                    result = await client.send_events(batch, timeout_s=10)
                except HeliosClientError as error:
                    load.sent.refused[f"client {type(error).__name__}"] += 1
                    if not error.retryable:
                        raise
                    await asyncio.sleep(0.3)
                    continue
                if result.rejected:
                    raise AssertionError(f"refused for good: {result.rejected[0]}")
                break
            else:
                await asyncio.sleep(_TICK_S)

    async with AsyncClient(endpoint) as client, asyncio.TaskGroup() as group:
        group.create_task(make())
        group.create_task(send(client))


async def into_file(load: Load, path: Path, service: str) -> None:
    """Lines into a file that is renamed now and then; the last one of a tick may be torn in two."""
    written = turn = 0
    torn = ""
    async for due in load.ticks(load.per_second):
        text = torn
        for _ in range(due):
            time_us, is_error, latency_ms = load.drawn(service)
            load.sent.note(service, time_us, is_error=is_error)
            line = {
                "timestamp": datetime.fromtimestamp(time_us / 1e6, UTC).isoformat(),
                "service": service,
                "level": "ERROR" if is_error else "INFO",
                "message": f"{'no database' if is_error else 'done'} {written}",
                "latency_ms": latency_ms,
            }
            text += json.dumps(line) + "\n"
            written += 1
        at = load.rng.randrange(len(text) + 1) if load.rng.random() < 0.3 else len(text)
        _append(path, text[:at])
        torn = text[at:]
        if written // _ROTATE_LINES > turn and not torn:
            turn = written // _ROTATE_LINES
            _rotate(path, turn)
    _append(path, torn)


def _append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def _rotate(path: Path, turn: int) -> None:
    path.rename(path.with_name(f"{path.name}.{turn}"))
    path.touch()
