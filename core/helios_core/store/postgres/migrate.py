"""The schema of a PostgreSQL database: brought up to date, and looked at."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, TypeAlias

import asyncpg

import helios_sql
from helios_core.errors import StoreMismatch, StoreUnavailable
from helios_core.store.postgres.errors import RAISED, UNAVAILABLE, connecting, text_of, translated
from helios_core.store.postgres.settings import PostgresSettings

ENGINE: Final = "postgres"
_COMPRESSION: Final = 3  # the version that brings it
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
_LOCK: Final = 0x48454C494F53  # "HELIOS": one process migrates at a time
_COMPRESSED: Final = """
SELECT min(config ->> 'compress_after') FROM timescaledb_information.jobs
WHERE hypertable_name = 'windows' AND config ? 'compress_after'
"""
_LOCK_S: Final = 20.0
_COMMAND_S: Final = 10.0
_CLOSE_S: Final = 2.0
_MIGRATION_S: Final = 6 * 3_600.0  # an index of a large table takes its time
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS helios_migrations (
    version    integer     NOT NULL PRIMARY KEY,
    name       text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


@dataclass(frozen=True, slots=True)
class SchemaState:
    """What a database has.

    Attributes:
        version: of its schema; 0 when it has none.
        known: the version that this Helios brings.
        pending: the names of the migrations between the two.
        timescale: the version of TimescaleDB in it; empty without.
        server: the version of PostgreSQL.
        compression: which days are compressed; `off: …` with the reason, empty while the schema is older than that.
    """

    version: int
    known: int
    pending: tuple[str, ...]
    timescale: str
    server: str
    compression: str


async def migrate(settings: PostgresSettings) -> tuple[str, ...]:
    """Applies what is pending, each migration in a transaction of its own; returns their names.

    Raises:
        ConfigError: the DSN is none.
        StoreUnavailable: the database cannot be used.
        StoreMismatch: its schema is newer than this code, or has something of ours that we did not make.
    """
    connection = await _connected(settings)
    try:
        await _lock(connection)
        await connection.execute(_TABLE)
        state = await state_of(connection)
        checked(state)
        applied = []
        for version, name, text in helios_sql.migrations(ENGINE)[state.version :]:
            try:
                async with connection.transaction():
                    await connection.execute(text, timeout=_MIGRATION_S)
                    await connection.execute("INSERT INTO helios_migrations VALUES ($1, $2)", version, name)
            except asyncpg.PostgresError as error:
                if isinstance(error, UNAVAILABLE):
                    raise
                raise StoreMismatch(
                    f"{version:04d}_{name} cannot be applied to this database ({text_of(error)}); nothing of it was"
                ) from error
            applied.append(f"{version:04d}_{name}")
    except RAISED as error:
        raise translated(error) from error
    finally:
        await _closed(connection)
    return tuple(applied)


async def status(settings: PostgresSettings) -> SchemaState:
    """What the database has; ConfigError when the DSN is none, StoreUnavailable when it cannot be asked."""
    connection = await _connected(settings)
    try:
        return await state_of(connection)
    except RAISED as error:
        raise translated(error) from error
    finally:
        await _closed(connection)


async def state_of(connection: Connection) -> SchemaState:
    """What the database of a connection has."""
    version = 0
    if await connection.fetchval("SELECT to_regclass('helios_migrations') IS NOT NULL"):
        version = await connection.fetchval(helios_sql.query(ENGINE, "schema_version"))
    known = helios_sql.migrations(ENGINE)
    timescale = await connection.fetchval("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'")
    return SchemaState(
        version=version,
        known=len(known),
        pending=tuple(f"{number:04d}_{name}" for number, name, _ in known[version:]),
        timescale=timescale or "",
        server=await connection.fetchval("SHOW server_version"),
        compression=await _compression(connection, timescale or "") if version >= _COMPRESSION else "",
    )


async def _compression(connection: Connection, timescale: str) -> str:
    if not timescale:
        return "off: without TimescaleDB"
    after = await connection.fetchval(_COMPRESSED)
    if after:
        return f"days older than {after}"
    licence = await connection.fetchval("SELECT current_setting('timescaledb.license', true)")
    if licence != "timescale":
        return f"off: timescaledb.license is '{licence}', and the edition under the Apache licence cannot do it"
    if await connection.fetchval("SELECT relkind = 'p' FROM pg_class WHERE oid = 'windows'::regclass"):
        return "off: the tables were made before TimescaleDB was in the database"
    return "off: CALL helios_compress() turns it on"


def checked(state: SchemaState, *, complete: bool = False) -> None:
    """StoreMismatch when the schema is newer than this code, or with `complete` older."""
    if state.version > state.known:
        raise StoreMismatch(
            f"the database has schema version {state.version}, newer than this Helios knows ({state.known}): "
            "use a newer Helios"
        )
    if complete and state.pending:
        raise StoreMismatch(f"the schema lacks {', '.join(state.pending)}: `helios db migrate` brings it up to date")


async def _lock(connection: Connection) -> None:
    """StoreUnavailable when another has it for long."""
    deadline_s = asyncio.get_running_loop().time() + _LOCK_S
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):
        if asyncio.get_running_loop().time() > deadline_s:
            raise StoreUnavailable(
                "another process migrates this database, and has not ended within "
                f"{_LOCK_S:g} s: see what it does (pg_stat_activity), and try again"
            )
        await asyncio.sleep(0.2)


async def _closed(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Also when the server does not answer."""
    try:
        await connection.close(timeout=_CLOSE_S)
    except RAISED:
        connection.terminate()


async def _connected(settings: PostgresSettings) -> asyncpg.Connection[asyncpg.Record]:
    with connecting():
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
            settings.dsn, timeout=_COMMAND_S, command_timeout=_COMMAND_S
        )
    return connection
