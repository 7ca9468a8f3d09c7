"""What the tests of the parsers share: how results are compared, and lines to generate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

from hypothesis import strategies as st

from helios_agent.parsers.base import Block, Parsed, Parser, ParserContext
from helios_agent.parsers.detect import by_name
from helios_core.model import Level
from helios_core.windows import WindowBuilder

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def us(text: str) -> int:
    """Microseconds since the epoch of an aware ISO 8601 time, by the standard library alone."""
    return (datetime.fromisoformat(text) - EPOCH) // timedelta(microseconds=1)


RECEIPT = us("2026-03-02T12:00:00Z")
CONTEXT = ParserContext("fallback", reference_us=RECEIPT)
PARSERS = ("docker", "json", "access", "logfmt", "plain")


class Row(NamedTuple):
    """One event; the message is known from level WARN on."""

    time_us: int
    service: str
    level: int
    latency_us: int | None
    endpoint: str | None
    size: int
    message: str | None
    trace_id: str
    span_id: str


def rows_of(parsed: Parsed) -> list[Row]:
    events = parsed.events
    n = len(events)
    notable = {one.row: one for one in events.notable}
    services = [events.service] * n if isinstance(events.service, str) else events.service
    latencies = events.latency_us or [None] * n
    endpoints = events.endpoint or [None] * n
    return [
        Row(
            events.time_us[i],
            services[i],
            events.level[i],
            latencies[i],
            endpoints[i],
            events.size[i],
            notable[i].message if i in notable else None,
            notable[i].trace_id if i in notable else "",
            notable[i].span_id if i in notable else "",
        )
        for i in range(n)
    ]


def number_of_lines(data: bytes) -> int:
    return data.count(b"\n") + (bool(data) and not data.endswith(b"\n"))


def check(parsed: Parsed, data: bytes) -> Parsed:
    """The counting law, and that every value of the columns is what `Columns` promises."""
    events = parsed.events
    n = len(events)
    assert parsed.lines == number_of_lines(data)
    assert parsed.lines == n + parsed.continued + parsed.unparsed + parsed.dropped.total()
    assert min(parsed.continued, parsed.unparsed, parsed.unparsed_bytes) >= 0
    assert len(events.level) == len(events.size) == n
    assert isinstance(events.service, str) or len(events.service) == n
    assert len(events.latency_us) in {0, n}
    assert len(events.endpoint) in {0, n}
    assert all(type(time_us) is int and -(2**63) <= time_us < 2**63 for time_us in events.time_us)
    assert all(isinstance(level, int) and level in range(len(Level)) for level in events.level)
    assert all(type(size) is int and size >= 0 for size in events.size)
    assert all(v is None or (type(v) is int and 0 <= v < 2**63) for v in events.latency_us)
    assert [one.row for one in events.notable] == [i for i in range(n) if events.level[i] >= Level.WARN]
    texts = [events.service] if isinstance(events.service, str) else [*events.service]
    texts += [endpoint for endpoint in events.endpoint if endpoint is not None]
    texts += [text for _, *rest in events.notable for text in rest]
    for text in texts:
        assert isinstance(text, str)
        text.encode()  # a lone surrogate would fail here, and later in every hash and on the wire
    assert len(parsed.examples) <= min(3, parsed.unparsed)
    assert all(len(example) <= 200 for example in parsed.examples)
    if n:
        builder = WindowBuilder("host-1")
        builder.add(events)
        assert sum(delta.events for delta in builder.take()) == n
    return parsed


def parse(parser: Parser, data: bytes) -> Parsed:
    return check(parser.parse(Block(data, RECEIPT)), data)


def joined(lines: Sequence[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


class Totals(NamedTuple):
    """What several blocks came to."""

    rows: list[Row]
    lines: int
    continued: int
    unparsed: int
    unparsed_bytes: int
    dropped: dict[str, int]
    mended: dict[str, int]


def totals(parsed: Sequence[Parsed]) -> Totals:
    dropped: dict[str, int] = {}
    mended: dict[str, int] = {}
    for one in parsed:
        for sums, counter in ((dropped, one.dropped), (mended, one.mended)):
            for reason, count in counter.items():
                sums[reason] = sums.get(reason, 0) + count
    return Totals(
        [row for one in parsed for row in rows_of(one)],
        sum(one.lines for one in parsed),
        sum(one.continued for one in parsed),
        sum(one.unparsed for one in parsed),
        sum(one.unparsed_bytes for one in parsed),
        dropped,
        mended,
    )


def in_one(name: str, lines: Sequence[bytes], sample: Sequence[bytes]) -> Totals:
    """All lines as one block."""
    return totals([parse(by_name(name, CONTEXT, sample), joined(lines))])


def each_alone(name: str, lines: Sequence[bytes], sample: Sequence[bytes]) -> Totals:
    """Each line by a parser that has seen no other line."""
    return totals([parse(by_name(name, CONTEXT, sample), line + b"\n") for line in lines])


def in_blocks(name: str, lines: Sequence[bytes], sample: Sequence[bytes], cuts: Sequence[int]) -> Totals:
    """By one parser, in blocks that end at the given line numbers."""
    parser = by_name(name, CONTEXT, sample)
    edges = [0, *sorted(min(cut, len(lines)) for cut in cuts), len(lines)]
    return totals(
        [parse(parser, joined(lines[a:b])) for a, b in pairwise(edges)],
    )


# ---- what lines are made of


def one_of(lines: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """`sampled_from`, without the lines in its name: some of them are long."""
    return st.integers(0, len(lines) - 1).map(lines.__getitem__)


instants = st.datetimes(datetime(1973, 3, 4), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
paths = st.sampled_from(["/", "/a", "/orders/17?x=1", "/übersicht", "", '/q?s="x"', "/a\\b"])
cuts = st.lists(st.integers(0, 30), max_size=6)


@st.composite
def iso_times(draw: st.DrawFn) -> str:
    when = draw(instants).replace(tzinfo=None)
    digits = draw(st.integers(0, 9))
    fraction = "" if not digits else draw(st.sampled_from(".,")) + f"{when.microsecond:06d}000"[:digits]
    zone = draw(st.sampled_from(["", "Z", "z", "+00:00", "-05:00", "+0530", "+02"]))
    return f"{when:%Y-%m-%d}{draw(st.sampled_from('T '))}{when:%H:%M:%S}{fraction}{zone}"


# ---- JSON lines: the names of the sample, and lines with more, fewer and other fields

JSON_SAMPLE = json.dumps(
    {
        "timestamp": "2026-03-02T10:15:03.123Z", "service": "checkout", "level": "INFO", "message": "paid",
        "latency_ms": 12.5, "endpoint": "/orders/17", "trace_id": "4bf92f3577b34da6", "span_id": "00f067aa",
    }
).encode()  # fmt: skip

_latencies = st.sampled_from([0, 1, 12, 0.0004, 0.0005, 0.0015, 0.0025, 43.21, 1e7, 4e12]) | st.floats(0, 1e9)
_levels = st.sampled_from(["INFO", "info", "Warn", "ERROR", "fatal", "debug", 30, 50])
_own = {
    "service": words | st.none(),
    "level": _levels,
    "message": words | st.none(),
    "latency_ms": _latencies | st.none(),
    "endpoint": paths | st.none(),
    "trace_id": words | st.none(),
    "span_id": words | st.none(),
}
# Names that play the same roles elsewhere, and names that play none.
_others = {
    "app": words, "msg": words, "path": paths, "duration_s": st.floats(0, 1e6), "severity": _levels,
    "traceId": words, "status": st.sampled_from([200, 404, 503, "500"]), "ts": iso_times(),
    "user": words, "tags": st.lists(words, max_size=3), "nested": st.fixed_dictionaries({"level": words}),
}  # fmt: skip


@st.composite
def json_objects(draw: st.DrawFn) -> dict[str, Any]:
    """An object that the parser takes without mending anything."""
    record = draw(st.fixed_dictionaries({"timestamp": iso_times()}, optional=_own | _others))
    return dict(draw(st.permutations(list(record.items()))))


@st.composite
def json_lines(draw: st.DrawFn) -> bytes:
    text = json.dumps(draw(json_objects()), ensure_ascii=draw(st.booleans()))
    return text.encode() + draw(st.sampled_from([b"", b"", b"\r", b" "]))


# ---- access logs

ACCESS_SAMPLE = (b'10.0.0.1 - - [02/Mar/2026:10:15:03 +0000] "GET /a HTTP/1.1" 200 123 "-" "curl/8.5.0" 0.043',)


@st.composite
def access_lines(draw: st.DrawFn) -> bytes:
    when = draw(instants)
    client = draw(st.sampled_from(["10.0.0.1", "2001:db8::7", "client.example"]))
    user = draw(st.sampled_from(["-", "mary", "mary ann"]))
    zone = draw(st.sampled_from(["+0000", "-0500", "+0530"]))
    request = draw(
        st.sampled_from(
            [
                "GET / HTTP/1.1", "POST /orders/17?x=1 HTTP/2.0", "-", "", "GET /", r"\x16\x03\x01",
                r"GET /\"q\" HTTP/1.1", "GET /a b HTTP/1.1", "GET /übersicht HTTP/1.0",
            ]
        )
    )  # fmt: skip
    status = draw(st.sampled_from([200, 204, 301, 404, 499, 500, 503]))
    size = draw(st.sampled_from(["-", "0", "203023"]))
    line = f'{client} - {user} [{when:%d/%b/%Y:%H:%M:%S} {zone}] "{request}" {status} {size}'
    if draw(st.booleans()):
        agent = draw(st.sampled_from(["-", "curl/8.5.0", "Mozilla/5.0 (X11; 2 4 6)", r"say \"hi\"", "end\\\\"]))
        line += f' "{draw(st.sampled_from(["-", "https://shop.example/cart"]))}" "{agent}"'
    line += draw(st.sampled_from(["", "", " 0.043", " 0.000", " 43210", " -", ' "10.1.1.1, 10.1.1.2"']))
    return line.encode() + draw(st.sampled_from([b"", b"", b"\r"]))


# ---- logfmt

LOGFMT_SAMPLE = b'ts=2026-03-02T10:15:03.123Z service=checkout level=info msg="paid" endpoint=/orders/17'


@st.composite
def logfmt_lines(draw: st.DrawFn) -> bytes:
    fields = [f"ts={draw(iso_times()).replace(' ', 'T')}", f"level={draw(st.sampled_from(['info', 'error']))}"]
    message = draw(st.sampled_from(["paid", 'said "no"', "a=b c=d", "ümlaut", ""]))
    fields.append('msg="{}"'.format(message.replace('"', '\\"')))
    fields += draw(
        st.lists(st.sampled_from(["service=cart", "app=web", "latency_ms=12.5", "endpoint=/a", "x="]), unique=True)
    )
    return " ".join(draw(st.permutations(fields))).encode()


# ---- plain text with stack traces

PLAIN_SAMPLE = (b"2026-03-02 10:15:03,123 INFO [main] shop.Cart: added 3 items",)

plain_lines = st.sampled_from(
    [
        b"2026-03-02 10:15:03,123 INFO [main] shop.Cart: added 3 items",
        b"2026-03-02 10:15:04,001 ERROR [main] shop.Cart: payment failed\r",
        b"java.lang.IllegalStateException: no such order",
        b"\tat shop.Cart.pay(Cart.java:42)",
        b"Caused by: java.net.ConnectException: refused",
        b"\t... 12 more",
        b"Traceback (most recent call last):",
        b'  File "/srv/app.py", line 7, in <module>',
        b"ValueError: took 12 ms",
        b"",
        b"   ",
        b"2026-13-02 10:15:03,123 INFO month 13",
        b"a\0b",
        b"\xff\xfe no UTF-8",
    ]
)


# ---- Docker's json-file, with partial lines


def wrapped(text: str, time: str = "2026-03-02T10:15:03.123456789Z", stream: str = "stdout") -> bytes:
    return json.dumps({"log": text, "stream": stream, "time": time}).encode()


@st.composite
def docker_lines(draw: st.DrawFn, texts: st.SearchStrategy[bytes]) -> list[bytes]:
    """A line of a container as its driver writes it: in one piece or in several."""
    text = draw(texts).decode("utf-8", "replace") + "\n"
    edges = sorted(draw(st.lists(st.integers(0, len(text) - 1), max_size=3)))
    pieces = [text[a:b] for a, b in zip([0, *edges], [*edges, len(text)], strict=True)]
    return [wrapped(piece, stream=draw(st.just("stdout"))) for piece in pieces]


# ---- bad lines, of every kind that was thought of

_GOOD = JSON_SAMPLE.decode()
BAD_JSON: dict[str, bytes] = {
    "truncated": JSON_SAMPLE[:-20],
    "array": b"[1, 2]",
    "string": b'"text"',
    "number": b"42",
    "null": b"null",
    "two on a line": JSON_SAMPLE + JSON_SAMPLE,
    "trailing text": JSON_SAMPLE + b" oops",
    "NUL within": JSON_SAMPLE.replace(b",", b"\0,"),
    "NUL after it": JSON_SAMPLE + b"\0",
    "pretty: opening": b"{",
    "pretty: field": b'"level": "INFO",',
    "pretty: closing": b"}",
    "pretty: begun": b'{"timestamp": "2026-03-02T10:15:03Z",',
    "pretty: ended": b'"level": "INFO"}',
    "pretty: value": b'{"nested": 1}}',
    "pretty: name": b'{"nested":',
    "deep": b'{"x": ' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    "plain text": b"Traceback (most recent call last):",
}
BLANK: tuple[bytes, ...] = (b"", b" ", b"\r", b"\t \r", b"\0" * 40, b"\0 \r")
MENDED_JSON: dict[str, tuple[bytes, str]] = {
    "latency NaN": (_GOOD.replace("12.5", "NaN").encode(), "bad_latency"),
    "latency infinite": (_GOOD.replace("12.5", "Infinity").encode(), "bad_latency"),
    "latency out of range": (_GOOD.replace("12.5", "1e999").encode(), "bad_latency"),
    "latency beyond 64 bits": (_GOOD.replace("12.5", "1e300").encode(), "bad_latency"),
    "latency negative": (_GOOD.replace("12.5", "-3").encode(), "bad_latency"),
    "latency barely negative": (_GOOD.replace("12.5", "-0.0004").encode(), "bad_latency"),
    "latency an object": (_GOOD.replace("12.5", '{"ms": 3}').encode(), "bad_latency"),
    "latency a word": (_GOOD.replace("12.5", '"fast"').encode(), "bad_latency"),
    "latency a truth": (_GOOD.replace("12.5", "true").encode(), "bad_latency"),
    "latency a huge integer": (_GOOD.replace("12.5", "9" * 400).encode(), "bad_latency"),
    "year 0": (_GOOD.replace("2026", "0000").encode(), "bad_time"),
    "month 13": (_GOOD.replace("-03-", "-13-").encode(), "bad_time"),
    "29 February 2026": (_GOOD.replace("-03-02", "-02-29").encode(), "bad_time"),
    "second 61": (_GOOD.replace(":03.", ":61.").encode(), "bad_time"),
    "second 99": (_GOOD.replace(":03.", ":99.").encode(), "bad_time"),
    "hour 24": (_GOOD.replace("T10", "T24").encode(), "bad_time"),
    "zone of 99 hours": (_GOOD.replace("123Z", "123+99:99").encode(), "bad_time"),
    "time empty": (_GOOD.replace("2026-03-02T10:15:03.123Z", "").encode(), "bad_time"),
    "time null": (_GOOD.replace('"2026-03-02T10:15:03.123Z"', "null").encode(), "bad_time"),
    "time an array": (_GOOD.replace('"2026-03-02T10:15:03.123Z"', "[2026]").encode(), "bad_time"),
    "time a small number": (_GOOD.replace('"2026-03-02T10:15:03.123Z"', "7").encode(), "bad_time"),
    "time a huge number": (_GOOD.replace('"2026-03-02T10:15:03.123Z"', "9" * 30).encode(), "bad_time"),
    "time a superscript": (_GOOD.replace("2026-03-02T10:15:03.123Z", "²").encode(), "bad_time"),
}
ODD_JSON: dict[str, bytes] = {
    "year 1": _GOOD.replace("2026", "0001").encode(),
    "year 1, before it in UTC": _GOOD.replace("2026-03-02T10:15:03.123Z", "0001-01-01T00:00:00+14:00").encode(),
    "year 9999": _GOOD.replace("2026", "9999").encode(),
    "year 9999, after it in UTC": _GOOD.replace("2026-03-02T10:15:03.123Z", "9999-12-31T23:59:60-14:00").encode(),
    "service of 10 kB": _GOOD.replace("checkout", "x" * 10_000).encode(),
    "service null": _GOOD.replace('"checkout"', "null").encode(),
    "service an object": _GOOD.replace('"checkout"', '{"id": 7}').encode(),
    "service a number": _GOOD.replace('"checkout"', "7").encode(),
    "service a lone surrogate": _GOOD.replace("checkout", r"\ud800").encode(),
    "message a lone surrogate": _GOOD.replace("paid", r"\udfff").replace("INFO", "ERROR").encode(),
    "endpoint a lone surrogate": _GOOD.replace("/orders", r"\ud800").encode(),
    "trace a lone surrogate": _GOOD.replace("4bf9", r"\ud800").replace("INFO", "ERROR").encode(),
    "level a lone surrogate": _GOOD.replace("INFO", r"\ud800").encode(),
    "message null": _GOOD.replace('"paid"', "null").replace("INFO", "ERROR").encode(),
    "message an object": _GOOD.replace('"paid"', '{"a": [1, null]}').replace("INFO", "ERROR").encode(),
    "message deep": _GOOD.replace('"paid"', "[" * 600 + "]" * 600).replace("INFO", "ERROR").encode(),
    "endpoint a number": _GOOD.replace('"/orders/17"', "17").encode(),
    "level unknown": _GOOD.replace("INFO", "loud").encode(),
    "level a superscript": _GOOD.replace("INFO", "²").encode(),
    "level of 5,000 digits": _GOOD.replace("INFO", "1" * 5_000).encode(),
    "level a huge number": _GOOD.replace('"INFO"', "9" * 100).encode(),
    "level true": _GOOD.replace('"INFO"', "true").encode(),
    "level an object": _GOOD.replace('"INFO"', '{"name": "INFO"}').encode(),
    "level null": _GOOD.replace('"INFO"', "null").encode(),
    "status a superscript": _GOOD.replace('"level": "INFO"', '"status": "²²²"').encode(),
    "status of 5,000 digits": _GOOD.replace('"level": "INFO"', f'"status": "{"5" * 5_000}"').encode(),
    "status a huge number": _GOOD.replace('"level": "INFO"', '"status": 500500500').encode(),
    "invalid UTF-8": JSON_SAMPLE.replace(b"paid", b"\xff\xfe").replace(b"INFO", b"ERROR"),
    "invalid UTF-8 in a name": JSON_SAMPLE.replace(b'"span_id"', b'"\xff"'),
    "control characters": JSON_SAMPLE.replace(b"paid", b"a\tb\x01"),
    "empty object": b"{}",
}
BAD_ACCESS: dict[str, bytes] = {
    "no size": b'10.0.0.1 - - [02/Mar/2026:10:15:03 +0000] "GET /a HTTP/1.1" 200',
    "no host": b'[02/Mar/2026:10:15:03 +0000] "GET /a HTTP/1.1" 200 5',
    "other brackets": b'10.0.0.1 - - (02/Mar/2026:10:15:03 +0000) "GET /a HTTP/1.1" 200 5 "-" "-"',
    "no such day": b'10.0.0.1 - - [31/Feb/2026:10:15:03 +0000] "GET /a HTTP/1.1" 200 5 "-" "-"',
    "no such month": b'10.0.0.1 - - [02/Mrz/2026:10:15:03 +0000] "GET /a HTTP/1.1" 200 5 "-" "-"',
    "no such hour": b'10.0.0.1 - - [02/Mar/2026:25:15:03 +0000] "GET /a HTTP/1.1" 200 5 "-" "-"',
    "hyphens in the time": b'10.0.0.1 - - [02-Mar-2026:10:15:03 +0000] "GET /a HTTP/1.1" 200 5 "-" "-"',
    "a word for the status": b'10.0.0.1 - - [02/Mar/2026:10:15:03 +0000] "GET /a HTTP/1.1" abc 5 "-" "-"',
    "four digits": b'10.0.0.1 - - [02/Mar/2026:10:15:03 +0000] "GET /a HTTP/1.1" 2000 5 "-" "-"',
    "superscripts": '10.0.0.1 - - [02/Mar/2026:10:15:03 +0000] "GET /a HTTP/1.1" ²²² 5 "-" "-"'.encode(),
    "other digits": '10.0.0.1 - - [02/Mar/2026:10:15:03 +0000] "GET /a HTTP/1.1" ٢٠٠ 5 "-" "-"'.encode(),
    "plain text": b"nginx: worker process 31 exited",
    "NUL bytes": b"a" + b"\0" * 40,
    "truncated": b'10.0.0.1 - - [02/Mar/2026:10:15:03 +0000] "GET /a HT',
}
ODD_ACCESS: dict[str, bytes] = {
    "a huge request time": ACCESS_SAMPLE[0][:-5] + b"9" * 400 + b".0",
    "a huge integer": ACCESS_SAMPLE[0][:-5] + b"9" * 5_000,
    "beyond 64 bits": ACCESS_SAMPLE[0][:-5] + b"9" * 30,
    "a superscript": ACCESS_SAMPLE[0][:-5] + "²".encode(),
    "agent not closed": b'10.0.0.1 - - [02/Mar/2026:10:15:03 +0000] "GET /a HTTP/1.1" 200 5 "-" "Mozilla 5 (X 10',
    "a time between": b'10.0.0.1 - - [02/Mar/2026:10:15:03 +0000] "GET /a HTTP/1.1" 200 5 "-" 0.1 "curl"',
    "more quoted fields": ACCESS_SAMPLE[0] + b' "10.1.1.1" "-"',
    "escaped backslash": b'10.0.0.1 - - [02/Mar/2026:10:15:03 +0000] "GET /a HTTP/1.1" 200 5 "r\\\\" "a\\\\" "x"',
    "NUL in the request": b'10.0.0.1 - - [02/Mar/2026:10:15:03 +0000] "GET /\0\0 HTTP/1.1" 404 5 "\\"" "-"',
    "invalid UTF-8": b'10.0.0.1 - - [02/Mar/2026:10:15:03 +0000] "GET /\xff HTTP/1.1" 500 5 "\xe2\x82" "\xff"',
    "leap second": b'10.0.0.1 - - [31/Dec/2016:23:59:60 +0000] "GET /a HTTP/1.1" 200 5 "-" "-"',
    "year 1": b'10.0.0.1 - - [01/Jan/0001:00:00:00 +1400] "GET /a HTTP/1.1" 200 5 "-" "-"',
    "status 000": b'10.0.0.1 - - [02/Mar/2026:10:15:03 +0000] "GET /a HTTP/1.1" 000 0 "-" "-"',
    "status 999": b'10.0.0.1 - - [02/Mar/2026:10:15:03 +0000] "GET /a HTTP/1.1" 999 0 "-" "-"',
}
