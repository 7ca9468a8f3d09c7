"""What OTLP says, as events and metric samples of Helios.

Names of attributes are those of OpenTelemetry's semantic conventions, the older ones too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Final

from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import DataPointFlags, Metric
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from helios_collector.events import TIMESTAMP_REPLACED, is_plausible
from helios_collector.refusals import Refusals
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
_MAX_SEVERITY: Final = 4 * len(_LEVELS)
_OPTIONAL: Final = ("sum", "min", "max")  # of histograms
_ENTRIES: Final = (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CONSUMER)
_MAX_TEXT: Final = 256
_TRACE_ID_BYTES: Final = 16
_SPAN_ID_BYTES: Final = 8
_NO_VALUE: Final = DataPointFlags.DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK


@dataclass(slots=True)
class Converted:
    """What one request came to.

    Attributes:
        events, metrics: what is taken.
        taken: how many log records, spans or data points that are.
        passed_over: spans inside a service, which are no requests to it.
        rejected: the others, which can never be taken.
    """

    rejected: Refusals
    events: list[Event] = field(default_factory=list)
    metrics: list[MetricSample] = field(default_factory=list)
    taken: int = 0
    passed_over: int = 0

    def reject(self, reason: str, raw: Message) -> None:
        """It can never be taken."""
        self.rejected.add(self.rejected.count, reason, raw.SerializeToString())


@dataclass(frozen=True, slots=True)
class _Source:
    """What a resource says of all that comes from it."""

    service: str
    host: str

    @classmethod
    def of(cls, resource: Resource) -> _Source:
        attributes = _attributes(resource.attributes)
        return cls(_first(attributes, ("service.name",)) or UNKNOWN_SERVICE, _first(attributes, _HOSTS)[:_MAX_TEXT])


def logs(request: ExportLogsServiceRequest, now_us: int) -> Converted:
    """Log records as events of the signal `log`."""
    made = Converted(Refusals("otlp logs"))
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
    made = Converted(Refusals("otlp traces"))
    for resource in request.resource_spans:
        source = _Source.of(resource.resource)
        for scope in resource.scope_spans:
            for span in scope.spans:
                if span.kind in _ENTRIES or not any(span.parent_span_id):
                    _take(made, _span(span, source, now_us), span)
                else:
                    made.passed_over += 1
    return made


def metrics(request: ExportMetricsServiceRequest, now_us: int) -> Converted:
    """Data points as samples. A histogram is its count, sum, least and most; a summary its quantiles too."""
    made = Converted(Refusals("otlp metrics"))
    for resource in request.resource_metrics:
        source = _Source.of(resource.resource)
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point, samples in _points(metric, source, now_us):
                    try:
                        wire.check_service(source.service)
                        good = [wire.metric_from_proto(wire.metric_to_proto(sample)) for sample in samples]
                    except WireError as error:
                        made.reject(str(error), point)
                        continue
                    made.metrics += good
                    made.taken += 1
    return made


def _take(made: Converted, event: Event, raw: LogRecord | Span) -> None:
    """Holds an event against the contract."""
    if raw.ByteSize() > MAX_EVENT_BYTES:
        made.reject(f"a record of {raw.ByteSize()} bytes: at most {MAX_EVENT_BYTES}", raw)
        return
    try:
        wire.check_service(event.service)
        made.events.append(wire.event_from_proto(wire.event_to_proto(event)))
        made.taken += 1
    except WireError as error:
        made.reject(str(error), raw)


def _log(record: LogRecord, source: _Source, now_us: int) -> Event:
    attributes = _attributes(record.attributes)
    if record.event_name:
        attributes.setdefault("event.name", record.event_name)
    time_us = _time_us(record.time_unix_nano or record.observed_time_unix_nano, now_us, attributes)
    severity = record.severity_number
    return Event(
        time_us=time_us,
        service=source.service,
        level=_LEVELS[(severity - 1) // 4] if 0 < severity <= _MAX_SEVERITY else level_of(record.severity_text),
        message=_text(_value(record.body)),
        endpoint=_first(attributes, _ENDPOINTS),
        trace_id=_id(record.trace_id, _TRACE_ID_BYTES),
        span_id=_id(record.span_id, _SPAN_ID_BYTES),
        host=source.host,
        attributes=attributes,
    )


def _span(span: Span, source: _Source, now_us: int) -> Event:
    attributes = _attributes(span.attributes)
    failed = span.status.code == Status.STATUS_CODE_ERROR
    duration_us = (span.end_time_unix_nano - span.start_time_unix_nano) // _NS_IN_US
    return Event(
        time_us=_time_us(span.end_time_unix_nano, now_us, attributes),
        service=source.service,
        level=Level.ERROR if failed else Level.INFO,
        message=f"{span.name}: {span.status.message}" if failed and span.status.message else span.name,
        # A span that ends before it begins, or without a beginning, has no duration: 0 would be a very good one.
        latency_us=min(duration_us, MAX_LATENCY_US) if span.start_time_unix_nano and duration_us >= 0 else None,
        endpoint=_first(attributes, _ENDPOINTS) or span.name,
        trace_id=_id(span.trace_id, _TRACE_ID_BYTES),
        span_id=_id(span.span_id, _SPAN_ID_BYTES),
        host=source.host,
        signal=Signal.SPAN,
        attributes=attributes,
    )


def _points(metric: Metric, source: _Source, now_us: int) -> Iterator[tuple[Any, list[MetricSample]]]:
    """Each data point with its samples: none for one that only says that there is no value any more."""
    kind = metric.WhichOneof("data")
    if kind is None:
        return
    for point in getattr(metric, kind).data_points:
        if point.flags & _NO_VALUE:
            yield point, []
            continue
        labels = {name[:_MAX_TEXT]: _text(value)[:_MAX_TEXT] for name, value in _attributes(point.attributes).items()}
        time_us = point.time_unix_nano // _NS_IN_US
        time_us = time_us if is_plausible(time_us, now_us) else now_us
        numbers: list[tuple[str, float, dict[str, str]]] = []
        if kind in ("gauge", "sum"):
            which = point.WhichOneof("value")
            if which is not None:
                numbers.append(("", float(getattr(point, which)), {}))
        else:
            numbers.append((".count", float(point.count), {}))
            if kind == "summary":
                numbers.append((".sum", point.sum, {}))
                numbers += [("", q.value, {"quantile": f"{q.quantile:g}"}) for q in point.quantile_values]
            else:
                numbers += [(f".{name}", getattr(point, name), {}) for name in _OPTIONAL if point.HasField(name)]
        yield (
            point,
            [
                MetricSample(f"{metric.name}{suffix}", value, labels | more, time_us, source.service, source.host)
                for suffix, value, more in numbers
                if isfinite(value) or len(numbers) == 1  # the only one is not passed over, but rejected
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


def _first(attributes: dict[str, Any], names: Sequence[str]) -> str:
    return next((_text(attributes[name]) for name in names if attributes.get(name)), "")


def _id(raw: bytes, size: int) -> str:
    """In hexadecimal; empty for one that is invalid, which the protocol takes for none."""
    return raw.hex() if len(raw) == size and any(raw) else ""


def _text(value: Any) -> str:
    """A text as it is, all else as JSON, nothing for none."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


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
