"""The tail: whatever log rotation does, every line comes once, also over restarts."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from structlog.testing import capture_logs
from tests.examples import examples

from helios_agent.followed import GONE_WAIT_US
from helios_agent.tail import COPY_WAIT_US, MAX_OPEN, Tail
from helios_agent.tracking import Checkpoint
from helios_core.clock import EventClock


class Reader:
    """A tail with what it has read, and what would be durable."""

    def __init__(self, folder: Path, pattern: str = "*.log*", *, from_end: bool = False) -> None:
        self.folder = folder
        self.pattern = pattern
        self.from_end = from_end
        self.clock = EventClock(1_000_000)
        self.durable: dict[str, Checkpoint] = {}
        self.lines: list[str] = []
        self.tail = self._made()

    def _made(self) -> Tail:
        return Tail(
            [str(self.folder / self.pattern)], checkpoints=self.durable, clock=self.clock, from_end=self.from_end
        )

    def read(self) -> list[str]:
        """Reads all there is; the lines that came this time."""
        before = len(self.lines)
        self._look()
        while self.tail.left_out:
            self._look()
        return self.lines[before:]

    def _look(self) -> None:
        self.tail.discover()
        progress = True
        while progress:
            progress = False
            for tracked in list(self.tail.files.values()):
                while (chunk := self.tail.read(tracked)) is not None:
                    self.lines += chunk.data.decode().split("\n")[:-1]
                    progress = True
        self.durable = (
            {id_: self.tail.checkpoint(tracked) for id_, tracked in self.tail.files.items()}
            | {id_: known for id_, known in self.durable.items() if id_ not in self.tail.forgotten}
            | {id_: self.tail.checkpoint(tracked) for id_, tracked in self.tail.files.items()}
        )
        self.tail.release()

    def restart(self) -> None:
        """As after a stop or a kill: only what is durable is known."""
        self.tail.close()
        self.tail = self._made()

    def wait(self, us: int) -> None:
        self.clock.advance_to(self.clock.now_us() + us)


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    return Reader(tmp_path)


def append(path: Path, *lines: str) -> None:
    with path.open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def test_a_file_is_followed(reader: Reader, tmp_path: Path) -> None:
    append(tmp_path / "a.log", "1", "2")
    assert reader.read() == ["1", "2"]
    assert reader.read() == []
    append(tmp_path / "a.log", "3")
    assert reader.read() == ["3"]


def test_a_half_line_waits_for_its_end(reader: Reader, tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("one\ntw")
    assert reader.read() == ["one"]
    with (tmp_path / "a.log").open("a") as file:
        file.write("o\n")
    assert reader.read() == ["two"]


def test_a_restart_goes_on_at_the_durable_offset(reader: Reader, tmp_path: Path) -> None:
    append(tmp_path / "a.log", "1", "2")
    reader.read()
    append(tmp_path / "a.log", "3")
    reader.restart()
    assert reader.read() == ["3"]


def test_a_renamed_file_is_read_to_its_end(reader: Reader, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    append(log, "1")
    reader.read()
    append(log, "2")
    log.rename(tmp_path / "a.log.1")
    append(tmp_path / "a.log.1", "3")
    append(log, "4")
    assert sorted(reader.read()) == ["2", "3", "4"]


def test_renamed_while_the_agent_was_away(reader: Reader, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    append(log, "1")
    reader.read()
    append(log, "2")
    log.rename(tmp_path / "a.log.1")
    append(log, "3")
    reader.restart()
    assert sorted(reader.read()) == ["2", "3"]


def test_copytruncate_loses_and_doubles_nothing(reader: Reader, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    append(log, "1", "2")
    reader.read()
    append(log, "3")  # not read before the rotation
    shutil.copy(log, tmp_path / "a.log.1")
    os.truncate(log, 0)
    append(log, "4")
    assert sorted(reader.read()) == ["3", "4"]
    reader.wait(COPY_WAIT_US + 1)
    assert reader.read() == []
    reader.restart()
    assert reader.read() == []


def test_a_copy_that_is_seen_before_the_truncation_is_no_new_file(reader: Reader, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    append(log, "1", "2")
    reader.read()
    shutil.copy(log, tmp_path / "a.log.1")
    assert reader.read() == []
    os.truncate(log, 0)
    append(log, "3")
    assert reader.read() == ["3"]
    reader.wait(COPY_WAIT_US + 1)
    assert reader.read() == []


@pytest.mark.parametrize("first_bytes", [0, 5, 300, 3_000, 5_000])
@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("name", ["a.log.1", "a-1.log"])  # before and behind the file in order
def test_a_copy_that_is_seen_while_it_is_made_is_no_new_file(
    reader: Reader, tmp_path: Path, name: str, restarts: bool, first_bytes: int
) -> None:
    log = tmp_path / "a.log"
    append(log, *[f"line {number}" for number in range(1_000)])
    reader.read()
    content = log.read_bytes()
    with (tmp_path / name).open("wb") as copy:
        copy.write(content[:first_bytes])
        copy.flush()
        if restarts:
            reader.restart()
        for _ in range(3):  # it takes longer than the wait
            assert reader.read() == []
            reader.wait(COPY_WAIT_US - 1)
            first_bytes += 100
            copy.write(content[first_bytes - 100 : first_bytes])
            copy.flush()
        copy.write(content[first_bytes:])
    os.truncate(log, 0)
    append(log, "after")
    assert reader.read() == ["after"]
    reader.wait(COPY_WAIT_US + 1)
    assert reader.read() == []


def test_copytruncate_while_reading_paused(reader: Reader, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    append(log, "1", "2")
    reader.read()
    append(log, "3")
    shutil.copy(log, tmp_path / "a.log.1")
    os.truncate(log, 0)
    reader.tail.discover()
    reader.wait(COPY_WAIT_US + 1)
    reader.tail.discover()
    append(log, "4")
    assert sorted(reader.read()) == ["3", "4"]


def test_a_file_that_goes_on_otherwise_than_the_one_it_begins_like_is_read_at_once(
    reader: Reader, tmp_path: Path
) -> None:
    append(tmp_path / "a.log", "started", "a")
    reader.read()
    append(tmp_path / "b.log", "started")
    assert reader.read() == []
    append(tmp_path / "b.log", "b")
    assert reader.read() == ["started", "b"]
    append(tmp_path / "c.log", "started")
    assert reader.read() == []
    assert reader.tail.is_waiting
    reader.wait(COPY_WAIT_US + 1)
    assert reader.read() == ["started"]
    assert not reader.tail.is_waiting


def test_copytruncate_while_the_agent_was_away(reader: Reader, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    append(log, "1", "2")
    reader.read()
    append(log, "3")
    shutil.copy(log, tmp_path / "a.log.1")
    os.truncate(log, 0)
    append(log, "4")
    reader.restart()
    assert sorted(reader.read()) == ["3", "4"]


def test_a_truncated_file_is_read_from_the_beginning_at_every_restart_but_once(reader: Reader, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    append(log, "1", "2", "3")
    reader.read()
    log.write_text("x\n")
    assert reader.read() == ["x"]
    for _ in range(2):
        reader.restart()
        assert reader.read() == []


def test_a_stream_that_ended_is_not_taken_for_the_one_that_goes_on(reader: Reader, tmp_path: Path) -> None:
    """What is forgotten may still be durable: it stands in records that are not acknowledged."""
    log = tmp_path / "a.log"
    append(log, "1", "2", "3")
    reader.read()
    before = dict(reader.durable)
    os.truncate(log, 0)
    assert reader.read() == []
    append(log, "x", "y")
    assert reader.read() == ["x", "y"]
    for _ in range(2):
        reader.durable = before | reader.durable
        reader.restart()
        assert reader.read() == []
        assert set(before) <= set(reader.tail.forgotten)
    append(log, "z")
    assert reader.read() == ["z"]


def test_a_stream_that_ended_is_not_taken_for_one_of_which_nothing_is_read(reader: Reader, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    append(log, "1", "2", "3")
    reader.read()
    before = dict(reader.durable)
    os.truncate(log, 0)
    reader.read()
    (begun,) = reader.durable
    reader.durable = before | reader.durable
    reader.restart()
    append(log, "x")
    assert reader.read() == ["x"]
    assert begun in reader.tail.files


def test_a_file_rewritten_to_a_larger_size_is_read_from_the_beginning(reader: Reader, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    append(log, "1", "2")
    reader.read()
    log.write_text("other\ncontent\nand more\n")
    assert reader.read() == ["other", "content", "and more"]


def test_files_with_the_same_beginning_are_different_files(reader: Reader, tmp_path: Path) -> None:
    header = ["#" * 2_000, "columns"]
    append(tmp_path / "a.log", *header, "a")
    append(tmp_path / "b.log", *header, "b")
    assert sorted(reader.read()) == sorted([*header, "a", *header, "b"])


def test_an_identical_file_that_comes_later_is_read_after_a_while(reader: Reader, tmp_path: Path) -> None:
    append(tmp_path / "a.log", "same")
    reader.read()
    append(tmp_path / "b.log", "same")
    assert reader.read() == []
    reader.wait(COPY_WAIT_US + 1)
    assert reader.read() == ["same"]


def test_what_is_written_to_a_deleted_file_is_read(reader: Reader, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    append(log, "1")
    reader.read()
    with log.open("a") as writer:
        log.unlink()
        writer.write("2\n")
        writer.flush()
        assert reader.read() == ["2"]
    reader.wait(GONE_WAIT_US + 1)
    reader.read()
    assert not reader.tail.files


def test_what_was_written_to_a_deleted_file_while_reading_paused_is_read(reader: Reader, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    append(log, "1")
    reader.read()
    reader.read()
    append(log, "2", "3")
    log.unlink()
    reader.wait(GONE_WAIT_US + 1)
    for _ in range(3):
        reader.tail.discover()
        reader.tail.release()
    assert reader.read() == ["2", "3"]
    reader.wait(GONE_WAIT_US + 1)
    reader.read()
    assert not reader.tail.files


def test_the_last_line_of_a_deleted_file_needs_no_line_feed(reader: Reader, tmp_path: Path) -> None:
    """The last words of a process that died, mostly."""
    log = tmp_path / "a.log"
    log.write_text("one\nlast wor")
    with log.open("a") as writer:
        reader.read()
        log.unlink()
        reader.wait(GONE_WAIT_US)
        assert reader.read() == []
        writer.write("ds")
        writer.flush()
        reader.wait(2)
        assert reader.read() == []
        reader.wait(GONE_WAIT_US + 1)
        reader.tail.release()
        reader.tail.discover()
        (tracked,) = reader.tail.files.values()
        chunk = reader.tail.read(tracked)
        assert chunk is not None
        assert (chunk.data, chunk.from_offset, chunk.to_offset) == (b"last words", 4, 14)
        assert reader.read() == []
        assert not reader.tail.files


def test_a_line_that_is_too_long_at_the_end_of_a_deleted_file_is_counted(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("helios_agent.followed.BLOCK_BYTES", 16)
    monkeypatch.setattr("helios_agent.followed.MAX_LINE_BYTES", 40)
    log = tmp_path / "a.log"
    log.write_text("x" * 200)
    assert reader.read() == []
    log.unlink()
    reader.wait(GONE_WAIT_US + 1)
    (tracked,) = reader.tail.files.values()
    chunk = reader.tail.read(tracked)
    assert chunk is not None
    assert (chunk.data, chunk.too_long) == (b"", 1)
    assert reader.tail.read(tracked) is None
    reader.tail.release()
    assert not reader.tail.files


def test_a_new_file_under_a_reused_inode_is_read_from_the_beginning(reader: Reader, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    append(log, "1", "2")
    reader.read()
    reader.tail.close()
    log.unlink()
    append(log, "completely different")
    reader.restart()
    assert reader.read() == ["completely different"]


def test_from_the_end_only_what_comes_later(tmp_path: Path) -> None:
    append(tmp_path / "a.log", "old")
    reader = Reader(tmp_path, from_end=True)
    assert reader.read() == []
    append(tmp_path / "a.log", "new")
    append(tmp_path / "b.log", "whole")
    assert sorted(reader.read()) == ["new", "whole"]


def test_a_line_that_is_too_long_is_passed_over(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("helios_agent.followed.BLOCK_BYTES", 16)
    monkeypatch.setattr("helios_agent.followed.MAX_LINE_BYTES", 40)
    append(tmp_path / "a.log", "good", "x" * 200, "better")
    assert [line for line in reader.read() if line] == ["good", "better"]


def test_a_directory_and_an_unreadable_path_do_no_harm(reader: Reader, tmp_path: Path) -> None:
    (tmp_path / "d.log").mkdir()
    (tmp_path / "dangling.log").symlink_to(tmp_path / "nowhere")
    append(tmp_path / "a.log", "1")
    assert reader.read() == ["1"]


@pytest.fixture
def _crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helios_agent.tail.MAX_OPEN", 3)


@pytest.mark.usefixtures("_crowd")
def test_more_files_than_may_be_open_take_turns(reader: Reader, tmp_path: Path) -> None:
    logs = [tmp_path / f"{number}.log" for number in range(10)]
    with capture_logs() as said:
        for name in ("a", "b", "c"):
            for number, log in enumerate(logs):
                append(log, f"{number}{name}")
            assert sorted(reader.read()) == [f"{number}{name}" for number in range(10)]
            assert len(reader.tail.files) <= 3
            assert reader.read() == []
        append(tmp_path / "today.log", "today")
        assert reader.read() == ["today"]
        reader.restart()
        append(logs[5], "d")
        assert reader.read() == ["d"]
        logs[5].rename(tmp_path / "5.log.1")
        logs[6].unlink()
        append(tmp_path / "5.log.1", "e")
        append(logs[5], "f")
        assert sorted(reader.read()) == ["e", "f"]
    assert [entry["event"] for entry in said].count("too_many_files") == 2  # once a start


@pytest.mark.usefixtures("_crowd")
def test_files_that_have_not_been_read_to_their_end_stay_open(reader: Reader, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.log").write_text("half")
        (tmp_path / f"late-{number}.log").write_text(f"{number}\n")
    reader.tail.discover()
    reader.tail.release()
    assert [Path(tracked.path).name for tracked in reader.tail.files.values()] == ["0.log", "1.log", "2.log"]
    assert reader.tail.is_waiting
    assert sorted(reader.read()) == ["0", "1", "2"]
    for number in range(3):
        append(tmp_path / f"{number}.log", f"-{number}")
    assert sorted(reader.read()) == ["half-0", "half-1", "half-2"]


@pytest.mark.usefixtures("_crowd")
@pytest.mark.parametrize("first_bytes", [None, 0, 1, 2_000, 5_000])
def test_copytruncate_of_a_file_that_was_closed(reader: Reader, tmp_path: Path, first_bytes: int | None) -> None:
    log = tmp_path / "a.log"
    append(log, *[f"line {number}" for number in range(1_000)])
    reader.read()
    reader.wait(1)
    for number in range(5):
        append(tmp_path / f"{number}.log", f"{number}")
    assert len(reader.read()) == 5
    assert not any(tracked.path == str(log) for tracked in reader.tail.files.values())
    append(log, "last")
    copy = tmp_path / "a.log.1"
    if first_bytes is not None:
        copy.write_bytes(log.read_bytes()[:first_bytes])
        assert reader.read() == ["last"]
        reader.wait(1)
        for number in range(5):
            append(tmp_path / f"{number}.log", f"{number}")
        reader.read()
        reader.read()
    shutil.copy(log, copy)
    os.truncate(log, 0)
    append(log, "after")
    assert sorted(reader.read()) == (["after", "last"] if first_bytes is None else ["after"])
    reader.wait(COPY_WAIT_US + 1)
    assert reader.read() == []


def failing(monkeypatch: pytest.MonkeyPatch, error: int, *inodes: int) -> None:
    """These files can be opened, and not read."""
    real = os.pread

    def pread(descriptor: int, length: int, offset: int) -> bytes:
        if os.fstat(descriptor).st_ino in inodes:
            raise OSError(error, os.strerror(error))
        return real(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", pread)


@pytest.mark.parametrize("error", [errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("known", [False, True])
def test_a_file_that_cannot_be_read_does_not_stop_the_others(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, known: bool
) -> None:
    bad = tmp_path / "bad.log"
    append(bad, "1")
    if known:
        assert reader.read() == ["1"]
    append(bad, "2")
    append(tmp_path / "good.log", "a")
    with monkeypatch.context() as patch, capture_logs() as logs:
        failing(patch, error, bad.stat().st_ino)
        assert reader.read() == ["a"]
        append(tmp_path / "new.log", "1", "x")  # as the bad one begins, for all that can be known
        append(tmp_path / "good.log", "b")
        assert sorted([*reader.read(), *reader.read()]) == ["1", "b", "x"]
        reader.restart()
        assert reader.read() == []
    said = [entry["error"] for entry in logs if entry["event"] == "source_unreadable" and entry["path"] == str(bad)]
    assert said == [os.strerror(error)] * 2  # once a start
    assert reader.read() == (["2"] if known else ["1", "2"])


def test_reading_that_fails_in_the_middle_takes_nothing(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(tmp_path / "a.log", "1")
    reader.tail.discover()
    (tracked,) = reader.tail.files.values()

    def fails(*words: object) -> Checkpoint:
        raise OSError(errno.EIO, "bad")

    with monkeypatch.context() as patch:
        patch.setattr("helios_agent.followed.checkpoint_of", fails)
        assert reader.tail.read(tracked) is None
    assert tracked.failed
    assert reader.read() == ["1"]
    assert not tracked.failed


def test_a_name_that_is_no_text_is_followed(reader: Reader, tmp_path: Path) -> None:
    """As are those of Latin-1 systems."""
    bad = Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xe4d.log"))
    append(bad, "1")
    assert reader.read() == ["1"]
    ((_, known),) = reader.durable.items()
    assert known.path == f"{tmp_path}/b?d.log"
    append(bad, "2")
    bad.rename(f"{bad}.1")
    append(bad, "3")
    reader.restart()
    assert sorted(reader.read()) == ["2", "3"]


class Rotation(RuleBasedStateMachine):
    """A logger, log rotation of every kind, an agent that stops and starts: each line comes once."""

    max_open = MAX_OPEN

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("helios_agent.tail.MAX_OPEN", self.max_open)
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self.temporary.name)
        self.reader = Reader(self.folder)
        self.log = self.folder / "app.log"
        self.written: list[str] = []
        self.unread = False
        self.rotations = 0
        self.log.touch()

    @rule(count=st.integers(1, 40))
    def write(self, count: int) -> None:
        lines = [f"line {len(self.written) + i} {'x' * (i % 50)}" for i in range(count)]
        append(self.log, *lines)
        self.written += lines
        self.unread = True

    @rule()
    def read(self) -> None:
        self.reader.read()
        self.unread = False

    @rule()
    def restart(self) -> None:
        self.reader.restart()

    @rule()
    def wait(self) -> None:
        self.reader.wait(1_000_000)

    @rule()
    def rename(self) -> None:
        self.rotations += 1
        self.log.rename(self.folder / f"app.log.{self.rotations}")
        self.log.touch()

    @precondition(lambda self: self.log.stat().st_size > 0 and not self.unread)
    @rule(late=st.integers(0, 5), seen_bytes=st.none() | st.integers(0, 3_000), restarts=st.booleans())
    def copytruncate(self, late: int, seen_bytes: int | None, restarts: bool) -> None:
        """Between two reads: `late` lines are in the copy only. The agent may see the copy while it is made."""
        self.reader.read()
        lines = [f"late {len(self.written) + i}" for i in range(late)]
        append(self.log, *lines)
        self.written += lines
        self.rotations += 1
        content = self.log.read_bytes()
        copy = self.folder / f"app.log.{self.rotations}"
        if seen_bytes is not None and seen_bytes < len(content):
            copy.write_bytes(content[:seen_bytes])
            if restarts:
                self.reader.restart()
            self.reader.read()
        copy.write_bytes(content)
        os.truncate(self.log, 0)
        self.reader.read()

    @invariant()
    def nothing_comes_twice(self) -> None:
        assert len(self.reader.lines) == len(set(self.reader.lines))

    def teardown(self) -> None:
        self.reader.read()
        self.reader.wait(COPY_WAIT_US + 1)
        self.reader.read()
        assert sorted(self.reader.lines) == sorted(self.written)
        self.reader.tail.close()
        self.temporary.cleanup()
        self.patch.undo()


class CrowdedRotation(Rotation):
    """The same, with fewer files open than there are."""

    max_open = 2


TestRotation = Rotation.TestCase
TestCrowdedRotation = CrowdedRotation.TestCase
TestRotation.settings = TestCrowdedRotation.settings = settings(
    max_examples=examples(60), stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
