"""Plain text: forms of time, levels, syslog, klog, stack traces, and latencies in words."""

from __future__ import annotations

import time
from typing import NamedTuple

import pytest
from tests.unit.agent.strategies import CONTEXT, PLAIN_SAMPLE, RECEIPT, Row, joined, parse, rows_of, us

from helios_agent.parsers.base import Block, ParserContext
from helios_agent.parsers.detect import by_name
from helios_core.model import Level

T_US = us("2026-03-02T10:15:03Z")
MS_US = us("2026-03-02T10:15:03.123Z")


class Expected(NamedTuple):
    time_us: int
    level: Level
    message: str | None
    service: str = "fallback"


def one(line: str, context: ParserContext = CONTEXT) -> Row:
    raw = line.encode()
    parsed = parse(by_name("plain", context, [raw] * 3), joined([raw, b"", raw]))
    first, second = rows_of(parsed)
    assert first == second
    assert first.size == len(raw)
    return first


FORMS: dict[str, tuple[str, Expected]] = {
    "log4j": (
        "2026-03-02 10:15:03,123 ERROR [main] shop.Cart: no",
        Expected(MS_US, Level.ERROR, "[main] shop.Cart: no"),
    ),
    "Zookeeper": (
        "2026-03-02 10:15:03,123 - WARN  [SendWorker:1@688] - leaving thread",
        Expected(MS_US, Level.WARN, "[SendWorker:1@688] - leaving thread"),
    ),
    "Spring": (
        "2026-03-02T11:15:03.123+01:00 ERROR 31 --- [main] shop.Cart : no",
        Expected(MS_US, Level.ERROR, "31 --- [main] shop.Cart : no"),
    ),
    "Python": ("2026-03-02 10:15:03,123 CRITICAL shop: no", Expected(MS_US, Level.CRITICAL, "shop: no")),
    "Python, no time": ("ERROR:root:no", Expected(RECEIPT, Level.ERROR, "root:no")),
    "Go": ("2026/03/02 10:15:03 panic: no", Expected(T_US, Level.CRITICAL, "panic: no")),
    "nginx": (
        "2026/03/02 10:15:03 [error] 31#31: *7 open() failed",
        Expected(T_US, Level.ERROR, "31#31: *7 open() failed"),
    ),
    "Apache": ("[Mon Mar 02 10:15:03 2026] [notice] resuming", Expected(T_US, Level.INFO, None)),
    "Apache 2.4": (
        "[Mon Mar 02 10:15:03.123000 2026] [core:error] [pid 7] AH00126: no",
        Expected(MS_US, Level.ERROR, "[pid 7] AH00126: no"),
    ),
    "PostgreSQL": (
        '2026-03-02 10:15:03.123 UTC [31] ERROR:  no "x"',
        Expected(MS_US, Level.ERROR, '[31] ERROR:  no "x"'),
    ),
    "MySQL": ("2026-03-02T10:15:03.123456Z 0 [Warning] [MY-1] no", Expected(MS_US + 456, Level.WARN, "[MY-1] no")),
    "a name before it": (
        "nova-api.log 2026-03-02 10:15:03.123 7 ERROR nova no",
        Expected(MS_US, Level.ERROR, "nova no"),
    ),
    "in brackets": ("[2026-03-02 10:15:03] shop.ERROR: no", Expected(T_US, Level.ERROR, "no")),
    "level=": ("2026-03-02T10:15:03Z level=error no", Expected(T_US, Level.ERROR, "no")),
    "nanoseconds": ("2026-03-02T10:15:03.123999999Z WARN no", Expected(MS_US + 999, Level.WARN, "no")),
    "no level": ("2026-03-02T10:15:03Z started", Expected(T_US, Level.UNSPECIFIED, None)),
    "small letters are no level": ("2026-03-02T10:15:03Z no error at all", Expected(T_US, Level.UNSPECIFIED, None)),
    "29 February": ("2024-02-29 10:15:03 INFO a", Expected(us("2024-02-29T10:15:03Z"), Level.INFO, None)),
    "leap second": ("2016-12-31 23:59:60 INFO a", Expected(us("2017-01-01T00:00:00Z"), Level.INFO, None)),
    "Spark": (
        "26/03/02 10:15:03 WARN storage.BlockManager: no",
        Expected(T_US, Level.WARN, "storage.BlockManager: no"),
    ),
    "HDFS": ("260302 101503 148 WARN dfs.DataNode: no", Expected(T_US, Level.WARN, "dfs.DataNode: no")),
    "CLF": ("[02/Mar/2026:11:15:03 +0100] ERROR no", Expected(T_US, Level.ERROR, "no")),
    "klog, error": (
        "E0302 10:15:03.123000       1 reflector.go:178] no",
        Expected(MS_US, Level.ERROR, "1 reflector.go:178] no"),
    ),
    "klog, warning": (
        "W0302 10:15:03.123000       1 reflector.go:178] no",
        Expected(MS_US, Level.WARN, "1 reflector.go:178] no"),
    ),
    "klog, info": ("I0302 10:15:03.123000       1 reflector.go:178] ERROR", Expected(MS_US, Level.INFO, None)),
    "klog, fatal": ("F0302 10:15:03.123000       1 main.go:7] no", Expected(MS_US, Level.CRITICAL, "1 main.go:7] no")),
    "epoch": (f"{T_US // 10**6} ERROR no", Expected(T_US, Level.ERROR, "no")),
    "epoch in brackets": (f"[{T_US // 10**6}.123] ERROR no", Expected(MS_US, Level.ERROR, "no")),
    "epoch in ms": (f"{MS_US // 1_000} ERROR no", Expected(MS_US, Level.ERROR, "no")),
    "epoch in ns": (f"{MS_US * 1_000} ERROR no", Expected(MS_US, Level.ERROR, "no")),
    "time of day": ("10:15:03.123 ERROR no", Expected(MS_US, Level.ERROR, "no")),
    "time of day, comma": ("10:15:03,123 ERROR no", Expected(MS_US, Level.ERROR, "no")),
    "syslog": ("Mar  2 10:15:03 web-1 sshd[1291]: error: no", Expected(T_US, Level.ERROR, "error: no", "sshd")),
    "syslog, no process id": ("Mar  2 10:15:03 web-1 kernel: no", Expected(T_US, Level.UNSPECIFIED, None, "kernel")),
    "syslog, PAM": ("Mar  2 10:15:03 web-1 sshd(pam_unix)[7]: no", Expected(T_US, Level.UNSPECIFIED, None, "sshd")),
    "syslog, a path": (
        "Mar  2 10:15:03 web-1 postfix/smtpd[7]: fatal: no",
        Expected(T_US, Level.CRITICAL, "fatal: no", "postfix/smtpd"),
    ),
    "syslog, a priority of 2": ("<34>Mar  2 10:15:03 web-1 su: no", Expected(T_US, Level.CRITICAL, "no", "su")),
    "syslog, a priority of 3": ("<11>Mar  2 10:15:03 web-1 su[7]: no", Expected(T_US, Level.ERROR, "no", "su")),
    "syslog, a priority of 4": ("<12>Mar  2 10:15:03 web-1 su[7]: no", Expected(T_US, Level.WARN, "no", "su")),
    "syslog, a priority of 6": ("<14>Mar  2 10:15:03 web-1 su[7]: ERROR", Expected(T_US, Level.INFO, None, "su")),
    "CRLF": ("2026-03-02 10:15:03 ERROR no\r", Expected(T_US, Level.ERROR, "no")),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form: str) -> None:
    line, expected = FORMS[form]
    row = one(line)
    assert Expected(row.time_us, Level(row.level), row.message, row.service) == expected


@pytest.mark.parametrize(
    ("line", "shifted"),
    [
        ("2026-03-02 10:15:03,123 INFO a", True), ("26/03/02 10:15:03 INFO a", True), ("10:15:03.123 INFO a", True),
        ("Mar  2 10:15:03 web-1 a: b", True), ("E0302 10:15:03.123000 1 a", True), ("260302 101503 1 INFO a", True),
        ("[Mon Mar 02 10:15:03 2026] [notice] a", True), ("2026-03-02T10:15:03Z INFO a", False),
        ("2026-03-02 10:15:03.123 UTC INFO a", False), ("2026-03-02 10:15:03 +0000 INFO a", False),
        ("[02/Mar/2026:10:15:03 +0000] INFO a", False), (f"{T_US // 10**6} INFO a", False),
    ],
)  # fmt: skip
def test_times_without_zone_are_in_that_of_the_source(line: str, shifted: bool) -> None:
    east = ParserContext("fallback", T_US, utc_offset_s=3_600)
    assert one(line, east).time_us // 10**6 == T_US // 10**6 - 3_600 * shifted


@pytest.mark.parametrize(
    ("line", "reference", "expected"),
    [
        ("Dec 31 23:59:59 web-1 a: b", "2026-01-01T00:00:05Z", "2025-12-31T23:59:59Z"),
        ("Jan  1 00:00:01 web-1 a: b", "2025-12-31T23:59:59Z", "2026-01-01T00:00:01Z"),
        ("I0101 00:00:01.000000 1 a", "2025-12-31T23:59:59Z", "2026-01-01T00:00:01Z"),
        ("I1231 23:59:59.000000 1 a", "2026-01-01T00:00:05Z", "2025-12-31T23:59:59Z"),
        ("Feb 29 10:15:03 web-1 a: b", "2024-03-01T00:00:00Z", "2024-02-29T10:15:03Z"),
        ("23:59:59.999 INFO a", "2026-01-01T00:00:05Z", "2025-12-31T23:59:59.999Z"),
        ("00:00:01.000 INFO a", "2025-12-31T23:59:59Z", "2026-01-01T00:00:01Z"),
    ],
)
def test_what_the_line_leaves_out_is_what_is_nearest(line: str, reference: str, expected: str) -> None:
    parser = by_name("plain", ParserContext("fallback", us(reference)), [line.encode()] * 3)
    parsed = parser.parse(Block(f"{line}\n".encode(), us(reference)))
    assert parsed.events.time_us == [us(expected)]


@pytest.mark.parametrize(
    ("words", "expected_us"),
    [
        ("took 12 ms", 12_000), ("took 12ms", 12_000), ("Took 19.05 seconds to build", 19_050_000),
        ("took 1 second", 10**6),
        ("time: 0.2477829", 247_783), ("duration=250us", 250), ("duration: 250 µs", 250),
        ("duration: 250 \u03bcs", 250),
        ("DURATION 250 \u039cS", 250), ("elapsed 1500 ns", 2), ("Completed 200 OK, completed in 35ms", 35_000),
        ("latency: 1.5s", 1_500_000), ("latency=3 sec", 3_000_000), ("Elapsed: 5 s", 5_000_000), ("rt=0.043", 43_000),
        ("Completed in 35ms", 35_000), ("took 12", None), ("took -3 ms", None), ("timeout 12 ms", None),
        ("no number", None),
        ("took 12 parsecs", None), ("took 5m30s", None),
    ],
)  # fmt: skip
def test_latency_in_words(words: str, expected_us: int | None) -> None:
    assert one(f"2026-03-02 10:15:03 INFO job {words}").latency_us == expected_us


def test_a_latency_that_cannot_be_used() -> None:
    parsed = parse(by_name("plain", CONTEXT, PLAIN_SAMPLE), b"2026-03-02 10:15:03 INFO took " + b"9" * 400 + b" ms")
    assert dict(parsed.mended) == {"bad_latency": 1}
    assert rows_of(parsed)[0].latency_us is None


def test_requests_in_words() -> None:
    row = one(
        'nova-api.log 2026-03-02 10:15:03.123 7 INFO nova.wsgi [req-1 - - -] 10.11.10.1 "GET /v2/servers?x=1 HTTP/1.1" '
        "status: 404 len: 1893 time: 0.2477829"
    )
    assert (row.level, row.endpoint, row.latency_us) == (Level.WARN, "/v2/servers?x=1", 247_783)
    assert one('2026-03-02 10:15:03 "POST /a HTTP/1.1" 503 5').level == Level.ERROR
    assert one('2026-03-02 10:15:03 ERROR "POST /a HTTP/1.1" 200 5').level == Level.ERROR


JAVA = b"""\
2026-03-02 10:15:03,123 ERROR [main] shop.Cart: payment failed
java.lang.IllegalStateException: no such order
\tat shop.Cart.pay(Cart.java:42)
\tat shop.Main.main(Main.java:7)
Caused by: java.net.ConnectException: refused
\t... 12 more
2026-03-02 10:15:04,001 INFO [main] shop.Cart: going on
"""
PYTHON = b"""\
2026-03-02 10:15:03,123 ERROR shop: payment failed
Traceback (most recent call last):
  File "/srv/shop.py", line 7, in pay
    raise ValueError(order)

ValueError: 17
2026-03-02 10:15:04,001 INFO shop: going on
"""


@pytest.mark.parametrize(("trace", "continued", "blank"), [(JAVA, 5, 0), (PYTHON, 4, 1)])
def test_stack_traces_belong_to_the_event_before_them(trace: bytes, continued: int, blank: int) -> None:
    parsed = parse(by_name("plain", CONTEXT, trace.splitlines()), trace)
    first, second = rows_of(parsed)
    assert (first.level, second.level) == (Level.ERROR, Level.INFO)
    assert (parsed.continued, parsed.dropped["blank"], parsed.unparsed) == (continued, blank, 0)
    assert first.size + second.size == len(trace) - trace.count(b"\n")


def test_a_source_without_timestamps() -> None:
    lines = [
        b"starting",
        b"Traceback (most recent call last):",
        b'  File "a.py", line 7',
        b"ValueError: 17",
        b"\tindented",
    ]
    parsed = parse(by_name("plain", CONTEXT, lines), joined(lines))
    assert [row.time_us for row in rows_of(parsed)] == [RECEIPT] * 3
    assert (parsed.continued, parsed.unparsed) == (2, 0)


def test_what_comes_before_the_first_event_is_unparsed() -> None:
    parsed = parse(by_name("plain", CONTEXT, PLAIN_SAMPLE), joined([b"\tat shop.Cart", b"x", *PLAIN_SAMPLE, b"y"]))
    assert (len(parsed.events), parsed.unparsed, parsed.continued) == (1, 2, 1)


def test_an_event_does_not_grow_for_ever() -> None:
    parser = by_name("plain", CONTEXT, PLAIN_SAMPLE)
    parsed = parse(parser, joined([*PLAIN_SAMPLE, *[b"\tmore"] * 5_000, *PLAIN_SAMPLE, b"\tmore"]))
    assert len(parsed.events) == 2
    assert parsed.continued + parsed.unparsed == 5_001
    assert parsed.unparsed >= 1_000


def test_times_that_are_none() -> None:
    lines = [
        *PLAIN_SAMPLE,
        b"2026-13-02 10:15:03,123 INFO a",
        b"2026-02-30 10:15:03,123 INFO a",
        b"0000-01-01 00:00:00 INFO a",
    ]
    parsed = parse(by_name("plain", CONTEXT, PLAIN_SAMPLE), joined(lines))
    assert (len(parsed.events), parsed.continued) == (1, 3)


@pytest.mark.parametrize("year", ["0001", "9999"])
def test_years_at_the_ends(year: str) -> None:
    assert one(f"{year}-03-02 10:15:03 INFO a").time_us == us(f"{year}-03-02T10:15:03Z")


@pytest.mark.parametrize("line", [b"a\0b", b"\0a\0", b"2026-03-02 10:15:03,123 INFO \0"])
def test_bytes_are_no_text(line: bytes) -> None:
    parsed = parse(by_name("plain", CONTEXT, PLAIN_SAMPLE), joined([*PLAIN_SAMPLE, line, *PLAIN_SAMPLE]))
    assert (len(parsed.events), parsed.unparsed, parsed.unparsed_bytes) == (2, 1, len(line))


def test_odd_levels() -> None:
    for word in ("²", "1" * 5_000, "loud", "7"):
        row = one(f"2026-03-02 10:15:03 level={word} a")
        assert row.level == Level.UNSPECIFIED


@pytest.mark.parametrize("filler", [b"x", b"(a", b"took ", b"time 1", b"GET /x ", b" HTTP/1.1", b"9", b"a(", b"level="])
@pytest.mark.parametrize("head", [PLAIN_SAMPLE[0], b"Mar  2 10:15:03 web-1 a"])
def test_two_megabytes_on_a_line_take_linear_time(head: bytes, filler: bytes) -> None:
    started = time.perf_counter()
    line = head + filler * (2_000_000 // len(filler))
    assert len(parse(by_name("plain", CONTEXT, [head]), joined([head, line, head])).events) == 3
    assert time.perf_counter() - started < 5
