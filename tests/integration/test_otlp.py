"""OTLP into a real collector, also from OpenTelemetry's own exporters: what was taken is stored, to the last count."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc import aio
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogs
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetrics
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogs
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetrics
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode

from helios.retry_info import TRAILER, retry_after_s
from helios.v1 import events_pb2, service_pb2, service_pb2_grpc
from helios_collector.service import run
from helios_collector.telemetry import Telemetry
from helios_collector.writer import StoreWriter
from helios_core import wire
from helios_core.bus.base import Record, Topic
from helios_core.bus.embedded import EmbeddedBus
from helios_core.bus.memory import MemoryBus
from helios_core.clock import SystemClock
from helios_core.errors import BusUnavailable
from helios_core.features import CORE_7, Expected
from helios_core.http import serving
from helios_core.keys import Grant, Keys, Scope, hash_of
from helios_core.model import EventRecord
from helios_core.routes import Routes
from helios_core.service import Context
from helios_core.store.sqlite import SqliteStore
from helios_core.windows import deltas_of
from helios_detector.horizon import ServiceHorizon

Rows = list[tuple[Any, ...]]


class Bus(MemoryBus):
    """A bus that fails as often as it is told, and that can be slow."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[Exception] = []
        self.delay_s = 0.0

    async def publish(self, records: Sequence[Record]) -> None:
        await asyncio.sleep(self.delay_s)
        if self.faults:
            raise self.faults.pop()
        await super().publish(records)


@dataclass
class Site:
    """A collector that runs."""

    http: str
    grpc: str
    context: Context
    running: asyncio.Task[None]
    channel: aio.Channel
    stubs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.stubs = {
            "logs": logs_service_pb2_grpc.LogsServiceStub(self.channel),
            "traces": trace_service_pb2_grpc.TraceServiceStub(self.channel),
            "metrics": metrics_service_pb2_grpc.MetricsServiceStub(self.channel),
        }

    async def export(self, request: Any, **options: Any) -> Any:
        kind = next(name for name, known in REQUESTS.items() if isinstance(request, known))
        return await self.stubs[kind].Export(request, timeout=60, **options)

    async def stop(self) -> None:
        self.context.drain.set()
        await asyncio.wait_for(asyncio.shield(self.running), 30)

    async def stored(self, statement: str) -> Rows:
        """What the store has when the collector has stopped."""
        await self.stop()
        return rows(self.context.data_dir, statement)


REQUESTS = {
    "logs": logs_service_pb2.ExportLogsServiceRequest,
    "traces": trace_service_pb2.ExportTraceServiceRequest,
    "metrics": metrics_service_pb2.ExportMetricsServiceRequest,
}
TOTALS = "SELECT signal, sum(events), sum(errors), sum(latency_count) FROM windows GROUP BY signal ORDER BY signal"


def rows(folder: Path, statement: str) -> Rows:
    connection = sqlite3.connect(folder / "store.db")
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


@asynccontextmanager
async def collector(folder: Path, *, keys: Keys | None = None, bus: MemoryBus | None = None) -> AsyncIterator[Site]:
    """The service as `helios up` runs it, on the embedded log unless another bus is given."""
    routes = Routes()
    own = EmbeddedBus(folder / "bus.db") if bus is None else bus
    store = SqliteStore(folder / "store.db")
    context = Context(
        data_dir=folder,
        clock=SystemClock(),
        bus=own,
        store=store,
        collector=asyncio.get_running_loop().create_future(),
        keys=keys or Keys(None),
        routes=routes,
    )
    async with serving(routes, "127.0.0.1:0") as http:
        running = asyncio.create_task(run(context))
        try:
            address = await asyncio.wait_for(asyncio.shield(context.collector), 30)
            routes.settle()
            async with aio.insecure_channel(address) as channel:
                site = Site(http, address, context, running, channel)
                yield site
                await site.stop()
        finally:
            running.cancel()
            await asyncio.wait({running})
            await store.close()
            await own.close()


def logs(count: int, service: str = "shop", size: int = 1) -> Any:
    request = logs_service_pb2.ExportLogsServiceRequest()
    found = request.resource_logs.add()
    found.resource.attributes.add(key="service.name").value.string_value = service
    scope = found.scope_logs.add()
    for number in range(count):
        record = scope.log_records.add(time_unix_nano=time.time_ns(), severity_number=17 if number % 5 == 0 else 9)
        record.body.string_value = f"{number} {'x' * size}"
    return request


def spans(latencies_ms: Sequence[float], service: str = "shop", at_ns: int = 0) -> Any:
    request = trace_service_pb2.ExportTraceServiceRequest()
    found = request.resource_spans.add()
    found.resource.attributes.add(key="service.name").value.string_value = service
    scope = found.scope_spans.add()
    end = at_ns or time.time_ns()
    for number, latency_ms in enumerate(latencies_ms):
        scope.spans.add(
            name=("GET /cart", "GET /users", "POST /orders")[number % 3],
            kind=Span.SPAN_KIND_SERVER,
            trace_id=random.randbytes(16),
            span_id=random.randbytes(8),
            start_time_unix_nano=end - round(latency_ms * 1e6),
            end_time_unix_nano=end,
        )
    return request


def points(count: int, service: str = "shop") -> Any:
    request = metrics_service_pb2.ExportMetricsServiceRequest()
    found = request.resource_metrics.add()
    found.resource.attributes.add(key="service.name").value.string_value = service
    metric = found.scope_metrics.add().metrics.add(name="orders")
    for number in range(count):
        point = metric.sum.data_points.add(time_unix_nano=time.time_ns(), as_int=number)
        point.attributes.add(key="item").value.string_value = f"item-{number}"
    return request


# --- OpenTelemetry's SDK -----------------------------------------------------------------------------

RESOURCE = Resource({"service.name": "shop", "host.name": "h1"})
EXPORTERS = {"grpc": (GrpcLogs, GrpcSpans, GrpcMetrics), "http": (HttpLogs, HttpSpans, HttpMetrics)}
KINDS = ("logs", "traces", "metrics")


@contextmanager
def exporters(site: Site, transport: str, *, packed: bool = False, **options: Any) -> Iterator[dict[str, Any]]:
    """The SDK's, by what they export."""
    made: dict[str, Any] = {}
    for kind, exporter in zip(KINDS, EXPORTERS[transport], strict=True):
        if transport == "grpc":
            compression: Any = grpc.Compression.Gzip if packed else None
            made[kind] = exporter(endpoint=f"http://{site.grpc}", insecure=True, compression=compression, **options)
        else:
            compression = Compression.Gzip if packed else Compression.NoCompression
            made[kind] = exporter(endpoint=f"http://{site.http}/v1/{kind}", compression=compression, **options)
    try:
        yield made
    finally:
        for one in made.values():
            one.shutdown()


def sdk_spans() -> Sequence[Any]:
    """Twenty requests with a step inside each; every fifth fails."""
    memory = InMemorySpanExporter()
    provider = TracerProvider(resource=RESOURCE)
    provider.add_span_processor(SimpleSpanProcessor(memory))
    tracer = provider.get_tracer("tests")
    for number in range(20):
        with tracer.start_as_current_span("GET /cart", kind=SpanKind.SERVER) as span:
            span.set_attribute("http.route", "/cart/{id}")
            with tracer.start_as_current_span("inner"):
                time.sleep(0.001)
            if number % 5 == 0:
                span.set_status(Status(StatusCode.ERROR, "no stock"))
    provider.shutdown()
    return memory.get_finished_spans()


def sdk_logs() -> Sequence[Any]:
    memory = InMemoryLogRecordExporter()
    provider = LoggerProvider(resource=RESOURCE)
    provider.add_log_record_processor(SimpleLogRecordProcessor(memory))
    logger = provider.get_logger("tests")
    for number, severity in enumerate((SeverityNumber.DEBUG, SeverityNumber.INFO, SeverityNumber.ERROR)):
        logger.emit(
            LogRecord(
                timestamp=time.time_ns(),
                severity_number=severity,
                body={"message": "no stock", "tries": number},
                attributes={"user": "u1", "tags": ["a", "b"]},
                trace_id=0xAB << 120,
                span_id=0xCD << 56,
            )
        )
    provider.shutdown()
    return memory.get_finished_logs()


def sdk_metrics() -> Any:
    reader = InMemoryMetricReader()
    view = View(instrument_name="size", aggregation=ExponentialBucketHistogramAggregation())
    provider = MeterProvider(resource=RESOURCE, metric_readers=[reader], views=[view])
    meter = provider.get_meter("tests")
    meter.create_counter("orders").add(5, {"kind": "a", "paid": True})
    meter.create_up_down_counter("queue").add(-2)
    meter.create_gauge("temperature").set(21.5)
    for number in (1.0, 2.5, 4.0):
        meter.create_histogram("latency").record(number)
        meter.create_histogram("size").record(number)
    data = reader.get_metrics_data()
    provider.shutdown()
    return data


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("transport", ["grpc", "http"])
async def test_the_exporters_of_opentelemetry(tmp_path: Path, transport: str, packed: bool) -> None:
    finished = sdk_spans()
    assert len(finished) == 40
    async with collector(tmp_path) as site:
        with exporters(site, transport, packed=packed) as made:
            for kind, data in (("logs", sdk_logs()), ("traces", finished), ("metrics", sdk_metrics())):
                result = await asyncio.to_thread(made[kind].export, data)
                assert result.name == "SUCCESS"
        assert await site.stored(TOTALS) == [(1, 3, 1, 0), (2, 20, 4, 20)]
    requests = {
        (f"{s.context.trace_id:032x}", f"{s.context.span_id:016x}", (s.end_time // 1_000 - s.start_time // 1_000))
        for s in finished
        if s.kind is SpanKind.SERVER
    }
    found = rows(tmp_path, "SELECT trace_id, span_id, latency_us, endpoint, host, level FROM events WHERE signal = 2")
    assert {(trace, span) for trace, span, *_ in found} == {(trace, span) for trace, span, _ in requests}
    exact = {span: latency for _, span, latency in requests}
    assert all(abs(latency - exact[span]) <= 1 for _, span, latency, *_ in found)
    assert {row[3:5] for row in found} == {("/cart/{id}", "h1")}
    assert sorted(row[5] for row in found) == [2] * 16 + [4] * 4
    events = rows(tmp_path, "SELECT level, message, trace_id, span_id FROM events WHERE signal = 1 ORDER BY time_us")
    assert events == [
        (level, f'{{"message": "no stock", "tries": {number}}}', "ab" + "00" * 15, "cd" + "00" * 7)
        for number, level in enumerate((1, 2, 4))
    ]
    assert set(rows(tmp_path, "SELECT name, value, service, host, labels FROM metrics")) == {
        ("orders", 5.0, "shop", "h1", '{"kind":"a","paid":"true"}'),
        ("queue", -2.0, "shop", "h1", "{}"),
        ("temperature", 21.5, "shop", "h1", "{}"),
        *(
            (f"{name}.{what}", number, "shop", "h1", "{}")
            for name in ("latency", "size")
            for what, number in (("count", 3.0), ("sum", 7.5), ("min", 1.0), ("max", 4.0))
        ),
    }


@pytest.mark.parametrize("fault", [BusUnavailable("the bus is away"), KeyError("a fault of ours")], ids=["bus", "bug"])
@pytest.mark.parametrize("transport", ["grpc", "http"])
async def test_the_exporters_send_again_what_could_not_be_taken(
    tmp_path: Path, transport: str, fault: Exception
) -> None:
    """Both are told to wait for a second, and do."""
    bus = Bus()
    async with collector(tmp_path, bus=bus) as site:
        with exporters(site, transport, timeout=20) as made:
            bus.faults = [fault]
            began_s = time.monotonic()
            result = await asyncio.to_thread(made["traces"].export, sdk_spans())
            assert result.name == "SUCCESS"
            assert time.monotonic() - began_s > 0.75
        assert await site.stored(TOTALS) == [(2, 20, 4, 20)]


@pytest.mark.parametrize("transport", ["grpc", "http"])
async def test_the_exporters_do_not_repeat_what_is_refused(tmp_path: Path, transport: str) -> None:
    keys = Keys({hash_of("in"): Grant(frozenset({Scope.INGEST}))})
    async with collector(tmp_path, keys=keys) as site:
        for key, result in (("wrong", "FAILURE"), ("in", "SUCCESS")):
            with exporters(site, transport, headers={"x-api-key": key}, timeout=20) as made:
                began_s = time.monotonic()
                assert (await asyncio.to_thread(made["traces"].export, sdk_spans())).name == result
                assert time.monotonic() - began_s < 10
        assert await site.stored(TOTALS) == [(2, 20, 4, 20)]


# --- gRPC --------------------------------------------------------------------------------------------


async def test_empty_requests_and_full_success_have_no_partial_success(tmp_path: Path) -> None:
    async with collector(tmp_path) as site:
        for request in (*(kind() for kind in REQUESTS.values()), logs(3), spans([1, 2]), points(4)):
            response = await site.export(request)
            assert not response.HasField("partial_success")
            packed = await site.export(request, compression=grpc.Compression.Gzip)
            assert not packed.HasField("partial_success")
        assert await site.stored(TOTALS) == [(1, 6, 2, 0), (2, 4, 0, 4)]


async def test_partial_success(tmp_path: Path) -> None:
    bus = Bus()
    async with collector(tmp_path, bus=bus) as site:
        for good, bad, name in (
            (logs(3), logs(2, "a\nb"), "rejected_log_records"),
            (spans([1]), spans([1, 2, 3], "x" * 300), "rejected_spans"),
            (points(3), points(4, "x" * 300), "rejected_data_points"),
        ):
            good.MergeFrom(bad)
            response = await site.export(good)
            assert getattr(response.partial_success, name) == len(await dead(bus))
            assert "service name" in response.partial_success.error_message
            bus._logs[Topic.DEAD_LETTER].clear()
        assert await site.stored(TOTALS) == [(1, 3, 1, 0), (2, 1, 0, 1)]
    assert rows(tmp_path, "SELECT count(*), sum(value) FROM metrics") == [(3, 3.0)]


async def dead(bus: MemoryBus) -> list[bytes]:
    consumer = await bus.subscribe("test", [Topic.DEAD_LETTER])
    return [record.value for record in await consumer.poll(max_records=1_000, timeout_s=0)]


def said(error: aio.AioRpcError) -> tuple[grpc.StatusCode, float | None]:
    """The status, and how long to wait."""
    trailers = dict(error.trailing_metadata() or ())
    details = trailers.get(TRAILER)
    return error.code(), None if details is None else retry_after_s(details)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (BusUnavailable("the topic is full"), "the topic is full"),
        (KeyError("ours"), "KeyError"),
        (RuntimeError(), "RuntimeError"),
        (MemoryError(), "MemoryError"),
    ],
    ids=str,
)
async def test_a_fault_of_ours_is_unavailable_and_says_when_to_come_back(
    tmp_path: Path, fault: Exception, told: str
) -> None:
    """Senders drop their data on UNKNOWN, which is what gRPC makes of an exception."""
    bus = Bus()
    async with collector(tmp_path, bus=bus) as site:
        helios = service_pb2_grpc.HeliosStub(site.channel)
        event = events_pb2.Event(service="shop", time_us=time.time_ns() // 1_000, signal=events_pb2.SIGNAL_LOG)
        calls = [partial(site.export, request) for request in (logs(2), spans([1]), points(2))]
        calls.append(partial(helios.SendEvents, service_pb2.SendEventsRequest(events=[event]), timeout=60))
        for call in calls:
            bus.faults = [fault]
            with pytest.raises(aio.AioRpcError) as caught:
                await call()
            code, after_s = said(caught.value)
            assert code is grpc.StatusCode.UNAVAILABLE
            assert after_s is not None
            assert 1 <= after_s <= 3  # longer each time where the bus is away
            assert told in (caught.value.details() or "")
        assert await site.stored("SELECT count(*) FROM events") == [(0,)]


async def test_a_fault_in_reading_a_request_is_unavailable_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helios_collector.otlp.receiver._published", lambda *_: 1 / 0)
    async with collector(tmp_path) as site:
        with pytest.raises(aio.AioRpcError) as caught:
            await site.export(logs(1))
        assert said(caught.value) == (grpc.StatusCode.UNAVAILABLE, 1.0)
        async with httpx.AsyncClient() as client:
            answer = await client.post(f"http://{site.http}/v1/logs", json={})
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_keys(tmp_path: Path) -> None:
    keys = Keys({hash_of("in"): Grant(frozenset({Scope.INGEST})), hash_of("see"): Grant(frozenset({Scope.METRICS}))})
    refused, denied = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
    async with collector(tmp_path, keys=keys) as site:
        for metadata, code in (
            ((), refused),
            ((("authorization", "Bearer wrong"),), refused),
            ((("x-api-key", "see"),), denied),
            ((("authorization", "Bearer see"),), denied),
        ):
            for request in (logs(1), spans([1]), points(1)):
                with pytest.raises(aio.AioRpcError) as caught:
                    await site.export(request, metadata=metadata)
                assert said(caught.value) == (code, None)
        for metadata in ((("authorization", "Bearer in"),), (("x-api-key", "in"),)):
            await site.export(logs(1), metadata=metadata)
        assert await site.stored(TOTALS) == [(1, 2, 2, 0)]


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip], ids=["plain", "gzip"])
async def test_a_message_over_4_mib_is_refused_for_good(tmp_path: Path, compression: grpc.Compression) -> None:
    """Without RetryInfo a sender drops it, or splits it: the same again would be refused again (docs/contract.md)."""
    async with collector(tmp_path) as site:
        under = logs(40, size=100_000)
        assert 3_900_000 < under.ByteSize() < 4 * 1024 * 1024
        await site.export(under, compression=compression)
        with pytest.raises(aio.AioRpcError) as caught:
            await site.export(logs(43, size=100_000), compression=compression)
        assert said(caught.value) == (grpc.StatusCode.RESOURCE_EXHAUSTED, None)
        assert await site.stored(TOTALS) == [(1, 40, 8, 0)]


async def test_bytes_that_are_no_request_are_not_to_be_sent_again(tmp_path: Path) -> None:
    async with collector(tmp_path) as site:
        call = site.channel.unary_unary("/opentelemetry.proto.collector.logs.v1.LogsService/Export")
        with pytest.raises(aio.AioRpcError) as caught:
            await call(b"\xff\xff\xff", timeout=20)
        assert caught.value.code() in (
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.INTERNAL,
            grpc.StatusCode.UNKNOWN,
        )
        await site.export(logs(1))


# --- the store -----------------------------------------------------------------------------------------


async def test_ten_thousand_points_are_stored_exactly(tmp_path: Path) -> None:
    async with collector(tmp_path) as site:
        await site.export(points(10_000))
        found = await site.stored("SELECT count(*), count(DISTINCT labels), sum(value) FROM metrics")
    assert found == [(10_000, 10_000, sum(range(10_000)))]
    assert rows(tmp_path, "SELECT DISTINCT name, service FROM metrics") == [("orders", "shop")]


async def test_the_same_labels_are_the_same_text(tmp_path: Path) -> None:
    """Or one series would be many; a map of Protocol Buffers has no order."""
    request = REQUESTS["metrics"]()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="orders")
    names = [f"label-{number}" for number in range(10)]
    for _ in range(50):
        random.shuffle(names)
        point = metric.gauge.data_points.add(time_unix_nano=time.time_ns(), as_int=1)
        for name in names:
            point.attributes.add(key=name).value.string_value = "x"
    async with collector(tmp_path) as site:
        await site.export(request)
        assert await site.stored("SELECT count(*), count(DISTINCT labels) FROM metrics") == [(50, 1)]


async def test_records_of_metrics_that_come_again_are_applied_once(tmp_path: Path) -> None:
    """As after a crash between the store and the commit."""
    bus = Bus()
    async with collector(tmp_path, bus=bus) as site:
        await site.export(points(1_000))
        await site.export(points(5, "users"))
        await site.export(logs(7))
    bus._commits.clear()
    telemetry = Telemetry()
    store = SqliteStore(tmp_path / "store.db")
    drained = asyncio.Event()
    drained.set()
    try:
        await StoreWriter(bus, store, telemetry).run(drained)
    finally:
        await store.close()
    records = sum(len(bus._logs[topic]) for topic in (Topic.METRICS, Topic.EVENTS))
    assert records >= 3
    assert telemetry.status()["duplicates"] == records
    assert rows(tmp_path, "SELECT service, count(*), sum(value) FROM metrics GROUP BY service ORDER BY service") == [
        ("shop", 1_000, sum(range(1_000))),
        ("users", 5, 10),
    ]
    assert rows(tmp_path, TOTALS) == [(1, 7, 2, 0)]


@pytest.mark.parametrize("transport", ["grpc", "http"])
async def test_what_was_accepted_when_it_stops_is_stored(tmp_path: Path, transport: str) -> None:
    """Senders go on while it stops; each is told the truth about each of its requests."""
    bus = Bus()
    bus.delay_s = 0.05
    accepted = refused = 0
    async with collector(tmp_path, bus=bus) as site, httpx.AsyncClient(timeout=30) as client:

        async def send() -> None:
            nonlocal accepted, refused
            while not site.running.done():
                if transport == "grpc":
                    try:
                        await site.export(logs(3))
                    except aio.AioRpcError as error:
                        assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)  # noqa: PT017
                        refused += 1
                        return
                else:
                    answer = await client.post(
                        f"http://{site.http}/v1/logs",
                        content=logs(3).SerializeToString(),
                        headers={"content-type": "application/x-protobuf"},
                    )
                    if answer.status_code == 503:
                        assert answer.headers["retry-after"] == "1"
                        refused += 1
                        return
                    assert answer.status_code == 200
                accepted += 3

        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(send())
            await asyncio.sleep(0.5)
            group.create_task(site.stop())
        assert accepted > 0
        assert refused > 0
        assert await site.stored("SELECT sum(events) FROM windows") == [(accepted,)]


# --- the detector -----------------------------------------------------------------------------------------


async def features(bus: MemoryBus) -> dict[str, float]:
    """Of what is on the bus, as the detector computes them."""
    consumer = await bus.subscribe("test", [Topic.EVENTS])
    horizon = ServiceHorizon(10_000_000)
    for received in await consumer.poll(max_records=1_000, timeout_s=0):
        record: EventRecord = wire.record_from_bytes(received.value)
        assert all(horizon.add(delta) for delta in deltas_of(record))
    while horizon.has_data(2**62):
        horizon.advance()
    vector = CORE_7.vector(horizon.view(Expected(), 0))
    return dict(zip(CORE_7.names, map(float, vector), strict=True))


async def test_a_service_that_sends_spans_alone_has_latency(tmp_path: Path) -> None:
    bus = Bus()
    async with collector(tmp_path, bus=bus) as site:
        await site.export(spans([10.0] * 95 + [1_000.0] * 5))
        found = await features(bus)
        assert found["total_events"] == 100
        assert found["avg_latency"] == pytest.approx(59.5, rel=0.02)
        assert found["p99_latency"] == pytest.approx(1_000, rel=0.05)
        assert found["unique_endpoints"] == pytest.approx(3, abs=0.1)
        await site.export(logs(40))
        both = await features(bus)
        assert both["total_events"] == 40  # not counted twice: the logs count, the spans have the latency
        assert both["error_rate"] == pytest.approx(0.2)
        assert both["avg_latency"] == pytest.approx(59.5, rel=0.02)
