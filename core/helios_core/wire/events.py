"""Events, metric samples and the records of the topic `events` as messages of the contract, and back."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from math import isfinite
from typing import Final

import msgspec

from helios.v1 import events_pb2
from helios_core.errors import WireError
from helios_core.model import MAX_EVENT_BYTES, Event, EventRecord, MetricRecord, MetricSample
from helios_core.sketches.latency import MAX_LATENCY_US
from helios_core.wire.checks import check_service, check_time, level, level_to_proto, parsed, signal, signal_to_proto

_EVENTS_TAG: Final = bytes([events_pb2.EventRecord.EVENTS_FIELD_NUMBER << 3 | 2])  # of a field with a length


def event_to_bytes(event: Event) -> bytes:
    """The same bytes for the same event."""
    return event_to_proto(event).SerializeToString(deterministic=True)


def event_to_proto(event: Event) -> events_pb2.Event:
    return events_pb2.Event(
        time_us=event.time_us,
        service=event.service,
        level=level_to_proto(event.level),
        message=event.message,
        latency_us=event.latency_us,
        endpoint=event.endpoint,
        trace_id=event.trace_id,
        span_id=event.span_id,
        host=event.host,
        signal=signal_to_proto(event.signal),
        id=event.id,
        attributes=msgspec.json.encode(event.attributes) if event.attributes else b"",
        template_id=event.template_id,
        counted=event.counted,
    )


def event_from_proto(message: events_pb2.Event) -> Event:
    """WireError when it is too large, or its service, time, latency or attributes break the contract."""
    check_event_size(message.ByteSize())
    return _accepted(message)


def check_event_size(n_bytes: int) -> None:
    """WireError for one that is not taken; on the bus it may be larger: it may count under a longer name there."""
    if n_bytes > MAX_EVENT_BYTES:
        raise WireError(f"an event of {n_bytes} bytes: at most {MAX_EVENT_BYTES}")


def _accepted(message: events_pb2.Event) -> Event:
    check_service(message.service)
    check_time(message.time_us)
    latency_us = message.latency_us if message.HasField("latency_us") else None
    if latency_us is not None and not 0 <= latency_us <= MAX_LATENCY_US:
        raise WireError(f"a latency of {latency_us} µs: 0 to {MAX_LATENCY_US}")
    try:
        attributes = msgspec.json.decode(message.attributes, type=dict[str, object]) if message.attributes else {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"the attributes are not a JSON object: {error}") from error
    return Event(
        time_us=message.time_us,
        service=message.service,
        level=level(message.level),
        message=message.message,
        latency_us=latency_us,
        endpoint=message.endpoint,
        trace_id=message.trace_id,
        span_id=message.span_id,
        host=message.host,
        signal=signal(message.signal),
        id=message.id,
        attributes=attributes,
        template_id=message.template_id,
        counted=message.counted,
    )


def metric_to_proto(metric: MetricSample) -> events_pb2.MetricSample:
    return events_pb2.MetricSample(
        time_us=metric.time_us,
        name=metric.name,
        value=metric.value,
        labels=metric.labels,
        service=metric.service,
        host=metric.host,
    )


def metric_from_proto(message: events_pb2.MetricSample) -> MetricSample:
    """WireError when it is too large, its name is empty, or its value or time is no number that can be stored."""
    if message.ByteSize() > MAX_EVENT_BYTES:
        raise WireError(f"a sample of {message.ByteSize()} bytes: at most {MAX_EVENT_BYTES}")
    check_time(message.time_us)
    if not message.name or not isfinite(message.value):
        raise WireError(f"the metric {message.name[:40]!r} with the value {message.value}: a name and a finite number")
    labels = dict(sorted(message.labels.items()))  # a map has no order: the same labels are the same text in a store
    return MetricSample(message.name, message.value, labels, message.time_us, message.service, message.host)


def record_to_bytes(record: EventRecord) -> bytes:
    """A record of the topic `events`."""
    return events_pb2.EventRecord(
        service=record.service, received_us=record.received_us, events=map(event_to_proto, record.events)
    ).SerializeToString()


def event_field(message: events_pb2.Event) -> bytes:
    """An event as it stands in a record: the records of one service may be joined from such."""
    data = message.SerializeToString()
    return _EVENTS_TAG + _varint(len(data)) + data


@lru_cache(4_096)
def _varint(number: int) -> bytes:
    """As the encoding of protobuf has it: seven bits a byte, the least first."""
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*made, number])


def record_of(service: str, received_us: int, fields: Iterable[bytes]) -> bytes:
    """A record of the topic `events` from `event_field`s: messages that follow each other are merged into one."""
    return events_pb2.EventRecord(service=service, received_us=received_us).SerializeToString() + b"".join(fields)


def record_from_bytes(data: bytes) -> EventRecord:
    """WireError when it does not decode."""
    message = parsed(events_pb2.EventRecord, data, "a record of events")
    check_service(message.service)
    return EventRecord(message.service, message.received_us, list(map(_accepted, message.events)))


def metric_record_to_bytes(record: MetricRecord) -> bytes:
    """A record of the topic `metrics`."""
    return events_pb2.MetricRecord(
        service=record.service, received_us=record.received_us, metrics=map(metric_to_proto, record.metrics)
    ).SerializeToString()


def metric_record_from_bytes(data: bytes) -> MetricRecord:
    """WireError when it does not decode."""
    message = parsed(events_pb2.MetricRecord, data, "a record of metrics")
    check_service(message.service)
    return MetricRecord(message.service, message.received_us, list(map(metric_from_proto, message.metrics)))
