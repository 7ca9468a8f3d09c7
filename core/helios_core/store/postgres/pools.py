"""The connections of one process to PostgreSQL: how they are made, lent and ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import asyncpg

from helios_core.store.postgres.copy import EPOCH_2000_US
from helios_core.store.postgres.errors import connecting
from helios_core.store.postgres.migrate import Connection, checked, state_of
from helios_core.store.postgres.settings import PostgresSettings

_CONNECT_S: Final = 10.0
_CLOSE_S: Final = 5.0


async def made(settings: PostgresSettings, command_s: float) -> asyncpg.Pool[asyncpg.Record]:
    """A pool of a database whose schema is the one of this code.

    Args:
        command_s: how long one statement may take.

    Raises:
        ConfigError: the DSN is none.
        StoreUnreachable: nobody answers.
        StoreUnavailable: the database cannot be used.
        StoreMismatch: its schema is another.
    """
    limit_ms = str(round(command_s * 1_000))
    with connecting():
        pool = await asyncpg.create_pool(
            settings.dsn,
            min_size=1,
            max_size=settings.connections,
            timeout=_CONNECT_S,
            command_timeout=command_s,
            init=_prepare,
            server_settings={
                "application_name": "helios",
                "timezone": "UTC",
                # Many days make a search look dear to the planner: it would compile for half a second what takes a
                # millisecond.
                "jit": "off",
                # A server that has lost us lets go of what we have locked.
                "statement_timeout": limit_ms,
                "idle_in_transaction_session_timeout": limit_ms,
                # What is committed here is taken off the bus.
                "synchronous_commit": "on",
            },
        )
    try:
        with connecting():
            async with acquired(pool, _CONNECT_S) as connection, asyncio.timeout(_CONNECT_S):
                state = await state_of(connection)
        checked(state, complete=True)
    except BaseException:
        await end(pool, command_s)
        raise
    return pool


@asynccontextmanager
async def acquired(pool: asyncpg.Pool[asyncpg.Record], within_s: float) -> AsyncIterator[Connection]:
    """A connection of it, as soon as one is free."""
    async with pool.acquire(timeout=within_s) as connection:
        try:
            yield connection
        except (TimeoutError, asyncio.CancelledError):
            # Or it is waited for until a server that hangs has said that it gave up.
            with suppress(asyncpg.InterfaceError):
                connection.terminate()
            raise


async def end(pool: asyncpg.Pool[asyncpg.Record], command_s: float) -> None:
    """All of them."""
    with suppress(TimeoutError):  # the pool has cut what is still under way by then
        await asyncio.wait_for(pool.close(), min(_CLOSE_S, command_s))


async def _prepare(connection: Connection) -> None:
    """Times are integer microseconds since 1970, as everywhere in Helios."""
    await connection.set_type_codec(
        "timestamptz",
        schema="pg_catalog",
        encoder=lambda us: (us - EPOCH_2000_US,),
        decoder=lambda value: value[0] + EPOCH_2000_US,
        format="tuple",
    )
