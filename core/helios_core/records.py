"""The records on the bus: how slices, events and alerts stand there, with their identity in headers."""

from __future__ import annotations

import hashlib
from typing import Final

from helios_core import wire
from helios_core.batches import BatchId, Slice
from helios_core.bus.base import Received, Record, Topic
from helios_core.errors import WireError
from helios_core.model import EventRecord, MetricRecord
from helios_core.stored import StoredSlice

_MAX_DEAD_BYTES: Final = 768 * 1024
_MAX_HEADER_CHARS: Final = 300
_IDENTITY: Final = ("version", "agent", "incarnation", "sequence", "hash", "host")
_VERSION: Final = {"version": str(wire.CONTRACT_VERSION)}


def slice_record(id_: BatchId, service: str, data: bytes, host: str) -> Record:
    """A serialised slice for the topic `windows`."""
    return Record(
        Topic.WINDOWS,
        service,
        data,
        {
            **_VERSION,
            "agent": id_.agent_id.hex(),
            "incarnation": f"{id_.incarnation:016x}",
            "sequence": str(id_.sequence),
            "hash": hashlib.sha256(data).hexdigest()[:32],
            "host": host,
        },
    )


def check_version(received: Received) -> None:
    """WireError for a record whose value follows another version of the contract. One that names none follows this."""
    version = received.headers.get("version", _VERSION["version"])
    if version != _VERSION["version"]:
        raise WireError(
            f"a record of {received.partition.topic} in version {version[:20]} of the contract: "
            f"this Helios reads version {wire.CONTRACT_VERSION}; use one that reads it"
        )


def slice_of(received: Received) -> tuple[BatchId, bytes, Slice]:
    """(identity, content hash, slice) of a record of the topic `windows`; WireError when it is none."""
    return (*_identity(received), wire.slice_from_bytes(received.value))


def stored_slice_of(received: Received) -> tuple[BatchId, bytes, StoredSlice]:
    """The same for who only stores it."""
    return (*_identity(received), wire.stored_from_bytes(received.value))


def _identity(received: Received) -> tuple[BatchId, bytes]:
    headers = received.headers
    try:
        id_ = BatchId(bytes.fromhex(headers["agent"]), int(headers["incarnation"], 16), int(headers["sequence"]))
        return id_, bytes.fromhex(headers["hash"])
    except (KeyError, ValueError) as error:
        raise WireError(f"a record of {received.partition.topic} without a slice's identity: {error}") from error


def events_record(record: EventRecord) -> Record:
    """Raw events for the topic `events`."""
    return joined_events(record.service, wire.record_to_bytes(record))


def joined_events(service: str, data: bytes) -> Record:
    """The same from its bytes."""
    return Record(Topic.EVENTS, service, data, _VERSION)


def metrics_record(record: MetricRecord) -> Record:
    """Metrics without an agent for the topic `metrics`."""
    return Record(Topic.METRICS, record.service, wire.metric_record_to_bytes(record), _VERSION)


def dead_letter(kind: str, reason: str, data: bytes, of: Received | None = None) -> Record:
    """What could not be taken, with the reason, where a person can see it; cut when it is very large.

    Args:
        of: the record that it is, or was in: where it stands, its key and what its headers said go with it, so that it
            can be found, and put back.
    """
    headers = {"kind": kind, "reason": reason[:2_000], "bytes": str(len(data))}
    if of is not None:
        headers |= {name: of.headers[name][:_MAX_HEADER_CHARS] for name in _IDENTITY if name in of.headers}
        headers |= {"key": of.key[:_MAX_HEADER_CHARS], "topic": of.partition.topic}
        headers |= {"partition": str(of.partition.number), "offset": str(of.offset)}
    return Record(Topic.DEAD_LETTER, kind, data[:_MAX_DEAD_BYTES], headers)
