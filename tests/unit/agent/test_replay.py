"""A replay, in this process: what it leaves at the end of a file, and what it makes of the name of one."""

from __future__ import annotations

import gzip
import json
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from tests.examples import examples
from tests.unit.agent.strategies import ACCESS_SAMPLE, JSON_SAMPLE, LOGFMT_SAMPLE, wrapped

from helios_agent.cut import Cutter
from helios_agent.reduction import Counts
from helios_agent.replay import Replay, service_of
from helios_agent.spool import Spool
from helios_core.clock import EventClock
from helios_core.service import Context

LINE = JSON_SAMPLE + b"\n"
TAKEN = {
    "docker": wrapped(JSON_SAMPLE.decode() + "\n"),
    "json": JSON_SAMPLE,
    "access": ACCESS_SAMPLE[0],
    "logfmt": LOGFMT_SAMPLE,
}


def replayed(folder: Path, *files: Path, parser: str = "auto") -> tuple[Counts, list[MutableMapping[str, Any]]]:
    """What one replay of them counts, and what it logs; the next one of the same folder goes on."""
    nothing = cast("Any", None)
    context = Context(folder, EventClock(), bus=nothing, store=nothing, collector=nothing, files=files, parser=parser)
    spool = Spool(folder / "spool", max_bytes=1 << 24)
    try:
        replay = Replay(context, spool, Cutter(b"0123456789abcdef", "host-1"), EventClock())
        with capture_logs() as logs:
            replay.run()
        return replay.counts, logs
    finally:
        spool.close()


def left(logs: list[MutableMapping[str, Any]]) -> list[tuple[str, int]]:
    return [(entry["path"], entry["bytes"]) for entry in logs if entry["event"] == "unfinished_line_left"]


@pytest.mark.parametrize("kind", TAKEN)
@pytest.mark.parametrize("whole", [0, 1, 30])
def test_half_a_line_is_left_until_it_is_whole(tmp_path: Path, kind: str, whole: int) -> None:
    log = tmp_path / "app.log"
    line = TAKEN[kind] + b"\n"
    half = line[: len(line) // 3]
    name = "auto" if whole else kind  # with nothing before it, half a line is plain text
    log.write_bytes(line * whole + half)
    counts, logs = replayed(tmp_path, log, parser=name)
    assert (counts.lines, counts.events, counts.unparsed, counts.bytes) == (whole, whole, 0, len(line) * whole)
    assert left(logs) == [(str(log), len(half))]
    counts, logs = replayed(tmp_path, log, parser=name)
    assert counts == Counts()
    assert left(logs) == [(str(log), len(half))]
    log.write_bytes(line * (whole + 5))
    counts, logs = replayed(tmp_path, log, parser=name)
    assert (counts.lines, counts.events, counts.unparsed) == (5, 5, 0)
    assert left(logs) == []
    assert replayed(tmp_path, log, parser=name)[0] == Counts()


@pytest.mark.parametrize("kind", [*TAKEN, "plain"])
def test_a_whole_line_without_a_line_feed_counts(tmp_path: Path, kind: str) -> None:
    log = tmp_path / "app.log"
    line = TAKEN.get(kind, b"2026-03-02 10:15:03,123 INFO started")
    log.write_bytes(line + b"\n" + line)
    counts, logs = replayed(tmp_path, log)
    assert (counts.lines, counts.events, left(logs)) == (2, 2, [])
    assert replayed(tmp_path, log)[0] == Counts()


def test_plain_text_without_a_line_feed_counts(tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    log.write_bytes(b"one\ntw")
    counts, logs = replayed(tmp_path, log)
    assert (counts.events, left(logs)) == (2, [])


def test_a_compressed_file_does_not_grow(tmp_path: Path) -> None:
    log = tmp_path / "app.log.gz"
    log.write_bytes(gzip.compress(LINE * 3 + LINE[:30]))
    counts, logs = replayed(tmp_path, log)
    assert (counts.lines, counts.events, counts.unparsed, left(logs)) == (4, 3, 1, [])
    assert replayed(tmp_path, log)[0] == Counts()


def test_a_first_line_of_another_kind_decides_nothing(tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    log.write_bytes(b"Starting up\n")
    assert replayed(tmp_path, log)[0].events == 1
    log.write_bytes(b"Starting up\n" + LINE * 100)
    counts, logs = replayed(tmp_path, log)
    assert (counts.events, counts.mended.total()) == (100, 0)
    assert [entry["parser"] for entry in logs if entry["event"] == "parser_chosen"] == ["plain", "json"]


@given(cuts=st.lists(st.integers(0, 10_000), max_size=4), more=st.integers(0, 30))
@settings(max_examples=examples(50))
def test_wherever_a_file_ends_each_line_counts_once(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], more: int
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    log = folder / "app.log"
    lines = [json.dumps({"timestamp": f"2026-03-02T00:00:{i:02d}Z", "level": "INFO"}) + "\n" for i in range(10 + more)]
    data = "".join(lines).encode()
    first = len(lines[0])  # the first line is there: half of it alone would be plain text
    counted = [
        replayed(folder, log)[0] for size in (*sorted(first + cut for cut in cuts), len(data)) if put(log, data[:size])
    ]
    assert sum(counts.events for counts in counted) == len(lines)
    # When all of a line but its line feed was there, that is a blank one.
    assert sum(counts.unparsed for counts in counted) == 0
    assert sum(counts.bytes for counts in counted) == len(data)


def put(path: Path, data: bytes) -> int:
    return path.write_bytes(data)


@pytest.mark.parametrize(
    ("file", "service"),
    [
        ("checkout.log", "checkout"),
        ("checkout", "checkout"),
        ("checkout.1", "checkout"),
        ("checkout.log.2026-03-02", "checkout"),
        ("checkout.log-20260302.gz", "checkout"),
        ("checkout.log-2026030217", "checkout"),
        ("checkout_2026_03_02.json", "checkout"),
        ("checkout-2026.03.02.log", "checkout"),
        ("checkout-2026-03-02.1.log", "checkout"),
        ("checkout-2026-03-02-1.log", "checkout"),
        ("checkout-2026-03-02T10:15:03Z.log", "checkout"),
        ("checkout_20260302-101503.log", "checkout"),
        ("checkout-1989-03-02.log", "checkout-1989-03-02"),
        ("checkout-20261302.log", "checkout-20261302"),
        ("checkout-20260332.log", "checkout-20260332"),
        ("checkout20260302.log", "checkout20260302"),
        ("checkout-20260302-canary.log", "checkout-20260302-canary"),
        ("checkout-20260302ab.log", "checkout-20260302ab"),
        ("price-76846864d9-nmjz7.log", "price-76846864d9-nmjz7"),
        ("web-76846864.log", "web-76846864"),
        ("20260302.log", "20260302"),
        (".log", ".log"),
    ],
)
def test_the_service_in_the_name_of_a_file(file: str, service: str) -> None:
    assert service_of(Path(file)) == service
