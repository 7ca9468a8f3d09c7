"""Whole lines of one file, a block at a time, with where they end. It knows nothing of what they mean."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import IO, Final

from helios_core.errors import InputError

BLOCK_BYTES: Final = 256 * 1024
MAX_LINE_BYTES: Final = 1024 * 1024
_HEAD_BYTES: Final = 1024
_COMPRESSED: Final = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
_DAMAGE: Final = (OSError, EOFError, zlib.error, lzma.LZMAError)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole lines as they stand in the file.

    Attributes:
        data: the lines; the last line of the file, where it lacks its line feed, is a chunk of its own.
        from_offset, to_offset: where they stand, in bytes of the uncompressed file.
        too_long: how many lines of over MAX_LINE_BYTES were skipped before them, and their bytes.
    """

    data: bytes
    from_offset: int
    to_offset: int
    too_long: int = 0
    too_long_bytes: int = 0


class FileReader:
    """Reads one file to its end, from an offset.

    Args:
        path: a file; `.gz`, `.xz` and `.bz2` are read uncompressed.
        offset: where to begin, in bytes of the uncompressed file.

    Raises:
        InputError: it is no file that can be read.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.offset = offset
        self.finished = False
        self.compressed = path.suffix in _COMPRESSED
        self._rest = b""
        self._damage: Exception | None = None
        self._file = _open(path)
        # `read` of a compressed file loses what it has decompressed when it then meets damage.
        self._read: Callable[[int], bytes] = getattr(self._file, "read1", self._file.read)
        try:
            self._file.seek(offset)
        except _DAMAGE as error:
            self._file.close()
            raise InputError(f"{path} cannot be read at byte {offset}: {error}") from error

    @property
    def size_bytes(self) -> int:
        """The size on disk: compressed if it is."""
        return os.fstat(self._file.fileno()).st_size

    def position_bytes(self) -> int:
        """How far the file on disk has been read: compressed bytes if it is."""
        raw = getattr(self._file, "fileobj", None) or getattr(self._file, "_fp", None) or self._file
        return int(raw.tell())

    def read(self) -> Chunk | None:
        """The next block of whole lines; None at the end of the file.

        Raises:
            InputError: the file is damaged from here on; what came before it stands.
        """
        start = self.offset
        data, self._rest = self._rest, b""
        while True:
            end = data.find(b"\n") + 1
            if (end or len(data)) > MAX_LINE_BYTES:  # blocks are smaller: only their first line can be
                skipped, self._rest = (end, data[end:]) if end else self._skip_line(len(data))
                self.offset += skipped
                return Chunk(b"", self.offset, self.offset, 1, skipped)
            if end:
                end = data.rfind(b"\n") + 1
                break
            piece = self._read_piece()
            if not piece:
                self.finished = True
                end = len(data)
                break
            data += piece
        self._rest = data[end:]
        self.offset += end
        return Chunk(data[:end], start, self.offset) if end else None

    def give_back(self, chunk: Chunk) -> None:
        """Leaves the last chunk of the file, so that the offset stands before it; nothing is read after it."""
        self.offset = chunk.from_offset

    def close(self) -> None:
        self._file.close()

    def _read_piece(self) -> bytes:
        """A block; when there is damage in it, first what stands before it."""
        pieces = []
        size = 0
        while size < BLOCK_BYTES and self._damage is None:
            try:
                piece = self._read(BLOCK_BYTES - size)
            except _DAMAGE as error:
                self._damage = error
                break
            if not piece:
                break
            pieces.append(piece)
            size += len(piece)
        if self._damage is not None and not pieces:
            raise InputError(f"{self.path} is damaged after byte {self.offset}: {self._damage}") from self._damage
        return b"".join(pieces)

    def _skip_line(self, skipped: int) -> tuple[int, bytes]:
        """Passes over the rest of a line that is too long; returns its bytes and what follows it."""
        while piece := self._read_piece():
            end = piece.find(b"\n") + 1
            if end:
                return skipped + end, piece[end:]
            skipped += len(piece)
        return skipped, b""


def source_id(path: Path) -> str:
    """The stable name of a file: its device and inode, and a hash of its first line (of 1 KiB at most).

    The same file keeps it when it is renamed and when it grows; another file that gets the same inode
    and begins with another line does not have it.
    """
    with _open(path) as file:
        status = path.stat()
        try:
            head = file.read(_HEAD_BYTES).partition(b"\n")[0]
        except _DAMAGE as error:
            raise InputError(f"{path} cannot be read: {error}") from error
    return f"file:{status.st_dev:x}:{status.st_ino:x}:{blake2b(head, digest_size=8).hexdigest()}"


def _open(path: Path) -> IO[bytes]:
    try:
        if path.is_dir():
            raise InputError(f"{path} is a directory: name the files in it, for example {path}/*.log")
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for a writer
            raise InputError(f"{path} cannot be read: it is not a regular file")
        opener = _COMPRESSED.get(path.suffix)
        return opener(path, "rb") if opener else path.open("rb", buffering=0)  # type: ignore[operator]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {os.strerror(error.errno or 0)}") from error
