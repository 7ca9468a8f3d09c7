"""The one place that turns Helios's types into the messages of the contract, and back.

Decoding checks what the contract limits and raises WireError; nothing past it need check again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from math import isfinite
from typing import Final, cast

import msgspec
from google.protobuf.message import DecodeError

from helios.v1 import batch_pb2, events_pb2, service_pb2, windows_pb2
from helios_core.batches import MAX_SLICE_BYTES, Batch, BatchId, Slice, SourceRange
from helios_core.errors import WireError
from helios_core.model import MAX_EVENT_BYTES, MAX_SERVICE_BYTES, Event, EventRecord, Level, MetricSample, Signal
from helios_core.sketches.distinct import DistinctCount
from helios_core.sketches.latency import MAX_LATENCY_US, LatencyHistogram
from helios_core.sketches.templates import MAX_TEMPLATES, TemplateCount, TemplateCounts, template_id
from helios_core.windows import WindowDelta

CONTRACT_VERSION: Final = 1
_MAX_EPOCH_US: Final = 253_402_300_799_999_999  # the end of the year 9999
_MAX_DURATION_MS: Final = 3_600_000


def _big_endian(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def latency_to_proto(latency: LatencyHistogram) -> windows_pb2.LatencyHistogram:
    """Dense counts from the first to the last bucket in use."""
    offset = min(latency.buckets, default=0)
    counts = [0] * (max(latency.buckets, default=-1) - offset + 1)
    for index, count in latency.buckets.items():
        counts[index - offset] = count
    return windows_pb2.LatencyHistogram(
        zero_count=latency.zero_count,
        offset=offset,
        bucket_counts=counts,
        sum_us=_big_endian(latency.sum_us),
        sum_of_squares_us2=_big_endian(latency.sum_squares_us2),
        min_us=latency.min_us,
        max_us=latency.max_us,
    )


def latency_from_proto(message: windows_pb2.LatencyHistogram) -> LatencyHistogram:
    """WireError when its parts cannot belong together."""
    try:
        return LatencyHistogram.from_parts(
            zero_count=message.zero_count,
            buckets=Counter(dict(enumerate(message.bucket_counts, message.offset))),
            sum_us=int.from_bytes(message.sum_us, "big"),
            sum_squares_us2=int.from_bytes(message.sum_of_squares_us2, "big"),
            min_us=message.min_us,
            max_us=message.max_us,
        )
    except ValueError as error:
        raise WireError(str(error)) from error


def distinct_to_proto(distinct: DistinctCount) -> windows_pb2.DistinctCount:
    if distinct.registers is not None:
        return windows_pb2.DistinctCount(registers=bytes(distinct.registers))
    return windows_pb2.DistinctCount(hashes=sorted(distinct.hashes))


def distinct_from_proto(message: windows_pb2.DistinctCount) -> DistinctCount:
    """WireError when it breaks its form."""
    try:
        return DistinctCount.from_parts(message.hashes, message.registers)
    except ValueError as error:
        raise WireError(str(error)) from error


def latency_to_bytes(latency: LatencyHistogram) -> bytes:
    """The form in which a store keeps it: the message of the contract."""
    return latency_to_proto(latency).SerializeToString()


def latency_from_bytes(data: bytes) -> LatencyHistogram:
    return latency_from_proto(windows_pb2.LatencyHistogram.FromString(data))


def distinct_to_bytes(distinct: DistinctCount) -> bytes:
    """The form in which a store keeps it: the message of the contract."""
    return distinct_to_proto(distinct).SerializeToString()


def distinct_from_bytes(data: bytes) -> DistinctCount:
    return distinct_from_proto(windows_pb2.DistinctCount.FromString(data))


def event_to_bytes(event: Event) -> bytes:
    """The same bytes for the same event."""
    return event_to_proto(event).SerializeToString(deterministic=True)


def delta_to_proto(delta: WindowDelta) -> windows_pb2.WindowDelta:
    """Without the service, which is the slice's."""
    levels = delta.levels
    while levels and not levels[-1]:
        levels = levels[:-1]
    return windows_pb2.WindowDelta(
        start_us=delta.start_us,
        duration_ms=delta.duration_ms,
        host=delta.host,
        signal=_signal_to_proto(delta.signal),
        events=delta.events,
        levels=levels,
        unparsed=delta.unparsed,
        bytes_in=delta.bytes_in,
        latency=latency_to_proto(delta.latency) if delta.latency.count else None,
        endpoints=distinct_to_proto(delta.endpoints) if delta.endpoints else None,
        templates=[
            windows_pb2.TemplateCount(id=id_, text=entry.text, level=_level_to_proto(entry.level), count=entry.count)
            for id_, entry in sorted(delta.templates.counts.items())
        ],
        templates_overflow=delta.templates.overflow,
    )


def delta_from_proto(message: windows_pb2.WindowDelta, service: str) -> WindowDelta:
    """WireError when a limit or a law of counting is broken."""
    width_us = message.duration_ms * 1_000
    if not 0 < message.duration_ms <= _MAX_DURATION_MS or message.start_us % width_us:
        raise WireError(f"a window of {message.duration_ms} ms that starts at {message.start_us} µs is not aligned")
    _check_time(message.start_us)
    if len(message.levels) > len(Level) or sum(message.levels) != message.events:
        raise WireError(f"{message.events} events, but the levels add up to {sum(message.levels)}")
    latency = latency_from_proto(message.latency)
    if latency.count > message.events:
        raise WireError(f"{latency.count} latencies of {message.events} events")
    return WindowDelta(
        start_us=message.start_us,
        service=service,
        host=message.host,
        signal=_signal(message.signal),
        duration_ms=message.duration_ms,
        levels=[*message.levels] + [0] * (len(Level) - len(message.levels)),
        unparsed=message.unparsed,
        bytes_in=message.bytes_in,
        latency=latency,
        endpoints=distinct_from_proto(message.endpoints),
        templates=_templates_from_proto(message),
    )


def _templates_from_proto(message: windows_pb2.WindowDelta) -> TemplateCounts:
    if len(message.templates) > MAX_TEMPLATES:
        raise WireError(f"{len(message.templates)} templates in one window: at most {MAX_TEMPLATES}")
    counts = {}
    for entry in message.templates:
        if entry.id != template_id(entry.level, entry.text):
            raise WireError(f"the id of the template {entry.text[:80]!r} is not that of its level and text")
        counts[entry.id] = TemplateCount(entry.text, _level(entry.level), entry.count)
    return TemplateCounts(counts, message.templates_overflow)


def event_to_proto(event: Event) -> events_pb2.Event:
    return events_pb2.Event(
        time_us=event.time_us,
        service=event.service,
        level=_level_to_proto(event.level),
        message=event.message,
        latency_us=event.latency_us,
        endpoint=event.endpoint,
        trace_id=event.trace_id,
        span_id=event.span_id,
        host=event.host,
        signal=_signal_to_proto(event.signal),
        id=event.id,
        attributes=msgspec.json.encode(event.attributes) if event.attributes else b"",
        template_id=event.template_id,
        counted=event.counted,
    )


def event_from_proto(message: events_pb2.Event) -> Event:
    """WireError when its service, time, latency or attributes break the contract."""
    if message.ByteSize() > MAX_EVENT_BYTES:
        raise WireError(f"an event of {message.ByteSize()} bytes: at most {MAX_EVENT_BYTES}")
    check_service(message.service)
    _check_time(message.time_us)
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
        level=Level(_level(message.level)),
        message=message.message,
        latency_us=latency_us,
        endpoint=message.endpoint,
        trace_id=message.trace_id,
        span_id=message.span_id,
        host=message.host,
        signal=Signal(_signal(message.signal)),
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
    """WireError when its name is empty or its value or time is no number that can be stored."""
    _check_time(message.time_us)
    if not message.name or not isfinite(message.value):
        raise WireError(f"the metric {message.name!r} with the value {message.value}: a name and a finite number")
    return MetricSample(
        message.time_us, message.name, message.value, dict(message.labels), message.service, message.host
    )


def check_service(name: str) -> None:
    """WireError unless `name` is 1 to 256 bytes of UTF-8 without control characters."""
    size = len(name.encode("utf-8", "surrogatepass"))
    if not 0 < size <= MAX_SERVICE_BYTES:
        raise WireError(f"a service name of {size} bytes ({name[:40]!r}…): 1 to {MAX_SERVICE_BYTES}")
    if not name.isprintable():
        raise WireError(f"the service name {name[:40]!r} has characters that cannot be printed")


def slice_to_proto(part: Slice) -> batch_pb2.Slice:
    return batch_pb2.Slice(
        service=part.service,
        watermark_us=part.watermark_us,
        backlog_bytes=part.backlog_bytes,
        deltas=map(delta_to_proto, part.deltas),
        metrics=map(metric_to_proto, part.metrics),
        samples=map(event_to_proto, part.samples),
    )


def slice_from_proto(message: batch_pb2.Slice) -> Slice:
    """WireError when a limit is broken or an item does not decode."""
    check_slice(message)
    return Slice(
        service=message.service,
        watermark_us=message.watermark_us,
        backlog_bytes=message.backlog_bytes,
        deltas=[delta_from_proto(delta, message.service) for delta in message.deltas],
        metrics=[metric_from_proto(metric) for metric in message.metrics],
        samples=[event_from_proto(event) for event in message.samples],
    )


def slice_from_bytes(data: bytes) -> Slice:
    """A record of the topic `windows`; WireError when it does not decode."""
    try:
        return slice_from_proto(batch_pb2.Slice.FromString(data))
    except DecodeError as error:
        raise WireError(f"{len(data)} bytes are not a slice: {error}") from error


def id_to_proto(id_: BatchId) -> batch_pb2.BatchId:
    return batch_pb2.BatchId(agent_id=id_.agent_id, incarnation=id_.incarnation, sequence=id_.sequence)


def id_from_proto(message: batch_pb2.BatchId) -> BatchId:
    """WireError unless the agent's id is 16 bytes and the sequence starts at 1."""
    if len(message.agent_id) != 16 or message.sequence < 1:
        raise WireError(f"a batch id of {len(message.agent_id)} bytes of agent id and sequence {message.sequence}")
    return BatchId(message.agent_id, message.incarnation, message.sequence)


def open_request(request: service_pb2.SendBatchRequest) -> tuple[BatchId, batch_pb2.Batch]:
    """The batch of a request, looked at no further than to its slices.

    Raises:
        WireError: its id, its hash or its bytes are not what they should be.
    """
    id_ = id_from_proto(request.id)
    if content_hash(request.batch) != request.sha256:
        raise WireError(f"the hash of batch {id_} is not that of its {len(request.batch)} bytes")
    try:
        return id_, batch_pb2.Batch.FromString(request.batch)
    except DecodeError as error:
        raise WireError(f"the {len(request.batch)} bytes of batch {id_} are not a batch: {error}") from error


def check_slice(part: batch_pb2.Slice) -> None:
    """WireError when its service or its size break the contract; what is in it is not looked at."""
    check_service(part.service)
    if part.ByteSize() > MAX_SLICE_BYTES:
        raise WireError(f"a slice of {part.ByteSize()} bytes: at most {MAX_SLICE_BYTES}")


def batch_to_bytes(batch: Batch) -> bytes:
    """The bytes that are spooled, hashed and sent, and sent again as they are."""
    return batch_pb2.Batch(
        host=batch.host,
        cut_us=batch.cut_us,
        sources=[
            batch_pb2.SourceRange(
                source=source.source,
                path=source.path,
                from_offset=source.from_offset,
                to_offset=source.to_offset,
                watermark_us=source.watermark_us,
                backlog_bytes=source.backlog_bytes,
            )
            for source in batch.sources
        ],
        slices=map(slice_to_proto, batch.slices),
    ).SerializeToString()


def batch_from_bytes(data: bytes) -> Batch:
    """WireError when any part of it does not decode."""
    try:
        message = batch_pb2.Batch.FromString(data)
    except DecodeError as error:
        raise WireError(f"{len(data)} bytes are not a batch: {error}") from error
    return Batch(
        host=message.host,
        cut_us=message.cut_us,
        sources=[
            SourceRange(
                source.source,
                source.path,
                source.from_offset,
                source.to_offset,
                source.watermark_us,
                source.backlog_bytes,
            )
            for source in message.sources
        ],
        slices=[slice_from_proto(part) for part in message.slices],
    )


def record_to_bytes(record: EventRecord) -> bytes:
    """A record of the topic `events`."""
    return events_pb2.EventRecord(
        service=record.service, received_us=record.received_us, events=map(event_to_proto, record.events)
    ).SerializeToString()


def record_from_bytes(data: bytes) -> EventRecord:
    """WireError when it does not decode."""
    try:
        message = events_pb2.EventRecord.FromString(data)
    except DecodeError as error:
        raise WireError(f"{len(data)} bytes are not a record of events: {error}") from error
    check_service(message.service)
    return EventRecord(message.service, message.received_us, [event_from_proto(event) for event in message.events])


def content_hash(data: bytes) -> bytes:
    """SHA-256, as in SendBatchRequest.sha256."""
    return hashlib.sha256(data).digest()


def _check_time(time_us: int) -> None:
    if not 0 <= time_us <= _MAX_EPOCH_US:
        raise WireError(f"the time {time_us} µs lies outside the years 1970 to 9999")


def _signal(number: int) -> int:
    try:
        return Signal(number)
    except ValueError:
        raise WireError(f"signal {number}: 1 (log) or 2 (span)") from None


def _level(number: int) -> int:
    try:
        return Level(number)
    except ValueError:
        raise WireError(f"level {number}: 0 to {max(Level)}") from None


def _level_to_proto(level: int) -> events_pb2.Level.ValueType:
    return cast("events_pb2.Level.ValueType", level)  # the numbers are the same


def _signal_to_proto(signal: int) -> events_pb2.Signal.ValueType:
    return cast("events_pb2.Signal.ValueType", signal)
