"""OTLP over HTTP: what is taken is on the bus before the answer; errors say by their status whether to send again."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import zlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from structlog.testing import capture_logs

from helios_collector.admission import Admission
from helios_collector.body import MAX_PLAIN_BYTES, Gate, plain
from helios_collector.ingest import ServiceNames
from helios_collector.otlp.http import PATHS, OtlpHttp
from helios_collector.otlp.receiver import Receiver
from helios_collector.telemetry import Telemetry
from helios_core import wire
from helios_core.bus.base import MAX_RECORD_BYTES, Received, Record, Topic
from helios_core.bus.memory import MemoryBus
from helios_core.clock import EventClock
from helios_core.errors import BusUnavailable
from helios_core.exposed import Exposed, scraped
from helios_core.keys import Grant, Keys, Scope, hash_of
from helios_core.model import OVERFLOW_SERVICE, Event, Level, MetricSample, Signal
from helios_core.routes import Routes

NOW_US = 1_772_409_600_000_000
NOW_NS = NOW_US * 1_000
LOGS, TRACES, METRICS = PATHS
PROTOBUF, JSON = "application/x-protobuf", "application/json"
MIB = 1024 * 1024


class Bus(MemoryBus):
    """A bus that can be away, and that can be waited for."""

    fault: Exception | None = None

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.go.set()

    async def publish(self, records: Sequence[Record]) -> None:
        await self.go.wait()
        if self.fault is not None:
            raise self.fault
        await super().publish(records)


class Site:
    """The application with its bus."""

    def __init__(self, keys: Keys | None = None, names: ServiceNames | None = None) -> None:
        self.bus = Bus()
        self.gate = Gate()
        keys = keys or Keys(None)
        telemetry = Telemetry()
        self.now_s = 0.0
        admission = Admission(self.bus, now_s=lambda: self.now_s)
        receiver = Receiver(admission, EventClock(NOW_US), names or ServiceNames(), telemetry)
        app = Routes()
        for path in PATHS:
            app.mount(path, OtlpHttp(receiver, admission, keys, self.gate, telemetry))
        app.mount("/metrics", Exposed(Keys(None), scraped(telemetry.registry)))
        app.settle()
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")

    async def post(self, body: Any, path: str = LOGS, form: str = PROTOBUF, **headers: str) -> httpx.Response:
        """A message in the form, JSON, or bytes as they are."""
        if isinstance(body, dict):
            body, form = json.dumps(body).encode(), JSON
        content = body if isinstance(body, bytes) else body.SerializeToString()
        more = {name.replace("_", "-"): text for name, text in headers.items()}
        return await self.client.post(path, content=content, headers={"content-type": form, **more})

    async def records(self, topic: Topic) -> list[Received]:
        consumer = await self.bus.subscribe("test", [topic])
        return await consumer.poll(max_records=1_000_000, timeout_s=0)

    async def events(self) -> list[Event]:
        return [e for r in await self.records(Topic.EVENTS) for e in wire.record_from_bytes(r.value).events]

    async def samples(self) -> list[MetricSample]:
        return [m for r in await self.records(Topic.METRICS) for m in wire.metric_record_from_bytes(r.value).metrics]

    async def counted(self) -> dict[str, float]:
        lines = (await self.client.get("/metrics")).text.splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(number) for name, number in pairs}


def logs(*messages: str, service: str = "shop") -> ExportLogsServiceRequest:
    request = ExportLogsServiceRequest()
    add_logs(request, *messages, service=service)
    return request


def add_logs(request: ExportLogsServiceRequest, *messages: str, service: str = "shop") -> None:
    found = request.resource_logs.add()
    found.resource.attributes.add(key="service.name").value.string_value = service
    scope = found.scope_logs.add()
    for message in messages:
        scope.log_records.add(time_unix_nano=NOW_NS).body.string_value = message


def points(count: int, service: str = "shop") -> ExportMetricsServiceRequest:
    request = ExportMetricsServiceRequest()
    found = request.resource_metrics.add()
    found.resource.attributes.add(key="service.name").value.string_value = service
    metric = found.scope_metrics.add().metrics.add(name="orders")
    for number in range(count):
        point = metric.gauge.data_points.add(time_unix_nano=NOW_NS, as_int=number)
        point.attributes.add(key="path").value.string_value = f"/a/rather/long/path/to/make/it/large/{number}"
    return request


def message_of(answer: httpx.Response) -> str:
    """What the google.rpc.Status says, which is in the encoding of the answer."""
    if answer.headers["content-type"] == JSON:
        found: dict[str, str] = answer.json()
        assert set(found) <= {"code", "message", "details"}
        return found["message"]
    assert answer.headers["content-type"] == PROTOBUF
    return Status.FromString(answer.content).message


# --- success ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "request_", "response"),
    [
        (LOGS, ExportLogsServiceRequest, ExportLogsServiceResponse),
        (TRACES, ExportTraceServiceRequest, ExportTraceServiceResponse),
        (METRICS, ExportMetricsServiceRequest, ExportMetricsServiceResponse),
    ],
)
async def test_an_empty_request_succeeds(path: str, request_: Any, response: Any) -> None:
    site = Site()
    answer = await site.post(request_(), path)
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, b"", PROTOBUF)
    assert not response.FromString(answer.content).HasField("partial_success")
    for body in ({}, {path.removeprefix("/v1/"): []}):
        answer = await site.post(body, path)
        assert (answer.status_code, answer.json(), answer.headers["content-type"]) == (200, {}, JSON)
    for encoding in ("gzip", "identity"):
        packed = gzip.compress(b"") if encoding == "gzip" else b""
        assert (await site.post(packed, path, content_encoding=encoding)).status_code == 200
    assert await site.events() == []
    assert await site.records(Topic.DEAD_LETTER) == []


@pytest.mark.parametrize("form", [PROTOBUF, f"{PROTOBUF}; charset=utf-8", "Application/X-Protobuf"])
@pytest.mark.parametrize("packed", [False, True])
async def test_full_success_has_no_partial_success(form: str, packed: bool) -> None:
    site = Site()
    body = logs("a", "b").SerializeToString()
    headers = {"content_encoding": "GZIP"} if packed else {}
    answer = await site.post(gzip.compress(body) if packed else body, form=form, **headers)
    assert (answer.status_code, answer.content) == (200, b"")
    assert [(event.service, event.message) for event in await site.events()] == [("shop", "a"), ("shop", "b")]


async def test_the_answer_comes_when_it_is_on_the_bus() -> None:
    site = Site()
    site.bus.go.clear()
    asking = asyncio.create_task(site.post(logs("a")))
    await asyncio.sleep(0.1)
    assert not asking.done()
    site.bus.go.set()
    assert (await asking).status_code == 200
    assert len(await site.events()) == 1


@pytest.mark.parametrize("form", [PROTOBUF, JSON])
async def test_what_can_never_be_taken_is_a_partial_success_and_in_the_dead_letter(form: str) -> None:
    site = Site()
    request = logs("good", "good")
    add_logs(request, "bad", "bad", service="x" * 257)
    add_logs(request, "bad", service="a\nb")
    add_logs(request, "good", service="users")
    if form == JSON:
        scopes = [
            (g.resource.attributes[0].value.string_value, g.scope_logs[0].log_records) for g in request.resource_logs
        ]
        body: Any = {
            "resourceLogs": [
                {
                    "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]},
                    "scopeLogs": [{"logRecords": [{"body": {"stringValue": r.body.string_value}} for r in records]}],
                }
                for service, records in scopes
            ]
        }
    else:
        body = request
    answer = await site.post(body)
    assert answer.status_code == 200
    if form == JSON:
        partial = answer.json()["partialSuccess"]
        rejected, said = int(partial["rejectedLogRecords"]), partial["errorMessage"]
    else:
        response = ExportLogsServiceResponse.FromString(answer.content).partial_success
        rejected, said = response.rejected_log_records, response.error_message
    assert rejected == 3
    assert "service name of 257 bytes" in said
    assert "cannot be printed" in said
    assert [event.message for event in await site.events()] == ["good"] * 3
    dead = await site.records(Topic.DEAD_LETTER)
    assert [record.headers["kind"] for record in dead] == ["otlp logs"] * 3
    assert all(b"bad" in record.value for record in dead)
    counted = await site.counted()
    assert counted['helios_otlp_accepted_total{kind="logs"}'] == 3
    assert counted['helios_otlp_rejected_total{kind="logs"}'] == 3


async def test_rejected_spans_and_points_are_counted_in_their_own_fields() -> None:
    site = Site()
    traces = ExportTraceServiceRequest()
    found = traces.resource_spans.add()
    found.resource.attributes.add(key="service.name").value.string_value = "a\0b"
    found.scope_spans.add().spans.add(name="root")
    found.scope_spans.add().spans.add(name="inner", parent_span_id=b"\1" * 8)
    answer = await site.post(traces, TRACES)
    assert ExportTraceServiceResponse.FromString(answer.content).partial_success.rejected_spans == 1
    answer = await site.post(points(5, "a\0b"), METRICS)
    assert ExportMetricsServiceResponse.FromString(answer.content).partial_success.rejected_data_points == 5
    counted = await site.counted()
    assert counted["helios_otlp_spans_passed_over_total"] == 1
    assert counted['helios_otlp_rejected_total{kind="traces"}'] == 1
    assert counted['helios_otlp_rejected_total{kind="metrics"}'] == 5


async def test_a_span_inside_a_service_is_no_partial_success() -> None:
    site = Site()
    traces = ExportTraceServiceRequest()
    traces.resource_spans.add().scope_spans.add().spans.add(name="inner", parent_span_id=b"\1" * 8)
    answer = await site.post(traces, TRACES)
    assert (answer.status_code, answer.content) == (200, b"")
    assert await site.events() == []


# --- JSON ------------------------------------------------------------------------------------------


def of_service(**more: Any) -> dict[str, Any]:
    attributes = [{"key": "service.name", "value": {"stringValue": "my.service"}}]
    return {"resource": {"attributes": attributes, "somethingNew": {"a": [1]}}, **more}


SCOPE = {"name": "my.library", "version": "1.0.0", "attributes": [{"key": "a", "value": {"stringValue": "b"}}]}


@pytest.mark.parametrize("number", [int, str])
async def test_a_log_record_in_json(number: Any) -> None:
    """Ids in hexadecimal of either case, integers as numbers or texts, unknown fields passed over."""
    attributes = {
        "text": {"stringValue": "some"},
        "truth": {"boolValue": True},
        "int": {"intValue": number(10)},
        "double": {"doubleValue": 637.704},
        "array": {"arrayValue": {"values": [{"stringValue": "many"}, {"stringValue": "values"}]}},
        "map": {"kvlistValue": {"values": [{"key": "traceId", "value": {"stringValue": "no hex"}}]}},
        "bytes": {"bytesValue": "AAH/"},
    }
    record = {
        "timeUnixNano": number(NOW_NS),
        "observedTimeUnixNano": number(NOW_NS),
        "severityNumber": 10,
        "severityText": "Information",
        "traceId": "5B8EFFF798038103D269B633813FC60C",
        "spanId": "eee19b7ec3c1b174",
        "flags": 1,
        "body": {"stringValue": "Example"},
        "attributes": [{"key": key, "value": value} for key, value in attributes.items()],
        "aFieldOfTomorrow": {"x": 1},
    }
    site = Site()
    answer = await site.post(
        {"resourceLogs": [of_service(scopeLogs=[{"scope": SCOPE, "logRecords": [record]}])], "x": 1}
    )
    assert (answer.status_code, answer.json()) == (200, {})
    assert await site.events() == [
        Event(
            time_us=NOW_US,
            service="my.service",
            level=Level.INFO,
            message="Example",
            trace_id="5b8efff798038103d269b633813fc60c",
            span_id="eee19b7ec3c1b174",
            attributes={
                "text": "some",
                "truth": True,
                "int": 10,
                "double": 637.704,
                "array": ["many", "values"],
                "map": {"traceId": "no hex"},
                "bytes": "0001ff",
            },
        )
    ]


async def test_spans_in_json() -> None:
    server = {
        "traceId": "5B8EFFF798038103D269B633813FC60C",
        "spanId": "EEE19B7EC3C1B174",
        "parentSpanId": "EEE19B7EC3C1B173",
        "name": "a server span",
        "startTimeUnixNano": str(NOW_NS - 1_000_000_000),
        "endTimeUnixNano": NOW_NS,
        "kind": 2,
        "status": {"code": 2, "message": "no stock"},
        "links": [{"traceId": "5B8EFFF798038103D269B633813FC60C", "spanId": "EEE19B7EC3C1B170"}],
    }
    inner = {**server, "kind": 1}
    root = {**inner, "parentSpanId": "", "status": {}}
    site = Site()
    answer = await site.post({"resourceSpans": [of_service(scopeSpans=[{"spans": [server, inner, root]}])]}, TRACES)
    assert (answer.status_code, answer.json()) == (200, {})
    first, second = await site.events()
    assert (first.level, first.message, first.latency_us) == (Level.ERROR, "a server span: no stock", 1_000_000)
    assert (first.signal, first.trace_id) == (Signal.SPAN, "5b8efff798038103d269b633813fc60c")
    assert (second.level, second.span_id) == (Level.INFO, "eee19b7ec3c1b174")


async def test_metrics_in_json() -> None:
    at = {"timeUnixNano": NOW_NS, "startTimeUnixNano": str(NOW_NS)}
    found = [
        {"name": "c", "sum": {"aggregationTemporality": 1, "isMonotonic": True, "dataPoints": [{"asDouble": 5, **at}]}},
        {"name": "g", "gauge": {"dataPoints": [{"asInt": "10", **at}, {"asInt": 11, **at}, {"asDouble": "NaN", **at}]}},
        {
            "name": "h",
            "histogram": {
                "aggregationTemporality": 1,
                "dataPoints": [
                    {"count": "3", "sum": 3, "bucketCounts": ["1", 2], "explicitBounds": [1], "min": 1, "max": 1, **at}
                ],
            },
        },
        {"name": "e", "exponentialHistogram": {"dataPoints": [{"count": 2, "scale": 1, "zeroCount": "2", **at}]}},
    ]
    site = Site()
    answer = await site.post(
        {"resourceMetrics": [of_service(scopeMetrics=[{"scope": SCOPE, "metrics": found}])]}, METRICS
    )
    assert answer.json()["partialSuccess"]["rejectedDataPoints"] == "1"
    assert [(sample.name, sample.value) for sample in await site.samples()] == [
        ("c", 5),
        ("g", 10),
        ("g", 11),
        ("h.count", 3),
        ("h.sum", 3),
        ("h.min", 1),
        ("h.max", 1),
        ("e.count", 2),
    ]


def nested(depth: int) -> bytes:
    return b'{"resourceLogs":' + b"[" * depth + b"]" * depth + b"}"


def record_of(**fields: Any) -> dict[str, Any]:
    return {"resourceLogs": [{"scopeLogs": [{"logRecords": [fields]}]}]}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{broken",
        b"\xff\xfe{}",
        b"5",
        b"null",
        b"[]",
        b'"text"',
        b'[{"resourceLogs":[]}]',
        b'{"resourceLogs":{}}',
        b'{"resourceLogs":[5]}',
        b'{"resourceLogs":"\\ud800"}',
        b'{"resourceLogs":"' + b"x" * 100_000 + b'"}',
        b'{"a":' + b"1" * 5_000 + b"}",
        nested(500),
        nested(200_000),
        b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"severityNumber":1e400}]}]}]}',
        record_of(timeUnixNano=1.5),
        record_of(timeUnixNano=-1),
        record_of(timeUnixNano=2**64),
        record_of(timeUnixNano={}),
        record_of(traceId="xyz"),
        record_of(traceId="abc"),
        record_of(traceId=5),
        record_of(body={"stringValue": "a", "intValue": 1}),
        record_of(body={"stringValue": 5}),
        record_of(body={"bytesValue": "a"}),
    ],
    ids=lambda body: str(body)[:60],
)
async def test_json_that_is_no_request(body: Any) -> None:
    site = Site()
    answer = await site.post(body, form=JSON)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == JSON
    assert 0 < len(message_of(answer)) < 1_000
    assert await site.events() == []


NAMES = re.findall(
    r"\w+",
    """resourceLogs resourceSpans resourceMetrics resource attributes key value stringValue intValue doubleValue
    arrayValue kvlistValue values scopeLogs scopeSpans scopeMetrics logRecords spans metrics timeUnixNano severityNumber
    body traceId spanId parentSpanId kind status code flags name gauge sum histogram summary dataPoints asInt asDouble
    count quantileValues quantile startTimeUnixNano endTimeUnixNano unknown""",
)
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["1", "ab", "NaN"])
)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)
)


def wrapped(inner: Any, path: Sequence[str]) -> Any:
    """As far down as the names go: chance alone never gets deep."""
    for name in reversed(path):
        inner = {name: [inner] if name.startswith(("resource", "scope")) or name[-1] == "s" else inner}
    return inner


@given(
    TREES,
    st.sampled_from(
        [
            ("resourceLogs", "scopeLogs", "logRecords"),
            ("resourceLogs", "scopeLogs", "logRecords", "body"),
            ("resourceSpans", "scopeSpans", "spans"),
            ("resourceMetrics", "scopeMetrics", "metrics"),
            ("resourceMetrics", "scopeMetrics", "metrics", "gauge", "dataPoints"),
            ("resourceMetrics", "scopeMetrics", "metrics", "summary", "dataPoints"),
        ]
    ),
    st.integers(0, 5),
)
def test_no_json_is_a_fault_of_ours(tree: Any, path: Sequence[str], depth: int) -> None:
    body = json.dumps(wrapped(tree, path[:depth])).encode()
    target = {"resourceLogs": LOGS, "resourceSpans": TRACES, "resourceMetrics": METRICS}[path[0]]
    assert asyncio.run(Site().post(body, target, JSON)).status_code in (200, 400)


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4), st.integers(0, 10_000))
def test_no_bytes_are_a_fault_of_ours(changes: Sequence[tuple[int, int]], end: int) -> None:
    whole = bytearray(logs("a", "b").SerializeToString() + points(3).SerializeToString())
    for at, byte in changes:
        whole[at % len(whole)] = byte
    for path in PATHS:
        assert asyncio.run(Site().post(bytes(whole[: end or None]), path)).status_code in (200, 400)


# --- what cannot be used ---------------------------------------------------------------------------

GOOD = logs("a").SerializeToString()
SPAN = {"name": "a", "kind": "SPAN_KIND_SERVER", "start_time_unix_nano": NOW_NS}
SOMETHING: dict[str, Message] = {
    "/v1/logs": logs("a"),
    "/v1/metrics": points(1),
    "/v1/traces": ExportTraceServiceRequest(resource_spans=[{"scope_spans": [{"spans": [SPAN]}]}]),
}


def in_json(request: Message) -> bytes:
    return json_format.MessageToJson(request).encode()


@pytest.mark.parametrize(
    ("body", "headers", "status", "said"),
    [
        (b"\xff\xff\xff", {}, 400, "no request for logs"),
        (GOOD[:-1], {}, 400, "no request for logs"),
        (GOOD.replace(b"shop", b"\xff\xff\xff\xff"), {}, 400, "no request for logs"),
        (GOOD, {"content_encoding": "gzip"}, 400, "damaged"),
        (b"", {"content_encoding": "gzip"}, 400, "empty"),
        (gzip.compress(GOOD)[:-9], {"content_encoding": "gzip"}, 400, "ends too early"),
        (gzip.compress(GOOD)[:-1], {"content_encoding": "gzip"}, 400, "ends too early"),
        (gzip.compress(GOOD)[:5], {"content_encoding": "gzip"}, 400, "ends too early"),
        (gzip.compress(GOOD)[:-8] + bytes(4) + gzip.compress(GOOD)[-4:], {"content_encoding": "gzip"}, 400, "damaged"),
        (gzip.compress(GOOD) + b"garbage", {"content_encoding": "gzip"}, 400, "damaged"),
        (zlib.compress(GOOD), {"content_encoding": "gzip"}, 400, "damaged"),
        (zlib.compress(GOOD), {"content_encoding": "deflate"}, 415, "gzip or none"),
        (b"x" * (10 * MIB + 1), {}, 413, f"at most {10 * MIB}"),
    ],
    ids=[
        "bytes",
        "cut",
        "utf-8",
        "no gzip",
        "nothing",
        "cut",
        "last",
        "head",
        "crc",
        "more",
        "zlib",
        "deflate",
        "10 MiB",
    ],
)
async def test_a_body_that_cannot_be_used(body: bytes, headers: dict[str, str], status: int, said: str) -> None:
    site = Site()
    answer = await site.post(body, **headers)
    assert answer.status_code == status
    assert said in message_of(answer)
    assert await site.events() == []


async def test_a_gzip_bomb_and_what_is_just_too_much() -> None:
    site = Site()
    for size in (41 * MIB, 100 * MIB):
        pack = zlib.compressobj(9, wbits=31)
        bomb = b"".join(pack.compress(bytes(MIB)) for _ in range(size // MIB)) + pack.flush()
        assert len(bomb) < MIB
        answer = await site.post(bomb, content_encoding="gzip")
        assert answer.status_code == 413
        assert "unpacks to more than" in message_of(answer)


def test_the_limit_of_what_is_unpacked_is_exact() -> None:
    whole = bytes(MAX_PLAIN_BYTES)
    assert len(plain(gzip.compress(whole, 1), "gzip")) == MAX_PLAIN_BYTES
    with pytest.raises(Exception, match="unpacks to more than") as caught:
        plain(gzip.compress(whole + b"\0", 1), "gzip")
    assert getattr(caught.value, "status", None) == 413
    with pytest.raises(Exception, match="unpacks to more than"):
        plain(gzip.compress(whole, 1) + gzip.compress(b"\0"), "gzip")


async def test_a_gzip_body_of_several_parts_is_read_to_its_end() -> None:
    """A stream of gzip may have several members (RFC 1952); a message may be cut between any two bytes."""
    site = Site()
    body = logs("a", "b").SerializeToString() + logs("c").SerializeToString()
    packed = b"".join(gzip.compress(body[at : at + 20]) for at in range(0, len(body), 20))
    assert (await site.post(packed, content_encoding="gzip")).status_code == 200
    assert [event.message for event in await site.events()] == ["a", "b", "c"]


async def test_a_large_body_without_content_length() -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield bytes(MIB)

    answer = await Site().client.post(LOGS, content=parts(), headers={"content-type": PROTOBUF})
    assert answer.status_code == 413


@pytest.mark.parametrize("form", ["", "text/plain", "application/x-ndjson", "application/protobuf", "json"])
async def test_another_content_type(form: str) -> None:
    answer = await Site().post(GOOD, form=form)
    assert answer.status_code == 415
    assert JSON in message_of(answer)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "PATCH"])
@pytest.mark.parametrize("path", PATHS)
async def test_another_method(method: str, path: str) -> None:
    answer = await Site().client.request(method, path, headers={"content-type": JSON})
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert "POST" in message_of(answer)


async def test_other_paths() -> None:
    site = Site()
    assert (await site.post(GOOD, "/v1/logs/")).status_code == 200
    answer = await site.post(GOOD, "/v1/logs/more")
    assert answer.status_code == 404
    assert "/v1/traces" in message_of(answer)
    assert (await site.post(GOOD, "/v1/profiles")).status_code == 404


# --- who may -----------------------------------------------------------------------------------------

KEYS = Keys({hash_of("in"): Grant(frozenset({Scope.INGEST})), hash_of("see"): Grant(frozenset({Scope.METRICS}))})


@pytest.mark.parametrize("form", [PROTOBUF, JSON])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "Basic aW46aW4="}, 401),
        ({"x_api_key": "wrong"}, 401),
        ({"authorization": "Bearer see"}, 403),
        ({"authorization": "Bearer in"}, 200),
        ({"x_api_key": "in"}, 200),
        ({"x_api_key": "in", "origin": "https://site.example"}, 200),
    ],
    ids=str,
)
async def test_keys(headers: dict[str, str], status: int, form: str) -> None:
    site = Site(KEYS)
    answer = await site.post(b"{}" if form == JSON else GOOD, form=form, **headers)
    assert answer.status_code == status
    if status != 200:
        assert "key" in message_of(answer)
        assert ("www-authenticate" in answer.headers) == (status == 401)
        assert await site.events() == []


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"host": "evil.example"},
        {"host": "localhost.evil.example"},
    ],
    ids=str,
)
async def test_without_keys_only_this_machine_is_answered(headers: dict[str, str]) -> None:
    site = Site()
    answer = await site.post(GOOD, **headers)
    assert answer.status_code == 403
    assert "localhost" in message_of(answer)
    assert await site.events() == []
    assert (await site.post(GOOD, origin="http://localhost:3000")).status_code == 200


# --- what is to be sent again --------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
async def test_a_bus_that_is_away(path: str) -> None:
    site = Site()
    site.bus.fault = BusUnavailable("the topic is full")
    for form, body in ((PROTOBUF, SOMETHING[path].SerializeToString()), (JSON, in_json(SOMETHING[path]))):
        answer = await site.post(body, path, form)
        assert (answer.status_code, answer.headers["content-type"]) == (503, form)
        assert answer.headers["retry-after"] in ("1", "2", "3")
        assert message_of(answer) == "the topic is full"
        site.now_s += 60
    site.bus.fault = None
    assert (await site.post(b"", path)).status_code == 200
    assert (await site.counted())[f'helios_http_requests_total{{path="{path}",status="503"}}'] == 2


@pytest.mark.parametrize("form", [PROTOBUF, JSON])
async def test_an_error_that_nobody_expected_is_to_be_sent_again(form: str) -> None:
    """For 500 senders drop their data."""
    site = Site()
    site.bus.fault = KeyError("a fault of ours")
    with capture_logs() as said:
        answer = await site.post(in_json(logs("a")) if form == JSON else GOOD, form=form)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "KeyError" in message_of(answer)
    assert "a fault of ours" not in answer.text
    assert [(one["event"], one["log_level"]) for one in said] == [("request_failed", "error")]
    counted = await site.counted()
    assert counted["helios_request_faults_total"] == 1
    assert counted.get('helios_otlp_accepted_total{kind="logs"}', 0) == 0


async def test_stopping() -> None:
    """What is on its way is waited for and answered; what comes later is to be sent again."""
    site = Site()
    site.bus.go.clear()
    asking = asyncio.create_task(site.post(logs("a")))
    await asyncio.sleep(0.1)
    closing = asyncio.create_task(site.gate.close())
    await asyncio.sleep(0.1)
    assert not closing.done()
    late = await site.post(logs("b"))
    assert (late.status_code, late.headers["retry-after"]) == (503, "1")
    assert "stopping" in message_of(late)
    site.bus.go.set()
    await asyncio.wait_for(closing, 5)
    assert [event.message for event in await site.events()] == ["a"]
    assert (await asking).status_code == 200


# --- bounds ----------------------------------------------------------------------------------------------


async def test_many_points_stand_in_records_that_the_bus_takes() -> None:
    site = Site()
    request = points(10_000)
    assert (await site.post(request, METRICS)).content == b""
    records = await site.records(Topic.METRICS)
    assert len(records) > 1
    assert all(len(record.value) <= MAX_RECORD_BYTES and record.key == "shop" for record in records)
    assert [sample.value for sample in await site.samples()] == list(range(10_000))
    assert (await site.counted())['helios_otlp_accepted_total{kind="metrics"}'] == 10_000


async def test_many_large_logs_stand_in_records_that_the_bus_takes() -> None:
    site = Site()
    request = logs(*(f"{number} {'x' * 100_000}" for number in range(50)))
    assert (await site.post(request)).status_code == 200
    assert [int(event.message.split()[0]) for event in await site.events()] == list(range(50))


async def test_services_beyond_the_bounds_are_counted_as_one() -> None:
    site = Site(names=ServiceNames(limit=3, client_limit=2))
    request = logs("m", service="a")
    for name in ("b", "c", "d", "a"):
        add_logs(request, "m", service=name)
    assert (await site.post(request)).content == b""
    kept = ["a", "a", "b", OVERFLOW_SERVICE, OVERFLOW_SERVICE]
    assert sorted(event.service for event in await site.events()) == sorted(kept)
    for name in ("b", "c"):
        await site.post(points(1, name), METRICS)
    records = await site.records(Topic.METRICS)
    assert [record.key for record in records] == ["b", OVERFLOW_SERVICE]
    assert [sample.service for sample in await site.samples()] == ["b", OVERFLOW_SERVICE]


async def test_a_large_request_does_not_hold_up_the_others() -> None:
    """The others are answered while it is read."""
    site = Site()
    record = {"body": {"stringValue": "x"}, "attributes": [{"key": "a", "value": {"intValue": 1}}] * 5}
    body = json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": [record] * 3_000}]}]}).encode()
    asking = asyncio.create_task(site.post(body, form=JSON))
    answered = 0
    while not asking.done():
        await asyncio.sleep(0.005)
        assert (await site.client.get("/metrics")).status_code == 200
        answered += 1
    assert (await asking).status_code == 200
    assert answered > 3
