"""What OTLP says, as events and metric samples of Helios.

Names of attributes are those of OpenTelemetry's semantic conventions, the older ones too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Final

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from helios_collector.events import TIMESTAMP_REPLACED, is_plausible
from helios_core import wire
from helios_core.errors import WireError
from helios_core.levels import level_of
from helios_core.model import MAX_EVENT_BYTES, Event, Level, MetricSample, Signal
from helios_core.sketches.latency import MAX_LATENCY_US

UNKNOWN_SERVICE: Final = "unknown_service"  # what the conventions call a resource without a name
_NS_IN_US: Final = 1_000
_HOSTS: Final = ("host.name", "k8s.node.name", "host.id")
_ENDPOINTS: Final = ("http.route", "url.path", "http.target", "rpc.method", "messaging.destination.name")
# Severity numbers go in fours: TRACE and DEBUG, INFO, WARN, ERROR, FATAL.
_LEVELS: Final = (Level.DEBUG, Level.DEBUG, Level.INFO, Level.WARN, Level.ERROR, Level.CRITICAL)
_ENTRIES: Final = (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CONSUMER)
_MAX_TEXT: Final = 256


@dataclass(slots=True)
class Converted:
    """What one request came to.

    Attributes:
        events, metrics: what is taken.
        taken: how many log records, spans or data points that are.
        passed_over: spans inside a service, which are no requests to it.
        rejected: why each of the others can never be taken, with its bytes.
    """

    events: list[Event] = field(default_factory=list)
    metrics: list[MetricSample] = field(default_factory=list)
    taken: int = 0
    passed_over: int = 0
    rejected: list[tuple[str, bytes]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Source:
    """What a resource says of all that comes from it."""

    service: str
    host: str

    @classmethod
    def of(cls, resource: Resource) -> _Source:
        attributes = _attributes(resource.attributes)
        host = next((str(attributes[name]) for name in _HOSTS if attributes.get(name)), "")
        return cls(str(attributes.get("service.name") or UNKNOWN_SERVICE), host[:_MAX_TEXT])


def logs(request: ExportLogsServiceRequest, now_us: int) -> Converted:
    """Log records as events of the signal `log`."""
    made = Converted()
    for resource in request.resource_logs:
        source = _Source.of(resource.resource)
        for scope in resource.scope_logs:
            for record in scope.log_records:
                _take(made, _log(record, source, now_us), record)
    return made


def traces(request: ExportTraceServiceRequest, now_us: int) -> Converted:
    """Spans that are requests to a service, as events of the signal `span`: servers', consumers' and roots.

    Spans inside a service and calls to others would count its requests several times over.
    """
    made = Converted()
    for resource in request.resource_spans:
        source = _Source.of(resource.resource)
        for scope in resource.scope_spans:
            for span in scope.spans:
                if span.kind in _ENTRIES or not span.parent_span_id:
                    _take(made, _span(span, source, now_us), span)
                else:
                    made.passed_over += 1
    return made


def metrics(request: ExportMetricsServiceRequest, now_us: int) -> Converted:
    """Data points as samples. A histogram is its count, sum, least and most; a summary its quantiles too."""
    made = Converted()
    for resource in request.resource_metrics:
        source = _Source.of(resource.resource)
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point, samples in _points(metric, source, now_us):
                    try:
                        wire.check_service(source.service)
                        good = [wire.metric_from_proto(wire.metric_to_proto(sample)) for sample in samples]
                    except WireError as error:
                        made.rejected.append((str(error), point.SerializeToString()))
                        continue
                    made.metrics += good
                    made.taken += 1
    return made


def _take(made: Converted, event: Event, raw: LogRecord | Span) -> None:
    """Holds an event against the contract."""
    if raw.ByteSize() > MAX_EVENT_BYTES:
        made.rejected.append(
            (f"a record of {raw.ByteSize()} bytes: at most {MAX_EVENT_BYTES}", raw.SerializeToString())
        )
        return
    try:
        wire.check_service(event.service)
        made.events.append(wire.event_from_proto(wire.event_to_proto(event)))
        made.taken += 1
    except WireError as error:
        made.rejected.append((str(error), raw.SerializeToString()))


def _log(record: LogRecord, source: _Source, now_us: int) -> Event:
    attributes = _attributes(record.attributes)
    if record.event_name:
        attributes.setdefault("event.name", record.event_name)
    body = _value(record.body)
    time_us = _time_us(record.time_unix_nano or record.observed_time_unix_nano, now_us, attributes)
    level = _LEVELS[min((record.severity_number + 3) // 4, 5)] if record.severity_number > 0 else Level.UNSPECIFIED
    return Event(
        time_us=time_us,
        service=source.service,
        level=level or level_of(record.severity_text),
        message=body if isinstance(body, str) else json.dumps(body, ensure_ascii=False) if body is not None else "",
        endpoint=_endpoint(attributes),
        trace_id=record.trace_id.hex(),
        span_id=record.span_id.hex(),
        host=source.host,
        attributes=attributes,
    )


def _span(span: Span, source: _Source, now_us: int) -> Event:
    attributes = _attributes(span.attributes)
    failed = span.status.code == Status.STATUS_CODE_ERROR
    duration_us = max(0, span.end_time_unix_nano - span.start_time_unix_nano) // _NS_IN_US
    return Event(
        time_us=_time_us(span.end_time_unix_nano, now_us, attributes),
        service=source.service,
        level=Level.ERROR if failed else Level.INFO,
        message=f"{span.name}: {span.status.message}" if failed and span.status.message else span.name,
        latency_us=min(duration_us, MAX_LATENCY_US) if span.start_time_unix_nano else None,
        endpoint=_endpoint(attributes) or span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        host=source.host,
        signal=Signal.SPAN,
        attributes=attributes,
    )


def _points(metric: Metric, source: _Source, now_us: int) -> Iterator[tuple[Any, list[MetricSample]]]:
    """Each data point with its samples."""
    kind = metric.WhichOneof("data")
    if kind is None:
        return
    for point in getattr(metric, kind).data_points:
        labels = {name[:_MAX_TEXT]: str(value)[:_MAX_TEXT] for name, value in _attributes(point.attributes).items()}
        time_us = point.time_unix_nano // _NS_IN_US
        time_us = time_us if is_plausible(time_us, now_us) else now_us
        numbers: list[tuple[str, float, dict[str, str]]] = []
        if kind in ("gauge", "sum"):
            which = point.WhichOneof("value")
            if which is not None:
                numbers.append(("", float(getattr(point, which)), {}))
        else:
            numbers += [(".count", float(point.count), {}), (".sum", point.sum, {})]
            if kind == "summary":
                numbers += [("", q.value, {"quantile": f"{q.quantile:g}"}) for q in point.quantile_values]
            else:
                numbers += [(f".{name}", getattr(point, name), {}) for name in ("min", "max") if point.HasField(name)]
        yield (
            point,
            [
                MetricSample(f"{metric.name}{suffix}", value, labels | more, time_us, source.service, source.host)
                for suffix, value, more in numbers
                if isfinite(value)
            ],
        )


def _time_us(nanoseconds: int, now_us: int, attributes: dict[str, Any]) -> int:
    """The time that was given, or that of receipt for none and for an implausible one, which is kept aside."""
    time_us = nanoseconds // _NS_IN_US
    if is_plausible(time_us, now_us):
        return time_us
    if nanoseconds:
        attributes[TIMESTAMP_REPLACED] = str(nanoseconds)
    return now_us


def _endpoint(attributes: dict[str, Any]) -> str:
    return next((str(attributes[name]) for name in _ENDPOINTS if attributes.get(name)), "")


def _attributes(pairs: Sequence[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    """As JSON has it; bytes in hexadecimal, numbers that JSON cannot have as text."""
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    found = getattr(value, kind)
    if kind == "array_value":
        return [_value(one) for one in found.values]
    if kind == "kvlist_value":
        return _attributes(found.values)
    if kind == "bytes_value":
        return found.hex()
    return found if kind != "double_value" or isfinite(found) else str(found)
