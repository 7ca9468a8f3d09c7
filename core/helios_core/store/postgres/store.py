"""The store in PostgreSQL: rows go in by binary COPY, in the transaction that locks and saves what was applied."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from operator import itemgetter
from typing import Any, Final

import asyncpg

import helios_sql
from helios_core.clock import US_PER_S, from_us
from helios_core.errors import StoreMismatch, StoreUnavailable
from helios_core.store import rolling, rows
from helios_core.store.applying import Applying
from helios_core.store.base import MetricsWrite, Outcome, Row, SliceWrite, Statement, Write
from helios_core.store.postgres import pools
from helios_core.store.postgres.copy import windows_copied
from helios_core.store.postgres.errors import RAISED, translated
from helios_core.store.postgres.migrate import ENGINE, Connection
from helios_core.store.postgres.settings import PostgresSettings
from helios_core.stored import StoredWindow
from helios_core.tasks import seen
from helios_core.turns import Turns

_COMMAND_S: Final = 60.0
_PRUNE_ROLLED: Final = 50
_DAY_US: Final = 86_400 * US_PER_S
_PARAMETER: Final = re.compile(r"(?<!:):([a-z_]+)")
_JSON: Final = frozenset({"attributes", "labels", "document", "ids"})
_NUL: Final = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")  # in JSON, and no backslash before a plain u0000
_COMMENT: Final = re.compile(r"^--.*\n", re.MULTILINE)
_TEMPLATE: Final = ("service", "template_id", "start_us", "count")
_EVENT: Final = (
    "time_us", "service", "level", "message", "latency_us", "endpoint", "trace_id", "span_id", "host", "signal",
    "attributes", "template_id", "counted", "idem_key", "content_hash",
)  # fmt: skip
_METRIC: Final = ("time_us", "name", "service", "host", "value", "labels")
# COPY names the columns: a newer release may have added others by now.
_WINDOW: Final = (
    "start_time", "duration_ms", "service", "host", "signal", "events", "errors", "warnings", "levels", "unparsed",
    "bytes_in", "latency_count", "latency_sum_us", "latency", "endpoints", "templates_overflow",
)  # fmt: skip
_TEXTS: Final = frozenset(
    {"service", "message", "endpoint", "trace_id", "span_id", "host", "attributes", "name", "labels"}
)
_STORED_AS: Final = {"time_us": "time", "start_us": "start_time"}


class PostgresStore:
    """See `base.Store`. Several processes may use one database.

    It connects, and looks at the schema, when it is first used.

    Args:
        command_s: how long one statement may take.
    """

    def __init__(self, settings: PostgresSettings, *, command_s: float = _COMMAND_S) -> None:
        self._settings = settings
        self._command_s = command_s
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._connecting: asyncio.Task[asyncpg.Pool[asyncpg.Record]] | None = None
        self._closed = False
        self._raw_from_us = 0  # as it was last; it only goes forward

    @classmethod
    async def open(cls, settings: PostgresSettings, *, command_s: float = _COMMAND_S) -> PostgresStore:
        """One that has connected, and looked at the schema; see `connect`."""
        store = cls(settings, command_s=command_s)
        await store.connect()
        return store

    async def connect(self) -> None:
        """Connects, and looks at the schema, unless it has.

        Raises:
            ConfigError: the DSN is none.
            StoreUnreachable: nobody answers; it is tried again when the store is used.
            StoreUnavailable: the database cannot be used.
            StoreMismatch: its schema is not the one of this code.
        """
        await self._connected()

    async def apply(self, writes: Sequence[Write]) -> list[Outcome]:
        applying = Applying(writes)
        async with self._connection() as connection:
            # Before the transaction: nobody waits for the locks of new tables, and each day has its own.
            await _execute(connection, "make_days", {"days": _days_of(writes, self._raw_from_us)})
            async with connection.transaction():
                ledgers, positions, hashes = (
                    await _ledgers(connection, applying),
                    await _positions(connection, applying),
                    await _hashes(connection, applying),
                )
                self._raw_from_us = await connection.fetchval(_prepared("raw_from", {})[0])
                applying.begin(ledgers, positions, hashes, self._raw_from_us)
                outcomes = []
                turns = Turns()
                for write in writes:
                    outcomes.append(applying.one(write))
                    await turns.pause()
                await _mark(connection, applying)
                await _write(connection, applying)
        return outcomes

    async def transact(self, statements: Sequence[Statement]) -> None:
        async with self._connection() as connection, connection.transaction():
            for statement in statements:
                await _execute(connection, statement.name, statement.parameters)

    async def query(self, name: str, **parameters: Any) -> list[Row]:
        text, arguments = _prepared(name, parameters)
        async with self._connection() as connection:
            return [dict(row) for row in await connection.fetch(text, *arguments)]

    async def roll_up(self, until_us: int, limit: int) -> int:
        return await self._rolled("claim_pending", until_us, limit)

    async def prune(self, before_us: int) -> None:
        async with self._connection() as connection:
            await _execute(connection, "advance_raw_from", {"before_us": before_us})
            raw_from_us = await connection.fetchval(_prepared("raw_from", {})[0])
        while await self._rolled("claim_all_pending", raw_from_us, _PRUNE_ROLLED):
            pass
        async with self._connection() as connection:  # it commits after each day
            await _execute(connection, "prune", {"before_us": before_us})

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._pool is not None:
            await pools.end(self._pool, self._command_s)

    async def _connected(self) -> asyncpg.Pool[asyncpg.Record]:
        """The pool; whoever needs it first makes it for all, and goes on when nobody waits for it any more."""
        if self._closed:
            raise StoreUnavailable("the store is closed")
        if self._pool is not None:
            return self._pool
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
            self._connecting.add_done_callback(seen)
        try:
            return await asyncio.shield(self._connecting)
        except asyncio.CancelledError:
            if self._closed:  # it was the connecting that ended, and not who waits for it
                raise StoreUnavailable("the store is closed") from None
            raise

    async def _connect(self) -> asyncpg.Pool[asyncpg.Record]:
        try:
            self._pool = await pools.made(self._settings, self._command_s)
        finally:
            self._connecting = None
        return self._pool

    async def _rolled(self, claim: str, until_us: int, limit: int) -> int:
        """Rolls up minutes, which are no longer marked then."""
        async with self._connection() as connection, connection.transaction():
            pending = await _claimed(connection, claim, {"until_us": until_us, "limit": limit})
            if pending:
                await _lock(connection, pending)
                await _drive(connection, rolling.rolled(pending))
        return len(pending)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """A connection of the pool; what goes wrong with it, as an error of the store."""
        try:
            pool = await self._connected()
        except StoreMismatch as error:  # found only now: who has begun waits until somebody migrates
            raise StoreUnavailable(str(error)) from error
        try:
            async with pools.acquired(pool, self._command_s) as connection:
                yield connection
        except RAISED as error:
            if isinstance(error, asyncpg.ReadOnlySQLTransactionError):  # another server may be the primary by now
                await pool.expire_connections()
            raise translated(error) from error


async def _mark(connection: Connection, applying: Applying) -> None:
    """Marks minutes, and adds what is late. In the order of rolling up, marks and then services: so that a writer
    and who rolls up wait for each other and never in a circle.
    """
    if applying.windows:
        await _execute(connection, "touch_rollups", _asked(rolling.minutes_of(applying.windows)))
    late = rolling.minutes_of(applying.late)
    if late:
        pending = await _claimed(connection, "claim_pending_of", _asked(late))
        await _lock(connection, late)
        await _drive(connection, rolling.rolled(pending))
        await _drive(connection, rolling.added(applying.late))


async def _claimed(connection: Connection, name: str, parameters: Mapping[str, Any]) -> list[rolling.Bucket]:
    """Marked minutes, whose marks are gone."""
    text, arguments = _prepared(name, parameters)
    return sorted((row["service"], row["start_us"]) for row in await connection.fetch(text, *arguments))


async def _lock(connection: Connection, buckets: Sequence[rolling.Bucket]) -> None:
    """The rollups of these services, until the transaction ends. Computing may take longer than a client may idle."""
    await _execute(connection, "lock_rollups", {"services": sorted({service for service, _ in buckets})})
    await connection.execute("SET LOCAL idle_in_transaction_session_timeout = '15min'")


async def _drive(connection: Connection, steps: rolling.Rolling) -> None:
    """What is computed goes on on a thread: it must not hold up everybody else."""
    step = await asyncio.to_thread(next, steps, None)
    while step is not None:
        found: Sequence[Row] = []
        if isinstance(step, rolling.Ask):
            text, arguments = _prepared(step.query, {**_asked(step.buckets), **step.parameters})
            found = [dict(row) for row in await connection.fetch(text, *arguments)]
        else:
            await _many(connection, "upsert_rollup", step.rows)
        step = await asyncio.to_thread(_sent, steps, found)


def _sent(steps: rolling.Rolling, found: Sequence[Row]) -> rolling.Ask | rolling.Save | None:
    try:
        return steps.send(found)
    except StopIteration:
        return None


def _asked(buckets: Collection[rolling.Bucket]) -> dict[str, Any]:
    services, starts = zip(*buckets, strict=True) if buckets else ((), ())
    return {"services": services, "starts": starts}


def _days_of(writes: Sequence[Write], raw_from_us: int) -> list[str]:
    """The days (UTC) that may get rows, of windows those that are kept; as texts, because asyncpg takes the last
    day of 9999 for infinity.
    """
    times_us: set[int] = set()
    for write in writes:
        if isinstance(write, SliceWrite):
            times_us.update(window.start_us for window in write.slice.windows if window.start_us >= raw_from_us)
            times_us.update(metric.time_us for metric in write.slice.metrics)
            times_us.update(sample.time_us for sample in write.slice.samples)
        elif isinstance(write, MetricsWrite):
            times_us.update(metric.time_us for metric in write.record.metrics)
        else:
            times_us.update(event.time_us for event in write.record.events)
    return [from_us(day * _DAY_US).date().isoformat() for day in sorted({time_us // _DAY_US for time_us in times_us})]


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
    return text, [_kept(key, parameters[key]) for key in names]


async def _execute(connection: Connection, name: str, parameters: Mapping[str, Any]) -> None:
    text, arguments = _prepared(name, parameters)
    await connection.execute(text, *arguments)


async def _ledgers(connection: Connection, applying: Applying) -> dict[tuple[bytes, bytes, int], bytes]:
    """The saved states, locked until the transaction ends."""
    if not applying.ledger_keys:
        return {}
    agents, incarnations, partitions = zip(*applying.ledger_keys, strict=True)
    asked = {"agents": agents, "incarnations": incarnations, "partitions": partitions}
    await _execute(connection, "claim_ledgers", asked)
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
    await _execute(connection, "claim_positions", asked)
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
    """Everywhere in the order of the key, so that two writers wait for each other and never in a circle."""
    templates = applying.templates
    events = sorted(applying.events, key=lambda row: (row["time_us"], row["idem_key"]))
    await _copy_windows(connection, applying.windows)
    await _copy(connection, "window_templates", _TEMPLATE, templates)
    await _copy(connection, "events", _EVENT, events)
    await _copy(connection, "metrics", _METRIC, applying.metrics)
    if templates:
        columns = ("service", "template_id", "level", "text", "start_us")
        await _execute(
            connection,
            "upsert_templates",
            {name: [_kept(name, row[name]) for row in templates] for name in columns},
        )
    await _many(connection, "save_ledger", rows.ledger_rows(applying.ledgers))
    await _many(connection, "save_position", rows.position_rows(applying.positions))


async def _copy(connection: Connection, table: str, columns: Sequence[str], found: Iterable[Mapping[str, Any]]) -> None:
    records = list(map(itemgetter(*columns), found))
    texts = itemgetter(*(index for index, column in enumerate(columns) if column in _TEXTS))
    for index, record in enumerate(records):
        joined = "".join(texts(record))
        if "\0" in joined or "\\u0000" in joined:
            records[index] = tuple(map(_kept, columns, record))
    if records:
        names = [_STORED_AS.get(column, column) for column in columns]
        await connection.copy_records_to_table(table, columns=names, records=records)


async def _copy_windows(connection: Connection, windows: Sequence[StoredWindow]) -> None:
    async def source() -> AsyncIterator[bytes]:
        for chunk in windows_copied(windows):
            yield chunk

    if windows:
        await connection.copy_to_table("windows", columns=_WINDOW, source=source(), format="binary")


async def _many(connection: Connection, name: str, found: Iterable[Mapping[str, Any]]) -> None:
    prepared = [_prepared(name, row) for row in found]
    if prepared:
        await connection.executemany(prepared[0][0], [arguments for _, arguments in prepared])


def _kept(name: str, value: Any) -> Any:
    """The value of a column or parameter without NUL, which PostgreSQL's texts cannot hold."""
    if not isinstance(value, str):
        return value
    if name in _JSON:
        return _NUL.sub(r"\1\\ufffd", value) if "\\u0000" in value else value
    return value.replace("\0", "\ufffd")
