"""The store in one SQLite file (or in memory), for one machine with nothing installed beside it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

import helios_sql
from helios_core.errors import StoreMismatch, StoreUnavailable
from helios_core.store import rolling, rows
from helios_core.store.applying import Applying
from helios_core.store.base import Outcome, Row, Statement, Write
from helios_core.stored import StoredWindow

_T = TypeVar("_T")
_K = TypeVar("_K")
_ENGINE: Final = "sqlite"
_PRUNED: Final = ("windows", "window_templates", "events", "metrics", "anomalies")
_PRUNE_STEP_US: Final = 60_000_000
_PRUNE_ROLLED: Final = 50


class SqliteStore:
    """See `base.Store`. One thread owns the connection; `:memory:` keeps everything in memory.

    Raises:
        StoreUnavailable: the file cannot be opened.
        StoreMismatch: its schema is newer than this code.
    """

    def __init__(self, path: Path | str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="helios-store")
        self._closed = False
        try:
            self._connection = self._executor.submit(_open, path).result()
        except BaseException:
            self._executor.shutdown()
            raise

    async def apply(self, writes: Sequence[Write]) -> list[Outcome]:
        return await self._transaction(lambda connection: _apply(connection, writes))

    async def transact(self, statements: Sequence[Statement]) -> None:
        def run(connection: sqlite3.Connection) -> None:
            for statement in statements:
                connection.execute(helios_sql.query(_ENGINE, statement.name), statement.parameters)

        await self._transaction(run)

    async def query(self, name: str, **parameters: Any) -> list[Row]:
        def run(connection: sqlite3.Connection) -> list[Row]:
            return [*_rows(connection, name, parameters)]

        return await self._on_thread(run)

    async def roll_up(self, until_us: int, limit: int) -> int:
        return await self._transaction(lambda connection: _roll_up(connection, until_us, limit))

    async def prune(self, before_us: int) -> None:
        """A minute of it in each transaction: other work goes on in between."""
        await self.transact([Statement("advance_raw_from", {"before_us": before_us})])
        (state,) = await self.query("raw_from")
        while await self.roll_up(state["raw_from_us"], _PRUNE_ROLLED):
            pass
        before_us = min(before_us, state["raw_from_us"])
        while True:
            (row,) = await self.query("oldest_time")
            if row["time_us"] is None or row["time_us"] >= before_us:
                break
            until_us = min(row["time_us"] + _PRUNE_STEP_US, before_us)
            await self.transact([Statement(f"prune_{table}", {"before_us": until_us}) for table in _PRUNED])
        await self.transact([Statement("prune_templates", {"before_us": before_us})])

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(self._executor, self._connection.close)
            await asyncio.to_thread(self._executor.shutdown)

    async def _transaction(self, run: Callable[[sqlite3.Connection], _T]) -> _T:
        def transact(connection: sqlite3.Connection) -> _T:
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = run(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            return result

        return await self._on_thread(transact)

    async def _on_thread(self, run: Callable[[sqlite3.Connection], _T]) -> _T:
        if self._closed:
            raise StoreUnavailable("the store is closed")
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._executor, run, self._connection)
        except (sqlite3.IntegrityError, sqlite3.DataError, OverflowError) as error:
            raise ValueError(f"the store cannot keep it: {error}") from error
        except sqlite3.OperationalError as error:
            raise StoreUnavailable(f"the store cannot be used: {error}; is the disk full?") from error


def _apply(connection: sqlite3.Connection, writes: Sequence[Write]) -> list[Outcome]:
    """Loads what decides, decides, and writes, in the transaction of the caller."""

    def one(name: str, **parameters: Any) -> Any:
        row = connection.execute(helios_sql.query(_ENGINE, name), parameters).fetchone()
        return row[0] if row is not None else None

    def many(name: str, parameters: Iterable[Mapping[str, Any]]) -> None:
        connection.executemany(helios_sql.query(_ENGINE, name), parameters)

    applying = Applying(writes)
    ledgers = {
        key: one("ledger_state", agent_id=key[0], incarnation=key[1], partition=key[2]) for key in applying.ledger_keys
    }
    positions = {place: one("position", topic=place[0], partition=place[1]) for place in applying.places}
    hashes = {id_: one("event_hash", time_us=id_[0], idem_key=id_[1]) for id_ in applying.event_ids}
    applying.begin(_known(ledgers), _known(positions), _known(hashes), one("raw_from"))
    outcomes = list(map(applying.one, writes))
    if applying.late:
        late = _asked(rolling.minutes_of(applying.late))
        _take_pending(connection, _rows(connection, "pending_of", late))
        _drive(connection, rolling.added(applying.late))
    many("touch_rollup", ({"service": name, "start_us": at} for name, at in rolling.minutes_of(applying.windows)))
    many("insert_window", map(_window, applying.windows))
    many("insert_window_template", applying.templates)
    many("upsert_template", applying.templates)
    many("insert_event", applying.events)
    many("insert_metric", applying.metrics)
    many("upsert_ledger", rows.ledger_rows(applying.ledgers))
    many("upsert_position", rows.position_rows(applying.positions))
    return outcomes


def _rows(connection: sqlite3.Connection, name: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    cursor = connection.execute(helios_sql.query(_ENGINE, name), parameters)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def _roll_up(connection: sqlite3.Connection, until_us: int, limit: int) -> int:
    return _take_pending(connection, _rows(connection, "pending_minutes", {"until_us": until_us, "limit": limit}))


def _take_pending(connection: sqlite3.Connection, pending: Sequence[Mapping[str, Any]]) -> int:
    """Rolls up these minutes, which are no longer marked then."""
    if pending:
        connection.executemany(helios_sql.query(_ENGINE, "delete_pending"), pending)
        _drive(connection, rolling.rolled([(row["service"], row["start_us"]) for row in pending]))
    return len(pending)


def _drive(connection: sqlite3.Connection, steps: rolling.Rolling) -> None:
    with suppress(StopIteration):
        step = next(steps)
        while True:
            found: list[dict[str, Any]] = []
            if isinstance(step, rolling.Ask):
                found = _rows(connection, step.query, {**_asked(step.buckets), **step.parameters})
            else:
                connection.executemany(helios_sql.query(_ENGINE, "upsert_rollup"), step.rows)
            step = steps.send(found)


def _asked(buckets: Collection[rolling.Bucket]) -> dict[str, str]:
    return {"buckets": msgspec.json.encode(list(buckets)).decode()}


def _window(window: StoredWindow) -> dict[str, Any]:
    return window._asdict() | {"levels": msgspec.json.encode(window.levels).decode()}


def _known(found: Mapping[_K, Any]) -> dict[_K, Any]:
    return {key: value for key, value in found.items() if value is not None}


def _open(path: Path | str) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            _migrate(connection, path)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise StoreUnavailable(f"{path} cannot be opened as a store: {error}") from error
    return connection


def _migrate(connection: sqlite3.Connection, path: Path | str) -> None:
    """Brings the schema to that of this code, one migration a transaction."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    known = helios_sql.migrations(_ENGINE)
    if version > len(known):
        raise StoreMismatch(
            f"{path} has schema version {version}, newer than this Helios knows ({len(known)}): use a newer Helios"
        )
    for number, _, text in known[version:]:
        connection.executescript(f"BEGIN IMMEDIATE; {text}; PRAGMA user_version = {number}; COMMIT;")
