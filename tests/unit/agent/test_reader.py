"""The reader: every byte once and in order, in whole lines, from any offset, compressed or not."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from helios_agent import reader as reader_module
from helios_agent.reader import Chunk, FileReader, source_id
from helios_core.errors import InputError

PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
}
NOBODY = 65_534

# Runs of few different bytes, so that every limit is met from both sides.
contents = st.lists(
    st.builds(lambda byte, length: bytes([byte]) * length, st.sampled_from(b"ab\r\0\xff\n"), st.integers(0, 30)),
    max_size=20,
).flatmap(lambda runs: st.sampled_from([b"\n", b""]).map(lambda between: between.join(runs)))
limits = st.tuples(st.integers(1, 24), st.integers(1, 24)).map(lambda pair: (min(pair), max(pair)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reader")


def lines_of(data: bytes) -> list[bytes]:
    """With their line feeds, and with nothing else taken for the end of a line."""
    lines = [line + b"\n" for line in data.split(b"\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]


def read_all(path: Path, offset: int = 0, *, block: int | None = None, longest: int | None = None) -> list[Chunk]:
    """Everything that a reader gives, with the given limits."""
    with pytest.MonkeyPatch.context() as patch:
        if block is not None:
            patch.setattr(reader_module, "BLOCK_BYTES", block)
        if longest is not None:
            patch.setattr(reader_module, "MAX_LINE_BYTES", longest)
        reader = FileReader(path, offset)
        chunks = []
        try:
            while (chunk := reader.read()) is not None:
                assert chunk.to_offset == reader.offset
                chunks.append(chunk)
            assert reader.finished
            assert reader.read() is None
        finally:
            reader.close()
    return chunks


def check(chunks: list[Chunk], content: bytes, longest: int, start: int = 0) -> None:
    """That the chunks, with what they skipped, are the content from `start`, in whole lines."""
    edges = {0, *accumulate(map(len, lines_of(content)))}
    at = start
    for chunk in chunks:
        assert chunk.from_offset == at + chunk.too_long_bytes
        assert chunk.to_offset == chunk.from_offset + len(chunk.data)
        assert {at, chunk.from_offset, chunk.to_offset} <= edges
        assert chunk.to_offset > at
        assert chunk.data == content[chunk.from_offset : chunk.to_offset]
        skipped = lines_of(content[at : chunk.from_offset])
        assert len(skipped) == chunk.too_long
        assert all(len(line) > longest for line in skipped)
        assert all(len(line) <= longest for line in lines_of(chunk.data))
        at = chunk.to_offset
    assert at == len(content)


def flat(chunks: list[Chunk]) -> tuple[bytes, int, int]:
    """What they hold, whatever the size of the blocks."""
    return (
        b"".join(chunk.data for chunk in chunks),
        sum(chunk.too_long for chunk in chunks),
        sum(chunk.too_long_bytes for chunk in chunks),
    )


@given(contents, limits)
@example(b"abcd" * 4 + b"\n", (4, 13))  # too long, and its end stands in the block that makes it so
@example(b"abcd" * 4, (4, 13))
@example(b"aaaa\nbb", (4, 4))
def test_every_byte_is_read_or_skipped_once_and_in_order(folder: Path, content: bytes, limit: tuple[int, int]) -> None:
    path = folder / "every.log"
    path.write_bytes(content)
    block, longest = limit
    check(read_all(path, block=block, longest=longest), content, longest)


@given(contents, limits)
def test_reading_goes_on_at_any_offset_that_was_reached(folder: Path, content: bytes, limit: tuple[int, int]) -> None:
    path = folder / "resumed.log"
    path.write_bytes(content)
    block, longest = limit
    chunks = read_all(path, block=block, longest=longest)
    for done, chunk in enumerate(chunks, 1):
        rest = read_all(path, chunk.to_offset, block=block, longest=longest)
        check(rest, content, longest, chunk.to_offset)
        assert flat(rest) == flat(chunks[done:])


@pytest.mark.parametrize("ending", [".gz", ".xz", ".bz2"])
@given(content=contents, limit=limits, data=st.data())
def test_a_compressed_file_reads_as_the_file_itself(
    folder: Path, ending: str, content: bytes, limit: tuple[int, int], data: st.DataObject
) -> None:
    path = folder / f"packed.log{ending}"
    path.write_bytes(PACK[ending](content))
    block, longest = limit
    chunks = read_all(path, block=block, longest=longest)
    check(chunks, content, longest)
    offset = data.draw(st.sampled_from([0, *(chunk.to_offset for chunk in chunks)]))
    check(read_all(path, offset, block=block, longest=longest), content, longest, offset)


@pytest.mark.parametrize("ending", PACK)
def test_large_files_come_in_large_blocks(tmp_path: Path, ending: str) -> None:
    content = b"".join(b"%d a line of some length\n" % (n * 7_919) for n in range(60_000))
    path = tmp_path / f"large.log{ending}"
    path.write_bytes(PACK[ending](content))
    chunks = read_all(path)
    check(chunks, content, reader_module.MAX_LINE_BYTES)
    assert len(chunks) <= len(content) / (reader_module.BLOCK_BYTES / 2)
    assert max(len(chunk.data) for chunk in chunks) <= 2 * reader_module.BLOCK_BYTES


@pytest.mark.parametrize("extra", [-2, -1, 0, 1, 2, 300_000])
def test_a_line_is_too_long_from_one_byte_over_the_limit(tmp_path: Path, extra: int) -> None:
    length = reader_module.MAX_LINE_BYTES + extra
    content = b"before\n" + b"x" * (length - 1) + b"\nafter\n" + b"y" * length
    path = tmp_path / "long.log"
    path.write_bytes(content)
    data, too_long, too_long_bytes = flat(read_all(path))
    assert (too_long, too_long_bytes) == ((2, 2 * length) if extra > 0 else (0, 0))
    assert data == (b"before\nafter\n" if extra > 0 else content)


@pytest.mark.parametrize("ending", PACK)
def test_an_empty_file_has_no_chunks(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"empty{ending}"
    path.write_bytes(PACK[ending](b""))
    assert read_all(path) == []


def test_an_empty_file_with_the_name_of_a_compressed_one_has_no_chunks(tmp_path: Path) -> None:
    path = tmp_path / "empty.gz"
    path.touch()
    assert read_all(path) == []


def test_a_file_that_grows_is_read_on(tmp_path: Path) -> None:
    path = tmp_path / "growing.log"
    path.write_bytes(b"one\n")
    reader = FileReader(path)
    first = reader.read()
    assert reader.read() is None
    with path.open("ab") as file:
        file.write(b"two\n")
    second = reader.read()
    reader.close()
    assert first == Chunk(b"one\n", 0, 4)
    assert second == Chunk(b"two\n", 4, 8)


@pytest.mark.parametrize("ending", PACK)
def test_progress_is_told_in_bytes_on_disk(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"file.log{ending}"
    path.write_bytes(PACK[ending](random.Random(5).randbytes(500_000) + b"\n"))
    reader = FileReader(path)
    assert reader.size_bytes == path.stat().st_size
    seen = [reader.position_bytes()]
    while reader.read() is not None:
        seen.append(reader.position_bytes())
    assert seen == sorted(seen)
    assert seen[0] < seen[-1] == reader.size_bytes
    path.unlink()  # a file that rotation has deleted while it is being read
    assert reader.size_bytes == seen[-1]
    reader.close()


# ---- damaged files


def good_part(path: Path, error: str) -> list[Chunk]:
    """What is read before the damage."""
    reader = FileReader(path)
    chunks: list[Chunk] = []

    def read_on() -> None:
        while (chunk := reader.read()) is not None:
            chunks.append(chunk)

    for _ in range(2):  # it does not pass for the end of the file later
        with pytest.raises(InputError, match=error) as raised:
            read_on()
        assert str(path) in str(raised.value)
    reader.close()
    return chunks


def decompressed(path: Path) -> bytes:
    """All that can be had of a truncated file."""
    whole = bytearray()
    with {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}[path.suffix](path) as file:
        try:
            while piece := file.read1(64):
                whole += piece
        except EOFError:
            return bytes(whole)
    raise AssertionError(f"{path} is whole")


@pytest.mark.parametrize("ending", [".gz", ".xz", ".bz2"])
@pytest.mark.parametrize("lines", [300, 12_000])
def test_what_comes_before_a_truncated_end_stands(tmp_path: Path, ending: str, lines: int) -> None:
    source = random.Random(3)
    content = b"".join(b"%d %s\n" % (n, source.randbytes(20).hex().encode()) for n in range(lines))
    packed = PACK[ending](content)
    path = tmp_path / f"truncated.log{ending}"
    path.write_bytes(packed[: len(packed) * 3 // 4])
    data, too_long, _ = flat(good_part(path, "is damaged after byte"))
    assert content.startswith(data)
    assert not too_long
    whole = decompressed(path)
    assert data == whole[: whole.rfind(b"\n") + 1]


@pytest.mark.parametrize("ending", [".gz", ".xz", ".bz2"])
@given(data=st.data())
def test_a_damaged_file_is_an_input_error_and_nothing_else(folder: Path, ending: str, data: st.DataObject) -> None:
    content = b"".join(b"%d line\n" % (n * 7_919) for n in range(400))
    packed = bytearray(PACK[ending](content))
    for _ in range(data.draw(st.integers(1, 3))):
        packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    path = folder / f"damaged.log{ending}"
    path.write_bytes(packed)
    for use in (read_all, lambda damaged: read_all(damaged, 700), source_id):
        try:
            use(path)
        except InputError as error:
            assert str(path) in str(error)  # noqa: PT017 - not every damage shows


def test_another_file_with_the_name_of_a_compressed_one_is_refused(tmp_path: Path) -> None:
    for ending in (".gz", ".xz", ".bz2"):
        path = tmp_path / f"plain.log{ending}"
        path.write_bytes(b"just text\n" * 100)
        assert good_part(path, "plain") == []
        with pytest.raises(InputError, match="plain"):
            source_id(path)
        with pytest.raises(InputError, match="plain"):
            FileReader(path, 10)


# ---- what is no file


@pytest.mark.parametrize("use", [FileReader, source_id])
def test_what_cannot_be_read_is_an_input_error_that_names_it(
    tmp_path: Path, use: Callable[[Path], FileReader | str]
) -> None:
    (tmp_path / "folder.gz").mkdir()
    (tmp_path / "file.log").write_bytes(b"x\n")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for a writer
    for name in (".", "folder.gz", "missing.log", "missing.gz", "file.log/below", "gone", "circle", "pipe", "x" * 300):
        path = tmp_path / name
        with pytest.raises(InputError, match=r"cannot be read|is a directory") as raised:
            use(path)
        assert str(path) in str(raised.value)


@pytest.mark.parametrize("use", [FileReader, source_id])
def test_a_file_without_permission_is_an_input_error_that_names_it(
    tmp_path: Path, use: Callable[[Path], FileReader | str]
) -> None:
    path = tmp_path / "secret.log"
    path.write_bytes(b"x\n")
    path.chmod(0)
    root = os.geteuid() == 0
    if root:
        for parent in (tmp_path, *tmp_path.parents[:2]):
            parent.chmod(0o711)
        os.seteuid(NOBODY)
    try:
        with pytest.raises(InputError, match=r"secret\.log cannot be read: Permission denied"):
            use(path)
    finally:
        if root:
            os.seteuid(0)


def test_an_offset_behind_the_end_reads_nothing(tmp_path: Path) -> None:
    path = tmp_path / "short.log"
    path.write_bytes(b"x\n")
    assert read_all(path, 100) == []


# ---- which file it is


def test_a_file_keeps_its_id_under_another_name(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    path.write_bytes(b"x" * 5_000)
    before = source_id(path)
    renamed = path.rename(tmp_path / "app.log.1")
    assert source_id(renamed) == before
    with renamed.open("ab") as file:
        file.write(b"more\n")
    assert source_id(renamed) == before


def test_other_files_have_other_ids(tmp_path: Path) -> None:
    first, twin, other = (tmp_path / name for name in ("first", "twin", "other"))
    first.write_bytes(b"the same beginning\n")
    twin.write_bytes(b"the same beginning\n")
    other.write_bytes(b"another\n")
    assert len({source_id(path) for path in (first, twin, other)}) == 3


def test_a_file_that_is_written_anew_has_another_id(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    path.write_bytes(b"monday\n")
    before = source_id(path)
    with path.open("r+b") as file:  # the same inode
        file.write(b"sunday\n")
    assert source_id(path) != before
