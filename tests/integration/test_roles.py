"""Collector, detectors and reporter as processes of their own, on Kafka and PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import yaml
from tests.engines.fixtures import fresh_database

from helios_core.bus.kafka import topics
from helios_core.bus.kafka.settings import KafkaSettings
from helios_core.store.postgres.migrate import migrate
from helios_core.store.postgres.settings import PostgresSettings

pytestmark = [pytest.mark.engines, pytest.mark.slow]
BIN = Path(sys.executable).parent
SERVICES = [f"service-{number}" for number in range(8)]
PER_SECOND = 2  # events of each service


class Part:
    """One process, with the address that it logs."""

    def __init__(self, folder: Path, name: str, number: int, configuration: dict[str, Any]) -> None:
        own = folder / f"{name}-{number}"
        own.mkdir()
        file = own / "config.yaml"
        addresses = {"http": "127.0.0.1:0", "grpc": "127.0.0.1:0"}
        file.write_text(yaml.safe_dump({**configuration, **addresses, "data_dir": str(own / "data")}))
        self._log = own / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [BIN / f"helios-{name}", "run", "--config", file, "--log-json"], stdout=log, stderr=subprocess.STDOUT
            )

    def said(self) -> list[dict[str, Any]]:
        lines = self._log.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    async def http(self) -> str:
        """Where it listens, as soon as it does."""
        return await eventually(lambda: next((f"http://{e['http']}" for e in self.said() if "http" in e), ""), 60)

    def text(self) -> str:
        return self._log.read_text(errors="replace")


async def eventually(look: Callable[[], Any], within_s: float) -> Any:
    """What it gives once that is something."""
    deadline_s = time.monotonic() + within_s
    while True:
        found = look()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline_s, "it did not come to be in time"
        await asyncio.sleep(0.2)


@contextmanager
def ended(parts: list[Part]) -> Iterator[None]:
    try:
        yield
    finally:
        for part in parts:
            if part.process.poll() is None:
                part.process.kill()
            part.process.wait(10)


@asynccontextmanager
async def traffic(url: str) -> AsyncIterator[Counter[str]]:
    """Events of all services, all of them errors, until the context ends; what was accepted of each."""
    accepted: Counter[str] = Counter()
    stopping = asyncio.Event()

    async def send() -> None:
        async with httpx.AsyncClient(timeout=15) as client:
            while not stopping.is_set():
                now = datetime.now(UTC).isoformat()
                batch = [
                    {"service": name, "level": "ERROR", "message": "no database", "id": str(uuid.uuid4()), "time": now}
                    for name in SERVICES
                    for _ in range(PER_SECOND)
                ]
                answer = await client.post(f"{url}/api/v1/events", json=batch)
                if answer.status_code == 202:
                    accepted.update(event["service"] for event in batch)
                await asyncio.sleep(1)

    task = asyncio.create_task(send())
    try:
        yield accepted
    finally:
        stopping.set()
        await task


async def test_each_service_is_decided_by_one_detector_also_when_one_dies(
    kafka: str, postgres: str, tmp_path: Path
) -> None:
    prefix = f"{uuid.uuid4()}."
    await topics.apply(KafkaSettings(kafka, prefix=prefix), topics.Plan(partitions=4))
    async with fresh_database(postgres, timescale=False) as dsn:
        await migrate(PostgresSettings(dsn))
        configuration = {"kafka": {"bootstrap": kafka, "prefix": prefix}, "postgres": {"dsn": dsn}}
        parts = [Part(tmp_path, "collector", 1, configuration)]
        with ended(parts):
            collector = await parts[0].http()
            parts += [Part(tmp_path, "detector", number, configuration) for number in (1, 2)]
            parts.append(Part(tmp_path, "reporter", 1, configuration))
            for part in parts:
                await part.http()
            reporter = await parts[3].http()
            store = await asyncpg.connect(dsn)

            async def fired() -> list[Any]:
                return list(await store.fetch("SELECT service, id FROM anomalies WHERE state = 'fired'"))

            async def all_fired() -> bool:
                return {row["service"] for row in await fired()} == set(SERVICES)

            async with traffic(collector) as accepted:
                await eventually(all_fired, 150)
                shares = []
                async with httpx.AsyncClient() as client:
                    for part in parts[1:3]:
                        text = (await client.get(f"{await part.http()}/metrics")).text
                        (events,) = re.findall(r"^helios_detection_events_processed_total (\S+)$", text, re.MULTILINE)
                        shares.append(float(events))
                    assert all(shares), "one of the detectors had nothing to do"
                    parts[1].process.kill()
                    incidents = (await client.get(f"{reporter}/api/v1/incidents")).json()["incidents"]
                    assert incidents
                    # The other one takes over, and knows what was decided.
                    await eventually(lambda: "partitions_changed" in parts[2].text(), 60)
                    await asyncio.sleep(25)
            counts = Counter(row["service"] for row in await fired())
            assert counts == Counter(SERVICES), "an alert was said twice, or not"

            async def stored() -> bool:
                rows = await store.fetch("SELECT service, sum(events)::bigint AS n FROM windows GROUP BY service")
                return {row["service"]: row["n"] for row in rows} == dict(accepted)

            await eventually(stored, 30)
            await store.close()
            for part in (parts[3], parts[2], parts[0]):
                part.process.terminate()
                assert part.process.wait(40) == 0, part.text()[-2_000:]


@pytest.mark.parametrize("name", ["detector", "reporter"])
def test_alone_on_one_machine_a_part_says_what_it_needs(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [BIN / f"helios-{name}", "run", "--data-dir", tmp_path], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "kafka" in done.stderr
    assert "helios up" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
