"""What OTLP says becomes events and samples as docs/contract.md has it, and nothing of it stops the rest."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from helios_collector.otlp import convert
from helios_collector.otlp.convert import Converted
from helios_core.model import MAX_EVENT_BYTES, Event, Level, MetricSample, Signal
from helios_core.sketches.latency import MAX_LATENCY_US

S = 1_000_000
NOW_US = 1_772_409_600 * S
NOW_NS = NOW_US * 1_000
DAY_NS = 86_400 * S * 1_000
SPAN_KINDS = Span.SpanKind.values()


def rejected(made: Converted) -> list[tuple[str, bytes]]:
    """Why, and what it was."""
    return [(record.headers["reason"], record.value) for record in made.rejected.records()]


def value(of: Any) -> AnyValue:
    """None is a value that is not set."""
    if of is None:
        return AnyValue()
    if isinstance(of, bool):
        return AnyValue(bool_value=of)
    if isinstance(of, int):
        return AnyValue(int_value=of)
    if isinstance(of, float):
        return AnyValue(double_value=of)
    if isinstance(of, str):
        return AnyValue(string_value=of)
    if isinstance(of, bytes):
        return AnyValue(bytes_value=of)
    if isinstance(of, dict):
        return AnyValue(kvlist_value=KeyValueList(values=pairs(of)))
    return AnyValue(array_value=ArrayValue(values=map(value, of)))


def pairs(of: dict[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=name, value=value(one)) for name, one in of.items()]


def resource(**attributes: Any) -> Resource:
    return Resource(attributes=pairs({name.replace("_", "."): one for name, one in attributes.items()}))


SHOP = resource(service_name="shop", host_name="h1")


def logs(*records: LogRecord, of: Resource = SHOP) -> Converted:
    request = ExportLogsServiceRequest()
    found = request.resource_logs.add(resource=of)
    found.scope_logs.add(log_records=records)
    return convert.logs(request, NOW_US)


def traces(*spans: Span, of: Resource = SHOP) -> Converted:
    request = ExportTraceServiceRequest()
    found = request.resource_spans.add(resource=of)
    found.scope_spans.add(spans=spans)
    return convert.traces(request, NOW_US)


def metrics(*found: Metric, of: Resource = SHOP) -> Converted:
    request = ExportMetricsServiceRequest()
    request.resource_metrics.add(resource=of).scope_metrics.add(metrics=found)
    return convert.metrics(request, NOW_US)


def log(**fields: Any) -> Event:
    """The event of one log record."""
    made = logs(LogRecord(**{"time_unix_nano": NOW_NS, **fields}))
    assert (made.taken, made.rejected.count) == (1, 0)
    return made.events[0]


def span(**fields: Any) -> Event:
    """The event of one server span of 2 ms."""
    given = {"kind": Span.SPAN_KIND_SERVER, "name": "GET /cart", "start_time_unix_nano": NOW_NS - 2_000_000}
    made = traces(Span(**{**given, "end_time_unix_nano": NOW_NS, **fields}))
    assert (made.taken, made.rejected.count, made.passed_over) == (1, 0, 0)
    return made.events[0]


# --- logs ------------------------------------------------------------------------------------------


def test_a_whole_log_record() -> None:
    event = log(
        time_unix_nano=NOW_NS - 5_999,
        observed_time_unix_nano=NOW_NS,
        severity_number=17,
        severity_text="warn",
        body=value("no stock"),
        attributes=pairs({"http.route": "/cart/{id}", "user": "u1"}),
        trace_id=bytes(range(16)),
        span_id=bytes(range(8)),
        event_name="stock.empty",
    )
    assert event == Event(
        time_us=NOW_US - 6,
        service="shop",
        level=Level.ERROR,
        message="no stock",
        endpoint="/cart/{id}",
        trace_id="000102030405060708090a0b0c0d0e0f",
        span_id="0001020304050607",
        host="h1",
        signal=Signal.LOG,
        attributes={"http.route": "/cart/{id}", "user": "u1", "event.name": "stock.empty"},
    )


LEVELS = [Level.DEBUG] * 8 + [Level.INFO] * 4 + [Level.WARN] * 4 + [Level.ERROR] * 4 + [Level.CRITICAL] * 4


@pytest.mark.parametrize(("number", "level"), list(enumerate(LEVELS, start=1)))
def test_severity_numbers(number: int, level: Level) -> None:
    assert log(severity_number=number).level is level
    assert log(severity_number=number, severity_text="nonsense").level is level


@pytest.mark.parametrize("number", [-1, -(2**31), 0, 25, 2**31 - 1], ids=str)
def test_what_is_no_severity_number_leaves_it_to_the_text(number: int) -> None:
    assert log(severity_number=number).level is Level.UNSPECIFIED
    assert log(severity_number=number, severity_text="Fatal").level is Level.CRITICAL


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("TRACE", Level.DEBUG),
        ("debug", Level.DEBUG),
        ("Information", Level.INFO),
        ("WARNING", Level.WARN),
        ("Error", Level.ERROR),
        ("FATAL", Level.CRITICAL),
        ("", Level.UNSPECIFIED),
        ("purple", Level.UNSPECIFIED),
    ],
)
def test_severity_texts(text: str, level: Level) -> None:
    assert log(severity_text=text).level is level


@pytest.mark.parametrize(
    ("times", "time_us", "replaced"),
    [
        ((NOW_NS - 1_000, 0), NOW_US - 1, None),
        ((0, NOW_NS - 2_000), NOW_US - 2, None),
        ((NOW_NS - 1_000, NOW_NS - 2_000), NOW_US - 1, None),
        ((0, 0), NOW_US, None),
        ((1, 0), NOW_US, "1"),
        ((2**64 - 1, 0), NOW_US, str(2**64 - 1)),
        ((0, 5_000_000_000), NOW_US, "5000000000"),
        ((NOW_NS - 30 * DAY_NS, 0), NOW_US - 30 * DAY_NS // 1_000, None),
        ((NOW_NS - 31 * DAY_NS, 0), NOW_US, str(NOW_NS - 31 * DAY_NS)),
        ((NOW_NS + 600 * S * 1_000, 0), NOW_US + 600 * S, None),
        ((NOW_NS + 601 * S * 1_000, 0), NOW_US, str(NOW_NS + 601 * S * 1_000)),
        ((NOW_US, 0), NOW_US, str(NOW_US)),
    ],
    ids=["time", "observed", "both", "none", "1970", "the last", "observed 1970", "30 d", "31 d", "+10", "+11", "µs"],
)
def test_times_of_logs(times: tuple[int, int], time_us: int, replaced: str | None) -> None:
    event = log(time_unix_nano=times[0], observed_time_unix_nano=times[1])
    assert event.time_us == time_us
    assert event.attributes.get("helios.timestamp_replaced") == replaced


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (None, ""),
        ("", ""),
        ("naïve 🚀\nat line 2", "naïve 🚀\nat line 2"),
        (True, "true"),
        (0, "0"),
        (-(2**63), str(-(2**63))),
        (1.5, "1.5"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (b"\x00\xff", "00ff"),
        ([], "[]"),
        (["a", 1, None, [True]], '["a", 1, null, [true]]'),
        ({}, "{}"),
        ({"é": {"n": math.inf, "b": b"\x01"}}, '{"é": {"n": "inf", "b": "01"}}'),
    ],
    ids=str,
)
def test_bodies(body: Any, message: str) -> None:
    assert log(body=value(body)).message == message


def test_attributes_of_all_kinds() -> None:
    sent = {
        "text": "a",
        "truth": False,
        "number": 2**63 - 1,
        "fraction": -0.25,
        "nothing": None,
        "bytes": b"\xde\xad",
        "array": [1, "b", [2.5]],
        "map": {"of": {"maps": [{"x": None}]}},
        "": "no name",
    }
    kept = {**sent, "bytes": "dead"}
    assert log(attributes=pairs(sent)).attributes == kept
    assert span(attributes=pairs(sent)).attributes == kept


def test_numbers_that_json_has_not_are_kept_as_text() -> None:
    sent = {"nan": math.nan, "inf": math.inf, "list": [-math.inf], "map": {"x": math.nan}}
    assert log(attributes=pairs(sent)).attributes == {"nan": "nan", "inf": "inf", "list": ["-inf"], "map": {"x": "nan"}}


def test_an_attribute_that_is_given_twice() -> None:
    assert log(attributes=[*pairs({"a": 1}), *pairs({"a": 2})]).attributes == {"a": 2}


def test_as_deep_as_protocol_buffers_go() -> None:
    nested: Any = "bottom"
    for _ in range(45):
        nested = [nested]
    record = LogRecord.FromString(LogRecord(body=value(nested), attributes=pairs({"deep": nested})).SerializeToString())
    (event,) = logs(record).events
    assert json.loads(event.message) == nested
    assert event.attributes["deep"] == nested


@pytest.mark.parametrize(
    ("trace_id", "span_id", "kept"),
    [
        (b"", b"", ("", "")),
        (bytes(16), bytes(8), ("", "")),
        (b"\xab" * 16, b"\xcd" * 8, ("ab" * 16, "cd" * 8)),
        (b"\xab" * 15, b"\xcd" * 9, ("", "")),
        (b"\xab" * 9_000, b"", ("", "")),
    ],
    ids=["none", "zeros", "good", "wrong length", "very long"],
)
def test_ids_are_hexadecimal_and_an_invalid_one_is_none(trace_id: bytes, span_id: bytes, kept: tuple[str, str]) -> None:
    for event in (log(trace_id=trace_id, span_id=span_id), span(trace_id=trace_id, span_id=span_id)):
        assert (event.trace_id, event.span_id) == kept


@pytest.mark.parametrize(
    ("attributes", "endpoint"),
    [
        ({}, ""),
        ({"http.route": "/a/{id}", "url.path": "/a/7"}, "/a/{id}"),
        ({"url.path": "/a/7", "http.target": "/a/7?x"}, "/a/7"),
        ({"http.route": "", "rpc.method": "Get"}, "Get"),
        ({"http.route": None, "messaging.destination.name": "orders"}, "orders"),
    ],
)
def test_endpoints(attributes: dict[str, Any], endpoint: str) -> None:
    assert log(attributes=pairs(attributes)).endpoint == endpoint
    assert span(attributes=pairs(attributes)).endpoint == (endpoint or "GET /cart")


# --- resources -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of", "service", "host"),
    [
        (Resource(), "unknown_service", ""),
        (resource(service_name="", host_name=""), "unknown_service", ""),
        (resource(service_name=None), "unknown_service", ""),
        (resource(service_name="shop", service_namespace="eu"), "shop", ""),
        (resource(service_name=7), "7", ""),
        (resource(service_name=True), "true", ""),
        (resource(service_name="naïve 🚀"), "naïve 🚀", ""),
        (resource(service_name="x" * 256), "x" * 256, ""),
        (resource(k8s_node_name="n1"), "unknown_service", "n1"),
        (resource(host_id="i1"), "unknown_service", "i1"),
        (resource(host_id="i1", host_name="h1"), "unknown_service", "h1"),
        (resource(host_name="h" * 10_000), "unknown_service", "h" * 256),
    ],
    ids=lambda one: str(one)[:20].replace("\n", " "),
)
def test_services_and_hosts(of: Resource, service: str, host: str) -> None:
    for made in (logs(LogRecord(), of=of), traces(Span(), of=of)):
        assert [(event.service, event.host) for event in made.events] == [(service, host)]
    (sample,) = metrics(gauge(1.0), of=of).metrics
    assert (sample.service, sample.host) == (service, host)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("x" * 257, "a service name of 257 bytes"),
        ("é" * 129, "a service name of 258 bytes"),
        ("a\nb", "cannot be printed"),
        ("a\0b", "cannot be printed"),
        ("a\u202eb", "cannot be printed"),
    ],
)
def test_a_service_that_cannot_be_is_rejected_and_the_good_beside_it_go_on(name: str, reason: str) -> None:
    request = ExportLogsServiceRequest()
    for of in (SHOP, resource(service_name=name), SHOP):
        request.resource_logs.add(resource=of).scope_logs.add(log_records=[LogRecord(body=value("m"))] * 2)
    made = convert.logs(request, NOW_US)
    assert (made.taken, len(made.events)) == (4, 4)
    assert [raw for _, raw in rejected(made)] == [LogRecord(body=value("m")).SerializeToString()] * 2
    assert all(reason in said for said, _ in rejected(made))
    for other in (traces(Span(), of=resource(service_name=name)), metrics(gauge(1.0), of=resource(service_name=name))):
        assert (other.taken, other.rejected.count, other.events, other.metrics) == (0, 1, [], [])


def test_records_that_are_too_large() -> None:
    made = logs(LogRecord(body=value("x" * MAX_EVENT_BYTES)), LogRecord(body=value("small")))
    assert [event.message for event in made.events] == ["small"]
    ((reason, raw),) = rejected(made)
    assert f"at most {MAX_EVENT_BYTES}" in reason
    assert len(raw) > MAX_EVENT_BYTES


def test_a_record_that_is_too_large_only_as_an_event() -> None:
    """Control characters take six bytes each in JSON."""
    made = logs(LogRecord(attributes=pairs({"a": "\x01" * 100_000})))
    assert (made.taken, made.rejected.count) == (0, 1)


# --- spans -----------------------------------------------------------------------------------------


def test_a_whole_span() -> None:
    event = span(
        trace_id=b"\xab" * 16,
        span_id=b"\xcd" * 8,
        parent_span_id=b"\xef" * 8,
        attributes=pairs({"url.path": "/cart/7"}),
        status=Status(code=Status.STATUS_CODE_OK),
    )
    assert event == Event(
        time_us=NOW_US,
        service="shop",
        level=Level.INFO,
        message="GET /cart",
        latency_us=2_000,
        endpoint="/cart/7",
        trace_id="ab" * 16,
        span_id="cd" * 8,
        host="h1",
        signal=Signal.SPAN,
        attributes={"url.path": "/cart/7"},
    )


@pytest.mark.parametrize("parent", [b"", bytes(8), b"\x01" * 8], ids=["root", "zeros", "child"])
@pytest.mark.parametrize("kind", [*SPAN_KINDS, 99])
def test_which_spans_are_requests(kind: int, parent: bytes) -> None:
    made = traces(Span(kind=kind, parent_span_id=parent, name="x"))  # type: ignore[arg-type]
    counted = kind in (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CONSUMER) or not any(parent)
    assert (made.taken, made.passed_over, made.rejected.count) == (int(counted), int(not counted), 0)
    assert len(made.events) == counted


@pytest.mark.parametrize(
    ("code", "said", "level", "message"),
    [
        (Status.STATUS_CODE_UNSET, "", Level.INFO, "GET /cart"),
        (Status.STATUS_CODE_OK, "ignored", Level.INFO, "GET /cart"),
        (Status.STATUS_CODE_ERROR, "", Level.ERROR, "GET /cart"),
        (Status.STATUS_CODE_ERROR, "no stock", Level.ERROR, "GET /cart: no stock"),
    ],
)
def test_the_status_of_spans(code: Any, said: str, level: Level, message: str) -> None:
    event = span(status=Status(code=code, message=said))
    assert (event.level, event.message) == (level, message)


@pytest.mark.parametrize(
    ("start", "end", "latency_us", "time_us"),
    [
        (NOW_NS - 1_999, NOW_NS, 1, NOW_US),
        (NOW_NS, NOW_NS, 0, NOW_US),
        (NOW_NS, NOW_NS - 1_000_000, None, NOW_US - 1_000),
        (NOW_NS - 2 * MAX_LATENCY_US * 1_000, NOW_NS, MAX_LATENCY_US, NOW_US),
        (1, NOW_NS, MAX_LATENCY_US, NOW_US),
        (0, NOW_NS, None, NOW_US),
        (NOW_NS, 0, None, NOW_US),
        (0, 0, None, NOW_US),
        (2**64 - 1, NOW_NS, None, NOW_US),
        (NOW_NS, 2**64 - 1, MAX_LATENCY_US, NOW_US),
        (1_000, 3_000, 2, NOW_US),
    ],
    ids=["2 µs", "none", "back", "2 h", "1970", "no start", "no end", "neither", "start ∞", "end ∞", "both 1970"],
)
def test_durations(start: int, end: int, latency_us: int | None, time_us: int) -> None:
    """One that cannot be is none, for 0 would be a very good one."""
    event = span(start_time_unix_nano=start, end_time_unix_nano=end)
    assert (event.latency_us, event.time_us) == (latency_us, time_us)


# --- metrics ---------------------------------------------------------------------------------------


def gauge(number: float, **fields: Any) -> Metric:
    which = "as_int" if isinstance(number, int) else "as_double"
    made = Metric(name="m")
    made.gauge.data_points.add(**{which: number, "time_unix_nano": NOW_NS, **fields})
    return made


def values(samples: Sequence[MetricSample]) -> dict[str, float]:
    assert len({(one.name, *one.labels.items()) for one in samples}) == len(samples)
    return {one.name + "".join(f"@{v}" for k, v in one.labels.items() if k == "quantile"): one.value for one in samples}


@pytest.mark.parametrize("kind", ["gauge", "sum"])
@pytest.mark.parametrize("number", [1.5, -3, 0, 0.0, 2**62, 1.7e308], ids=str)
def test_numbers(kind: str, number: float) -> None:
    metric = Metric(name="orders", unit="1", description="of all")
    which = "as_int" if isinstance(number, int) else "as_double"
    getattr(metric, kind).data_points.add(
        attributes=pairs({"kind": "a"}), time_unix_nano=NOW_NS - 1_000, **{which: number}
    )
    made = metrics(metric)
    assert made.metrics == [MetricSample("orders", float(number), {"kind": "a"}, NOW_US - 1, "shop", "h1")]
    assert (made.taken, made.rejected.count) == (1, 0)


def test_labels_are_texts() -> None:
    attributes = {"t": "a", "b": True, "n": None, "i": 7, "f": 0.5, "l": ["a", 1], "x": b"\x01", "long": "y" * 300}
    (sample,) = metrics(gauge(1.0, attributes=pairs(attributes))).metrics
    assert sample.labels == {
        "t": "a",
        "b": "true",
        "n": "",
        "i": "7",
        "f": "0.5",
        "l": '["a", 1]',
        "x": "01",
        "long": "y" * 256,
    }


def test_a_histogram() -> None:
    metric = Metric(name="latency")
    metric.histogram.data_points.add(
        time_unix_nano=NOW_NS, count=4, sum=10.0, min=0.5, max=6.0, bucket_counts=[1, 3], explicit_bounds=[1.0]
    )
    made = metrics(metric)
    assert values(made.metrics) == {"latency.count": 4, "latency.sum": 10, "latency.min": 0.5, "latency.max": 6}
    assert made.taken == 1


@pytest.mark.parametrize("kind", ["histogram", "exponential_histogram"])
def test_a_histogram_has_no_more_than_it_says(kind: str) -> None:
    """Its sum is not set when it may have negative values, its least and most are optional."""
    metric = Metric(name="t")
    getattr(metric, kind).data_points.add(time_unix_nano=NOW_NS, count=4)
    getattr(metric, kind).data_points.add(time_unix_nano=NOW_NS, count=0, sum=0.0, attributes=pairs({"a": "b"}))
    first, second, third = metrics(metric).metrics
    assert [(one.name, one.value) for one in (first, second, third)] == [("t.count", 4), ("t.count", 0), ("t.sum", 0)]
    assert third.labels == {"a": "b"}


def test_an_exponential_histogram() -> None:
    metric = Metric(name="latency")
    point = metric.exponential_histogram.data_points.add(
        time_unix_nano=NOW_NS, count=3, sum=7.5, scale=2, zero_count=1, min=0.0, max=5.0
    )
    point.positive.offset = 1
    point.positive.bucket_counts.extend([1, 1])
    assert values(metrics(metric).metrics) == {
        "latency.count": 3,
        "latency.sum": 7.5,
        "latency.min": 0,
        "latency.max": 5,
    }


def test_a_summary() -> None:
    metric = Metric(name="t")
    point = metric.summary.data_points.add(time_unix_nano=NOW_NS, count=3, sum=6.0)
    for quantile, number in ((0.0, 1.0), (0.5, 2.0), (0.999, math.nan), (1.0, 3.0)):
        point.quantile_values.add(quantile=quantile, value=number)
    made = metrics(metric)
    assert values(made.metrics) == {"t.count": 3, "t.sum": 6, "t@0": 1, "t@0.5": 2, "t@1": 3}
    assert (made.taken, made.rejected.count) == (1, 0)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("kind", ["gauge", "sum"])
def test_a_value_that_is_no_number_is_rejected(kind: str, number: float) -> None:
    metric = Metric(name="m" * 9_000)
    points = getattr(metric, kind).data_points
    points.add(time_unix_nano=NOW_NS, as_double=1.0)
    points.add(time_unix_nano=NOW_NS, as_double=number)
    made = metrics(metric)
    assert [sample.value for sample in made.metrics] == [1.0]
    ((reason, raw),) = rejected(made)
    assert f"{number}" in reason
    assert len(reason) < 200
    assert metrics_pb2.NumberDataPoint.FromString(raw) is not None


def test_what_is_no_number_in_a_histogram_is_left_out() -> None:
    metric = Metric(name="t")
    metric.histogram.data_points.add(time_unix_nano=NOW_NS, count=2, sum=math.inf, min=math.nan, max=math.inf)
    made = metrics(metric)
    assert values(made.metrics) == {"t.count": 2}
    assert (made.taken, made.rejected.count) == (1, 0)


@pytest.mark.parametrize("kind", ["gauge", "sum", "histogram", "exponential_histogram", "summary"])
def test_a_stale_point_leaves_no_sample(kind: str) -> None:
    """Flag 1: no recorded value. A zero in its place would be one."""
    metric = Metric(name="t")
    getattr(metric, kind).data_points.add(time_unix_nano=NOW_NS, flags=1)
    made = metrics(metric)
    assert (made.metrics, made.rejected.count, made.taken) == ([], 0, 1)


def test_a_stale_point_with_a_value() -> None:
    assert metrics(gauge(5.0, flags=1), gauge(math.nan, flags=1)).metrics == []
    assert len(metrics(gauge(5.0, flags=2)).metrics) == 1


@pytest.mark.parametrize(
    ("time_ns", "time_us"), [(0, NOW_US), (1, NOW_US), (2**64 - 1, NOW_US), (NOW_NS - 7_000, NOW_US - 7)]
)
def test_times_of_points(time_ns: int, time_us: int) -> None:
    (sample,) = metrics(gauge(1.0, time_unix_nano=time_ns)).metrics
    assert sample.time_us == time_us


def test_metrics_that_say_nothing() -> None:
    made = metrics(Metric(name="none"), Metric(name="empty", gauge=metrics_pb2.Gauge()))
    assert (made.metrics, made.rejected.count, made.taken) == ([], 0, 0)


def test_a_metric_without_a_name() -> None:
    unnamed = gauge(1.0)
    unnamed.name = ""
    made = metrics(unnamed, gauge(2.0))
    assert [sample.value for sample in made.metrics] == [2.0]
    assert "name" in rejected(made)[0][0]


@pytest.mark.parametrize("what", ["name", "labels"])
def test_a_sample_that_no_record_could_hold(what: str) -> None:
    large = gauge(1.0)
    if what == "name":
        large.name = "m" * MAX_EVENT_BYTES
    else:
        large.gauge.data_points[0].attributes.extend(pairs({f"{i:05}{'k' * 200}": "v" * 200 for i in range(1_000)}))
    made = metrics(large, gauge(2.0))
    assert [sample.value for sample in made.metrics] == [2.0]
    ((reason, _),) = rejected(made)
    assert f"at most {MAX_EVENT_BYTES}" in reason


# --- requests --------------------------------------------------------------------------------------


def test_nothing_comes_of_nothing() -> None:
    for made in (
        convert.logs(ExportLogsServiceRequest(), NOW_US),
        convert.traces(ExportTraceServiceRequest(), NOW_US),
        convert.metrics(ExportMetricsServiceRequest(), NOW_US),
        logs(),
        traces(),
        metrics(),
    ):
        assert (made.events, made.metrics, made.taken, made.passed_over) == ([], [], 0, 0)
        assert made.rejected.count == 0
