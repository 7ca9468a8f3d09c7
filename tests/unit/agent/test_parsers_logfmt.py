"""logfmt: lines of the field, and what is expected of them."""

from __future__ import annotations

import time

import pytest
from tests.unit.agent.strategies import CONTEXT, LOGFMT_SAMPLE, RECEIPT, Row, joined, parse, rows_of, us

from helios_agent.parsers.detect import by_name
from helios_core.model import Level

T = "2026-03-02T10:15:03.123Z"
T_US = us(T)


def one(line: str) -> Row:
    raw = line.encode()
    alone = parse(by_name("logfmt", CONTEXT, [raw]), raw)
    beside = parse(by_name("logfmt", CONTEXT, [raw]), joined([b"oops", raw]))
    assert rows_of(alone) == rows_of(beside)
    assert beside.unparsed == 1
    (row,) = rows_of(alone)
    assert row.size == len(raw)
    return row


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            f'ts={T} level=error msg="no such order" service=cart latency_ms=12.5 endpoint=/a?x=1',
            (T_US, "cart", Level.ERROR, 12_500, "/a?x=1", "no such order"),
        ),
        (
            f'time="{T}" level=warning msg="slow \\"query\\"" app=cart',
            (T_US, "cart", Level.WARN, None, None, 'slow "query"'),
        ),
        (
            f"timestamp={T} severity=FATAL message=gone duration_s=0.25 path=/a=b",
            (T_US, "fallback", Level.CRITICAL, 250_000, "/a=b", "gone"),
        ),
        (
            f'level=error ts={T_US / 1e6} caller=main.go:7 msg="" err="a=b c=d level=info"',
            (T_US, "fallback", Level.ERROR, None, None, ""),
        ),
        (
            f'ts={T} method=GET path="/a" status=503 request_time=0.043',
            (T_US, "fallback", Level.ERROR, 43_000, "/a", ""),
        ),
        (
            f'  ts={T}   lvl=crit\tmsg="ümlaut = here" logger.name=x @tag=y',
            (T_US, "fallback", Level.CRITICAL, None, None, "ümlaut = here"),
        ),
        (f"ts={T} level=error msg=no trailing words", (T_US, "fallback", Level.ERROR, None, None, "no")),
        (f'ts={T} level=error msg="not closed', (T_US, "fallback", Level.ERROR, None, None, '"not')),
        (f"ts={T} level=error msg=no\r", (T_US, "fallback", Level.ERROR, None, None, "no")),
    ],
)
def test_lines(line: str, expected: tuple[object, ...]) -> None:
    row = one(line)
    assert (row.time_us, row.service, Level(row.level), row.latency_us, row.endpoint, row.message) == expected


@pytest.mark.parametrize("bad", [b"oops", b"a=b", b"hello a=1 b=2 c=3", b"=1 =2 =3", b"\0=", b"\xff=1 a=2 b=3 c=4"])
def test_lines_that_are_not_taken(bad: bytes) -> None:
    parsed = parse(by_name("logfmt", CONTEXT, [LOGFMT_SAMPLE]), joined([LOGFMT_SAMPLE, bad, b"", LOGFMT_SAMPLE]))
    assert (len(parsed.events), parsed.unparsed, parsed.unparsed_bytes) == (2, 1, len(bad))
    assert dict(parsed.dropped) == {"blank": 1}
    assert parsed.events.size == [len(LOGFMT_SAMPLE)] * 2


def test_values_that_cannot_be_used() -> None:
    line = b"ts=2026-13-02T10:15:03Z level=info latency_ms=-3"
    parsed = parse(by_name("logfmt", CONTEXT, [line]), line)
    assert dict(parsed.mended) == {"bad_time": 1, "bad_latency": 1}
    (row,) = rows_of(parsed)
    assert (row.time_us, row.latency_us) == (RECEIPT, None)


@pytest.mark.parametrize("filler", [b"x", b'a="', b"\\", b"a=", b"x ", b"a.", b'"', b"a=b "])
def test_two_megabytes_on_a_line_take_linear_time(filler: bytes) -> None:
    parser = by_name("logfmt", CONTEXT, [LOGFMT_SAMPLE])
    started = time.perf_counter()
    line = LOGFMT_SAMPLE + b" " + filler * (2_000_000 // len(filler))
    parsed = parse(parser, joined([LOGFMT_SAMPLE, line, LOGFMT_SAMPLE]))
    assert len(parsed.events) == 3
    assert time.perf_counter() - started < 5
