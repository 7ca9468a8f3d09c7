"""How windows, events and templates stand in the rows of any SQL store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from helios_core import wire
from helios_core.batches import BatchId
from helios_core.model import Event, MetricSample
from helios_core.sketches.distinct import DistinctCount
from helios_core.sketches.latency import LatencyHistogram
from helios_core.store.base import EventsWrite, Row
from helios_core.store.ledger import Ledger
from helios_core.stored import StoredTemplate
from helios_core.windows import WindowDelta

_SIGN: Final = 1 << 63


def signed64(number: int) -> int:
    """An unsigned 64-bit number as the signed one of the same bits."""
    return number - (1 << 64) if number >= _SIGN else number


def unsigned64(number: int) -> int:
    """The inverse of signed64."""
    return number + (1 << 64) if number < 0 else number


def delta_of_row(row: Row, service: str) -> WindowDelta:
    """The delta of a row of `window_rows_of_service`, without its templates."""
    latency, endpoints = row["latency"], row["endpoints"]
    return WindowDelta(
        start_us=row["start_us"],
        service=service,
        host=row["host"],
        signal=row["signal"],
        duration_ms=row["duration_ms"],
        levels=msgspec.json.decode(row["levels"], type=list[int]),
        unparsed=row["unparsed"],
        bytes_in=row["bytes_in"],
        latency=wire.latency_from_bytes(latency) if latency else LatencyHistogram(),
        endpoints=wire.distinct_from_bytes(endpoints) if endpoints else DistinctCount(),
    )


def template_row(template: StoredTemplate) -> dict[str, Any]:
    return {
        "service": template.service,
        "template_id": signed64(template.template_id),
        "start_us": template.start_us,
        "level": template.level,
        "text": template.text,
        "count": template.count,
    }


def metric_row(metric: MetricSample) -> dict[str, Any]:
    return {
        "time_us": metric.time_us,
        "name": metric.name,
        "service": metric.service,
        "host": metric.host,
        "value": metric.value,
        "labels": msgspec.json.encode(metric.labels).decode(),
    }


def event_row(event: Event, idem_key: bytes) -> dict[str, Any]:
    return {
        "time_us": event.time_us,
        "service": event.service,
        "level": event.level,
        "message": event.message,
        "latency_us": event.latency_us,
        "endpoint": event.endpoint,
        "trace_id": event.trace_id,
        "span_id": event.span_id,
        "host": event.host,
        "signal": event.signal,
        "attributes": msgspec.json.encode(event.attributes).decode(),
        "template_id": signed64(event.template_id),
        "counted": int(event.counted),
        "idem_key": idem_key,
        "content_hash": _hash(wire.event_to_bytes(event)),
    }


def ledger_rows(ledgers: Mapping[tuple[bytes, bytes, int], Ledger]) -> Iterator[dict[str, Any]]:
    """One row for each ledger of (agent, incarnation, partition)."""
    for (agent, incarnation, partition), ledger in ledgers.items():
        yield {"agent_id": agent, "incarnation": incarnation, "partition": partition, "state": ledger.to_bytes()}


def position_rows(positions: Mapping[tuple[str, int], int]) -> Iterator[dict[str, Any]]:
    """One row for each (topic, partition)."""
    for (topic, partition), next_offset in positions.items():
        yield {"topic": topic, "partition": partition, "next_offset": next_offset}


def sample_key(id_: BatchId, service: str, index: int) -> bytes:
    """The identity of a sampled event: its place in its slice."""
    return _hash(f"sample\0{id_}\0{service}\0{index}".encode())


def event_keys(write: EventsWrite) -> list[bytes]:
    """The identity of each raw event: the sender's id, or its place on the bus when it has none."""
    place = f"place\0{write.log}\0{write.partition.topic}\0{write.partition.number}\0{write.offset}\0"
    return [
        _hash(f"id\0{event.service}\0{event.id}".encode("utf-8", "surrogatepass"))
        if event.id
        else _hash(f"{place}{index}".encode())
        for index, event in enumerate(write.record.events)
    ]


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
