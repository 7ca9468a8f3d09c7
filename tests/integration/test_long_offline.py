"""An agent that was offline for longer than every limit of time: forty days, more than the bus and the store keep.

The clocks of forty days ago are made with libfaketime (Debian's package `faketime`).
"""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx
import pytest
import yaml
from aiokafka import TopicPartition
from aiokafka.admin.records_to_delete import RecordsToDelete
from tests.chaos.link import Link, Mood
from tests.chaos.part import Part, faketime
from tests.engines.fixtures import fresh_database
from tests.engines.kafka.broker import free_port
from tests.integration.kafka_support import admin_of

from helios_core.bus.base import Topic
from helios_core.bus.kafka import topics
from helios_core.bus.kafka.settings import KafkaSettings
from helios_core.store.postgres.migrate import migrate
from helios_core.store.postgres.settings import PostgresSettings

pytestmark = [pytest.mark.engines, pytest.mark.slow]
AWAY_S: Final = 40 * 86_400
LINES: Final = 3_000  # each of three times: stored then, on its way when the agent went away, and read afterwards
KILLS: Final = 4


def lines(at_s: float) -> str:
    """As many, within three minutes from that time; every seventh is an error."""
    return "".join(
        json.dumps(
            {
                "time": datetime.fromtimestamp(at_s + 180 * n / LINES, UTC).isoformat(),
                "level": "ERROR" if n % 7 == 0 else "INFO",
                "message": "tick",
                "latency_ms": n % 100,
            }
        )
        + "\n"
        for n in range(LINES)
    )


async def eventually(holds: Callable[[], Awaitable[bool]], within_s: float = 60) -> None:
    deadline_s = time.monotonic() + within_s
    while not await holds():
        assert time.monotonic() < deadline_s, "it did not come to be in time"
        await asyncio.sleep(0.2)


def part(folder: Path, name: str, program: str, settings: dict[str, Any]) -> Part:
    own = folder / name
    own.mkdir()
    file = own / "config.yaml"
    file.write_text(yaml.safe_dump(settings))
    return Part(name, [program, "run", "--config", str(file)], own)


@asynccontextmanager
async def kept(*parts: Part) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(part.keep()) for part in parts]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for one in parts:
            one.end()


async def forget_all(settings: KafkaSettings, names: list[str]) -> None:
    """What Kafka's retention does after a week."""
    async with admin_of(settings) as admin:
        described = await admin.describe_topics(names)
        await admin.delete_records(
            {
                TopicPartition(topic["topic"], partition["partition"]): RecordsToDelete(before_offset=-1)
                for topic in described
                for partition in topic["partitions"]
            }
        )


@pytest.mark.skipif(faketime() is None, reason="no libfaketime: apt-get install faketime")
@pytest.mark.parametrize("timescale", [False, True], ids=["postgres", "timescale"])
async def test_what_was_read_before_is_counted_once_when_it_comes_at_last(
    kafka: str, postgres: str, tmp_path: Path, *, timescale: bool
) -> None:
    bus = KafkaSettings(kafka, prefix=f"{uuid.uuid4()}.")
    await topics.apply(bus, topics.Plan(partitions=2))
    grpc = free_port()
    link = Link(free_port(), grpc)
    await link.open()
    log = tmp_path / "web.log"
    log.write_text(lines(time.time() - AWAY_S - 400))
    async with fresh_database(postgres, timescale=timescale) as dsn:
        await migrate(PostgresSettings(dsn))
        store = await asyncpg.connect(dsn)

        async def stored(table: str, step_s: int = 0) -> tuple[int, int]:
            where = f" WHERE step_s = {step_s} AND start_time < now() - interval '1 day'" if step_s else ""
            row = await store.fetchrow(f"SELECT coalesce(sum(events), 0), coalesce(sum(errors), 0) FROM {table}{where}")
            assert row is not None
            return int(row[0]), int(row[1])

        settings = {
            "kafka": {"bootstrap": bus.bootstrap, "prefix": bus.prefix},
            "postgres": {"dsn": dsn},
            "http": f"127.0.0.1:{free_port()}",
            "grpc": f"127.0.0.1:{grpc}",
            "data_dir": str(tmp_path / "data"),
        }
        collector = part(tmp_path, "collector", "helios-collector", settings)
        agent = part(
            tmp_path,
            "agent",
            "helios-agent",
            {
                "agent": {"state_dir": str(tmp_path / "state"), "host": "h1"},
                "sources": [{"type": "file", "config": {"paths": [str(log)]}}],
                "helios": {"endpoint": f"http://127.0.0.1:{link.port}"},
            },
        )
        for one in (collector, agent):
            one.shift_clock(-AWAY_S)
        async with kept(collector, agent):
            # Forty days ago: a third is stored; of another third the answers are lost; nothing passes after that.
            await eventually(lambda: holds(stored("windows"), LINES))
            link.become(Mood.DEAF)
            with log.open("a") as file:
                file.write(lines(time.time() - AWAY_S - 200))
            await eventually(lambda: holds(stored("windows"), 2 * LINES))
            link.become(Mood.CUT)
            with log.open("a") as file:
                file.write(lines(time.time() - AWAY_S))
            await asyncio.sleep(12)  # it reads, cuts and spools them
            assert await stored("windows") == (2 * LINES, 2 * errors())
            agent.kill(3_600)
            await collector.stop()
        await forget_all(bus, [bus.prefix + topic.value for topic in Topic])
        # Now. What was kept then is rolled up and pruned before anything new comes.
        for one in (collector, agent):
            one.shift_clock(0)
            one.revive()
        async with kept(collector):
            await eventually(lambda: holds(stored("windows"), 0))
            assert await stored("rollups", 3_600) == (2 * LINES, 2 * errors())
            link.become(Mood.OPEN)
            async with kept(agent):
                for _ in range(KILLS):
                    await asyncio.sleep(2.5)
                    agent.kill(0)
                for step_s in (60, 300, 3_600):
                    await eventually(lambda step_s=step_s: holds(stored("rollups", step_s), 3 * LINES))  # type: ignore[misc]
                with log.open("a") as file:
                    file.write(lines(time.time() - 180))
                await eventually(lambda: holds(stored("windows"), LINES))
                await asyncio.sleep(3)  # in which what would come twice has come
                async with httpx.AsyncClient() as client:
                    counted = (await client.get(f"http://{settings['http']}/metrics")).text
                (known,) = re.findall(r"^helios_store_duplicates_total (\S+)$", counted, re.MULTILINE)
                assert float(known) > 0, "nothing of what was stored forty days ago was sent again"
        for step_s in (60, 300, 3_600):
            assert await stored("rollups", step_s) == (3 * LINES, 3 * errors())
        assert await stored("windows") == (LINES, errors())
        await store.close()
    await link.close()


def errors() -> int:
    return len(range(0, LINES, 7))


async def holds(found: Awaitable[tuple[int, int]], events: int) -> bool:
    """So many, of which the right share are errors; never more."""
    count, wrong = await found
    assert count <= events or events == 0, f"{count} events of {events}"
    return count == events and wrong == events // LINES * errors()
