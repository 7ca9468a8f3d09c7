"""JSON lines: what the loggers of the field write, and what is expected of it."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest
from tests.unit.agent.strategies import (
    BAD_JSON,
    BLANK,
    CONTEXT,
    JSON_SAMPLE,
    MENDED_JSON,
    ODD_JSON,
    RECEIPT,
    Row,
    joined,
    parse,
    rows_of,
    us,
)

from helios_agent.parsers.base import Block, ParserContext
from helios_agent.parsers.detect import by_name, detect
from helios_core.model import Level

T = "2026-03-02T10:15:03.123Z"
T_US = us(T)


class Expected(NamedTuple):
    time_us: int = T_US
    service: str = "fallback"
    level: Level = Level.ERROR
    latency_us: int | None = None
    endpoint: str | None = None
    message: str | None = None


def one(record: dict[str, Any] | str, context: ParserContext = CONTEXT) -> Row:
    """The event of a line: the same alone as beside a line that is not taken."""
    line = (record if isinstance(record, str) else json.dumps(record)).encode()
    alone = parse(by_name("json", context, [line]), line + b"\n")
    beside = parse(by_name("json", context, [line]), b"oops\n" + line + b"\n")
    assert alone.unparsed == 0
    assert beside.unparsed == 1
    assert rows_of(alone) == rows_of(beside)
    (row,) = rows_of(alone)
    assert row.size == len(line)
    return row


LOGGERS: dict[str, tuple[dict[str, Any], Expected]] = {
    "helios": (
        {
            "timestamp": T,
            "service": "checkout",
            "level": "ERROR",
            "message": "no",
            "latency_ms": 43.2,
            "endpoint": "/a?x=1",
        },
        Expected(T_US, "checkout", Level.ERROR, 43_200, "/a?x=1", "no"),
    ),
    "metadata": (
        {
            "timestamp": T,
            "service": "checkout",
            "level": "ERROR",
            "message": "no",
            "metadata": {"latency_ms": 45, "endpoint": "/pay", "status": 500, "trace_id": "4bf9"},
        },
        Expected(T_US, "checkout", Level.ERROR, 45_000, "/pay", "no"),
    ),
    "pino": (
        {"level": 50, "time": T_US // 1_000, "pid": 7, "msg": "no", "responseTime": 12},
        Expected(latency_us=12_000, message="no"),
    ),
    "bunyan": (
        {"name": "web", "level": 60, "time": T, "msg": "no", "v": 0},
        Expected(level=Level.CRITICAL, message="no"),
    ),
    "zap": ({"level": "error", "ts": T_US / 1e6, "caller": "a.go:7", "msg": "no"}, Expected(message="no")),
    "logrus": (
        {"level": "warning", "msg": "slow", "time": "2026-03-02T11:15:03.123+01:00"},
        Expected(level=Level.WARN, message="slow"),
    ),
    "slog": (
        {"time": "2026-03-02T10:15:03.123456789Z", "level": "WARN", "msg": "slow"},
        Expected(T_US + 456, level=Level.WARN, message="slow"),
    ),
    "structlog": ({"event": "no", "level": "error", "timestamp": T}, Expected(message="no")),
    "python-json-logger": (
        {"asctime": "2026-03-02 10:15:03,123", "levelname": "CRITICAL", "message": "no", "taskName": None},
        Expected(level=Level.CRITICAL, message="no"),
    ),
    "logstash": (
        {
            "@timestamp": T,
            "@version": "1",
            "level": "ERROR",
            "logger_name": "shop.Cart",
            "message": "no",
            "app": "cart",
        },
        Expected(service="cart", message="no"),
    ),
    "ECS, flat": (
        {
            "@timestamp": T,
            "log.level": "error",
            "message": "no",
            "service.name": "cart",
            "trace.id": "4bf9",
            "url.path": "/a",
        },
        Expected(service="cart", endpoint="/a", message="no"),
    ),
    "ECS, nested": (
        {
            "@timestamp": T,
            "log": {"level": "error"},
            "message": "no",
            "service": {"name": "cart"},
            "url": {"path": "/a"},
        },
        Expected(service="cart", endpoint="/a", message="no"),
    ),
    "Kubernetes": (
        {"time": T, "level": "error", "log": "no", "kubernetes": {"labels": {"app": "cart"}}},
        Expected(service="cart", message="no"),
    ),
    "Google": (
        {"severity": "EMERGENCY", "timestamp": T, "message": "no"},
        Expected(level=Level.CRITICAL, message="no"),
    ),
    "Datadog": (
        {"timestamp": T, "level": "error", "service": "cart", "message": "no", "dd": {"trace_id": "4bf9"}},
        Expected(service="cart", message="no"),
    ),
    "nginx": (
        {"time": "2026-03-02T10:15:03+00:00", "status": 502, "request_uri": "/a?x=1", "request_time": 0.123},
        Expected(us("2026-03-02T10:15:03Z"), latency_us=123_000, endpoint="/a?x=1", message=""),
    ),
    "status as text": ({"ts": T, "status": "404", "msg": "gone"}, Expected(level=Level.WARN, message="gone")),
    "status, nested": ({"ts": T, "http": {"status_code": 503}, "msg": "no"}, Expected(message="no")),
    "status beside an unknown level": (
        {"ts": T, "level": "loud", "statusCode": 500, "msg": "no"},
        Expected(message="no"),
    ),
    "the level before the status": (
        {"ts": T, "level": "warn", "status": 200, "msg": "slow"},
        Expected(level=Level.WARN, message="slow"),
    ),
    "a message that is an object": (
        {"ts": T, "level": "error", "message": {"code": 7}},
        Expected(message='{"code": 7}'),
    ),
    "no message": ({"ts": T, "level": "error"}, Expected(message="")),
    "escapes": ({"ts": T, "level": "error", "message": 'a"b\\c\nd\u00fc\U0001f600'}, Expected(message='a"b\\c\ndü😀')),
}


@pytest.mark.parametrize("logger", LOGGERS)
def test_loggers(logger: str) -> None:
    record, expected = LOGGERS[logger]
    row = one(record)
    assert Expected(row.time_us, row.service, Level(row.level), row.latency_us, row.endpoint, row.message) == expected


@pytest.mark.parametrize(
    ("name", "value", "expected_us"),
    [
        ("latency_ms", 12.5, 12_500), ("latency_ms", 0, 0), ("latency_ms", "12.5", 12_500), ("latency_ms", 0.001, 1),
        ("duration_ms", 3, 3_000), ("elapsed_ms", 3, 3_000), ("response_time_ms", 3, 3_000), ("took_ms", 3, 3_000),
        ("responseTime", 3, 3_000), ("latency_us", 250, 250), ("duration_us", 250, 250), ("elapsed_us", 250, 250),
        ("duration_ns", 12_345_000, 12_345), ("latency_ns", 12_345_000, 12_345), ("latency_s", 0.25, 250_000),
        ("duration_s", 2, 2_000_000), ("duration_seconds", 0.25, 250_000), ("request_time", "0.043", 43_000),
        ("http.latency_ms", 3, 3_000), ("metadata.duration_ms", 3, 3_000), ("latency_ms", 3_600_000, 3_600_000_000),
    ],
)  # fmt: skip
def test_latency_in_every_unit(name: str, value: object, expected_us: int) -> None:
    assert one({"ts": T, "level": "info", name: value}).latency_us == expected_us
    if "." in name:
        outer, inner = name.split(".")
        assert one({"ts": T, "level": "info", outer: {inner: value}}).latency_us == expected_us


@pytest.mark.parametrize("written", [T_US / 1e6, T_US // 1_000, T_US, T_US * 1_000 + 7, T])
@pytest.mark.parametrize("as_text", [False, True])
def test_time_as_number_and_as_text(written: float | str, as_text: bool) -> None:
    assert one({"ts": str(written) if as_text else written, "level": "info"}).time_us == T_US


def test_nanoseconds_in_text_lose_nothing() -> None:
    assert one({"ts": "1767225600123462000", "level": "info"}).time_us == 1_767_225_600_123_462


def test_times_without_zone() -> None:
    east = ParserContext("fallback", RECEIPT, utc_offset_s=7_200)
    assert one({"ts": "2026-03-02 12:15:03,123", "level": "info"}, east).time_us == T_US
    assert one({"ts": T, "level": "info"}, east).time_us == T_US
    assert one({"ts": T_US, "level": "info"}, east).time_us == T_US


def test_trace_and_span() -> None:
    row = one({"ts": T, "level": "error", "traceId": "4bf92f35", "spanId": "00f067aa"})
    assert (row.trace_id, row.span_id) == ("4bf92f35", "00f067aa")


def test_what_wraps_the_lines_gives_the_time() -> None:
    lines = [JSON_SAMPLE, JSON_SAMPLE.replace(b"2026", b"xxxx"), JSON_SAMPLE]
    for block in (lines, [*lines, b"oops"]):
        times = [RECEIPT + i for i in range(len(block))]
        parsed = by_name("json", CONTEXT, lines).parse(Block(joined(block), RECEIPT, times))
        assert parsed.events.time_us == times[:3]
        assert not parsed.mended


@pytest.mark.parametrize("bad", [*BAD_JSON.values()], ids=[*BAD_JSON])
def test_lines_that_are_not_taken(bad: bytes) -> None:
    parsed = parse(by_name("json", CONTEXT, [JSON_SAMPLE]), joined([JSON_SAMPLE, bad, JSON_SAMPLE]))
    assert (len(parsed.events), parsed.unparsed, parsed.unparsed_bytes) == (2, 1, len(bad))
    assert parsed.examples == [bad[:200].decode()]


@pytest.mark.parametrize("blank", BLANK)
def test_blank_lines(blank: bytes) -> None:
    parsed = parse(by_name("json", CONTEXT, [JSON_SAMPLE]), joined([JSON_SAMPLE, blank, JSON_SAMPLE]))
    assert (len(parsed.events), dict(parsed.dropped)) == (2, {"blank": 1})


@pytest.mark.parametrize(("line", "reason"), [*MENDED_JSON.values()], ids=[*MENDED_JSON])
def test_values_that_cannot_be_used(line: bytes, reason: str) -> None:
    parsed = parse(by_name("json", CONTEXT, [JSON_SAMPLE]), line + b"\n")
    assert dict(parsed.mended) == {reason: 1}
    (row,) = rows_of(parsed)
    good = rows_of(parse(by_name("json", CONTEXT, [JSON_SAMPLE]), JSON_SAMPLE))[0]._replace(size=len(line))
    mended = {"bad_time": {"time_us": RECEIPT}, "bad_latency": {"latency_us": None}}[reason]
    assert row == good._replace(**mended)


@pytest.mark.parametrize("line", [*ODD_JSON.values()], ids=[*ODD_JSON])
def test_odd_lines_are_events(line: bytes) -> None:
    parsed = parse(by_name("json", CONTEXT, [JSON_SAMPLE]), line + b"\n")
    assert len(parsed.events) == 1


def test_nesting_at_the_limit_of_the_interpreter() -> None:
    deep = [JSON_SAMPLE.replace(b'"paid"', b"[" * n + b"]" * n).replace(b"INFO", b"ERROR") for n in range(800, 1_000)]
    for line in deep:
        parse(by_name("json", CONTEXT, [JSON_SAMPLE]), joined([line]))


def test_odd_services_and_messages() -> None:
    def row(name: str) -> Row:
        return rows_of(parse(by_name("json", CONTEXT, [JSON_SAMPLE]), ODD_JSON[name]))[0]

    assert row("service null").service == "fallback"
    assert row("service an object").service == "fallback"
    assert row("service a number").service == "7"
    assert row("service of 10 kB").service == "x" * 10_000
    assert row("message null").message == ""
    assert row("invalid UTF-8").message == "\ufffd\ufffd"
    assert row("endpoint a number").endpoint is None
    assert row("level unknown").level == row("level true").level == Level.UNSPECIFIED
    assert row("year 9999").time_us == us("9999-03-02T10:15:03.123Z")
    assert row("year 1").time_us == us("0001-03-02T10:15:03.123Z")


def test_a_pretty_printed_object_is_counted_as_what_it_is() -> None:
    pretty = json.dumps(json.loads(JSON_SAMPLE), indent=2).encode()
    parsed = parse(by_name("json", CONTEXT, [JSON_SAMPLE]), joined([JSON_SAMPLE, *pretty.split(b"\n"), JSON_SAMPLE]))
    assert len(parsed.events) == 2
    assert parsed.unparsed == 10


def test_two_objects_on_a_line_do_not_make_up_for_a_line_without() -> None:
    parser = by_name("json", CONTEXT, [JSON_SAMPLE])
    two, blank, halves = JSON_SAMPLE * 2, b"", JSON_SAMPLE.split(b" ", 1)
    assert parse(parser, joined([two, blank])).unparsed == 1
    assert parse(parser, joined([two, *halves])).unparsed == 3
    assert parse(parser, joined([b'{"nested":', b"{}}" + JSON_SAMPLE])).unparsed == 2


@pytest.mark.parametrize("data", [b"", b"\n", JSON_SAMPLE, JSON_SAMPLE + b"\r\n", b"\r\n\r\n"])
def test_the_smallest_blocks(data: bytes) -> None:
    for sample in ([], [JSON_SAMPLE]):
        parsed = parse(by_name("json", CONTEXT, sample), data)
        assert len(parsed.events) == data.count(b"{")


def test_lines_of_another_shape_are_read_too() -> None:
    lines = [JSON_SAMPLE] * 9 + [b'{"ts": "2026-03-02T10:15:04Z", "severity": "ERROR", "message": "no"}']
    parsed = parse(detect(CONTEXT, [JSON_SAMPLE]), joined(lines))
    last = rows_of(parsed)[-1]
    assert (last.time_us, last.level, last.message) == (us("2026-03-02T10:15:04Z"), Level.ERROR, "no")
