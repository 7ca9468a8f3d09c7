"""Batches and slices as messages of the contract, and back."""

from __future__ import annotations

import hashlib

from helios.v1 import batch_pb2, service_pb2, views_pb2
from helios_core.batches import MAX_SLICE_BYTES, Batch, BatchId, Slice, SourceRange
from helios_core.errors import WireError
from helios_core.wire.checks import check_service, parsed
from helios_core.wire.events import event_from_proto, event_to_proto, metric_from_proto, metric_to_proto
from helios_core.wire.windows import delta_from_proto, delta_to_proto


def slice_to_proto(part: Slice) -> batch_pb2.Slice:
    return batch_pb2.Slice(
        service=part.service,
        watermark_us=part.watermark_us,
        backlog_bytes=part.backlog_bytes,
        history=part.history,
        closing=part.closing,
        deltas=map(delta_to_proto, part.deltas),
        metrics=map(metric_to_proto, part.metrics),
        samples=map(event_to_proto, part.samples),
    )


def slice_from_proto(message: batch_pb2.Slice) -> Slice:
    """WireError when a limit is broken or an item does not decode."""
    _check_size(message.ByteSize())
    check_service(message.service)
    return Slice(
        service=message.service,
        watermark_us=message.watermark_us,
        backlog_bytes=message.backlog_bytes,
        history=message.history,
        closing=message.closing,
        deltas=[delta_from_proto(delta, message.service) for delta in message.deltas],
        metrics=[metric_from_proto(metric) for metric in message.metrics],
        samples=[event_from_proto(event) for event in message.samples],
    )


def slice_from_bytes(data: bytes) -> Slice:
    """A record of the topic `windows`; WireError when it does not decode."""
    return slice_from_proto(parsed(batch_pb2.Slice, data, "a slice"))


def id_to_proto(id_: BatchId) -> batch_pb2.BatchId:
    return batch_pb2.BatchId(agent_id=id_.agent_id, incarnation=id_.incarnation, sequence=id_.sequence)


def id_from_proto(message: batch_pb2.BatchId) -> BatchId:
    """WireError unless the agent's id is 16 bytes and the sequence starts at 1."""
    if len(message.agent_id) != 16 or message.sequence < 1:
        raise WireError(f"a batch id of {len(message.agent_id)} bytes of agent id and sequence {message.sequence}")
    return BatchId(message.agent_id, message.incarnation, message.sequence)


def open_request(request: service_pb2.SendBatchRequest) -> tuple[BatchId, views_pb2.BatchView]:
    """The batch of a request, looked at no further than to its slices: reading these is most of the work.

    Raises:
        WireError: its id, its hash or its bytes are not what they should be.
    """
    id_ = id_from_proto(request.id)
    if content_hash(request.batch) != request.sha256:
        raise WireError(f"the hash of batch {id_} is not that of its {len(request.batch)} bytes")
    return id_, parsed(views_pb2.BatchView, request.batch, f"the batch {id_}")


def view_slice(data: bytes) -> views_pb2.SliceView:
    """What a slice says of itself; WireError when its service or its size break the contract.

    What is in it is not looked at: whoever reads it from the bus does.
    """
    _check_size(len(data))
    view = parsed(views_pb2.SliceView, data, "a slice")
    check_service(view.service)
    return view


def stored_view(data: bytes) -> views_pb2.StoredView:
    """A record of the topic `windows`; WireError when its service or its size break the contract, or it is none."""
    _check_size(len(data))
    view = parsed(views_pb2.StoredView, data, "a slice")
    check_service(view.service)
    return view


def _check_size(n_bytes: int) -> None:
    if n_bytes > MAX_SLICE_BYTES:
        raise WireError(f"a slice of {n_bytes} bytes: at most {MAX_SLICE_BYTES}")


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
    message = parsed(batch_pb2.Batch, data, "a batch")
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


def content_hash(data: bytes) -> bytes:
    """SHA-256, as in SendBatchRequest.sha256."""
    return hashlib.sha256(data).digest()
