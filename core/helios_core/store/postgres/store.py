"""The store in PostgreSQL: rows go in by binary COPY, in the transaction that locks and saves what was applied."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from functools import cache
from typing import Any, Final

import asyncpg

import helios_sql
from helios_core.clock import from_us
from helios_core.errors import StoreError, StoreUnavailable
from helios_core.store import rows
from helios_core.store.applying import Applying
from helios_core.store.base import EventsWrite, Outcome, Row, SliceWrite, Statement
from helios_core.store.postgres.errors import UNAVAILABLE, translated
from helios_core.store.postgres.migrate import ENGINE, Connection, checked, state_of
from helios_core.store.postgres.settings import PostgresSettings
from helios_core.windows import WindowDelta

_COMMAND_S: Final = 60.0
_CONNECT_S: Final = 10.0
_EPOCH_2000_US: Final = 946_684_800_000_000  # PostgreSQL counts its microseconds from there
_PARAMETER: Final = re.compile(r"(?<!:):([a-z_]+)")
_COMMENT: Final = re.compile(r"^--.*\n", re.MULTILINE)
_MAX_DAYS: Final = 10_000  # remembered as made
_WINDOW: Final = (
    "start_us", "duration_ms", "service", "host", "signal", "events", "errors", "warnings", "levels", "unparsed",
    "bytes_in", "latency_count", "latency_sum_us", "latency", "endpoints", "templates_overflow",
)  # fmt: skip
_TEMPLATE: Final = ("service", "template_id", "start_us", "count")
_EVENT: Final = (
    "time_us", "service", "level", "message", "latency_us", "endpoint", "trace_id", "span_id", "host", "signal",
    "attributes", "template_id", "counted", "idem_key", "content_hash",
)  # fmt: skip
_METRIC: Final = ("time_us", "name", "service", "host", "value", "labels")


class PostgresStore:
    """See `base.Store`. Several processes may use one database."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._pool = pool
        self._days: set[date] = set()
        self._closed = False

    @classmethod
    async def open(cls, settings: PostgresSettings) -> PostgresStore:
        """Connects, and looks at the schema.

        Raises:
            StoreUnavailable: the database cannot be used.
            StoreMismatch: its schema is not the one of this code.
        """
        try:
            pool = await asyncpg.create_pool(
                settings.dsn,
                min_size=1,
                max_size=settings.connections,
                timeout=_CONNECT_S,
                command_timeout=_COMMAND_S,
                init=_prepare,
                server_settings={"application_name": "helios", "timezone": "UTC"},
            )
        except (asyncpg.PostgresError, *UNAVAILABLE, ValueError) as error:
            raise translated(error) from error
        store = cls(pool)
        try:
            async with pool.acquire() as connection:
                state = await state_of(connection)
            checked(state, complete=True)
        except BaseException:
            await store.close()
            raise
        return store

    async def apply(self, writes: Sequence[SliceWrite | EventsWrite]) -> list[Outcome]:
        applying = Applying(writes)
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                outcomes = applying.run(
                    await _ledgers(connection, applying),
                    await _positions(connection, applying),
                    await _hashes(connection, applying),
                )
                days = _days_of(applying) - self._days
                if days:
                    text, arguments = _prepared("make_days", {"days": sorted(days)})
                    await connection.execute(text, *arguments)
                await _write(connection, applying)
        except (asyncpg.PostgresError, *UNAVAILABLE) as error:
            self._days.clear()  # a day that was there may have been pruned
            raise self._said(error) from error
        self._days = days if len(self._days) > _MAX_DAYS else self._days | days
        return outcomes

    async def transact(self, statements: Sequence[Statement]) -> None:
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                for statement in statements:
                    text, arguments = _prepared(statement.name, statement.parameters)
                    await connection.execute(text, *arguments)
        except (asyncpg.PostgresError, *UNAVAILABLE) as error:
            raise self._said(error) from error

    async def query(self, name: str, **parameters: Any) -> list[Row]:
        text, arguments = _prepared(name, parameters)
        try:
            async with self._pool.acquire() as connection:
                return [dict(row) for row in await connection.fetch(text, *arguments)]
        except (asyncpg.PostgresError, *UNAVAILABLE) as error:
            raise self._said(error) from error

    async def prune(self, before_us: int) -> None:
        await self.transact([Statement("prune", {"before_us": before_us})])

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await self._pool.close()

    def _said(self, error: Exception) -> StoreError | ValueError:
        return StoreUnavailable("the store is closed") if self._closed else translated(error)


def _days_of(applying: Applying) -> set[date]:
    """The days (UTC) that get rows."""
    times_us = {delta.start_us for delta in applying.deltas}
    times_us.update(row["time_us"] for table in (applying.events, applying.metrics) for row in table)
    return {from_us(time_us).date() for time_us in times_us}


async def _prepare(connection: Connection) -> None:
    """Times are integer microseconds since 1970, as everywhere in Helios."""
    await connection.set_type_codec(
        "timestamptz",
        schema="pg_catalog",
        encoder=lambda us: (us - _EPOCH_2000_US,),
        decoder=lambda value: value[0] + _EPOCH_2000_US,
        format="tuple",
    )


@cache
def _positional(name: str) -> tuple[str, tuple[str, ...]]:
    """The text of a query with `$1` for its first parameter, and the parameters' names in that order."""
    names: dict[str, int] = {}
    text = _PARAMETER.sub(
        lambda match: f"${names.setdefault(match[1], len(names) + 1)}", _COMMENT.sub("", helios_sql.query(ENGINE, name))
    )
    return text, tuple(names)


def _prepared(name: str, parameters: Mapping[str, Any]) -> tuple[str, list[Any]]:
    text, names = _positional(name)
    return text, [parameters[key] for key in names]


async def _ledgers(connection: Connection, applying: Applying) -> dict[tuple[bytes, bytes, int], bytes]:
    """The saved states, locked until the transaction ends."""
    if not applying.ledger_keys:
        return {}
    agents, incarnations, partitions = zip(*applying.ledger_keys, strict=True)
    asked = {"agents": agents, "incarnations": incarnations, "partitions": partitions}
    text, arguments = _prepared("claim_ledgers", asked)
    await connection.execute(text, *arguments)
    text, arguments = _prepared("ledger_states", asked)
    return {
        (agent, incarnation, partition): state
        for agent, incarnation, partition, state in await connection.fetch(text, *arguments)
        if state is not None
    }


async def _positions(connection: Connection, applying: Applying) -> dict[tuple[str, int], int]:
    """The next offsets, locked until the transaction ends."""
    if not applying.places:
        return {}
    topics, partitions = zip(*applying.places, strict=True)
    asked = {"topics": topics, "partitions": partitions}
    text, arguments = _prepared("claim_positions", asked)
    await connection.execute(text, *arguments)
    text, arguments = _prepared("positions", asked)
    return {(topic, number): offset for topic, number, offset in await connection.fetch(text, *arguments)}


async def _hashes(connection: Connection, applying: Applying) -> dict[tuple[int, bytes], bytes]:
    """The contents of those events that are stored."""
    if not applying.event_ids:
        return {}
    times, keys = zip(*applying.event_ids, strict=True)
    text, arguments = _prepared("event_hashes", {"times": times, "keys": keys})
    return {(time_us, key): content for time_us, key, content in await connection.fetch(text, *arguments)}


async def _write(connection: Connection, applying: Applying) -> None:
    templates = [_clean(row) for row in rows.template_rows(applying.deltas)]
    await _copy(connection, "windows", _WINDOW, map(_window, applying.deltas))
    await _copy(connection, "window_templates", _TEMPLATE, templates)
    await _copy(connection, "events", _EVENT, map(_clean, applying.events))
    await _copy(connection, "metrics", _METRIC, map(_clean, applying.metrics))
    if templates:
        columns = ("service", "template_id", "level", "text", "start_us")
        text, arguments = _prepared("upsert_templates", {name: [row[name] for row in templates] for name in columns})
        await connection.execute(text, *arguments)
    await _many(connection, "save_ledger", rows.ledger_rows(applying.ledgers))
    await _many(connection, "save_position", rows.position_rows(applying.positions))


async def _copy(connection: Connection, table: str, columns: Sequence[str], found: Iterable[Mapping[str, Any]]) -> None:
    records = [tuple([row[column] for column in columns]) for row in found]
    if records:
        await connection.copy_records_to_table(table, records=records)


async def _many(connection: Connection, name: str, found: Iterable[Mapping[str, Any]]) -> None:
    prepared = [_prepared(name, row) for row in found]
    if prepared:
        await connection.executemany(prepared[0][0], [arguments for _, arguments in prepared])


def _window(delta: WindowDelta) -> dict[str, Any]:
    return rows.window_row(delta) | {"levels": delta.levels}


def _clean(row: Mapping[str, Any]) -> dict[str, Any]:
    """Without NUL, which PostgreSQL's texts cannot hold."""
    return {
        name: value.replace("\0", "\ufffd").replace("\\u0000", "\\ufffd") if isinstance(value, str) else value
        for name, value in row.items()
    }
