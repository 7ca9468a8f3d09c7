"""Which file is which: device and inode, the head, and a guard of the bytes before the offset, together.

A name says nothing: files are renamed, copied and truncated by log rotation. This module only looks
and compares; `tail` acts on what it says.
"""

from __future__ import annotations

import os
from hashlib import blake2b
from typing import Final

import msgspec

HEAD_BYTES: Final = 1024
GUARD_BYTES: Final = 256


class Checkpoint(msgspec.Struct, frozen=True, array_like=True):
    """Up to where a file was read, and how to know it again.

    Attributes:
        offset: the bytes before it are read; it stands behind a line feed, or at 0.
        device, inode: where it was.
        head_bytes, head: length and hash of its beginning, at most 1 KiB, never beyond the offset.
        guard: hash of the at most 256 bytes before the offset.
        path: where it was last seen, for a person.
    """

    offset: int
    device: int = 0
    inode: int = 0
    head_bytes: int = 0
    head: bytes = b""
    guard: bytes = b""
    path: str = ""

    @property
    def key(self) -> tuple[int, int]:
        return self.device, self.inode


def checkpoint_of(descriptor: int, offset: int, path: str) -> Checkpoint:
    """The checkpoint of an open file that has been read up to an offset."""
    status = os.fstat(descriptor)
    head_bytes = min(offset, HEAD_BYTES)
    return Checkpoint(
        offset=offset,
        device=status.st_dev,
        inode=status.st_ino,
        head_bytes=head_bytes,
        head=_hash(os.pread(descriptor, head_bytes, 0)),
        guard=_guard(descriptor, offset),
        path=path,
    )


class Content:
    """An open file that is compared with many checkpoints: its head is read once, and its size is that of now."""

    def __init__(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        self.key = status.st_dev, status.st_ino
        self.size = status.st_size
        self._descriptor = descriptor
        self.head = os.pread(descriptor, HEAD_BYTES, 0)
        self._hashes: dict[int, bytes] = {}

    def has_head_of(self, checkpoint: Checkpoint) -> bool:
        """It begins as the checkpoint's file does. At offset 0 nothing has been read, which says nothing."""
        length = checkpoint.head_bytes
        if not checkpoint.offset or len(self.head) < length:
            return False
        if length not in self._hashes:
            self._hashes[length] = _hash(self.head[:length])
        return self._hashes[length] == checkpoint.head

    def continues(self, checkpoint: Checkpoint) -> bool:
        """It begins with all that the checkpoint has read: the same stream, here or moved."""
        return (
            self.size >= checkpoint.offset
            and self.has_head_of(checkpoint)
            and _guard(self._descriptor, checkpoint.offset) == checkpoint.guard
        )

    def begins(self, checkpoint: Checkpoint, descriptor: int) -> bool:
        """It is, so far as its ends tell, the beginning of what the checkpoint has read, of the open file given."""
        if self.size >= checkpoint.offset or (self.size >= checkpoint.head_bytes and not self.has_head_of(checkpoint)):
            return False
        behind = max(0, self.size - GUARD_BYTES)
        return all(
            os.pread(self._descriptor, length, start) == os.pread(descriptor, length, start)
            for start, length in ((0, min(self.size, HEAD_BYTES)), (behind, self.size - behind))
        )


def continues(descriptor: int, checkpoint: Checkpoint) -> bool:
    """Whether the open file begins with all that the checkpoint has read; see `Content`."""
    return bool(checkpoint.offset) and Content(descriptor).continues(checkpoint)


def _guard(descriptor: int, offset: int) -> bytes:
    start = max(0, offset - GUARD_BYTES)
    return _hash(os.pread(descriptor, offset - start, start))


def _hash(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()
