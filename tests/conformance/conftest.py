"""The engines that the adapters are run against, and the stores on them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.engines.fixtures import fresh_database
from tests.engines.fixtures import kafka as kafka
from tests.engines.fixtures import postgres as postgres

from helios_core.store.base import Store
from helios_core.store.postgres.migrate import migrate
from helios_core.store.postgres.settings import PostgresSettings
from helios_core.store.postgres.store import PostgresStore
from helios_core.store.sqlite import SqliteStore

REAL = pytest.mark.engines


@pytest.fixture(
    params=["memory", "sqlite", pytest.param("postgres", marks=REAL), pytest.param("timescale", marks=REAL)]
)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    made: Store
    if request.param in ("memory", "sqlite"):
        made = SqliteStore(":memory:" if request.param == "memory" else tmp_path / "store.db")
        yield made
        await made.close()
        return
    server = request.getfixturevalue("postgres")
    async with fresh_database(server, timescale=request.param == "timescale") as dsn:
        settings = PostgresSettings(dsn)
        await migrate(settings)
        made = await PostgresStore.open(settings)
        yield made
        await made.close()
