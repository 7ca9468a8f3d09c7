"""Standard input and followed files: however the bytes come, the good lines are whole and the others are counted."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios_agent import followed as followed_module
from helios_agent import stdin as stdin_module
from helios_agent.lines import whole_lines
from helios_agent.reader import MAX_LINE_BYTES, Chunk
from helios_agent.settings import StdinSettings
from helios_agent.stdin import Stdin
from helios_agent.tail import Tail
from helios_core.clock import EventClock

MAX, BLOCK = 16, 8  # in the tests with short lines


class Pipe:
    """A pipe with a source at its end, and what came out of it."""

    def __init__(self) -> None:
        descriptor, self._end = os.pipe()
        self._descriptor = descriptor
        self._is_open = True
        self.stdin = Stdin(StdinSettings(), descriptor)
        self.chunks: list[Chunk] = []

    def write(self, data: bytes) -> None:
        os.write(self._end, data)

    def end(self) -> None:
        if self._is_open:
            self._is_open = False
            os.close(self._end)

    def read(self) -> bytes:
        """All that is there now."""
        before = len(self.chunks)
        while (chunk := self.stdin.read()) is not None:
            self.chunks.append(chunk)
        return b"".join(chunk.data for chunk in self.chunks[before:])

    def close(self) -> None:
        self.end()
        os.close(self._descriptor)

    @property
    def data(self) -> bytes:
        return b"".join(chunk.data for chunk in self.chunks)

    @property
    def too_long(self) -> tuple[int, int]:
        """Lines and bytes."""
        return sum(chunk.too_long for chunk in self.chunks), sum(chunk.too_long_bytes for chunk in self.chunks)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


@pytest.fixture
def short() -> Iterator[None]:
    """Lines of over 16 bytes are too long, and 8 are read at once."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (stdin_module, followed_module):
            patch.setattr(module, "MAX_LINE_BYTES", MAX)
            patch.setattr(module, "BLOCK_BYTES", BLOCK)
        yield


def test_lines_come_when_they_are_whole(pipe: Pipe) -> None:
    assert pipe.stdin.read() is None
    pipe.write(b"one\ntw")
    assert pipe.read() == b"one\n"
    pipe.write(b"o\n")
    assert pipe.read() == b"two\n"
    assert not pipe.stdin.ended


def test_the_end_of_input_ends_the_last_line(pipe: Pipe) -> None:
    pipe.write(b"one\nhalf")
    pipe.end()
    assert pipe.read() == b"one\nhalf"
    assert pipe.stdin.ended
    assert pipe.stdin.read() is None


def test_input_that_ends_at_once_has_no_line(pipe: Pipe) -> None:
    pipe.end()
    assert (pipe.read(), pipe.too_long, pipe.stdin.ended) == (b"", (0, 0), True)


def test_what_has_come_is_progress_though_no_line_is_whole(pipe: Pipe) -> None:
    """Who reads looks again at once, and not after a pause."""
    pipe.write(b"x" * 1_000)
    chunk = pipe.stdin.read()
    assert chunk is not None
    assert (chunk.data, chunk.too_long_bytes) == (b"", 0)
    assert pipe.stdin.read() is None


def test_a_line_that_is_too_long_goes_up_to_its_line_feed(pipe: Pipe) -> None:
    long = b"x" * 3 * MAX_LINE_BYTES
    pipe.write(b"before\n")
    for start in range(0, len(long), 1 << 15):
        pipe.write(long[start : start + (1 << 15)])
        pipe.read()
    pipe.write(b"\nafter\nhal")
    pipe.read()
    pipe.write(b"f\n")
    pipe.end()
    pipe.read()
    assert pipe.data == b"before\nafter\nhalf\n"
    assert pipe.too_long == (1, len(long) + 1)


def test_a_line_that_is_too_long_and_never_ends_is_one_line(pipe: Pipe, short: None) -> None:
    pipe.write(b"good\n" + b"x" * 100)
    pipe.read()
    assert pipe.too_long[0] == 0  # it goes on
    pipe.end()
    pipe.read()
    assert pipe.data == b"good\n"
    assert pipe.too_long == (1, 100)


@pytest.mark.parametrize(("size", "is_good"), [(MAX, True), (MAX + 1, False)])
def test_the_longest_line_that_is_taken(pipe: Pipe, short: None, size: int, is_good: bool) -> None:
    line = b"x" * (size - 1) + b"\n"
    pipe.write(line + b"next\n")
    pipe.read()
    assert pipe.data == (line if is_good else b"") + b"next\n"
    assert pipe.too_long == ((0, 0) if is_good else (1, size))


def _good(lines: Sequence[bytes]) -> bytes:
    return b"".join(line for line in lines if len(line) <= MAX)


LINES = st.lists(st.integers(0, 3 * MAX).map(lambda size: b"%x" % (size % 16) * size + b"\n"), max_size=8)


@given(lines=LINES, half=st.integers(0, MAX), sizes=st.lists(st.integers(1, 30), min_size=1, max_size=20))
def test_however_it_comes_the_same_lines_are_read(lines: list[bytes], half: int, sizes: list[int]) -> None:
    data = b"".join(lines) + b"h" * half
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stdin_module, "MAX_LINE_BYTES", MAX)
        patch.setattr(stdin_module, "BLOCK_BYTES", BLOCK)
        pipe = Pipe()
        try:
            start = 0
            for turn in range(len(data)):
                size = sizes[turn % len(sizes)]
                pipe.write(data[start : start + size])
                start += size
                pipe.read()
            pipe.end()
            pipe.read()
        finally:
            pipe.close()
    long = [line for line in lines if len(line) > MAX]
    assert pipe.data == _good(lines) + b"h" * half
    assert pipe.too_long == (len(long), sum(map(len, long)))
    covered = sum(len(chunk.data) + chunk.too_long_bytes for chunk in pipe.chunks)
    assert covered == len(data)
    assert [chunk.to_offset - chunk.from_offset for chunk in pipe.chunks] == [len(chunk.data) for chunk in pipe.chunks]
    assert pipe.chunks[-1].to_offset == len(data)


def test_a_followed_file_gives_the_same(tmp_path: Path, short: None) -> None:
    lines = [b"a" * size + b"\n" for size in (3, 40, 0, MAX - 1, MAX, 5)]
    log = tmp_path / "a.log"
    log.touch()
    tail = Tail([str(log)], checkpoints={}, clock=EventClock(0))
    tail.discover()
    (tracked,) = tail.files.values()
    chunks = []
    data = b"".join(lines)
    for start in range(0, len(data), 7):
        with log.open("ab") as file:
            file.write(data[start : start + 7])
        while (chunk := tail.read(tracked)) is not None:
            chunks.append(chunk)
    tail.close()
    assert b"".join(chunk.data for chunk in chunks) == _good(lines)
    assert sum(chunk.too_long for chunk in chunks) == 2
    assert sum(chunk.too_long_bytes for chunk in chunks) == 41 + MAX + 1


def test_nothing_is_no_line() -> None:
    for skipping in (True, False):
        found = whole_lines(b"", max_bytes=MAX, skipping=skipping)
        assert (found.start, found.end, found.too_long, found.skipping) == (0, 0, False, skipping)
