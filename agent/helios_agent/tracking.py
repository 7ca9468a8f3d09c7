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


def continues(descriptor: int, checkpoint: Checkpoint) -> bool:
    """Whether the open file begins with all that the checkpoint has read: the same stream, here or moved.

    A checkpoint at offset 0 has read nothing, so it says nothing about a file.
    """
    if not checkpoint.offset or os.fstat(descriptor).st_size < checkpoint.offset:
        return False
    head = os.pread(descriptor, checkpoint.head_bytes, 0)
    return _hash(head) == checkpoint.head and _guard(descriptor, checkpoint.offset) == checkpoint.guard


def is_beginning(descriptor: int, size: int, other: int) -> bool:
    """Whether an open file of that size, so far as its ends tell, is the beginning of another: a copy under way."""
    behind = max(0, size - GUARD_BYTES)
    return all(
        os.pread(descriptor, length, start) == os.pread(other, length, start)
        for start, length in ((0, min(size, HEAD_BYTES)), (behind, size - behind))
    )


def _guard(descriptor: int, offset: int) -> bytes:
    start = max(0, offset - GUARD_BYTES)
    return _hash(os.pread(descriptor, offset - start, start))


def _hash(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()
