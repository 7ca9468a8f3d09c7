"""Everything that runs: a broker, a database, and the parts of Helios, each reached over a link that can be spoiled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg
import yaml

from helios_core.bus.kafka import topics
from helios_core.bus.kafka.settings import KafkaSettings
from helios_core.errors import BusUnavailable
from helios_core.store.postgres.migrate import migrate
from helios_core.store.postgres.settings import PostgresSettings
from tests.chaos.disk import Disk
from tests.chaos.link import Link
from tests.chaos.part import Part
from tests.engines.kafka.broker import Brokers, free_port
from tests.engines.postgres.server import Server, has_timescale

LINES: Final = ("orders", "web-0", "web-1")  # orders comes from both agents
RAW: Final = ("pay", "cart")
CLIENT: Final = "search"
_PARTITIONS: Final = 4


@dataclass
class Estate:
    """What runs, by what it is called.

    Attributes:
        parts: processes of Helios.
        links: relays between them.
        disks: of those that have one of their own.
        dsn: of the database, past its link.
        is_evidence: copies of the disks are left beside them.
    """

    folder: Path
    brokers: Brokers
    server: Server
    dsn: str = ""
    parts: dict[str, Part] = field(default_factory=dict)
    links: dict[str, Link] = field(default_factory=dict)
    disks: dict[str, Disk] = field(default_factory=dict)
    broker_down: asyncio.Lock = field(default_factory=asyncio.Lock)
    database_down: asyncio.Lock = field(default_factory=asyncio.Lock)
    is_evidence: bool = False

    def log_of(self, agent: int, service: str) -> Path:
        return self.folder / f"logs-{agent}" / f"{service}.log"

    def url(self, collector: int) -> str:
        """Where clients reach a collector."""
        return f"http://127.0.0.1:{self.links[f'clients to collector-{collector}'].port}"

    def endpoint(self, collector: int) -> str:
        return f"http://127.0.0.1:{self.links[f'agents to collector-{collector}'].port}"

    async def revive(self) -> None:
        """The engines run again, if they have ended: what starts services does the same."""
        while True:
            async with self.broker_down:
                if not self.brokers.is_running():
                    await asyncio.to_thread(_tried, self.brokers.restart)
            async with self.database_down:
                if not self.server.is_running():
                    await asyncio.to_thread(_tried, self.server.start)
            await asyncio.sleep(0.3)


def _tried(start: Any) -> None:
    with suppress(RuntimeError):  # its disk may be full: the next turn tries again
        start()


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Estate]:
    """An estate under load-free conditions; everything has ended when the context has."""
    disks = {
        "broker": Disk(folder / "disk-broker", 600),
        "database": Disk(folder / "disk-database", 700),
        "agent-0": Disk(folder / "disk-agent-0", 24),
    }
    link_port = free_port()
    (folder / "disk-broker" / "kafka").mkdir()
    brokers = Brokers(folder / "disk-broker" / "kafka", advertised=link_port)
    server = Server(disks["database"].folder, {"max_wal_size": "128MB", "wal_keep_size": "0"})
    estate = Estate(folder, brokers, server, disks=disks)
    tasks: list[asyncio.Task[None]] = []
    try:
        await asyncio.to_thread(brokers.start_all)
        await asyncio.to_thread(server.start)
        await _open_links(estate, link_port)
        await _made(estate, link_port)
        for part in _parts(estate, link_port):
            estate.parts[part.name] = part
            tasks.append(asyncio.create_task(part.keep()))
        tasks.append(asyncio.create_task(estate.revive()))
        yield estate
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for part in estate.parts.values():
            part.end()
        for link in estate.links.values():
            await link.close()
        brokers.stop()
        if estate.is_evidence:
            server.kill()
            for disk in disks.values():
                disk.keep()
        server.stop()
        for disk in disks.values():
            disk.close()


async def _open_links(estate: Estate, broker: int) -> None:
    estate.links["everybody to the broker"] = Link(broker, estate.brokers.ports[0])
    for name in ("collector-0", "collector-1", "detector-0", "detector-1", "reporter-0"):
        estate.links[f"{name} to the database"] = Link(free_port(), estate.server.port)
    for number in (0, 1):
        estate.links[f"clients to collector-{number}"] = Link(free_port(), free_port())
        estate.links[f"agents to collector-{number}"] = Link(free_port(), free_port())
    for link in estate.links.values():
        await link.open()


async def _made(estate: Estate, broker: int) -> None:
    admin = await asyncpg.connect(estate.server.dsn())
    await admin.execute("CREATE DATABASE helios")
    await admin.close()
    estate.dsn = estate.server.dsn("helios")
    if has_timescale():
        made = await asyncpg.connect(estate.dsn)
        await made.execute("CREATE EXTENSION timescaledb")
        await made.close()
    await migrate(PostgresSettings(estate.dsn))
    while True:
        try:
            await topics.apply(KafkaSettings(f"127.0.0.1:{broker}"), topics.Plan(partitions=_PARTITIONS))
        except BusUnavailable:
            await asyncio.sleep(0.3)
        else:
            return


def _parts(estate: Estate, broker: int) -> list[Part]:
    made = []
    for service, number in (
        ("collector", 0), ("collector", 1), ("detector", 0), ("detector", 1), ("reporter", 0),
    ):  # fmt: skip
        name = f"{service}-{number}"
        database = estate.links[f"{name} to the database"].port
        settings: dict[str, Any] = {
            "kafka": {"bootstrap": f"127.0.0.1:{broker}"},
            "postgres": {"dsn": estate.dsn.replace(f":{estate.server.port}/", f":{database}/")},
            "http": f"127.0.0.1:{free_port()}",
            "data_dir": str(estate.folder / name / "data"),
        }
        if service == "collector":
            settings["http"] = f"127.0.0.1:{estate.links[f'clients to {name}'].to}"
            settings["grpc"] = f"127.0.0.1:{estate.links[f'agents to {name}'].to}"
        made.append(_part(estate, name, f"helios-{service}", settings))
    for number in (0, 1):
        logs = estate.folder / f"logs-{number}"
        logs.mkdir()
        for service in ("orders", f"web-{number}"):
            (logs / f"{service}.log").touch()
        made.append(
            _part(
                estate,
                f"agent-{number}",
                "helios-agent",
                {
                    "agent": {"state_dir": str(estate.folder / f"disk-agent-{number}" / "state"), "host": f"h{number}"},
                    "sources": [{"type": "file", "config": {"paths": [f"{logs}/*.log*"]}}],
                    "helios": {"endpoint": estate.endpoint(number)},
                },
            )
        )
    return made


def _part(estate: Estate, name: str, program: str, settings: dict[str, Any]) -> Part:
    folder = estate.folder / name
    folder.mkdir()
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(settings))
    words = [program, "run", "--config", str(file)]
    return Part(name, words if program == "helios-agent" else [*words, "--log-json"], folder)
