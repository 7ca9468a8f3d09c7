"""The embedded log: the bus in one SQLite file, for one machine with nothing installed beside it.

One thread owns the file. What tasks publish while it is busy it writes together, in one
transaction with one sync to disk (group commit), and only then are the publishers told.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import uuid4

import msgspec

from helios_core.bus.base import (
    MAX_METADATA_BYTES,
    Commit,
    Lag,
    Partition,
    Received,
    Record,
    Topic,
    check,
    first_of,
    in_order_of_time,
)
from helios_core.clock import Clock, SystemClock
from helios_core.errors import BusError, BusRejected, BusUnavailable

_T = TypeVar("_T")
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS log (id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS records (
    topic   TEXT    NOT NULL,
    offset  INTEGER NOT NULL,
    time_us INTEGER NOT NULL,
    key     TEXT    NOT NULL,
    value   BLOB    NOT NULL,
    headers BLOB    NOT NULL,
    PRIMARY KEY (topic, offset)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS topics (
    topic       TEXT PRIMARY KEY,
    next_offset INTEGER NOT NULL,
    bytes       INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS commits (
    consumer_group TEXT    NOT NULL,
    topic          TEXT    NOT NULL,
    next_offset    INTEGER NOT NULL,
    metadata       BLOB    NOT NULL,
    PRIMARY KEY (consumer_group, topic)
) WITHOUT ROWID;
"""
_MAX_QUEUED: Final = 1_000  # requests waiting for the thread; publishers wait beyond it
_GROUP_COMMIT: Final = 256  # requests in one transaction
_TRIM_RECORDS: Final = 5_000  # records that one trim deletes at most, so that publishers do not wait for it


@dataclass(slots=True)
class _Request:
    """Work for the thread: `run` returns the result; requests that write share a transaction."""

    run: Callable[[sqlite3.Connection], Any]
    done: Future[Any]


class EmbeddedBus:
    """See `base.Bus`. Each topic has one partition.

    Args:
        path: the file; its directory exists. It belongs to one process at a time.
        clock: stamps records with the time at which they were taken.
        max_bytes: the size of the values of a topic that retention keeps. A record that some group
            of the topic has not yet read is kept beyond it, up to `hard_max_bytes`.
        hard_max_bytes: at this size publishing is refused with BusUnavailable: nothing is dropped
            that a group has yet to read.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock | None = None,
        max_bytes: int = 2 * 1024**3,
        hard_max_bytes: int = 8 * 1024**3,
    ) -> None:
        self._clock = clock or SystemClock()
        self._max_bytes = max_bytes
        self._hard_max_bytes = hard_max_bytes
        self._requests: queue.Queue[_Request | None] = queue.Queue(_MAX_QUEUED)
        self._arrived = asyncio.Event()
        self._closed = False
        self.log = ""  # of this file, since it was made
        self._opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._work, args=(path,), name="helios-bus", daemon=True)
        self._thread.start()
        self._opened.result()

    async def publish(self, records: Sequence[Record]) -> None:
        check(records)
        if records:
            await self._call(lambda connection: self._append(connection, records))
            self._arrived.set()
            self._arrived = asyncio.Event()

    async def subscribe(self, group: str, topics: Sequence[Topic], *, at_end: bool = False) -> EmbeddedConsumer:
        def join(connection: sqlite3.Connection) -> dict[Partition, int]:
            if at_end:
                start = _read_ends(connection, topics)
            else:
                start = dict.fromkeys((Partition(topic, 0) for topic in topics), 0)
                # From now on retention keeps what this group has not read.
                connection.executemany(
                    "INSERT OR IGNORE INTO commits VALUES (?, ?, 0, x'')", [(group, topic) for topic in topics]
                )
            return start | {p: c.next_offset for p, c in _read_commits(connection, group, topics).items()}

        return EmbeddedConsumer(self, group, topics, await self._call(join))

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await asyncio.to_thread(self._requests.put, None)
            await asyncio.to_thread(self._thread.join)

    async def _call(self, run: Callable[[sqlite3.Connection], _T]) -> _T:
        """Runs it on the thread that owns the file, in a transaction that is durable when it returns."""
        if self._closed:
            raise BusUnavailable("the embedded log is closed")
        request = _Request(run, Future())
        try:
            self._requests.put_nowait(request)
        except queue.Full:
            await asyncio.to_thread(self._requests.put, request)
        result: _T = await asyncio.wrap_future(request.done)
        return result

    def _work(self, path: Path) -> None:
        try:
            connection = sqlite3.connect(path, isolation_level=None)
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=FULL")
                connection.executescript(_SCHEMA)
                connection.execute("INSERT INTO log SELECT ? WHERE NOT EXISTS (SELECT 1 FROM log)", (uuid4().hex,))
                (self.log,) = connection.execute("SELECT id FROM log").fetchone()
            except sqlite3.Error:
                connection.close()
                raise
        except sqlite3.Error as error:
            self._opened.set_exception(BusError(f"{path} cannot be opened as an embedded log: {error}"))
            return
        self._opened.set_result(None)
        try:
            stopping = False
            while not stopping:
                group = [self._requests.get()]
                while len(group) < _GROUP_COMMIT and group[-1] is not None:
                    try:
                        group.append(self._requests.get_nowait())
                    except queue.Empty:
                        break
                stopping = group[-1] is None
                self._transact(connection, [request for request in group if request is not None])
        finally:
            connection.close()

    def _transact(self, connection: sqlite3.Connection, group: list[_Request]) -> None:
        """All of the group in one transaction; one that fails takes only itself back."""
        outcomes: list[tuple[Future[Any], Any, Exception | None]] = []
        try:
            connection.execute("BEGIN IMMEDIATE")
            for request in group:
                connection.execute("SAVEPOINT request")
                try:
                    outcomes.append((request.done, request.run(connection), None))
                except sqlite3.Error:
                    raise
                except Exception as error:  # noqa: BLE001 - the edge of a thread: whose request it was is told
                    connection.execute("ROLLBACK TO request")
                    outcomes.append((request.done, None, error))
                connection.execute("RELEASE request")
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            unavailable = BusUnavailable(f"the embedded log cannot be written: {error}; is the disk full?")
            outcomes = [(request.done, None, unavailable) for request in group]
        for done, result, failed in outcomes:
            if done.set_running_or_notify_cancel():
                if failed is None:
                    done.set_result(result)
                else:
                    done.set_exception(failed)

    def _append(self, connection: sqlite3.Connection, records: Sequence[Record]) -> None:
        now_us = self._clock.now_us()
        by_topic: defaultdict[Topic, list[Record]] = defaultdict(list)
        for record in records:
            by_topic[record.topic].append(record)
        for topic, own in by_topic.items():
            row = connection.execute("SELECT next_offset, bytes FROM topics WHERE topic = ?", (topic,)).fetchone()
            next_offset, size = row or (0, 0)
            size += sum(len(record.value) for record in own)
            size -= self._trim(connection, topic, size - self._max_bytes)
            if size > self._hard_max_bytes:
                raise BusUnavailable(
                    f"the topic {topic} is full ({self._hard_max_bytes} bytes that a group has not read): "
                    "see whether its readers run"
                )
            connection.executemany(
                "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (topic, offset, now_us, record.key, record.value, msgspec.json.encode(record.headers))
                    for offset, record in enumerate(own, next_offset)
                ],
            )
            connection.execute("INSERT OR REPLACE INTO topics VALUES (?, ?, ?)", (topic, next_offset + len(own), size))

    @staticmethod
    def _trim(connection: sqlite3.Connection, topic: Topic, excess: int) -> int:
        """Deletes the oldest records that every group has read, up to `excess` bytes; returns how many."""
        if excess <= 0:
            return 0
        (done,) = connection.execute(
            "SELECT coalesce(min(next_offset), 9223372036854775807) FROM commits WHERE topic = ?", (topic,)
        ).fetchone()
        deleted, last = 0, None
        rows = connection.execute(
            "SELECT offset, length(value) FROM records WHERE topic = ? AND offset < ? ORDER BY offset LIMIT ?",
            (topic, done, _TRIM_RECORDS),
        )
        for offset, size in rows:
            if deleted >= excess:
                break
            deleted, last = deleted + size, offset
        if last is not None:
            connection.execute("DELETE FROM records WHERE topic = ? AND offset <= ?", (topic, last))
        return deleted


class EmbeddedConsumer:
    """See `base.Consumer`."""

    def __init__(self, bus: EmbeddedBus, group: str, topics: Sequence[Topic], start: dict[Partition, int]) -> None:
        self._bus = bus
        self.log = bus.log
        self._group = group
        self._topics = topics
        self._next = start

    @property
    def partitions(self) -> frozenset[Partition]:
        return frozenset(self._next)

    @property
    def departures(self) -> int:
        return 0

    async def poll(self, *, max_records: int, timeout_s: float) -> list[Received]:
        arrived = self._bus._arrived
        found = await self._bus._call(lambda connection: self._read(connection, max_records))
        if not found:
            try:
                async with asyncio.timeout(timeout_s):
                    await arrived.wait()
            except TimeoutError:
                return []
            found = await self._bus._call(lambda connection: self._read(connection, max_records))
        for received in found:
            self._next[received.partition] = received.offset + 1
        return found

    def _read(self, connection: sqlite3.Connection, max_records: int) -> list[Received]:
        topics = (self._topic(connection, p, n, max_records) for p, n in self._next.items())
        return first_of(in_order_of_time(topics), max_records)

    @staticmethod
    def _topic(connection: sqlite3.Connection, partition: Partition, start: int, limit: int) -> Iterator[Received]:
        rows = connection.execute(
            "SELECT offset, time_us, key, value, headers FROM records"
            " WHERE topic = ? AND offset >= ? ORDER BY offset LIMIT ?",
            (partition.topic, start, limit),
        )
        for offset, time_us, key, value, headers in rows:
            yield Received(partition, offset, time_us, key, value, msgspec.json.decode(headers))

    async def commit(self, commits: Mapping[Partition, Commit]) -> None:
        for commit in commits.values():
            if len(commit.metadata) > MAX_METADATA_BYTES:
                raise BusRejected(f"{len(commit.metadata)} bytes of metadata: at most {MAX_METADATA_BYTES}")
        rows = [(self._group, p.topic, commit.next_offset, commit.metadata) for p, commit in commits.items()]

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT OR REPLACE INTO commits VALUES (?, ?, ?, ?)", rows)

        await self._bus._call(write)

    async def committed(self) -> Mapping[Partition, Commit]:
        return await self._bus._call(lambda connection: _read_commits(connection, self._group, self._topics))

    async def rewind(self) -> None:
        self._next = dict.fromkeys(self._next, 0)

    async def lag(self) -> Lag:
        def count(connection: sqlite3.Connection) -> Lag:
            ends = _read_ends(connection, self._topics)
            records = sum(max(0, ends[partition] - start) for partition, start in self._next.items())
            return Lag(records, self._bus._clock.now_us())

        return await self._bus._call(count)

    async def close(self) -> None:
        return None


def _read_ends(connection: sqlite3.Connection, topics: Sequence[Topic]) -> dict[Partition, int]:
    """The next offset of each topic."""
    ends = dict(connection.execute("SELECT topic, next_offset FROM topics").fetchall())
    return {Partition(topic, 0): ends.get(topic.value, 0) for topic in topics}


def _read_commits(connection: sqlite3.Connection, group: str, topics: Sequence[Topic]) -> dict[Partition, Commit]:
    rows = connection.execute(
        "SELECT topic, next_offset, metadata FROM commits WHERE consumer_group = ? AND next_offset > 0",
        (group,),
    ).fetchall()
    return {Partition(Topic(t), 0): Commit(offset, metadata) for t, offset, metadata in rows if t in set(topics)}
