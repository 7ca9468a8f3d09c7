"""Slices of the contract as the rows that a store keeps: checked as when they are decoded, sketches left encoded."""

from __future__ import annotations

from collections.abc import Sequence

from helios.v1 import windows_pb2
from helios_core.batches import Slice
from helios_core.errors import WireError
from helios_core.model import Level
from helios_core.sketches.distinct import MAX_EXACT, check_distinct
from helios_core.sketches.latency import check_buckets, check_sums
from helios_core.stored import StoredSlice, StoredTemplate, StoredWindow
from helios_core.windows import WindowDelta
from helios_core.wire.batches import slice_message
from helios_core.wire.events import event_from_proto, metric_from_proto
from helios_core.wire.windows import (
    check_template,
    checked_levels,
    distinct_to_bytes,
    latency_to_bytes,
)


def stored_from_bytes(data: bytes) -> StoredSlice:
    """A record of the topic `windows`; WireError when `slice_from_bytes` raises one."""
    message = slice_message(data)
    service = message.service
    part = StoredSlice(
        service,
        metrics=[metric_from_proto(metric) for metric in message.metrics],
        samples=[event_from_proto(event) for event in message.samples],
    )
    for delta in message.deltas:
        part.windows.append(_window(delta, service))
        for entry in delta.templates:
            check_template(entry)
            part.templates.append(
                StoredTemplate(service, entry.id, delta.start_us, entry.count, entry.level, entry.text)
            )
    return part


def _window(delta: windows_pb2.WindowDelta, service: str) -> StoredWindow:
    latency, endpoints = delta.latency, delta.endpoints
    latency_count = _latency_count(latency)
    levels = checked_levels(delta, latency_count)
    n_hashes = len(endpoints.hashes)
    if n_hashes > MAX_EXACT:
        n_hashes = len(set(endpoints.hashes))
    try:
        check_distinct(n_hashes, endpoints.registers)
    except ValueError as error:
        raise WireError(str(error)) from error
    return StoredWindow(
        delta.start_us,
        delta.duration_ms,
        service,
        delta.host,
        delta.signal,
        delta.events,
        levels[Level.ERROR] + levels[Level.CRITICAL],
        levels[Level.WARN],
        levels,
        delta.unparsed,
        delta.bytes_in,
        latency_count,
        int.from_bytes(latency.sum_us, "big"),
        latency.SerializeToString() if latency_count else None,
        endpoints.SerializeToString() or None,
        delta.templates_overflow,
    )


def _latency_count(message: windows_pb2.LatencyHistogram) -> int:
    """How many it has counted, by its own account; WireError when its parts cannot belong together."""
    count = message.count or message.zero_count + sum(message.bucket_counts)
    try:
        check_buckets(message.offset, len(message.bucket_counts))
        check_sums(
            count,
            sum_us=int.from_bytes(message.sum_us, "big"),
            min_us=message.min_us,
            max_us=message.max_us,
        )
    except ValueError as error:
        raise WireError(str(error)) from error
    return count


def stored_slice(part: Slice) -> StoredSlice:
    """The same of a slice that was not encoded before; nothing is checked."""
    stored = stored_deltas(part.service, part.deltas)
    stored.metrics, stored.samples = part.metrics, part.samples
    return stored


def stored_deltas(service: str, deltas: Sequence[WindowDelta]) -> StoredSlice:
    """What a store keeps of deltas of one service."""
    stored = StoredSlice(service)
    for delta in deltas:
        stored.windows.append(_stored_window(delta))
        for id_, entry in delta.templates.counts.items():
            stored.templates.append(StoredTemplate(service, id_, delta.start_us, entry.count, entry.level, entry.text))
    return stored


def _stored_window(delta: WindowDelta) -> StoredWindow:
    latency_count = delta.latency.count
    return StoredWindow(
        delta.start_us,
        delta.duration_ms,
        delta.service,
        delta.host,
        delta.signal,
        delta.events,
        delta.errors,
        delta.levels[Level.WARN],
        delta.levels,
        delta.unparsed,
        delta.bytes_in,
        latency_count,
        delta.latency.sum_us,
        latency_to_bytes(delta.latency) if latency_count else None,
        distinct_to_bytes(delta.endpoints) if delta.endpoints else None,
        delta.templates.overflow,
    )
