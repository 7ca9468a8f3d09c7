"""Slices of the contract as the rows that a store keeps: checked as when they are decoded, sketches left encoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any, Final

from helios.v1 import views_pb2, windows_pb2
from helios_core.batches import Slice
from helios_core.errors import WireError
from helios_core.model import Level
from helios_core.sketches.distinct import MAX_EXACT, check_distinct
from helios_core.sketches.latency import check_buckets, check_sums
from helios_core.stored import StoredSlice, StoredTemplate, StoredWindow
from helios_core.windows import WindowDelta
from helios_core.wire.batches import slice_from_bytes, stored_view
from helios_core.wire.checks import parsed, signal
from helios_core.wire.events import event_from_proto, metric_from_proto
from helios_core.wire.windows import (
    check_counts,
    check_start,
    check_template,
    check_templates,
    distinct_to_bytes,
    latency_to_bytes,
)

_N_LEVELS: Final = len(Level)
_HASHES_KEY: Final = 1 << 3 | 2  # of field 1, by its length
_FEW_HASHES: Final = 15  # whose length is one byte
# All at once: one by one takes twice as long.
_FIELDS: Final[attrgetter[Any]] = attrgetter(
    "start_us", "duration_ms", "host", "signal", "events", "unparsed", "bytes_in", "latency", "endpoints",
    "templates_overflow",
)  # fmt: skip
_LATENCY: Final[attrgetter[Any]] = attrgetter(
    "zero_count", "offset", "bucket_counts", "sum_us", "min_us", "max_us", "count"
)


def stored_from_bytes(data: bytes) -> StoredSlice:
    """A record of the topic `windows`; WireError when `slice_from_bytes` raises one."""
    message = stored_view(data)
    message.DiscardUnknownFields()
    if message.ByteSize() != len(data):
        # In a form that no agent of this release gives it, such as a sketch in two parts: what is not seen of it might
        # be what is wrong with it.
        return stored_slice(slice_from_bytes(data))
    service = message.service
    part = StoredSlice(
        service,
        metrics=[metric_from_proto(metric) for metric in message.metrics],
        samples=[event_from_proto(event) for event in message.samples],
    )
    for delta in message.deltas:
        part.windows.append(_window(delta, service))
        if delta.templates:
            part.templates += _templates(delta, service)
    return part


def _window(delta: views_pb2.DeltaView, service: str) -> StoredWindow:
    start_us, duration_ms, host, number, events, unparsed, bytes_in, latency, endpoints, overflow = _FIELDS(delta)
    levels = delta.levels[:]  # a list: the message's own sequence is slow to go through
    check_start(start_us, duration_ms)
    signal(number)
    latency_count, latency_sum_us, data = _latency(latency)
    check_counts(events, levels, latency_count)
    if endpoints:
        _check_endpoints(endpoints)
    if len(levels) < _N_LEVELS:
        levels += [0] * (_N_LEVELS - len(levels))
    return StoredWindow(
        start_us,
        duration_ms,
        service,
        host,
        number,
        events,
        levels[Level.ERROR] + levels[Level.CRITICAL],
        levels[Level.WARN],
        levels,
        unparsed,
        bytes_in,
        latency_count,
        latency_sum_us,
        data,
        endpoints or None,
        overflow,
    )


def _templates(delta: views_pb2.DeltaView, service: str) -> Iterator[StoredTemplate]:
    check_templates(len(delta.templates))
    for entry in delta.templates:
        check_template(entry)
        yield StoredTemplate(service, entry.id, delta.start_us, entry.count, entry.level, entry.text)


def _latency(view: views_pb2.LatencyView) -> tuple[int, int, bytes | None]:
    """How many it has counted, their sum in µs, and it; WireError when its parts cannot belong together.

    The counts of most buckets are below 128, and so one byte each in the form in which they are sent: to look at these
    is quicker than to make numbers of them.
    """
    zero_count, offset, packed, sum_us, min_us, max_us, said = _LATENCY(view)
    data = view.SerializeToString()
    counts: Sequence[int] = packed
    if not packed.isascii():
        counts = parsed(windows_pb2.LatencyHistogram, data, "a latency histogram").bucket_counts[:]
    count = zero_count + sum(counts)
    if said not in (0, count):
        raise WireError(f"a latency histogram of {count} that says {said}")
    total_us = int.from_bytes(sum_us, "big")
    try:
        check_buckets(offset if counts else 0, len(counts))
        check_sums(count, sum_us=total_us, min_us=min_us, max_us=max_us)
    except ValueError as error:
        raise WireError(str(error)) from error
    return count, total_us, data if count else None


def _check_endpoints(data: bytes) -> None:
    """WireError when it breaks its form. A few hashes and nothing else are seen at once: a key, a length, and them."""
    n_bytes = len(data) - 2
    if 0 < n_bytes <= _FEW_HASHES * 8 and data[0] == _HASHES_KEY and data[1] == n_bytes and not n_bytes % 8:
        return
    message = parsed(windows_pb2.DistinctCount, data, "a distinct count")
    n_hashes = len(message.hashes)
    if n_hashes > MAX_EXACT:
        n_hashes = len(set(message.hashes))
    try:
        check_distinct(n_hashes, message.registers)
    except ValueError as error:
        raise WireError(str(error)) from error


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
