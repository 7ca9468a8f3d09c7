"""The store in one SQLite file (or in memory), for one machine with nothing installed beside it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import helios_sql
from helios_core.errors import StoreMismatch, StoreUnavailable
from helios_core.model import Event, EventRecord
from helios_core.store import rows
from helios_core.store.base import EventsWrite, Outcome, Row, SliceWrite, Statement
from helios_core.store.ledger import Ledger, Verdict
from helios_core.windows import WindowDelta, deltas_of

_T = TypeVar("_T")
_ENGINE: Final = "sqlite"


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

    async def apply(self, writes: Sequence[SliceWrite | EventsWrite]) -> list[Outcome]:
        def run(connection: sqlite3.Connection) -> list[Outcome]:
            return _Applying(connection).run(writes)

        return await self._transaction(run)

    async def transact(self, statements: Sequence[Statement]) -> None:
        def run(connection: sqlite3.Connection) -> None:
            for statement in statements:
                connection.execute(helios_sql.query(_ENGINE, statement.name), statement.parameters)

        await self._transaction(run)

    async def query(self, name: str, **parameters: Any) -> list[Row]:
        def run(connection: sqlite3.Connection) -> list[Row]:
            cursor = connection.execute(helios_sql.query(_ENGINE, name), parameters)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]

        return await self._on_thread(run)

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
        except sqlite3.OperationalError as error:
            raise StoreUnavailable(f"the store cannot be used: {error}; is the disk full?") from error


class _Applying:
    """One transaction of `apply`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._ledgers: dict[tuple[bytes, bytes, int], Ledger] = {}
        self._positions: dict[tuple[str, int], int] = {}
        self._deltas: list[WindowDelta] = []
        self._events: list[dict[str, Any]] = []
        self._fresh: dict[tuple[int, bytes], bytes] = {}
        self._metrics: list[dict[str, Any]] = []

    def run(self, writes: Sequence[SliceWrite | EventsWrite]) -> list[Outcome]:
        verdicts = [self._slice(write) if isinstance(write, SliceWrite) else self._record(write) for write in writes]
        self._many("insert_window", map(rows.window_row, self._deltas))
        templates = list(rows.template_rows(self._deltas))
        self._many("insert_window_template", templates)
        self._many("upsert_template", templates)
        self._many("insert_event", self._events)
        self._many("insert_metric", self._metrics)
        self._many(
            "upsert_ledger",
            (
                {
                    "agent_id": agent,
                    "incarnation": incarnation,
                    "partition": partition,
                    "state": ledger.to_bytes(),
                }
                for (agent, incarnation, partition), ledger in self._ledgers.items()
            ),
        )
        self._many(
            "upsert_position",
            (
                {"topic": topic, "partition": partition, "next_offset": next_offset}
                for (topic, partition), next_offset in self._positions.items()
            ),
        )
        return verdicts

    def _slice(self, write: SliceWrite) -> Outcome:
        key = (write.id.agent_id, write.id.incarnation.to_bytes(8, "big"), write.partition)
        ledger = self._ledgers.get(key)
        if ledger is None:
            state = self._one("ledger_state", agent_id=key[0], incarnation=key[1], partition=key[2])
            ledger = self._ledgers[key] = Ledger.from_bytes(state) if state is not None else Ledger()
        service = write.slice.service
        verdict = ledger.apply(write.id.sequence, service, write.content_hash)
        if verdict is Verdict.APPLIED:
            self._deltas += write.slice.deltas
            self._metrics += map(rows.metric_row, write.slice.metrics)
            self._events += (
                rows.event_row(event, rows.sample_key(write.id, service, index))
                for index, event in enumerate(write.slice.samples)
            )
        return Outcome(verdict)

    def _record(self, write: EventsWrite) -> Outcome:
        key = (str(write.partition.topic), write.partition.number)
        if key not in self._positions:
            self._positions[key] = self._one("position", topic=key[0], partition=key[1]) or 0
        if write.offset < self._positions[key]:
            return Outcome(Verdict.DUPLICATE)
        self._positions[key] = write.offset + 1
        fresh: list[Event] = []
        duplicates = conflicts = 0
        for index, event in enumerate(write.record.events):
            row = rows.event_row(event, rows.event_key(write, index))
            known = self._known_hash(row) if event.id else None
            if known is None:
                self._events.append(row)
                self._fresh[row["time_us"], row["idem_key"]] = row["content_hash"]
                fresh.append(event)
            elif known == row["content_hash"]:
                duplicates += 1
            else:
                conflicts += 1
        self._deltas += deltas_of(EventRecord(write.record.service, write.record.received_us, fresh))
        return Outcome(Verdict.APPLIED, duplicates, conflicts)

    def _known_hash(self, row: dict[str, Any]) -> bytes | None:
        """The content stored under the same id, in this transaction or before it."""
        fresh = self._fresh.get((row["time_us"], row["idem_key"]))
        return fresh or self._one("event_hash", time_us=row["time_us"], idem_key=row["idem_key"])

    def _one(self, name: str, **parameters: Any) -> Any:
        row = self._connection.execute(helios_sql.query(_ENGINE, name), parameters).fetchone()
        return row[0] if row is not None else None

    def _many(self, name: str, parameters: Any) -> None:
        self._connection.executemany(helios_sql.query(_ENGINE, name), parameters)


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
