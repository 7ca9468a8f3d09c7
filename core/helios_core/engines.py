"""The engines of one process: the bus and the store, and the lock of the data directory that they are in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from helios_core.bus.base import Bus
from helios_core.bus.embedded import EmbeddedBus
from helios_core.bus.kafka.settings import KafkaSettings
from helios_core.datadir import DataDir
from helios_core.errors import BusError, MissingExtra
from helios_core.store.base import Store
from helios_core.store.postgres.settings import PostgresSettings
from helios_core.store.sqlite import SqliteStore


@dataclass(frozen=True, slots=True)
class Engines:
    """Where records and what is kept of them are."""

    bus: Bus
    store: Store


@asynccontextmanager
async def opened(
    data_dir: Path, kafka: KafkaSettings | None = None, postgres: PostgresSettings | None = None
) -> AsyncIterator[Engines]:
    """The engines of a data directory, closed when the context ends.

    Args:
        kafka: the bus, instead of the embedded log in the directory.
        postgres: the store, instead of SQLite in the directory.

    Raises:
        DataDirError: the directory cannot be written, or belongs to a running instance.
        MissingExtra: Kafka or PostgreSQL is asked for, and its client is not installed.
        BusError: the topics are not as they must be.
        StoreError: the database cannot be used, or its schema is not the one of this code.
    """
    lock = DataDir(data_dir)
    try:
        bus = EmbeddedBus(data_dir / "bus.db") if kafka is None else await _kafka(kafka)
        try:
            store = SqliteStore(data_dir / "store.db") if postgres is None else await _postgres(postgres)
            try:
                yield Engines(bus, store)
            finally:
                await store.close()
        finally:
            await bus.close()
    finally:
        lock.close()


async def _kafka(settings: KafkaSettings) -> Bus:
    try:
        from helios_core.bus.kafka.bus import KafkaBus
        from helios_core.bus.kafka.topics import check
    except ImportError as error:
        raise MissingExtra("aiokafka", "kafka") from error
    faults = [f"{state.name}: {state.faults[0]}" for state in await check(settings) if state.faults]
    if faults:
        raise BusError(f"the topics are not as they must be: {'; '.join(faults)}")
    return KafkaBus(settings)


async def _postgres(settings: PostgresSettings) -> Store:
    try:
        from helios_core.store.postgres.store import PostgresStore
    except ImportError as error:
        raise MissingExtra("asyncpg", "timescale") from error
    return await PostgresStore.open(settings)
