"""Real engines as fixtures: one of each for a whole run, in a temporary folder, on loopback."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from tests.engines.kafka import broker as kafka_broker
from tests.engines.postgres import server


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The bootstrap address of a broker: that of KAFKA_BOOTSTRAP, or one of our own."""
    given = os.environ.get("KAFKA_BOOTSTRAP")
    if given:
        yield given
        return
    if kafka_broker.missing():
        pytest.fail(f"no Kafka: {kafka_broker.missing()}; or set KAFKA_BOOTSTRAP to a running one")
    brokers = kafka_broker.Brokers(tmp_path_factory.mktemp("kafka"))
    try:
        brokers.start_all()
        yield brokers.bootstrap
    finally:
        brokers.stop()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kafka_broker.Brokers]:
    """One of the module's own, that may be killed."""
    if kafka_broker.missing():
        pytest.fail(f"no Kafka: {kafka_broker.missing()}")
    made = kafka_broker.Brokers(tmp_path_factory.mktemp("kafka"))
    try:
        made.start_all()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a server where databases can be made: that of HELIOS_TEST_DSN, or one of our own."""
    given = os.environ.get("HELIOS_TEST_DSN")
    if given:
        yield given
        return
    if server.tools() is None:
        pytest.fail("no PostgreSQL: apt-get install postgresql, or set HELIOS_TEST_DSN to a running one")
    own = server.Server()
    try:
        own.start()
        yield own.dsn()
    finally:
        own.stop()


@asynccontextmanager
async def fresh_database(server_dsn: str, *, timescale: bool, options: str = "") -> AsyncIterator[str]:
    """A database of its own on the server, dropped in the end; `options` are of CREATE DATABASE."""
    name = f"helios_{uuid.uuid4().hex}"
    admin = await asyncpg.connect(server_dsn)
    try:
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 {options}")
        dsn = f"{server_dsn.rpartition('/')[0]}/{name}"
        if timescale:
            if not await admin.fetchval("SELECT count(*) FROM pg_available_extensions WHERE name = 'timescaledb'"):
                pytest.skip("the server has no TimescaleDB: its packages and its source are at docs.timescale.com")
            made = await asyncpg.connect(dsn)
            await made.execute("CREATE EXTENSION timescaledb")
            await made.close()
        yield dsn
    finally:
        await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await admin.close()


@pytest.fixture(params=["plain", "timescale"])
async def database(request: pytest.FixtureRequest, postgres: str) -> AsyncIterator[str]:
    """A fresh database, without TimescaleDB and with it."""
    async with fresh_database(postgres, timescale=request.param == "timescale") as dsn:
        yield dsn
