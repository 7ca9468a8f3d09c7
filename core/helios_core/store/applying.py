"""Which writes are applied, and the rows that they make: the part of `apply` that is alike in every SQL store.

A store loads what it has of `ledger_keys`, `places` and `event_ids`, in the transaction that then
writes what `begin`, and `one` for each write, have left in the other attributes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from helios_core import wire
from helios_core.model import Event, EventRecord
from helios_core.store import rows
from helios_core.store.base import EventsWrite, MetricsWrite, Outcome, SliceWrite, Write
from helios_core.store.ledger import Ledger, Verdict
from helios_core.stored import StoredSlice, StoredWindow
from helios_core.windows import deltas_of

LedgerKey = tuple[bytes, bytes, int]  # agent id, incarnation (8 bytes, big-endian), partition
Place = tuple[str, int]  # topic, with the log that it is in; partition
EventId = tuple[int, bytes]  # time in µs, idem_key


class Applying:
    """One call of `apply`.

    Attributes:
        ledger_keys: the ledgers that decide about slices.
        places: the partitions of raw events and metrics, whose positions decide about records.
        event_ids: of the raw events that carry an id of their sender.
        windows, templates, events, metrics: what is to be inserted.
        late: windows from before the time of which windows are kept, for the rollups alone.
        ledgers, positions: what is to be saved.
    """

    def __init__(self, writes: Sequence[Write]) -> None:
        self.ledger_keys = sorted({_ledger_key(write) for write in writes if isinstance(write, SliceWrite)})
        self.places = sorted({_place(write) for write in writes if not isinstance(write, SliceWrite)})
        raw = [write for write in writes if isinstance(write, EventsWrite)]
        self._keys = {(write.partition, write.offset): rows.event_keys(write) for write in raw}
        self.event_ids: list[EventId] = [
            (event.time_us, key)
            for write in raw
            for event, key in zip(write.record.events, self._keys[write.partition, write.offset], strict=True)
            if event.id
        ]
        self.windows: list[StoredWindow] = []
        self.late: list[StoredWindow] = []
        self.templates: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.metrics: list[dict[str, Any]] = []
        self.ledgers: dict[LedgerKey, Ledger] = {}
        self.positions: dict[Place, int] = {}
        self._hashes: dict[EventId, bytes] = {}
        self._raw_from_us = 0

    def begin(
        self,
        ledgers: Mapping[LedgerKey, bytes],
        positions: Mapping[Place, int],
        hashes: Mapping[EventId, bytes],
        raw_from_us: int = 0,
    ) -> None:
        """Before the first of the writes, which then come to `one` in their order.

        Args:
            ledgers: the saved states, of those keys that have any.
            positions: the next offsets, of those places that have any.
            hashes: the content hashes of those events that are stored.
            raw_from_us: from when on windows are kept.
        """
        for key in self.ledger_keys:
            state = ledgers.get(key)
            self.ledgers[key] = Ledger() if state is None else Ledger.from_bytes(state)
        self.positions = {place: positions.get(place, 0) for place in self.places}
        self._hashes = dict(hashes)
        self._raw_from_us = raw_from_us

    def one(self, write: Write) -> Outcome:
        """Decides about the next write."""
        if isinstance(write, SliceWrite):
            return self._slice(write)
        place = _place(write)
        if write.offset < self.positions[place]:
            return Outcome(Verdict.DUPLICATE, 0, self._conflicting(write))
        self.positions[place] = write.offset + 1
        if isinstance(write, EventsWrite):
            return self._record(write)
        self.metrics += map(rows.metric_row, write.record.metrics)
        return Outcome(Verdict.APPLIED)

    def _slice(self, write: SliceWrite) -> Outcome:
        service = write.slice.service
        verdict = self.ledgers[_ledger_key(write)].apply(write.id.sequence, service, write.content_hash)
        if verdict is Verdict.APPLIED:
            self._take(write.slice)
            self.metrics += map(rows.metric_row, write.slice.metrics)
            self.events += (
                rows.event_row(event, rows.sample_key(write.id, service, index))
                for index, event in enumerate(write.slice.samples)
            )
        return Outcome(verdict)

    def _conflicting(self, write: EventsWrite | MetricsWrite) -> tuple[Event, ...]:
        """What of a record that was applied before is not in the store: it may not be in the dead letter either."""
        if isinstance(write, MetricsWrite):
            return ()
        found = []
        for event, key in zip(write.record.events, self._keys[write.partition, write.offset], strict=True):
            known = self._hashes.get((event.time_us, key)) if event.id else None
            if known is not None and known != rows.event_row(event, key)["content_hash"]:
                found.append(event)
        return tuple(found)

    def _record(self, write: EventsWrite) -> Outcome:
        fresh: list[Event] = []
        conflicting: list[Event] = []
        duplicates = 0
        for event, key in zip(write.record.events, self._keys[write.partition, write.offset], strict=True):
            row = rows.event_row(event, key)
            id_ = (event.time_us, row["idem_key"])
            known = self._hashes.get(id_) if event.id else None
            if known is None:
                self.events.append(row)
                self._hashes[id_] = row["content_hash"]
                fresh.append(event)
            elif known == row["content_hash"]:
                duplicates += 1
            else:
                conflicting.append(event)
        service = write.record.service
        self._take(wire.stored_deltas(service, deltas_of(EventRecord(service, write.record.received_us, fresh))))
        return Outcome(Verdict.APPLIED, duplicates, tuple(conflicting))

    def _take(self, stored: StoredSlice) -> None:
        for window in stored.windows:
            (self.windows if window.start_us >= self._raw_from_us else self.late).append(window)
        kept = (template for template in stored.templates if template.start_us >= self._raw_from_us)
        self.templates += map(rows.template_row, kept)


def _ledger_key(write: SliceWrite) -> LedgerKey:
    return (write.id.agent_id, write.id.incarnation.to_bytes(8, "big"), write.partition)


def _place(write: EventsWrite | MetricsWrite) -> Place:
    topic = str(write.partition.topic)
    return (f"{topic}@{write.log}" if write.log else topic, write.partition.number)
