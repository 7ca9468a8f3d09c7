"""Follows files by glob as they grow, are renamed, truncated, copied and deleted: every byte once.

It polls: waking for every write costs three times the CPU of looking four times a second. Descriptors
stay open over renames and deletions, so that what a rotated file still gets is read, too.

    same inode, continues                          → resume at the offset
    same inode, shorter or another guard           → its stream goes on in a copy that continues it, if there
                                                     is one beside it; a new stream begins here at 0
    new inode that continues one that is gone      → the same stream, moved: resume at its offset
    new inode that continues one that is intact,   → wait whether that one shrinks; it is another file when it
    or is the beginning of one                       has not grown for a while

When there are more files than may be open, those that are quiet are closed until they change.
"""

from __future__ import annotations

import glob
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import structlog

from helios_agent.followed import FollowedFile
from helios_agent.paths import matching, printable
from helios_agent.reader import Chunk
from helios_agent.tracking import HEAD_BYTES, Checkpoint, Content, checkpoint_of, continues
from helios_core.clock import US_PER_S, Clock

COPY_WAIT_US: Final = 10 * US_PER_S  # between the end of a copy and the truncation that follows it
MAX_OPEN: Final = 1_000
MAX_REMEMBERED: Final = 10_000
_CROWDED_EVERY_US: Final = 3_600 * US_PER_S
_Key = tuple[int, int]  # device, inode
_log = structlog.get_logger(__name__)


class _Quiet(NamedTuple):
    """A file that was closed to make room, as it was then."""

    id: str
    size: int
    changed_ns: int
    head: bytes


class Tail:
    """The files that some patterns match.

    Args:
        patterns, exclude: see `paths.matching`.
        checkpoints: what was durable when the agent stopped, by the id of the file.
        clock: for what is waited for: one that nobody sets.
        from_end: files that are there at the first look and unknown are read from their ends.

    Attributes:
        files: the open ones, by id.
        forgotten: ids that are no longer needed; the caller takes them out of what is durable.
        left_out: the files that could not be opened at the last look, because too many are.
        lost: how many truncated files had no copy of what may have been unread.
    """

    def __init__(
        self,
        patterns: Sequence[str],
        *,
        checkpoints: Mapping[str, Checkpoint],
        clock: Clock,
        exclude: Sequence[str] = (),
        from_end: bool = False,
    ) -> None:
        self._patterns = patterns
        self._exclude = exclude
        self._clock = clock
        self._from_end = from_end
        self._known = dict(checkpoints)  # those that are not open
        self._waiting: dict[_Key, tuple[int, int]] = {}  # possible copies: their size, and since when
        self._quiet: dict[_Key, _Quiet] = {}
        self._crowded_us: int | None = None
        self._unreadable: set[str] = set()
        self._directories: set[str] = set()
        self._looked = False
        self._by_key: dict[_Key, FollowedFile] = {}
        self.files: dict[str, FollowedFile] = {}
        self.forgotten: list[str] = []
        self.left_out: set[_Key] = set()
        self.lost = 0

    def discover(self) -> None:
        """Looks which files there are. It never raises for what it finds: what cannot be read is said once."""
        fresh = self._fresh()
        if fresh:
            # Before a new file is judged: it may be the copy of one that was truncated meanwhile.
            for tracked in list(self.files.values()):
                with self._mindful(tracked):
                    self._split_rewritten(tracked)
        known = {checkpoint.key for checkpoint in self._known.values()}  # so may it be of one that is opened now
        waited, self.left_out = self.left_out, set()
        for key, path in sorted(fresh.items(), key=lambda one: (one[0] not in waited, one[0] not in known)):
            if key in self._by_key:
                continue
            if len(self.files) < MAX_OPEN:
                self._open(path)
            else:
                self.left_out.add(key)
        if waited and self.left_out:
            self._say_crowded()
        self._waiting = {key: since for key, since in self._waiting.items() if key in fresh}
        self._looked = True

    @property
    def is_waiting(self) -> bool:
        """Some file is not read yet: it may be a copy, or too many are open."""
        return bool(self.left_out) or any(size for size, _ in self._waiting.values())

    def read(self, tracked: FollowedFile) -> Chunk | None:
        """The next whole lines of a file, or None when there are none now, or it cannot be read, or is closed."""
        if self.files.get(tracked.id) is not tracked:
            return None
        chunk = None
        with self._mindful(tracked):
            self._split_rewritten(tracked)
            chunk = tracked.lines(self._clock.now_us())
            tracked.failed = False
            self._unreadable.discard(tracked.path)
        return chunk

    def checkpoint(self, tracked: FollowedFile) -> Checkpoint:
        """What makes the lines that were read so far durable, once they are spooled."""
        return msgspec.structs.replace(tracked.checkpoint, path=tracked.name)

    def release(self) -> None:
        """Closes what need not stay open; called when all that was read is durable."""
        for tracked in list(self.files.values()):
            if tracked.failed:
                self._set_aside(tracked)
                continue
            with self._mindful(tracked):
                if tracked.is_done(self._clock.now_us()):
                    self._close(tracked)
                    self.forgotten.append(tracked.id)
                    _log.info("source_gone", path=tracked.name, offset=tracked.offset)
        self._make_room()
        self._forget(list(self._known)[: max(0, len(self._known) - MAX_REMEMBERED)])

    def close(self) -> None:
        for tracked in self.files.values():
            tracked.close()
        self.files.clear()
        self._by_key.clear()

    def _make_room(self) -> None:
        """Closes the longest quiet of the files that are read, as many as were left out."""
        read = sorted(
            (tracked for tracked in self.files.values() if tracked.at_end and not tracked.skipping),
            key=lambda tracked: tracked.changed_us,
        )
        for tracked in read[: len(self.left_out)]:
            with self._mindful(tracked):
                status = os.fstat(tracked.descriptor)
                if status.st_nlink and status.st_size == tracked.seen_bytes:
                    head = os.pread(tracked.descriptor, HEAD_BYTES, 0)
                    closed = _Quiet(tracked.id, status.st_size, status.st_mtime_ns, head)
                    self._quiet[tracked.checkpoint.key] = closed
                    self._set_aside(tracked)

    def _set_aside(self, tracked: FollowedFile) -> None:
        """Closes a file that is opened again; what was read of it must be durable."""
        self._close(tracked)
        self._known[tracked.id] = msgspec.structs.replace(tracked.checkpoint, path=tracked.path)

    def _fresh(self) -> dict[_Key, str]:
        """The paths of the files that want to be opened; the others get the path at which they are now."""
        fresh: dict[_Key, str] = {}
        quiet, self._quiet = self._quiet, {}
        for path in matching(self._patterns, self._exclude):
            try:
                status = os.stat(path)
            except OSError:
                continue  # gone between the glob and here
            key = (status.st_dev, status.st_ino)
            if stat.S_ISDIR(status.st_mode):
                self._say_directory(path)
            if not stat.S_ISREG(status.st_mode):
                continue
            if key in self._by_key:
                self._by_key[key].path = path
                continue
            closed = quiet.get(key)
            if closed is not None and closed.id in self._known:
                self._quiet[key] = closed
                self._known[closed.id] = msgspec.structs.replace(self._known[closed.id], path=path)
                if (status.st_size, status.st_mtime_ns) == (closed.size, closed.changed_ns):
                    continue
            fresh[key] = path
        return fresh

    def _open(self, path: str) -> None:
        descriptor = self._descriptor(path)
        if descriptor is None:
            return
        try:
            found = self._recognise(descriptor, path)
            if found is not None:
                id_, offset = found
                self._track(id_, path, descriptor, offset)
                self._known.pop(id_, None)
                return
        except OSError as error:
            self._say_unreadable(path, error)
        os.close(descriptor)

    def _track(self, id_: str, path: str, descriptor: int, offset: int) -> None:
        tracked = FollowedFile(
            id_, path, descriptor, offset, checkpoint_of(descriptor, offset, path), self._clock.now_us()
        )
        self.files[id_] = self._by_key[tracked.checkpoint.key] = tracked
        if self._quiet.pop(tracked.checkpoint.key, None) is None and path not in self._unreadable:
            _log.info("source_found", path=printable(path), offset=offset)

    def _recognise(self, descriptor: int, path: str) -> tuple[str, int] | None:
        """(id, offset) of an open file by the table above; None when it has to wait."""
        content = Content(descriptor)
        key = content.key
        # Streams that ended here by a truncation may be known beside the one that goes on.
        here = sorted(
            ((id_, known) for id_, known in self._known.items() if known.key == key), key=lambda one: -one[1].offset
        )
        for id_, known in here:
            if content.continues(known) or not known.offset:
                self._forget(other for other, _ in here if other != id_)
                return id_, known.offset
        if here:  # truncated or rewritten while the agent was away
            for id_, known in here:
                self._adopt_copy(id_, known, path)
            return self._fresh_id(key), 0
        for id_, known in self._known.items():
            if content.continues(known) and not _is_whole(known):
                return id_, known.offset
        if self._from_end and not self._looked:
            return self._fresh_id(key), content.size
        if self._may_be_copy(content):
            now_us = self._clock.now_us()
            size, since_us = self._waiting.get(key, (-1, now_us))
            if size != content.size:
                since_us = now_us
            self._waiting[key] = content.size, since_us
            if now_us - since_us < COPY_WAIT_US:
                return None
        self._waiting.pop(key, None)
        return self._fresh_id(key), 0

    def _may_be_copy(self, content: Content) -> bool:
        """It begins with all that was read of another file, or is the beginning of that: all of it, so far."""
        for tracked in self.files.values():
            try:
                if content.continues(tracked.checkpoint) or content.begins(tracked.checkpoint, tracked.descriptor):
                    return True
            except OSError:  # one of the two cannot be read, which reading it says
                continue
        closed = ((one, self._known[one.id]) for one in self._quiet.values() if one.id in self._known)
        return any(content.continues(known) or _is_beginning(content, one, known) for one, known in closed)

    def _split_rewritten(self, tracked: FollowedFile) -> None:
        """A file that was truncated or rewritten: its stream goes on in a copy, and a new one begins here."""
        if not tracked.is_rewritten():
            return
        _log.info("source_truncated", path=tracked.name, offset=tracked.offset)
        ended, known = tracked.id, tracked.checkpoint
        tracked.begin(self._fresh_id(known.key))
        del self.files[ended]
        self._adopt_copy(ended, known, tracked.path)
        self.files[tracked.id] = tracked

    def _forget(self, ids: Iterable[str]) -> None:
        for id_ in ids:
            self._known.pop(id_, None)
            self.forgotten.append(id_)

    def _adopt_copy(self, id_: str, known: Checkpoint, path: str) -> None:
        """Lets a stream go on in the copy that log rotation made of its file; forgets it without one."""
        self._known.pop(id_, None)
        folder, name = os.path.split(path)
        for candidate in sorted(glob.glob(f"{glob.escape(os.path.join(folder, Path(name).stem))}*")):
            descriptor = self._descriptor(candidate)
            if descriptor is None:
                continue
            try:
                if self._is_copy(descriptor, known):
                    self._track(id_, candidate, descriptor, known.offset)
                    return
            except OSError as error:
                self._say_unreadable(candidate, error)
            os.close(descriptor)
        self.lost += 1
        self.forgotten.append(id_)
        _log.warning("source_truncated_without_copy", path=printable(path), read_up_to=known.offset)

    def _is_copy(self, descriptor: int, known: Checkpoint) -> bool:
        status = os.fstat(descriptor)
        key = (status.st_dev, status.st_ino)
        return (
            stat.S_ISREG(status.st_mode)
            and key != known.key
            and key not in self._by_key
            and continues(descriptor, known)
        )

    @contextmanager
    def _mindful(self, tracked: FollowedFile) -> Iterator[None]:
        """Around what reads one file: one that cannot be read does not stop the others."""
        try:
            yield
        except OSError as error:
            tracked.failed = True
            self._say_unreadable(tracked.path, error)

    def _say_unreadable(self, path: str, error: OSError) -> None:
        """Once, until it can be read again."""
        if path not in self._unreadable and len(self._unreadable) < MAX_OPEN:
            self._unreadable.add(path)
            _log.error("source_unreadable", path=printable(path), error=os.strerror(error.errno or 0))

    def _say_crowded(self) -> None:
        now_us = self._clock.now_us()
        if self._crowded_us is None or now_us - self._crowded_us >= _CROWDED_EVERY_US:
            self._crowded_us = now_us
            _log.warning(
                "too_many_files",
                open=len(self.files),
                left_out=len(self.left_out),
                hint="they take turns; name fewer files, or exclude old ones",
            )

    def _say_directory(self, path: str) -> None:
        """Once, where a file should be; one that a glob happens to match is nothing to speak of."""
        if path in self._patterns and path not in self._directories:
            self._directories.add(path)
            _log.warning(
                "source_is_directory", path=path, hint=f"name the files in it, for example {path.rstrip('/')}/*.log"
            )

    def _descriptor(self, path: str) -> int | None:
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            self._say_unreadable(path, error)
            return None

    def _fresh_id(self, key: _Key) -> str:
        """An inode is used again, so that its number alone names nothing."""
        return f"file:{key[0]:x}:{key[1]:x}:{secrets.token_hex(6)}"

    def _close(self, tracked: FollowedFile) -> None:
        del self.files[tracked.id], self._by_key[tracked.checkpoint.key]
        tracked.close()


def _is_whole(known: Checkpoint) -> bool:
    """The file of a checkpoint is still where it was, with all that was read of it."""
    return _holds(known, lambda descriptor: continues(descriptor, known))


def _is_beginning(content: Content, closed: _Quiet, known: Checkpoint) -> bool:
    """An open file is the beginning of what was read of one that is closed."""
    if content.size >= known.offset or not closed.head.startswith(content.head):
        return False
    return content.size <= HEAD_BYTES or _holds(known, lambda descriptor: content.begins(known, descriptor))


def _holds(known: Checkpoint, condition: Callable[[int], bool]) -> bool:
    """The file of a checkpoint is still where it was, and it is so of it."""
    try:
        descriptor = os.open(known.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        status = os.fstat(descriptor)
        return (status.st_dev, status.st_ino) == known.key and condition(descriptor)
    except OSError:  # it is there, and cannot be read
        return True
    finally:
        os.close(descriptor)
