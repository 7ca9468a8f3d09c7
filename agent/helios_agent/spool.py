"""The spool: batches on disk from before their first send until they are acknowledged.

A record is what one cut made: its batches and the offsets up to which their sources are read. It is
written and synced as one, so that after a crash either all of it is there or nothing, and reading
goes on where the last whole record says. A segment is deleted when all of it is acknowledged; the
offsets that only it knew are saved before.

    segment:  records, each  length u32 | crc32 u32 | payload     (little-endian)
    payload:  msgpack [[serialised SendBatchRequest, ...], {source: offset}]
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import msgspec

from helios.v1 import service_pb2
from helios_core.errors import DataDirError

_HEADER: Final = struct.Struct("<II")
_SEGMENT_BYTES: Final = 8 * 1024 * 1024
_SUFFIX: Final = ".spool"
_Key = tuple[int, int]  # incarnation, sequence


@dataclass(slots=True)
class _Segment:
    path: Path
    open_batches: int = 0
    size: int = 0


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
        self._lock = threading.Condition()
        self._open: OrderedDict[_Key, _Place] = OrderedDict()
        self._segments: list[_Segment] = []
        self._file: IO[bytes] | None = None
        self._size = 0
        self.offsets: dict[str, int] = {}
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

    def append(self, batches: list[service_pb2.SendBatchRequest], offsets: dict[str, int]) -> None:
        """Makes the batches of one cut durable, with the offsets of their sources; an OSError when it cannot."""
        payload = msgspec.msgpack.encode(([batch.SerializeToString() for batch in batches], offsets))
        with self._lock:
            if self._file is None or self._segments[-1].size >= _SEGMENT_BYTES:
                self._start_segment()
            segment = self._segments[-1]
            assert self._file is not None  # noqa: S101 - a segment was started above
            self._file.write(_HEADER.pack(len(payload), zlib.crc32(payload)) + payload)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._remember(segment, batches, offsets, len(payload) + _HEADER.size)
            self._lock.notify_all()
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

    def wait_for_room(self, timeout_s: float) -> bool:
        """Whether there is room, after waiting for it at most so long."""
        with self._lock:
            return self._lock.wait_for(lambda: self._size < self._max_bytes, timeout_s)

    def close(self) -> None:
        """Saves where reading goes on."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None
            self._save_offsets()

    def _remember(
        self,
        segment: _Segment,
        batches: list[service_pb2.SendBatchRequest],
        offsets: dict[str, int],
        size: int,
    ) -> None:
        for index, batch in enumerate(batches):
            self._open[batch.id.incarnation, batch.id.sequence] = _Place(segment, segment.size, index)
        segment.open_batches += len(batches)
        segment.size += size
        self._size += size
        self.offsets.update(offsets)

    def _start_segment(self) -> None:
        if self._file is not None:
            self._file.close()
        number = int(self._segments[-1].path.stem) + 1 if self._segments else 1
        segment = _Segment(self._folder / f"{number:012d}{_SUFFIX}")
        self._file = segment.path.open("ab")
        self._segments.append(segment)
        self._free()
        _sync_folder(self._folder)

    def _free(self) -> None:
        """Deletes segments that are wholly acknowledged, but for the one being written."""
        while len(self._segments) > 1 and not self._segments[0].open_batches:
            self._save_offsets()
            segment = self._segments.pop(0)
            self._size -= segment.size
            segment.path.unlink()

    def _save_offsets(self) -> None:
        """Durably and at once: a reader sees the old ones or the new ones."""
        path = self._folder / "offsets.json"
        fresh = path.with_suffix(".new")
        with fresh.open("wb") as file:
            file.write(msgspec.json.encode(self.offsets))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        _sync_folder(self._folder)

    def _load(self) -> None:
        saved = self._folder / "offsets.json"
        if saved.exists():
            self.offsets = msgspec.json.decode(saved.read_bytes(), type=dict[str, int])
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            segment = _Segment(path)
            data = path.read_bytes()
            position = 0
            while position < len(data):
                payload = _payload_at(data, position)
                if payload is None:
                    self._cut_tail(path, position, len(data))
                    break
                payloads, offsets = msgspec.msgpack.decode(payload, type=tuple[list[bytes], dict[str, int]])
                batches = [service_pb2.SendBatchRequest.FromString(item) for item in payloads]
                self._remember(segment, batches, offsets, len(payload) + _HEADER.size)
                position += _HEADER.size + len(payload)
            self._segments.append(segment)

    def _cut_tail(self, path: Path, position: int, size: int) -> None:
        """A record that was being written when the process died was never sent: its lines are read again."""
        self.damaged.append(f"{path.name}: {size - position} bytes of an unfinished record at its end were removed")
        with path.open("r+b") as file:
            file.truncate(position)
            os.fsync(file.fileno())


def _payload_at(data: bytes, position: int) -> bytes | None:
    """The payload of the record there; None when it is torn or damaged."""
    if position + _HEADER.size > len(data):
        return None
    length, crc = _HEADER.unpack_from(data, position)
    payload = data[position + _HEADER.size : position + _HEADER.size + length]
    return payload if len(payload) == length and zlib.crc32(payload) == crc else None


def _batches_at(path: Path, position: int) -> list[bytes]:
    with path.open("rb") as file:
        file.seek(position)
        length, _ = _HEADER.unpack(file.read(_HEADER.size))
        batches, _ = msgspec.msgpack.decode(file.read(length), type=tuple[list[bytes], dict[str, int]])
    return batches


def _nothing() -> None:
    """What `on_append` does until somebody wants to be told."""


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
