"""Docker's json-file: what it wraps, and the pieces of long lines."""

from __future__ import annotations

import json

import pytest
from tests.unit.agent.strategies import (
    ACCESS_SAMPLE,
    CONTEXT,
    JSON_SAMPLE,
    LOGFMT_SAMPLE,
    RECEIPT,
    in_blocks,
    joined,
    parse,
    rows_of,
    us,
    wrapped,
)

from helios_agent.parsers.detect import by_name
from helios_core.model import Level

T_US = us("2026-03-02T10:15:03.123456Z")
ERROR = JSON_SAMPLE.replace(b"INFO", b"ERROR").decode()


def test_json_in_docker() -> None:
    line = wrapped(ERROR + "\n")
    parsed = parse(by_name("docker", CONTEXT, [line]), joined([line, line]))
    row = rows_of(parsed)[1]
    assert (row.time_us, row.service, row.level, row.latency_us) == (T_US, "checkout", Level.ERROR, 12_500)
    assert (row.endpoint, row.message, row.size) == ("/orders/17", "paid", len(line))


@pytest.mark.parametrize("inner", [JSON_SAMPLE, *ACCESS_SAMPLE, LOGFMT_SAMPLE, b"10:15:03.123 INFO started"])
def test_what_is_wrapped_decides_the_inner_parser(inner: bytes) -> None:
    line = wrapped(inner.decode() + "\n")
    parsed = parse(by_name("auto", CONTEXT, [line] * 3), joined([line] * 3))
    assert [row.time_us for row in rows_of(parsed)] == [T_US] * 3
    assert {row.level for row in rows_of(parsed)} == {Level.INFO}


def test_pieces_of_a_long_line() -> None:
    pieces = [wrapped(ERROR[:20]), wrapped(ERROR[20:70]), wrapped(ERROR[70:] + "\n", "2026-03-02T10:15:04Z")]
    parsed = parse(by_name("docker", CONTEXT, [wrapped(ERROR + "\n")]), joined(pieces))
    (row,) = rows_of(parsed)
    assert (row.message, row.service, row.time_us) == ("paid", "checkout", us("2026-03-02T10:15:04Z"))
    assert row.size == sum(map(len, pieces))
    assert parsed.continued == 2


@pytest.mark.parametrize("cut", range(5))
def test_pieces_over_the_ends_of_blocks(cut: int) -> None:
    whole = wrapped(ERROR + "\n")
    lines = [whole, wrapped(ERROR[:20]), wrapped(ERROR[20:] + "\n"), whole]
    expected = in_blocks("docker", lines, [whole], [])
    assert len(expected.rows) == 3
    assert in_blocks("docker", lines, [whole], [cut]) == expected


def test_stdout_and_stderr_do_not_mix() -> None:
    lines = [
        wrapped("2026-03-02 10:15:03 ERROR one ", stream="stdout"),
        wrapped("2026-03-02 10:15:03 ERROR two ", stream="stderr"),
        wrapped("half\n", stream="stdout"),
        wrapped("other\n", stream="stderr"),
    ]
    sample = [wrapped("2026-03-02 10:15:03 INFO started\n")]
    rows = rows_of(parse(by_name("docker", CONTEXT, sample), joined(lines)))
    assert [row.message for row in rows] == ["one half", "two other"]


def test_a_line_that_never_ends_is_bounded() -> None:
    parser = by_name("docker", CONTEXT, [wrapped("started\n")])
    piece = wrapped("x" * 16_384)
    events = 0
    for _ in range(20):
        events += len(parse(parser, joined([piece] * 16)).events)
    assert events >= 4


def test_lines_that_are_not_taken() -> None:
    good = wrapped(ERROR + "\n")
    bad = [
        b"oops", b"[1]", b"{}", b'{"log": "x\\n"}', b'{"log": 7, "stream": "stdout", "time": "x"}', good[:-5],
        b'{"x": ' + b"[" * 5_000 + b"]" * 5_000 + b', "log": "", "stream": "stdout", "time": ""}', b"\xff", b"a\0",
    ]  # fmt: skip
    for one in bad:
        parsed = parse(by_name("docker", CONTEXT, [good]), joined([good, one, b"", good]))
        assert (len(parsed.events), parsed.unparsed, parsed.unparsed_bytes) == (2, 1, len(one))
        assert dict(parsed.dropped) == {"blank": 1}


def test_a_container_that_writes_what_its_parser_does_not_take() -> None:
    good = wrapped(ERROR + "\n")
    parsed = parse(by_name("docker", CONTEXT, [good]), joined([good, wrapped("oops\n"), wrapped("\n"), good]))
    assert (len(parsed.events), parsed.unparsed, dict(parsed.dropped)) == (2, 1, {"blank": 1})


@pytest.mark.parametrize("lines", [[], [b"oops"], [wrapped("no end")], [b""]])
def test_blocks_that_bring_no_line_of_the_container(lines: list[bytes]) -> None:
    for inner in (ERROR, ACCESS_SAMPLE[0].decode(), LOGFMT_SAMPLE.decode(), "started"):
        parsed = parse(by_name("docker", CONTEXT, [wrapped(inner + "\n")]), joined(lines))
        assert len(parsed.events) == 0


def test_line_feeds_within_a_piece() -> None:
    lines = [wrapped("2026-03-02 10:15:03 ERROR a\nb\n"), wrapped("2026-03-02 10:15:03 ERROR c\r\n")]
    parsed = parse(by_name("docker", CONTEXT, [wrapped("2026-03-02 10:15:03 INFO started\n")]), joined(lines))
    assert [row.message for row in rows_of(parsed)] == ["a b", "c"]


def test_a_time_that_cannot_be_used() -> None:
    line = wrapped(ERROR + "\n", "yesterday")
    parsed = parse(by_name("docker", CONTEXT, [line]), line)
    assert dict(parsed.mended) == {"bad_time": 1}
    assert rows_of(parsed)[0].time_us == RECEIPT


def test_more_attributes() -> None:
    line = json.dumps(
        {"log": ERROR + "\n", "stream": "stderr", "attrs": {"tag": "web"}, "time": "2026-03-02T10:15:03Z"}
    )
    assert rows_of(parse(by_name("auto", CONTEXT, [line.encode()]), line.encode()))[0].service == "checkout"
