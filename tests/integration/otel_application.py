"""An application with OpenTelemetry's SDK, which finds its collector in the environment. Not a test: a test runs it."""

from __future__ import annotations

import sys

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind

if sys.argv[1] == "grpc":
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as Logs
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as Metrics
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as Spans
else:
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as Logs
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as Metrics
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as Spans

LOGS, ERRORS, REQUESTS = 1_000, 250, 700


def main() -> None:
    """Logs, errors among them; requests with a query inside each; a counter and a histogram."""
    logs, traces = LoggerProvider(), TracerProvider()
    metrics = MeterProvider([PeriodicExportingMetricReader(Metrics(), export_interval_millis=60_000)])
    logs.add_log_record_processor(BatchLogRecordProcessor(Logs()))
    traces.add_span_processor(BatchSpanProcessor(Spans()))
    logger, tracer, meter = logs.get_logger("shop"), traces.get_tracer("shop"), metrics.get_meter("shop")
    orders, sizes = meter.create_counter("orders"), meter.create_histogram("order.size")
    for number in range(LOGS):
        severity = SeverityNumber.ERROR if number < ERRORS else SeverityNumber.INFO
        logger.emit(LogRecord(severity_number=severity, body=f"order {number}", attributes={"number": number}))
    for number in range(REQUESTS):
        request = tracer.start_as_current_span("buy", kind=SpanKind.SERVER, attributes={"http.route": "/orders"})
        with request, tracer.start_as_current_span("SELECT"):
            pass
        orders.add(1)
        sizes.record(number)
    for provider in (logs, traces, metrics):
        provider.shutdown()


main()
