"""`python -m tests.chaos.outage`: Kafka is away for minutes under load, and afterwards everything is stored once.

Clients over HTTP send batches of events with ids, each as soon as it may, and the same again until it is accepted. An
agent follows a file that grows.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx
import yaml

from helios_core.bus.kafka import topics
from helios_core.bus.kafka.settings import KafkaSettings
from helios_core.errors import BusUnavailable
from helios_core.store.postgres.migrate import migrate
from helios_core.store.postgres.settings import PostgresSettings
from tests.chaos.part import Part
from tests.engines.kafka.broker import Brokers, free_port
from tests.engines.postgres.server import Server, has_timescale

_CLIENTS: Final = 100
_AROUND_S: Final = 20  # of load before and after
_SETTLED_S: Final = 900
_TICK_S: Final = 0.25


@dataclass
class Sent:
    """What was sent.

    Attributes:
        events: that were made, each with a number from 0.
        lines: that were written to the agent's file.
        answers: of the collector, by status, or what went wrong with a connection; one that refuses is `503`.
        took_s: of the answers that accepted.
    """

    events: int = 0
    lines: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    took_s: list[float] = field(default_factory=list)


async def client(sent: Sent, http: httpx.AsyncClient, number: int, at_once: int, stopped: asyncio.Event) -> None:
    """One batch a second, unless it has to wait longer for an answer that accepts."""
    await asyncio.sleep(number / _CLIENTS)
    due_s = time.monotonic()
    while not stopped.is_set():
        body = _batch(sent, number, at_once)
        while not await _accepted(sent, http, body):
            pass
        due_s = max(due_s + 1, time.monotonic())
        await asyncio.sleep(due_s - time.monotonic())


def _batch(sent: Sent, number: int, at_once: int) -> bytes:
    now = datetime.now(UTC).isoformat()
    first, sent.events = sent.events, sent.events + at_once
    head = f'{{"service":"pay-{number % 20}","time":"{now}","level":"INFO","message":"paid"'
    return "\n".join(f'{head},"id":"{n}","metadata":{{"n":{n}}}}}' for n in range(first, first + at_once)).encode()


async def _accepted(sent: Sent, http: httpx.AsyncClient, body: bytes) -> bool:
    began_s = time.monotonic()
    try:
        answer = await http.post("/api/v1/events", content=body)
    except httpx.TransportError as error:
        sent.answers[type(error).__name__] += 1
        await asyncio.sleep(1)
        return False
    sent.answers[str(answer.status_code)] += 1
    if answer.status_code == 202:
        if answer.json()["rejected"]:
            raise AssertionError(f"refused for good: {answer.text[:200]}")
        sent.took_s.append(time.monotonic() - began_s)
        return True
    await asyncio.sleep(float(answer.headers["retry-after"]))
    return False


async def writer(sent: Sent, path: Path, per_second: int, stopped: asyncio.Event) -> None:
    """Lines into a file."""
    due, last_s = 0.0, time.monotonic()
    while not stopped.is_set():
        await asyncio.sleep(_TICK_S)
        due, last_s = due + (time.monotonic() - last_s) * per_second, time.monotonic()
        now = datetime.now(UTC).isoformat()
        line = json.dumps({"time": now, "level": "INFO", "message": "done", "latency_ms": 12}) + "\n"
        with path.open("a") as file:
            file.write(line * int(due))
        sent.lines += int(due)
        due -= int(due)


@dataclass
class Site:
    """What runs."""

    brokers: Brokers
    dsn: str
    url: str
    log: Path
    parts: list[Part]


async def site(folder: Path, stack: AsyncExitStack) -> Site:
    """A broker, a database, a collector that takes in and stores, and an agent."""
    (folder / "kafka").mkdir()
    brokers, server = Brokers(folder / "kafka"), Server()
    stack.callback(brokers.stop)
    stack.callback(server.stop)
    await asyncio.to_thread(brokers.start_all)
    await asyncio.to_thread(server.start)
    admin = await asyncpg.connect(server.dsn())
    await admin.execute("CREATE DATABASE helios")
    await admin.close()
    dsn = server.dsn("helios")
    if has_timescale():
        made = await asyncpg.connect(dsn)
        await made.execute("CREATE EXTENSION timescaledb")
        await made.close()
    await migrate(PostgresSettings(dsn))
    while True:
        with suppress(BusUnavailable):
            await topics.apply(KafkaSettings(brokers.bootstrap))
            break
        await asyncio.sleep(0.3)
    http, grpc, log = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}", folder / "web.log"
    log.touch()
    collector = {"kafka": {"bootstrap": brokers.bootstrap}, "postgres": {"dsn": dsn}, "http": http, "grpc": grpc}
    agent = {
        "agent": {"state_dir": str(folder / "state")},
        "sources": [{"type": "file", "config": {"paths": [str(log)]}}],
        "helios": {"endpoint": f"http://{grpc}"},
    }
    parts = [
        _part(folder, "helios-collector", {**collector, "data_dir": str(folder / "data")}),
        _part(folder, "helios-agent", agent),
    ]
    for part in parts:
        keeping = asyncio.create_task(part.keep())
        stack.callback(part.end)
        stack.callback(keeping.cancel)
    return Site(brokers, dsn, f"http://{http}", log, parts)


def _part(folder: Path, program: str, settings: dict[str, Any]) -> Part:
    own = folder / program
    own.mkdir()
    (own / "config.yaml").write_text(yaml.safe_dump(settings))
    return Part(program, [program, "run", "--config", str(own / "config.yaml")], own)


async def run(folder: Path, away_s: int, rate: int, lines: int) -> list[str]:
    """What happened; what is wrong begins with WRONG."""
    said: list[str] = []
    sent, stopped = Sent(), asyncio.Event()
    async with AsyncExitStack() as stack:
        here = await site(folder, stack)
        limits = httpx.Limits(max_connections=_CLIENTS, max_keepalive_connections=_CLIENTS)
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=here.url, timeout=30, limits=limits))
        while not await _is_up(http):  # noqa: ASYNC110 - a process, which nobody can await
            await asyncio.sleep(0.2)
        load = asyncio.gather(
            *(client(sent, http, number, rate // _CLIENTS, stopped) for number in range(_CLIENTS)),
            writer(sent, here.log, lines, stopped),
        )
        await asyncio.sleep(_AROUND_S)
        said.append(f"before: {_rate(sent, _AROUND_S)}")
        await asyncio.to_thread(here.brokers.kill)
        await asyncio.sleep(away_s)
        said.append(
            f"after {away_s} s without Kafka: {dict(sent.answers)}, {here.parts[0].peak_bytes >> 20} MB at most"
        )
        await asyncio.to_thread(here.brokers.restart)
        await asyncio.sleep(_AROUND_S)
        stopped.set()
        await load
        said.append(f"in all: {sent.events} events, {sent.lines} lines, answers {dict(sent.answers)}")
        said += await _judged(here, sent)
        for part in here.parts:
            said.append(f"{part.name}: {part.starts} start, {part.peak_bytes >> 20} MB at most, ends {part.ends}")
    return said


async def _is_up(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/health")).is_success
    except httpx.TransportError:
        return False


def _rate(sent: Sent, seconds: float) -> str:
    took_s = sorted(sent.took_s)
    return (
        f"{sent.events / seconds:.0f} events/s and {sent.lines / seconds:.0f} lines/s offered,"
        f" answers {dict(sent.answers)}, p99 {took_s[int(0.99 * len(took_s))] * 1_000:.0f} ms"
    )


async def _judged(here: Site, sent: Sent) -> list[str]:
    store = await asyncpg.connect(here.dsn)
    began_s = time.monotonic()
    try:
        while True:
            counted = await store.fetchval("SELECT coalesce(sum(events), 0)::bigint FROM windows")
            if counted >= sent.events + sent.lines or time.monotonic() - began_s > _SETTLED_S:
                break
            await asyncio.sleep(1)
        took_s = time.monotonic() - began_s
        await asyncio.sleep(3)  # in which what would come twice has come
        row = await store.fetchrow(
            "SELECT count(*) AS stored, count(DISTINCT (attributes->>'n')::bigint) AS distinct,"
            " min((attributes->>'n')::bigint) AS least, max((attributes->>'n')::bigint) AS most"
            " FROM events WHERE attributes ? 'n'"
        )
        counted = await store.fetchval("SELECT coalesce(sum(events), 0)::bigint FROM windows")
    finally:
        await store.close()
    found = tuple(row or ())
    wanted = sent.events, sent.events, 0, sent.events - 1
    said = [f"all stored {took_s:.0f} s after the load: events (rows, ids, first, last) {found}, counted {counted}"]
    if found != wanted:
        said.append(f"WRONG: the events are {found}, not {wanted}")
    if counted != sent.events + sent.lines:
        said.append(f"WRONG: {counted} are counted, of {sent.events} events and {sent.lines} lines")
    return said


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.outage", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="how long Kafka is away (default: %(default)s)")
    parser.add_argument("--rate", type=int, default=10_000, help="events/s that clients offer (default: %(default)s)")
    parser.add_argument("--lines", type=int, default=2_000, help="lines/s that an agent reads (default: %(default)s)")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="helios-outage-"))
    folder.chmod(0o755)  # the database has a user of its own
    try:
        said = asyncio.run(run(folder, given.seconds, given.rate, given.lines))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.write("\n".join(said) + "\n")
    return any(line.startswith("WRONG") for line in said)


if __name__ == "__main__":
    sys.exit(main())
