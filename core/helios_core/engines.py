"""The engines of one process: the bus and the store, and the lock of the data directory that they are in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from helios_core.bus.base import Bus
from helios_core.bus.embedded import EmbeddedBus
from helios_core.bus.kafka.settings import KafkaSettings
from helios_core.datadir import DataDir
from helios_core.errors import BusError, ConfigError, MissingExtra, StoreUnreachable
from helios_core.retry import until_reached
from helios_core.store.base import Outcome, Row, Statement, Store, Write
from helios_core.store.postgres.settings import PostgresSettings
from helios_core.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from helios_core.store.postgres.store import PostgresStore

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Engines:
    """Where records and what is kept of them are."""

    bus: Bus
    store: Store


class NoStore:
    """In the place of a store where a process has none to do with: whoever asks it is wrong."""

    async def apply(self, writes: Sequence[Write]) -> list[Outcome]:
        raise self._fault()

    async def transact(self, statements: Sequence[Statement]) -> None:
        raise self._fault()

    async def query(self, name: str, **parameters: Any) -> list[Row]:
        raise self._fault()

    async def roll_up(self, until_us: int, limit: int) -> int:
        raise self._fault()

    async def prune(self, before_us: int) -> None:
        raise self._fault()

    async def close(self) -> None:
        return None

    def _fault(self) -> ConfigError:
        return ConfigError("this process has no store: `store` is not among its `roles`")


@asynccontextmanager
async def opened(
    data_dir: Path,
    kafka: KafkaSettings | None = None,
    postgres: PostgresSettings | None = None,
    *,
    stores: bool = True,
    shared: bool = False,
    stop: asyncio.Event | None = None,
) -> AsyncIterator[Engines]:
    """The engines of a data directory, closed when the context ends.

    Args:
        kafka: the bus, instead of the embedded log in the directory.
        postgres: the store, instead of SQLite in the directory.
        stores: without it there is no store.
        shared: whoever has started this process holds the lock of the directory.
        stop: with it engines may be away: Kafka is waited for until it is set, and PostgreSQL is found by whoever
            uses the store. Who answers and refuses is an error all the same.

    Raises:
        DataDirError: the directory cannot be written, or belongs to a running instance.
        MissingExtra: Kafka or PostgreSQL is asked for, and its client is not installed.
        BusError: the topics are not as they must be.
        StoreError: the database cannot be used, or its schema is not the one of this code.
    """
    async with AsyncExitStack() as held:
        if not shared:
            held.callback(DataDir(data_dir).close)
        bus = EmbeddedBus(data_dir / "bus.db") if kafka is None else await _kafka(kafka, stop)
        held.push_async_callback(bus.close)
        store: Store = NoStore()
        if stores and postgres is None:
            store = SqliteStore(data_dir / "store.db")
            held.push_async_callback(store.close)
        elif stores and postgres is not None:
            store = connecting = _postgres(postgres)
            held.push_async_callback(store.close)
            await _connected(connecting, stop)
        yield Engines(bus, store)


async def _kafka(settings: KafkaSettings, stop: asyncio.Event | None) -> Bus:
    try:
        from helios_core.bus.kafka.bus import KafkaBus
        from helios_core.bus.kafka.topics import check
    except ImportError as error:
        raise MissingExtra("aiokafka", "kafka") from error
    looked = partial(check, settings)
    states = await (looked() if stop is None else until_reached(looked, stop))
    faults = [f"{state.name}: {state.faults[0]}" for state in states if state.faults]
    if faults:
        raise BusError(f"the topics are not as they must be: {'; '.join(faults)}")
    return KafkaBus(settings)


def _postgres(settings: PostgresSettings) -> PostgresStore:
    try:
        from helios_core.store.postgres.store import PostgresStore
    except ImportError as error:
        raise MissingExtra("asyncpg", "timescale") from error
    return PostgresStore(settings)


async def _connected(store: PostgresStore, stop: asyncio.Event | None) -> None:
    """As soon as it is, or as it is known that nobody answers there; not later than `stop`."""
    if stop is None:
        await store.connect()
        return
    connecting, stopping = asyncio.ensure_future(store.connect()), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([connecting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if connecting.done():
            connecting.result()
    except StoreUnreachable as error:
        _log.warning("started_without_store", error=str(error))
    finally:
        connecting.cancel()
        stopping.cancel()
