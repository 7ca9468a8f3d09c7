"""The spool: batches on disk from before their first send until they are acknowledged.

A record is what one cut made: its batches and the offsets up to which their sources are read. It is
written and synced as one, so that after a crash either all of it is there or nothing, and reading
goes on where the last whole record says. A segment is deleted when all of it is acknowledged; the
offsets that only it knew are saved before. A record that is found damaged is passed over, and its
segment is kept under another ending.

    segment:  records, each  length u32 | crc32 u32 | payload     (little-endian)
    payload:  msgpack [[serialised SendBatchRequest, ...], {source: offset}]
"""

from __future__ import annotations

import errno
import os
import struct
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

import msgspec
import structlog

from helios.v1 import service_pb2
from helios_agent.tracking import Checkpoint
from helios_core.errors import DataDirError

_HEADER: Final = struct.Struct("<II")
_SEGMENT_BYTES: Final = 8 * 1024 * 1024
_SUFFIX: Final = ".spool"
_DAMAGED: Final = ".damaged"
_Key = tuple[int, int]  # incarnation, sequence
# Up to where a source is read: an offset alone, or with what is needed to know a followed file again.
Position = int | Checkpoint
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Segment:
    path: Path
    open_batches: int = 0
    size: int = 0
    offsets: dict[str, Position] = field(default_factory=dict)
    damaged: bool = False


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a batch stands on disk: only that is kept in memory."""

    segment: _Segment
    position: int
    index: int


class Spool:
    """What is not yet acknowledged, in the order in which it was cut. Safe for two threads.

    Args:
        folder: belongs to one agent; made when it does not exist.
        max_bytes: at this size `wait_for_room` waits.

    Attributes:
        offsets: up to where each source is read in what is durable.
        damaged: what was found and mended when the folder was opened, for a person.
        on_append: called after each append, on the thread that appended.

    Raises:
        DataDirError: the folder cannot be used.
    """

    def __init__(self, folder: Path, *, max_bytes: int = 512 * 1024 * 1024) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._segment_bytes = min(_SEGMENT_BYTES, max_bytes // 4)  # the one being written is not freed
        self._lock = threading.Condition()
        self._open: OrderedDict[_Key, _Place] = OrderedDict()
        self._segments: list[_Segment] = []
        self._file: IO[bytes] | None = None
        self._number = 1
        self._size = 0
        self._freed: dict[str, Position] = {}  # the offsets of segments that are gone
        self._stuck = False
        self.offsets: dict[str, Position] = {}
        self.damaged: list[str] = []
        self.on_append: Callable[[], None] = _nothing
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._load()
        except OSError as error:
            raise DataDirError(f"{folder} cannot be used as a spool: {error}") from error

    @property
    def size_bytes(self) -> int:
        return self._size

    def __len__(self) -> int:
        """How many batches are not acknowledged."""
        with self._lock:
            return len(self._open)

    def append(self, batches: list[service_pb2.SendBatchRequest], offsets: dict[str, Position]) -> None:
        """Makes the batches of one cut durable, with the offsets of their sources; an OSError when it cannot."""
        payload = msgspec.msgpack.encode(([batch.SerializeToString() for batch in batches], offsets))
        record = _HEADER.pack(len(payload), zlib.crc32(payload)) + payload
        with self._lock:
            file = self._file or self._start_segment()
            segment = self._segments[-1]
            try:
                _write(file, record)
            except OSError:
                try:
                    file.truncate(segment.size)  # what is there of it is taken back, or else the segment ends with it
                except OSError:
                    self._end_segment()
                raise
            self._remember(segment, segment.size, batches, offsets)
            segment.size += len(record)
            self._size += len(record)
            if segment.size >= self._segment_bytes:
                self._end_segment()
        self.on_append()

    def after(self, key: _Key | None, limit: int) -> list[tuple[_Key, service_pb2.SendBatchRequest]]:
        """Up to `limit` unacknowledged batches, from the first, or from behind the given one."""
        with self._lock:
            keys = list(self._open)
            start = keys.index(key) + 1 if key is not None and key in self._open else 0
            records: dict[tuple[Path, int], list[bytes]] = {}
            found = []
            for wanted in keys[start : start + limit]:
                place = self._open[wanted]
                record = (place.segment.path, place.position)
                if record not in records:
                    records[record] = _batches_at(*record)
                found.append((wanted, service_pb2.SendBatchRequest.FromString(records[record][place.index])))
            return found

    def acknowledge(self, key: _Key) -> None:
        """Frees a batch; one that is not there changes nothing."""
        with self._lock:
            found = self._open.pop(key, None)
            if found is None:
                return
            found.segment.open_batches -= 1
            self._free()
            self._lock.notify_all()

    def forget(self, sources: Iterable[str]) -> None:
        """Drops the offsets of sources that are gone; after a crash they may be there once more."""
        with self._lock:
            for source in sources:
                for known in (self.offsets, self._freed, *(segment.offsets for segment in self._segments)):
                    known.pop(source, None)

    def wait_for_room(self, timeout_s: float) -> bool:
        """Whether there is room, after waiting for it at most so long."""
        with self._lock:
            self._free()
            return self._lock.wait_for(lambda: self._size < self._max_bytes, timeout_s)

    def close(self) -> None:
        """Lets go of the folder; what is not acknowledged stays there."""
        with self._lock:
            self._end_segment()

    def _remember(
        self,
        segment: _Segment,
        position: int,
        batches: list[service_pb2.SendBatchRequest],
        offsets: dict[str, Position],
    ) -> None:
        for index, batch in enumerate(batches):
            key = batch.id.incarnation, batch.id.sequence
            if key in self._open:  # a record that could neither be synced nor taken back, and was written again
                self._open[key].segment.open_batches -= 1
            self._open[key] = _Place(segment, position, index)
        segment.open_batches += len(batches)
        segment.offsets.update(offsets)
        self.offsets.update(offsets)

    def _start_segment(self) -> IO[bytes]:
        path = self._folder / f"{self._number:012d}{_SUFFIX}"
        file = path.open("ab", buffering=0)  # what could not be written must not be written later
        try:
            _sync_folder(self._folder)
        except OSError:
            file.close()
            raise
        self._number += 1
        self._file = file
        self._segments.append(_Segment(path))
        return file

    def _end_segment(self) -> None:
        if self._file is not None:
            with suppress(OSError):  # all that is in it is synced
                self._file.close()
            self._file = None
        self._free()

    def _free(self) -> None:
        """Deletes the segments at the front that are wholly acknowledged, but for the one being written."""
        while self._segments and not self._segments[0].open_batches:
            segment = self._segments[0]
            if self._file is not None and segment is self._segments[-1]:
                return
            try:
                self._save_offsets(self._freed | segment.offsets)
                if segment.damaged:
                    segment.path.rename(segment.path.with_suffix(_DAMAGED))
                else:
                    segment.path.unlink()
            except OSError as error:  # a full disk: tried again at each acknowledgement and wait for room
                if not self._stuck:
                    _log.warning("spool_not_freed", segment=str(segment.path), error=str(error))
                self._stuck = True
                return
            self._stuck = False
            self._segments.pop(0)
            self._size -= segment.size

    def _save_offsets(self, offsets: dict[str, Position]) -> None:
        """Durably and at once: a reader sees the old ones or the new ones."""
        path = self._folder / "offsets.json"
        fresh = path.with_suffix(".new")
        with fresh.open("wb") as file:
            file.write(msgspec.json.encode(offsets))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        _sync_folder(self._folder)
        self._freed = offsets

    def _load(self) -> None:
        saved = self._folder / "offsets.json"
        if saved.exists():
            try:
                self._freed = msgspec.json.decode(saved.read_bytes(), type=dict[str, Position])
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise DataDirError(
                    f"{saved} is damaged ({error}): without it, what was acknowledged may be read again; "
                    "remove it if that is what you want"
                ) from error
        self.offsets.update(self._freed)
        paths = sorted(self._folder.glob(f"*{_SUFFIX}"))
        self._number += max((int(path.stem) for path in [*paths, *self._folder.glob(f"*{_DAMAGED}")]), default=0)
        for path in paths:
            segment = _Segment(path)
            self._segments.append(segment)
            self._load_segment(segment, last=path is paths[-1])
            self._size += segment.size
        self._free()

    def _load_segment(self, segment: _Segment, *, last: bool) -> None:
        data = segment.path.read_bytes()
        name = segment.path.name
        unreadable = 0
        while segment.size < len(data):
            end, payload = _record_at(data, segment.size)
            if end > len(data) and last and not unreadable:
                # It was being written when the process died, and was never sent: its lines are read again.
                left = len(data) - segment.size
                self.damaged.append(f"{name}: {left} bytes of an unfinished record at its end were removed")
                _truncate(segment.path, segment.size)
                return
            end = min(end, len(data))
            if payload is None:
                unreadable += end - segment.size
            else:
                payloads, offsets = msgspec.msgpack.decode(payload, type=tuple[list[bytes], dict[str, Position]])
                batches = [service_pb2.SendBatchRequest.FromString(item) for item in payloads]
                self._remember(segment, segment.size, batches, offsets)
            segment.size = end
        if unreadable:
            segment.damaged = True
            kept = segment.path.with_suffix(_DAMAGED).name
            self.damaged.append(f"{name}: {unreadable} damaged bytes were passed over; it will be kept as {kept}")


def _record_at(data: bytes, position: int) -> tuple[int, bytes | None]:
    """Where the record there ends, by its header, and its payload; None when it is torn or damaged."""
    start = position + _HEADER.size
    if start > len(data):
        return start, None
    length, crc = _HEADER.unpack_from(data, position)
    payload = data[start : start + length]
    # No record is empty, but a disk that lost power may hold zeros, which would pass for one.
    sound = 0 < length == len(payload) and zlib.crc32(payload) == crc
    return start + length, payload if sound else None


def _batches_at(path: Path, position: int) -> list[bytes]:
    with path.open("rb") as file:
        file.seek(position)
        header = file.read(_HEADER.size)
        record = header + file.read(int.from_bytes(header[:4], "little"))
    _, payload = _record_at(record, 0)
    if payload is None:
        raise OSError(errno.EIO, f"the record at byte {position} has become damaged", str(path))
    batches, _ = msgspec.msgpack.decode(payload, type=tuple[list[bytes], dict[str, Position]])
    return batches


def _write(file: IO[bytes], data: bytes) -> None:
    """Durably; an unbuffered file may take less than it is given."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
    os.fsync(file.fileno())


def _truncate(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)
        os.fsync(file.fileno())


def _nothing() -> None:
    """What `on_append` does until somebody wants to be told."""


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
