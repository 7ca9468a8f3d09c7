"""Access logs of nginx and Apache: lines of the field, and what is expected of them."""

from __future__ import annotations

import time
from typing import NamedTuple

import pytest
from tests.unit.agent.strategies import (
    ACCESS_SAMPLE,
    BAD_ACCESS,
    BLANK,
    CONTEXT,
    ODD_ACCESS,
    RECEIPT,
    Row,
    joined,
    parse,
    rows_of,
    us,
)

from helios_agent.parsers.base import Block
from helios_agent.parsers.detect import by_name
from helios_core.model import Level

T_US = us("2026-03-02T10:15:03Z")
HEAD = "10.0.0.1 - - [02/Mar/2026:10:15:03 +0000]"
AGENT = '"https://shop.example/cart" "Mozilla/5.0 (X11; Linux x86_64)"'


class Expected(NamedTuple):
    level: Level
    message: str | None
    endpoint: str | None
    latency_us: int | None = None
    time_us: int = T_US


def one(line: str | bytes) -> Row:
    """The event of a line: the same alone, beside one that is not taken, and beside a common one."""
    raw = line.encode() if isinstance(line, str) else line
    others = (b"", b"oops\n", f'{HEAD} "GET / HTTP/1.1" 200 5\n'.encode())
    first, *rest = (rows_of(parse(by_name("access", CONTEXT, []), other + raw + b"\n"))[-1] for other in others)
    assert all(row == first for row in rest)
    assert (first.service, first.size) == ("fallback", len(raw))
    return first


LINES: dict[str, tuple[str, Expected]] = {
    "common": (f'{HEAD} "GET /a HTTP/1.0" 200 2326', Expected(Level.INFO, None, "/a")),
    "common, with a user": (
        '127.0.0.1 - frank [02/Mar/2026:02:15:03 -0800] "GET /apache_pb.gif HTTP/1.0" 200 2326',
        Expected(Level.INFO, None, "/apache_pb.gif"),
    ),
    "a user with a space": (
        '127.0.0.1 - mary ann [02/Mar/2026:10:15:03 +0000] "GET /a HTTP/1.0" 401 0',
        Expected(Level.WARN, "GET /a 401 Unauthorized", "/a"),
    ),
    "common with %D": (f'{HEAD} "GET /a HTTP/1.1" 200 5 43210', Expected(Level.INFO, None, "/a", 43_210)),
    "common with $request_time": (f'{HEAD} "GET /a HTTP/1.1" 200 5 0.043', Expected(Level.INFO, None, "/a", 43_000)),
    "combined": (f'{HEAD} "GET /a HTTP/1.1" 304 - {AGENT}', Expected(Level.INFO, None, "/a")),
    "combined with %D": (f'{HEAD} "GET /a HTTP/1.1" 200 5 {AGENT} 43210', Expected(Level.INFO, None, "/a", 43_210)),
    "combined with $request_time": (
        f'{HEAD} "GET /a HTTP/1.1" 200 5 {AGENT} 0.043',
        Expected(Level.INFO, None, "/a", 43_000),
    ),
    "combined with the times of an upstream": (
        f'{HEAD} "GET /a HTTP/1.1" 200 5 {AGENT} rt=0.043 uct="0.001" urt="0.042"',
        Expected(Level.INFO, None, "/a", 43_000),
    ),
    "a request time of 0": (f'{HEAD} "GET /a HTTP/1.1" 200 5 {AGENT} 0.000', Expected(Level.INFO, None, "/a", 0)),
    "a request time in quotes": (
        f'{HEAD} "GET /a HTTP/1.1" 200 5 {AGENT} "0.043"',
        Expected(Level.INFO, None, "/a", 43_000),
    ),
    "forwarded for": (
        f'{HEAD} "GET /a HTTP/1.1" 499 0 {AGENT} "203.0.113.7, 10.0.0.2"',
        Expected(Level.WARN, "GET /a 499 status of no standard", "/a"),
    ),
    "forwarded for, with the time": (
        f'{HEAD} "GET /a HTTP/1.1" 200 0 {AGENT} "203.0.113.7" 1.250',
        Expected(Level.INFO, None, "/a", 1_250_000),
    ),
    "IPv6": (
        '2001:db8::7 - - [02/Mar/2026:15:45:03 +0530] "POST /orders/8421?x=1 HTTP/2.0" 503 0 "-" "-"',
        Expected(Level.ERROR, "POST /orders/:id 503 Service Unavailable", "/orders/8421?x=1"),
    ),
    "no request": (f'{HEAD} "-" 408 0 "-" "-"', Expected(Level.WARN, "malformed request 408 Request Timeout", None)),
    "an empty request": (f'{HEAD} "" 400 0 "-" "-"', Expected(Level.WARN, "malformed request 400 Bad Request", None)),
    "bytes for a request": (
        rf'{HEAD} "\x16\x03\x01\x02" 400 166 "-" "-"',
        Expected(Level.WARN, "malformed request 400 Bad Request", None),
    ),
    "quotes in the request": (
        rf'{HEAD} "GET /\"q\" HTTP/1.1" 404 0 "-" "say \"hi\""',
        Expected(Level.WARN, r"GET /\"q\" 404 Not Found", r"/\"q\""),
    ),
    "UTF-8": (
        f'{HEAD} "GET /über HTTP/1.1" 500 0 "-" "-"',
        Expected(Level.ERROR, "GET /über 500 Internal Server Error", "/über"),
    ),
    "leap second": (
        '10.0.0.1 - - [31/Dec/2016:23:59:60 +0000] "GET /a HTTP/1.1" 200 5',
        Expected(Level.INFO, None, "/a", None, us("2017-01-01T00:00:00Z")),
    ),
    "29 February": (
        '10.0.0.1 - - [29/Feb/2024:23:59:59 +0000] "GET /a HTTP/1.1" 200 5',
        Expected(Level.INFO, None, "/a", None, us("2024-02-29T23:59:59Z")),
    ),
    "an agent of many numbers": (
        f'{HEAD} "GET /a HTTP/1.1" 200 5 "-" "Mozilla/5.0 (X 10 15 3)"',
        Expected(Level.INFO, None, "/a"),
    ),
    "an agent that is not closed": (
        f'{HEAD} "GET /a HTTP/1.1" 200 5 "-" "Mozilla/5.0 (X 10 15 3',
        Expected(Level.INFO, None, "/a"),
    ),
    "CRLF": (f'{HEAD} "GET /a HTTP/1.1" 200 5 {AGENT} 0.043\r', Expected(Level.INFO, None, "/a", 43_000)),
    "CRLF, common": (f'{HEAD} "GET /a HTTP/1.1" 200 5\r', Expected(Level.INFO, None, "/a")),
}


@pytest.mark.parametrize("name", LINES)
def test_lines(name: str) -> None:
    line, expected = LINES[name]
    row = one(line)
    assert Expected(Level(row.level), row.message, row.endpoint, row.latency_us, row.time_us) == expected


@pytest.mark.parametrize("bad", [*BAD_ACCESS.values()], ids=[*BAD_ACCESS])
def test_lines_that_are_not_taken(bad: bytes) -> None:
    for lines in ([bad], [*ACCESS_SAMPLE, bad], [b"oops", bad]):
        parsed = parse(by_name("access", CONTEXT, []), joined(lines))
        # Whether a line without host or size is one is the parser's to decide, but always in the same way.
        taken = len(parsed.events) - (lines[0] in ACCESS_SAMPLE)
        assert taken == int(bad in {BAD_ACCESS["no size"], BAD_ACCESS["no host"]} and taken == 1)
        assert parsed.unparsed == len(lines) - len(parsed.events)


@pytest.mark.parametrize("line", [*ODD_ACCESS.values()], ids=[*ODD_ACCESS])
def test_odd_lines_are_events(line: bytes) -> None:
    parsed = parse(by_name("access", CONTEXT, []), line + b"\n")
    assert len(parsed.events) == 1


@pytest.mark.parametrize("name", ["a huge request time", "a huge integer", "beyond 64 bits"])
def test_a_request_time_that_cannot_be_used(name: str) -> None:
    parsed = parse(by_name("access", CONTEXT, []), ODD_ACCESS[name])
    assert dict(parsed.mended) == {"bad_latency": 1}
    assert rows_of(parsed)[0].latency_us is None


@pytest.mark.parametrize("blank", BLANK)
def test_blank_lines(blank: bytes) -> None:
    parsed = parse(by_name("access", CONTEXT, []), joined([*ACCESS_SAMPLE, blank, *ACCESS_SAMPLE]))
    assert (len(parsed.events), dict(parsed.dropped)) == (2, {"blank": 1})


def test_what_wraps_the_lines_gives_the_time() -> None:
    lines = [*ACCESS_SAMPLE, BAD_ACCESS["no such day"], *ACCESS_SAMPLE]
    first, *rest = (
        by_name("access", CONTEXT, []).parse(Block(joined(block), RECEIPT, [RECEIPT + i for i in range(len(block))]))
        for block in (lines, [*lines, b"oops"])
    )
    assert first.events.time_us[0] == RECEIPT
    assert all(parsed.events.time_us == first.events.time_us for parsed in rest)


def test_two_megabytes_on_a_line_take_linear_time() -> None:
    parser = by_name("access", CONTEXT, [])
    started = time.perf_counter()
    for filler in (b"x", b'"', b"[", b"\\", b' "', b" [02/Mar/2026:10:15:03 +0000] "):
        line = ACCESS_SAMPLE[0][:60] + filler * (2_000_000 // len(filler))
        parsed = parse(parser, joined([*ACCESS_SAMPLE, line, *ACCESS_SAMPLE]))
        assert len(parsed.events) in {2, 3}
    assert time.perf_counter() - started < 5
