"""A cut: what was read since the last one, as numbered batches whose slices fit the contract."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from helios.v1 import service_pb2
from helios_agent.paths import printable
from helios_core import wire
from helios_core.batches import MAX_SLICE_BYTES, Batch, BatchId, Slice, SourceRange
from helios_core.model import Event, MetricSample, agent_service
from helios_core.windows import WindowDelta

# Below gRPC's limit of 4 MiB for a message, with room for what wraps it.
MAX_BATCH_BYTES: Final = 3 * 1024 * 1024
_SLICE_TARGET_BYTES: Final = MAX_SLICE_BYTES - 4 * 1024
_RANGE_NUMBERS_BYTES: Final = 64  # of a SourceRange beside its texts


class Cutter:
    """Numbers the batches of one run of the agent.

    Args:
        agent_id: the 16 bytes of its UUID.
        host: where it runs.
        history: all of it is of the past: to learn from, never to alert.
    """

    def __init__(self, agent_id: bytes, host: str, *, history: bool = False) -> None:
        self._agent_id = agent_id
        self._host = host
        self._history = history
        self._sequence = 0
        self.incarnation = secrets.randbits(64)

    def cut(
        self,
        *,
        now_us: int,
        deltas: Sequence[WindowDelta],
        samples: dict[str, list[Event]],
        metrics: Sequence[MetricSample] = (),
        services: Sequence[str],
        sources: Sequence[SourceRange],
        watermark_us: int,
        closing: bool = False,
    ) -> list[service_pb2.SendBatchRequest]:
        """The batches of one cut, to be spooled together: usually one.

        Args:
            now_us: the agent's clock.
            deltas: what was counted, in order of time.
            samples: sampled events by service.
            metrics: values; those of no service, the host's own, go under the agent's.
            services: get a slice in any case, so that their readers see the watermark.
            sources: the byte ranges that the cut covers; they stand in its last batch, or in the last
                ones when they are very many.
            watermark_us: the event time up to which the sources have been read.
            closing: nothing comes after it, in good order.
        """
        owners = [metric.service or agent_service(self._host) for metric in metrics]
        every = dict.fromkeys([*services, *(delta.service for delta in deltas), *samples, *owners])
        backlog = sum(source.backlog_bytes for source in sources)
        slices = {name: Slice(name, watermark_us, backlog, self._history, closing) for name in every}
        for delta in deltas:
            slices[delta.service].deltas.append(delta)
        for name, events in samples.items():
            slices[name].samples += events
        for metric, name in zip(metrics, owners, strict=True):
            slices[name].metrics.append(metric)
        batches: list[list[Slice]] = [[]]
        names: set[str] = set()
        size = 0
        for part in slices.values():
            for piece, piece_bytes in _pieces(part):
                if piece.service in names or size + piece_bytes > MAX_BATCH_BYTES:
                    batches.append([])
                    names, size = set(), 0
                batches[-1].append(piece)
                names.add(piece.service)
                size += piece_bytes
        ranges: list[list[SourceRange]] = [[] for _ in batches]
        for source in map(_sendable, sources):
            source_bytes = len(source.source) + len(source.path.encode()) + _RANGE_NUMBERS_BYTES
            if size + source_bytes > MAX_BATCH_BYTES:
                batches.append([])
                ranges.append([])
                size = 0
            ranges[-1].append(source)
            size += source_bytes
        return [
            self._request(Batch(self._host, now_us, covered, parts))
            for covered, parts in zip(ranges, batches, strict=True)
        ]

    def _request(self, batch: Batch) -> service_pb2.SendBatchRequest:
        self._sequence += 1
        data = wire.batch_to_bytes(batch)
        return service_pb2.SendBatchRequest(
            id=wire.id_to_proto(BatchId(self._agent_id, self.incarnation, self._sequence)),
            batch=data,
            sha256=wire.content_hash(data),
            contract_version=wire.CONTRACT_VERSION,
        )


def _sendable(source: SourceRange) -> SourceRange:
    """With its path as text: the system takes any bytes for one."""
    return replace(source, path=printable(source.path))


def _pieces(part: Slice) -> list[tuple[Slice, int]]:
    """The slice cut so that each piece fits, with its size in bytes. A piece that is not the last
    does not move the watermark."""
    whole = wire.slice_to_proto(part).ByteSize()
    if whole <= _SLICE_TARGET_BYTES:
        return [(part, whole)]
    pieces: list[tuple[Slice, int]] = []
    current, size = Slice(part.service, 0, part.backlog_bytes, part.history), 0
    items: list[WindowDelta | Event | MetricSample] = [*part.deltas, *part.samples, *part.metrics]
    for item in items:
        item_bytes = _size_of(item) + 8
        if size and size + item_bytes > _SLICE_TARGET_BYTES:
            pieces.append((current, size))
            current, size = Slice(part.service, 0, part.backlog_bytes, part.history), 0
        if isinstance(item, WindowDelta):
            current.deltas.append(item)
        elif isinstance(item, MetricSample):
            current.metrics.append(item)
        else:
            current.samples.append(item)
        size += item_bytes
    current.watermark_us, current.closing = part.watermark_us, part.closing
    return [*pieces, (current, size)]


def _size_of(item: WindowDelta | Event | MetricSample) -> int:
    """Its bytes on the wire."""
    if isinstance(item, WindowDelta):
        return wire.delta_to_proto(item).ByteSize()
    return (wire.metric_to_proto(item) if isinstance(item, MetricSample) else wire.event_to_proto(item)).ByteSize()
