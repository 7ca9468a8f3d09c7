"""The detector as a service: windows and events from the bus, alerts back to it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import structlog

from helios_core import wire
from helios_core.alerts import Alert
from helios_core.bus.base import Commit, Partition, Received, Record, Topic
from helios_core.errors import WireError
from helios_core.records import slice_of
from helios_core.retry import until_available
from helios_core.service import Context
from helios_core.store.ledger import Ledger, Verdict
from helios_core.windows import WindowDelta, deltas_of
from helios_detector.engine import Engine
from helios_detector.evaluation import evaluate, read_labels

GROUP: Final = "detectors"
_MAX_RECORDS: Final = 200
_POLL_S: Final = 0.5
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Outcome:
    """What a run of the detector came to.

    Attributes:
        alerts: all that were decided, in order.
        learned_us: for each service, the event time at which it had history enough.
        span_us: for each service, its first and last event times.
        decided: how many horizons.
        late_events: events that came after their horizons had been decided.
        evaluation: against the labels of the context; None without any.
    """

    alerts: list[Alert] = field(default_factory=list)
    learned_us: dict[str, int] = field(default_factory=dict)
    span_us: dict[str, tuple[int, int]] = field(default_factory=dict)
    decided: int = 0
    late_events: int = 0
    evaluation: dict[str, Any] | None = None


class DetectorService:
    """Reads WINDOWS and EVENTS as one member of the group `detectors`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._engine = Engine(window_ms=context.window_ms, allowed_lateness_us=context.allowed_lateness_us)
        self._ledgers: defaultdict[tuple[bytes, int, int], Ledger] = defaultdict(Ledger)
        self._labels = read_labels(context.labels) if context.labels is not None else None
        self._published: dict[Partition, int] = {}
        self.outcome = Outcome()

    async def run(self) -> Outcome:
        """Decides until it is told to drain and nothing is left to read.

        It begins with the oldest record that the bus keeps, so that baselines and models are what they
        were before a restart; alerts of records that were committed then are not published again.
        """
        consumer = await self._context.bus.subscribe(GROUP, (Topic.WINDOWS, Topic.EVENTS))
        self._published = {partition: c.next_offset for partition, c in (await consumer.committed()).items()}
        await consumer.rewind()
        try:
            while True:
                ending = self._context.drain.is_set()
                received = await consumer.poll(max_records=_MAX_RECORDS, timeout_s=0 if ending else _POLL_S)
                if not received and ending:
                    return self._finished()
                if not received:
                    continue
                alerts = await asyncio.to_thread(self._take, received)
                await self._publish(alerts)
                done: dict[Partition, Commit] = {r.partition: Commit(r.offset + 1) for r in received}
                await until_available(partial(consumer.commit, self._forward(done)))
        finally:
            await consumer.close()

    def _forward(self, done: dict[Partition, Commit]) -> dict[Partition, Commit]:
        """Commits never go back while it catches up."""
        return {p: Commit(max(commit.next_offset, self._published.get(p, 0))) for p, commit in done.items()}

    def _take(self, received: Sequence[Received]) -> list[Alert]:
        """The alerts to publish. Off the event loop: it computes."""
        alerts: list[Alert] = []
        for record in received:
            try:
                service, deltas, watermark_us = self._opened(record)
            except WireError as error:
                _log.error("record_skipped", topic=record.partition.topic, offset=record.offset, error=str(error))
                continue
            for delta in deltas:
                first, last = self.outcome.span_us.get(service, (delta.start_us, delta.end_us))
                self.outcome.span_us[service] = (min(first, delta.start_us), max(last, delta.end_us))
            self._engine.observe(service, deltas)
            if watermark_us:
                decided = self._engine.advance(service, watermark_us)
                self.outcome.alerts += decided
                if record.offset >= self._published.get(record.partition, 0):
                    alerts += decided
        return alerts

    def _opened(self, record: Received) -> tuple[str, list[WindowDelta], int]:
        """(service, deltas, watermark) of a record; no deltas when it came before."""
        if record.partition.topic is Topic.EVENTS:
            events = wire.record_from_bytes(record.value)
            return events.service, deltas_of(events, duration_ms=self._context.window_ms), events.received_us
        id_, content, part = slice_of(record)
        ledger = self._ledgers[id_.agent_id, id_.incarnation, record.partition.number]
        applied = ledger.apply(id_.sequence, part.service, content) is Verdict.APPLIED
        return part.service, part.deltas if applied else [], part.watermark_us

    async def _publish(self, alerts: list[Alert]) -> None:
        records = [Record(Topic.ANOMALY_ALERTS, alert.service, alert.to_bytes()) for alert in alerts]
        if records:
            await until_available(lambda: self._context.bus.publish(records))

    def _finished(self) -> Outcome:
        self.outcome.learned_us = self._engine.learning_until()
        self.outcome.decided = self._engine.decided
        self.outcome.late_events = self._engine.late_events
        if self._labels is not None:
            learned = self.outcome.learned_us
            spans = {name: (first, learned[name], last) for name, (first, last) in self.outcome.span_us.items()}
            self.outcome.evaluation = evaluate(self.outcome.alerts, self._labels, spans)
        return self.outcome


async def run(context: Context) -> Outcome:
    """The service `detector`."""
    return await DetectorService(context).run()
