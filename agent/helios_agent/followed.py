"""One open file that is followed: its next whole lines, and whether it is rewritten or over. It knows no other one."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from helios_agent.lines import whole_lines
from helios_agent.paths import printable
from helios_agent.reader import BLOCK_BYTES, MAX_LINE_BYTES, Chunk
from helios_agent.tracking import Checkpoint, checkpoint_of, continues
from helios_core.clock import US_PER_S

GONE_WAIT_US: Final = 60 * US_PER_S  # a deleted file that nobody has written to for so long is let go


@dataclass(slots=True)
class FollowedFile:
    """One stream of bytes. Its methods raise OSError when it cannot be read; it is then as it was.

    Attributes:
        id: its name in batches and checkpoints.
        path: where it was last seen; `name` is that for a person, for whom a name of a file may be no text.
        offset: up to where it was read, behind a line feed (or within a line that is too long).
        checkpoint: taken when the bytes before the offset were read.
        changed_us: when something new was last seen in it.
        at_end: the last look found nothing unread but a partial line.
        seen_bytes: its size at that look.
        failed: it could not be read at the last attempt.
    """

    id: str
    path: str
    descriptor: int
    offset: int
    checkpoint: Checkpoint
    changed_us: int
    at_end: bool = False
    seen_bytes: int = 0
    skipping: bool = False
    failed: bool = False

    @property
    def name(self) -> str:
        return printable(self.path)

    def backlog_bytes(self) -> int:
        """What is not read of it, as far as can be known."""
        try:
            return max(0, os.fstat(self.descriptor).st_size - self.offset)
        except OSError:
            return 0

    def is_rewritten(self) -> bool:
        """It does not begin with what was read of it."""
        size = os.fstat(self.descriptor).st_size
        return size < self.offset or (0 < self.offset < size and not continues(self.descriptor, self.checkpoint))

    def begin(self, id_: str) -> None:
        """A new stream begins in it."""
        self.checkpoint = checkpoint_of(self.descriptor, 0, self.path)
        self.id, self.offset, self.skipping = id_, 0, False

    def lines(self, now_us: int) -> Chunk | None:
        """The next whole lines, or None when there are none now; of a file that is over, at last, what is left."""
        start = self.offset
        data = os.pread(self.descriptor, BLOCK_BYTES, start)
        while b"\n" not in data and len(data) <= MAX_LINE_BYTES:
            more = os.pread(self.descriptor, BLOCK_BYTES, start + len(data))
            if not more:
                self._found_end(start + len(data), now_us)
                if self._is_over(now_us):
                    return self._last_line(data)
                if not self.skipping:
                    return None
                break
            data += more
        lines = whole_lines(data, max_bytes=MAX_LINE_BYTES, skipping=self.skipping)
        if not lines.end:
            return None
        self.checkpoint = checkpoint_of(self.descriptor, start + lines.end, self.path)  # first: it may fail
        self.skipping = lines.skipping
        self.at_end = lines.end == len(data) < BLOCK_BYTES
        self.seen_bytes = start + len(data)
        self.offset = start + lines.end
        self.changed_us = now_us
        return Chunk(data[lines.start : lines.end], start + lines.start, self.offset, int(lines.too_long), lines.start)

    def is_done(self, now_us: int) -> bool:
        """It is deleted and quiet, and all of it is read."""
        return self._is_over(now_us) and self.offset == self.seen_bytes and not self.skipping

    def close(self) -> None:
        with suppress(OSError):  # nothing was written to it
            os.close(self.descriptor)

    def _is_over(self, now_us: int) -> bool:
        """It is deleted and quiet. It may have grown since its end was seen: reading pauses at times."""
        status = os.fstat(self.descriptor)
        is_seen = self.at_end and status.st_size == self.seen_bytes
        return not status.st_nlink and is_seen and now_us - self.changed_us > GONE_WAIT_US

    def _last_line(self, data: bytes) -> Chunk | None:
        """What stands at the end of a file that is over lacks its line feed, and will not get it."""
        start, too_long = self.offset, int(self.skipping)
        if not (data or too_long):
            return None
        end = start + len(data)
        self.checkpoint = checkpoint_of(self.descriptor, end, self.path)
        self.offset, self.skipping = end, False
        if too_long:
            return Chunk(b"", end, end, too_long, len(data))
        return Chunk(data, start, end)

    def _found_end(self, seen_bytes: int, now_us: int) -> None:
        self.at_end = True
        if seen_bytes != self.seen_bytes:
            self.seen_bytes = seen_bytes
            self.changed_us = now_us
