"""The spool: whatever happens to the process or the disk, what was appended and not acknowledged is there."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import count
from pathlib import Path
from typing import IO, Any, cast
from unittest.mock import Mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.examples import examples

from helios.v1 import service_pb2
from helios_agent import spool as spool_module
from helios_agent.spool import Spool
from helios_agent.tracking import Checkpoint
from helios_core.errors import DataDirError

Key = tuple[int, int]
SEGMENT_BYTES = 600
ALL = 1_000_000


@pytest.fixture(scope="module", autouse=True)
def _small_segments() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool_module, "_SEGMENT_BYTES", SEGMENT_BYTES)
        yield


def batch(sequence: int, size: int = 10, incarnation: int = 7) -> service_pb2.SendBatchRequest:
    request = service_pb2.SendBatchRequest(batch=bytes([sequence % 256]) * size, sha256=b"h" * 32, contract_version=1)
    request.id.agent_id = b"a" * 16
    request.id.incarnation = incarnation
    request.id.sequence = sequence
    return request


def keys(spool: Spool) -> list[Key]:
    return [key for key, _ in spool.after(None, ALL)]


def sequences(spool: Spool) -> list[int]:
    return [sequence for _, sequence in keys(spool)]


def files(folder: Path, ending: str = ".spool") -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix == ending)


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in files(folder))


def records(path: Path) -> list[int]:
    """Where the records of a segment begin, and where the last one ends."""
    data = path.read_bytes()
    starts = [0]
    while starts[-1] < len(data):
        (length,) = struct.unpack_from("<I", data, starts[-1])
        starts.append(starts[-1] + 8 + length)
    return starts


@contextmanager
def opened(folder: Path, **options: int) -> Iterator[Spool]:
    spool = Spool(folder, **options)
    try:
        yield spool
    finally:
        spool.close()


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file can grow beyond so many bytes: a write is cut short, and the next one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool_module, "_log", Mock())  # what it says may go to a file, too
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def failing_sync() -> Iterator[None]:
    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield


# ---- any order of things


class Life(RuleBasedStateMachine):
    """A spool beside a model of it: a list of what was appended, and what was acknowledged of it."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="spool-"))
        self.homes = (self.root / str(number) for number in count())
        self.folder = next(self.homes)
        self.spool = Spool(self.folder)
        self.sequence = 0
        self.appended: list[tuple[list[service_pb2.SendBatchRequest], dict[str, int]]] = []
        self.open: set[int] = set()
        self.marred: set[str] = set()

    def teardown(self) -> None:
        self.spool.close()
        shutil.rmtree(self.root)

    def make(self, sizes: Sequence[int]) -> list[service_pb2.SendBatchRequest]:
        made = [batch(self.sequence + number, size) for number, size in enumerate(sizes, 1)]
        self.sequence += len(made)
        return made

    def offsets(self) -> dict[str, int]:
        merged: dict[str, int] = {}
        for _, offsets in self.appended:
            merged.update(offsets)
        return merged

    sizes = st.lists(st.integers(0, 300), max_size=4)
    progress = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 10**12), max_size=3)

    @rule(sizes=sizes, offsets=progress)
    def append(self, sizes: list[int], offsets: dict[str, int]) -> None:
        made = self.make(sizes)
        self.spool.append(made, offsets)
        self.appended.append((made, offsets))
        self.open |= {one.id.sequence for one in made}

    @rule(sizes=sizes.filter(bool), offsets=progress, data=st.data())
    def append_to_a_full_disk(self, sizes: list[int], offsets: dict[str, int], data: st.DataObject) -> None:
        made = self.make(sizes)
        size = files(self.folder)[-1].stat().st_size if files(self.folder) else 0
        room = data.draw(st.sampled_from([0, size])) + data.draw(st.integers(0, 40))
        fault = failing_sync() if data.draw(st.booleans()) else full_disk(room)
        again = data.draw(st.booleans())
        try:
            with fault:
                self.spool.append(made, offsets)
        except OSError:
            if not again:
                return
            self.spool.append(made, offsets)
        self.appended.append((made, offsets))
        self.open |= {one.id.sequence for one in made}

    @precondition(lambda self: self.sequence)
    @rule(data=st.data(), full=st.booleans())
    def acknowledge(self, data: st.DataObject, full: bool) -> None:
        chosen = data.draw(st.lists(st.integers(0, self.sequence + 1), max_size=8))
        for sequence in chosen:
            with full_disk(0) if full else nullcontext():
                self.spool.acknowledge((7, sequence))
            self.open.discard(sequence)
        assert self.spool.wait_for_room(0)

    @rule()
    def acknowledge_all(self) -> None:
        for key in keys(self.spool):
            self.spool.acknowledge(key)
        self.open.clear()

    @rule()
    def restart(self) -> None:
        self.spool.close()
        self.start()

    @rule()
    def crash(self) -> None:
        self.move()
        self.start()

    @precondition(lambda self: on_disk(self.folder))
    @rule(data=st.data())
    def crash_in_the_last_record(self, data: st.DataObject) -> None:
        self.move()
        path = [path for path in files(self.folder) if path.stat().st_size][-1]
        if path.name in self.marred:
            self.start()
            return
        start, end = records(path)[-2:]
        whole = path.read_bytes()
        content = bytearray(whole)
        at = data.draw(st.integers(start, end - 1))
        damage = data.draw(st.sampled_from(["cut", "flip", "zeros", "zeros behind"]))
        if damage == "cut":
            del content[at:]
        elif damage == "flip":
            content[at] ^= data.draw(st.integers(1, 255))
        elif damage == "zeros":
            content[at:] = bytes(end - at)
        else:
            content += bytes(data.draw(st.integers(1, 40)))
        path.write_bytes(content)
        if content[:end] != whole:
            lost, _ = self.appended.pop()
            self.open -= {one.id.sequence for one in lost}
        self.start(path.name if content not in (whole, whole[:start]) else None)

    def move(self) -> None:
        """What a crash leaves: the folder as it is, without a close."""
        copied = next(self.homes)
        shutil.copytree(self.folder, copied)
        self.spool.close()
        self.folder = copied

    def start(self, damaged: str | None = None) -> None:
        self.marred &= {path.name for path in files(self.folder)}
        self.spool = Spool(self.folder)
        found = set(sequences(self.spool))
        known = {one.id.sequence for made, _ in self.appended for one in made}
        assert self.open <= found <= known
        self.open = found  # what was acknowledged and not yet freed comes again
        told = {text.partition(":")[0] for text in self.spool.damaged}
        assert told == self.marred | ({damaged} if damaged else set())
        self.marred |= {text.partition(":")[0] for text in self.spool.damaged if "will be kept as" in text}

    @invariant()
    def holds_what_is_not_acknowledged(self) -> None:
        expected = [one for made, _ in self.appended for one in made if one.id.sequence in self.open]
        assert len(self.spool) == len(expected)
        found = self.spool.after(None, ALL)
        assert [one.SerializeToString() for _, one in found] == [one.SerializeToString() for one in expected]
        assert [key for key, _ in found] == [(7, one.id.sequence) for one in expected]
        for place in {0, len(expected) // 2, len(expected) - 1} if expected else ():
            key, _ = found[place]
            assert self.spool.after(key, 3) == found[place + 1 : place + 4]

    @invariant()
    def knows_how_far_the_sources_are_read(self) -> None:
        assert self.spool.offsets == self.offsets()

    @invariant()
    def takes_no_more_room_than_it_says(self) -> None:
        assert self.spool.size_bytes == on_disk(self.folder)

    @invariant()
    def keeps_no_segment_that_is_not_needed(self) -> None:
        if not self.open:
            assert self.spool.size_bytes < SEGMENT_BYTES


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=examples(60), stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


# ---- a crash at any step of anything


def test_a_crash_between_any_two_steps_loses_nothing(tmp_path: Path) -> None:
    """The folder is copied before and after each call that changes what is on disk."""
    folder = tmp_path / "spool"
    photos: list[tuple[Path, int, int, int]] = []
    done = {"appended": 0, "begun": 0, "acknowledged": 0}

    def photographed(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*words: Any, **named: Any) -> Any:
            photograph()
            result = call(*words, **named)
            photograph()
            return result

        return wrapped

    def photograph() -> None:
        copied = tmp_path / f"photo-{len(photos)}"
        shutil.copytree(folder, copied)
        photos.append((copied, done["appended"], done["begun"], done["acknowledged"]))

    with pytest.MonkeyPatch.context() as patch, opened(folder) as spool:
        patch.setattr(os, "fsync", photographed(os.fsync))
        for owner, name in ((Path, "unlink"), (Path, "replace"), (Path, "open")):
            patch.setattr(owner, name, photographed(getattr(owner, name)))
        for number in range(1, 13):
            done["begun"] = number
            spool.append([batch(number, 150)], {"a": number, f"only-{number}": 1})
            done["appended"] = number
            if number % 3 == 0:
                for sequence in sequences(spool)[:3]:
                    done["acknowledged"] = sequence
                    spool.acknowledge((7, sequence))
    assert len(photos) > 80
    for copied, appended, begun, acknowledged in photos:
        with opened(copied) as spool:
            assert spool.damaged == []
            last = spool.offsets.get("a", 0)
            assert last in {appended, begun}
            assert spool.offsets == ({"a": last} if last else {}) | {f"only-{n}": 1 for n in range(1, last + 1)}
            found = sequences(spool)
            assert found == list(range(last - len(found) + 1, last + 1))
            assert len(found) >= last - acknowledged


# ---- damage


def filled(folder: Path, appends: int, size: int = 60) -> None:
    with opened(folder) as spool:
        for number in range(1, appends + 1):
            spool.append([batch(number, size)], {"a": number})


@pytest.mark.parametrize("place", ["length", "checksum", "payload"])
def test_a_damaged_record_does_not_take_the_good_ones_with_it(tmp_path: Path, place: str) -> None:
    filled(tmp_path, 12)
    first, second = files(tmp_path)[:2]
    starts = records(first)
    assert len(starts) > 4
    content = bytearray(first.read_bytes())
    content[starts[1] + {"length": 3, "checksum": 5, "payload": 30}[place]] ^= 0x40
    first.write_bytes(content)
    # Without its length, nobody knows where in its segment the next one begins.
    expected = [1, *range(len(starts) if place == "length" else 3, 13)]
    for _ in range(2):  # it stays as it is until all else in it is acknowledged
        with opened(tmp_path) as spool:
            assert sequences(spool) == expected
            assert spool.offsets == {"a": 12}
            assert len(spool.damaged) == 1
            assert first.name in spool.damaged[0]
            assert "damaged" in spool.damaged[0]
    with opened(tmp_path) as spool:
        for key in keys(spool):
            spool.acknowledge(key)
        spool.append([batch(99)], {"a": 99})
        kept = first.with_suffix(".damaged")
        assert files(tmp_path, ".damaged") == [kept]
        assert kept.read_bytes() == content
        assert spool.size_bytes == on_disk(tmp_path)
        assert first not in files(tmp_path)
        assert second not in files(tmp_path)
    with opened(tmp_path) as spool:
        assert spool.damaged == []
        assert sequences(spool) == [99]
        spool.acknowledge((7, 99))
    filled(tmp_path, 3)
    assert files(tmp_path, ".damaged") == [kept]  # and no later segment takes its name
    assert kept.read_bytes() == content


@given(data=st.data())
@settings(max_examples=examples(150))
def test_no_damage_stops_it_from_opening(data: st.DataObject, template: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "spool"
        shutil.copytree(template, folder)
        path = data.draw(st.sampled_from(files(folder)))
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            start = data.draw(st.integers(0, len(content)))
            length = data.draw(st.integers(0, 50))
            content[start : start + length] = data.draw(st.binary(max_size=50) | st.integers(0, 50).map(bytes))
        path.write_bytes(content)
        whole = {one.SerializeToString() for one in (batch(number, 60) for number in range(1, 13))}
        with opened(folder) as spool:
            found = sequences(spool)
            assert found == sorted(found)
            assert {one.SerializeToString() for _, one in spool.after(None, ALL)} <= whole
            assert spool.offsets == {"a": max(found)}
            spool.append([batch(100)], {"a": 100})
            assert sequences(spool) == [*found, 100]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spool of three segments with twelve batches."""
    folder = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool_module, "_SEGMENT_BYTES", SEGMENT_BYTES)
        filled(folder, 12)
    assert len(files(folder)) == 3
    return folder


def test_a_record_that_becomes_damaged_is_not_sent(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        for number in (1, 2, 3):
            spool.append([batch(number)], {"a": number})
        (path,) = files(tmp_path)
        content = bytearray(path.read_bytes())
        content[records(path)[1] + 20] ^= 1
        path.write_bytes(content)
        with pytest.raises(OSError, match="damaged"):
            spool.after(None, 3)
    with opened(tmp_path) as spool:
        assert sequences(spool) == [1, 3]


def test_damaged_offsets_are_refused_by_name(tmp_path: Path) -> None:
    filled(tmp_path, 12)
    with opened(tmp_path) as spool:
        for key in keys(spool):
            spool.acknowledge(key)
    for content in (b"", b"{", b"[1]", b"\xff", b'{"\xff": 1}'):
        (tmp_path / "offsets.json").write_bytes(content)
        with pytest.raises(DataDirError, match=r"offsets\.json is damaged"):
            Spool(tmp_path)


def test_a_folder_that_cannot_be_used_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataDirError, match=f"{folder} cannot be used as a spool"):
            Spool(folder)


# ---- the size of it


def test_segments_go_when_they_are_acknowledged(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        for number in range(1, 41):
            spool.append([batch(number, 100)], {"a": number})
        before = len(files(tmp_path))
        assert before > 5
        for number in range(1, 41):
            spool.acknowledge((7, number))
            assert spool.size_bytes == on_disk(tmp_path)
            assert spool.size_bytes <= (40 - number) * 200 + SEGMENT_BYTES
        assert len(files(tmp_path)) <= 1
    assert files(tmp_path) == []
    with opened(tmp_path) as spool:
        assert spool.offsets == {"a": 40}
        assert len(spool) == 0


@pytest.mark.parametrize("max_bytes", [1, 100, 500, SEGMENT_BYTES, 2_000])
def test_there_is_room_again_when_all_is_acknowledged(tmp_path: Path, max_bytes: int) -> None:
    with opened(tmp_path, max_bytes=max_bytes) as spool:
        number = 0
        for _ in range(3):
            while spool.wait_for_room(0):
                number += 1
                spool.append([batch(number, 100)], {"a": number})
                assert spool.size_bytes < max_bytes + 200
            assert spool.size_bytes >= max_bytes
            for key in keys(spool):
                spool.acknowledge(key)
            assert spool.wait_for_room(0)


def test_waiting_for_room_ends_with_an_acknowledgement(tmp_path: Path) -> None:
    with opened(tmp_path, max_bytes=300) as spool:
        spool.append([batch(1, 300)], {})
        started = time.monotonic()
        assert not spool.wait_for_room(0.05)
        assert 0.04 < time.monotonic() - started < 5
        timer = threading.Timer(0.05, spool.acknowledge, [(7, 1)])
        timer.start()
        assert spool.wait_for_room(20)
        timer.join()


# ---- a full disk


def test_a_full_disk_keeps_the_record_out_and_the_spool_usable(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        spool.append([batch(1)], {"a": 1})
        size = on_disk(tmp_path)
        for fault in (full_disk(size), full_disk(size + 30), failing_sync()):
            with fault, pytest.raises(OSError, match=r"No space left|too large"):
                spool.append([batch(2), batch(3)], {"a": 2, "b": 1})
            assert sequences(spool) == [1]
            assert spool.offsets == {"a": 1}
            assert spool.size_bytes == on_disk(tmp_path) == size
            with copy_of(tmp_path) as copied:
                assert copied.damaged == []
                assert sequences(copied) == [1]
        spool.append([batch(4, 200)], {"a": 4})
        assert sequences(spool) == [1, 4]
    with opened(tmp_path) as spool:
        assert spool.damaged == []
        assert sequences(spool) == [1, 4]
        assert spool.offsets == {"a": 4}


@contextmanager
def copy_of(folder: Path) -> Iterator[Spool]:
    with tempfile.TemporaryDirectory() as name:
        shutil.copytree(folder, Path(name) / "copy")
        with opened(Path(name) / "copy") as spool:
            yield spool


def test_a_full_disk_does_not_stop_acknowledgements(tmp_path: Path) -> None:
    with opened(tmp_path, max_bytes=1_000) as spool:
        number = 0
        while spool.wait_for_room(0):
            number += 1
            spool.append([batch(number, 100)], {"a": number})
        with full_disk(0):
            for key in keys(spool):
                spool.acknowledge(key)
            assert len(spool) == 0
            assert not spool.wait_for_room(0)
        assert spool.wait_for_room(0)
        assert on_disk(tmp_path) < 1_000
    with opened(tmp_path) as spool:
        assert spool.offsets == {"a": number}


class Stubborn:
    """A file from which nothing can be taken back, as when its disk is mounted read-only meanwhile; or closed well."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def truncate(self, size: int) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def close(self) -> None:
        self._file.close()
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_record_that_is_there_twice_frees_both_its_segments(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        spool.append([batch(1)], {"a": 1})
        spool._file = cast("IO[bytes]", Stubborn(cast("IO[bytes]", spool._file)))
        with failing_sync(), pytest.raises(OSError, match="No space"):
            spool.append([batch(2), batch(3)], {"a": 3})
        spool.append([batch(2), batch(3)], {"a": 3})
        assert sequences(spool) == [1, 2, 3]
        shutil.copytree(tmp_path, tmp_path / "copy")
    for folder in (tmp_path, tmp_path / "copy"):
        with opened(folder) as spool:
            assert sequences(spool) == [1, 2, 3]
            assert len(files(folder)) == 2
            for key in keys(spool):
                spool.acknowledge(key)
            assert not files(folder)
            assert spool.offsets == {"a": 3}


def test_a_segment_that_cannot_be_closed_is_full_all_the_same(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        spool.append([batch(1)], {"a": 1})
        spool._file = cast("IO[bytes]", Stubborn(cast("IO[bytes]", spool._file)))
        spool.append([batch(2, SEGMENT_BYTES)], {"a": 2})
        spool.append([batch(3)], {"a": 3})
        assert sequences(spool) == [1, 2, 3]
        assert len(files(tmp_path)) == 2


def test_a_folder_that_cannot_be_synced_takes_no_record(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        with failing_sync(), pytest.raises(OSError, match="No space"):
            spool.append([batch(1)], {"a": 1})
        assert spool.offsets == {}
        synced: list[int] = []
        with pytest.MonkeyPatch.context() as patch:
            original = os.fsync
            patch.setattr(
                os, "fsync", lambda descriptor: (synced.append(os.fstat(descriptor).st_ino), original(descriptor))
            )
            spool.append([batch(1)], {"a": 1})
        assert tmp_path.stat().st_ino in synced  # without it the file's name may be lost


# ---- who is told, and when


def test_whoever_wants_to_be_told_is_told_when_it_is_durable(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    with opened(tmp_path) as spool:
        spool.on_append = lambda: told.append((threading.get_ident(), len(spool)))
        spool.append([batch(1), batch(2)], {})
        thread = threading.Thread(target=spool.append, args=([batch(3)], {}))
        thread.start()
        thread.join()
    assert told == [(threading.get_ident(), 2), (thread.ident, 3)]


def test_an_acknowledgement_of_what_is_not_there_changes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        spool.append([batch(1)], {"a": 1})
        for key in ((7, 2), (8, 1), (0, 0)):
            spool.acknowledge(key)
        assert keys(spool) == [(7, 1)]
        spool.acknowledge((7, 1))
        spool.acknowledge((7, 1))
        assert keys(spool) == []


def test_incarnations_are_kept_apart_and_in_order(tmp_path: Path) -> None:
    for incarnation in (9, 3, 2**64 - 1):
        with opened(tmp_path) as spool:
            spool.append([batch(1, incarnation=incarnation)], {"a": incarnation})
    with opened(tmp_path) as spool:
        assert keys(spool) == [(9, 1), (3, 1), (2**64 - 1, 1)]
        assert spool.offsets == {"a": 2**64 - 1}


def test_one_thread_appends_while_another_acknowledges(tmp_path: Path) -> None:
    last = 600
    with opened(tmp_path, max_bytes=4_000) as spool:

        def append() -> None:
            for number in range(1, last + 1):
                assert spool.wait_for_room(20)
                spool.append([batch(number, number % 200)], {"a": number})

        thread = threading.Thread(target=append)
        thread.start()
        seen: list[int] = []
        deadline = time.monotonic() + 30
        while len(seen) < last and time.monotonic() < deadline:
            for key, one in spool.after(None, 7):
                assert one.SerializeToString() == batch(key[1], key[1] % 200).SerializeToString()
                seen.append(key[1])
                spool.acknowledge(key)
        thread.join()
        assert seen == list(range(1, last + 1))
        assert spool.size_bytes == on_disk(tmp_path)
    with opened(tmp_path) as spool:
        assert len(spool) == 0
        assert spool.offsets == {"a": last}


def test_a_followed_file_is_known_again_until_it_is_forgotten(tmp_path: Path) -> None:
    followed = Checkpoint(17, device=1, inode=2**63, head_bytes=17, head=b"\x00\xff", guard=b"\xfe", path="/var/log/a")
    with opened(tmp_path) as spool:
        spool.append([batch(1)], {"a": followed, "b": 5})
    for _ in range(2):  # from a segment, then from what was saved when it was freed
        with opened(tmp_path) as spool:
            assert spool.offsets == {"a": followed, "b": 5}
            spool.acknowledge((7, 1))
    with opened(tmp_path) as spool:
        spool.forget(["a", "unknown"])
        assert spool.offsets == {"b": 5}
        spool.append([batch(2)], {"b": 6})
        spool.acknowledge((7, 2))
    with opened(tmp_path) as spool:
        assert spool.offsets == {"b": 6}
