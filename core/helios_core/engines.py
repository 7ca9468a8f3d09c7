"""The embedded engines of one data directory: the log, the store, and the lock of the one who uses them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from helios_core.bus.embedded import EmbeddedBus
from helios_core.datadir import DataDir
from helios_core.store.sqlite import SqliteStore


@dataclass(frozen=True, slots=True)
class Engines:
    """Where records and what is kept of them are."""

    bus: EmbeddedBus
    store: SqliteStore


@asynccontextmanager
async def opened(data_dir: Path) -> AsyncIterator[Engines]:
    """The engines of a data directory, closed when the context ends.

    Raises:
        DataDirError: it cannot be written, or belongs to a running instance.
    """
    lock = DataDir(data_dir)
    try:
        bus = EmbeddedBus(data_dir / "bus.db")
        try:
            store = SqliteStore(data_dir / "store.db")
            try:
                yield Engines(bus, store)
            finally:
                await store.close()
        finally:
            await bus.close()
    finally:
        lock.close()
