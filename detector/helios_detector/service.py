"""The detector as a service: windows and events from the bus, alerts back to it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import structlog

from helios_core import wire
from helios_core.alerts import Alert, AlertState
from helios_core.batches import BatchId
from helios_core.bus.base import Commit, Consumer, Lag, Partition, Received, Record, Topic, in_order_of_time
from helios_core.clock import US_PER_S, rfc3339
from helios_core.errors import WireError
from helios_core.model import OVERFLOW_SERVICE, agent_service
from helios_core.records import check_version, slice_of
from helios_core.retry import until_available
from helios_core.service import Context
from helios_core.store.ledger import Ledger, Verdict
from helios_core.windows import WindowDelta, deltas_of
from helios_detector import agents
from helios_detector.engine import Engine
from helios_detector.evaluation import evaluate, read_labels
from helios_detector.marks import Marks
from helios_detector.models import KeptModels
from helios_detector.telemetry import Telemetry
from helios_detector.watermarks import LOST_AFTER_US, Agent, Watermarks

GROUP: Final = "detectors"
MODELS: Final = "models"  # the folder of the registry in the data directory
_MAX_RECORDS: Final = 200
_POLL_S: Final = 0.5
_TICK_US: Final = US_PER_S
_STEP_BACK_US: Final = 5 * US_PER_S  # less is how far partitions are apart
_STEP_FORWARD_US: Final = LOST_AFTER_US // 2  # between two polls, which are half a second apart
_NEVER_US: Final = 2**62
_MAX_LEDGERS: Final = 20_000
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
    """Reads WINDOWS and EVENTS as one member of the group `detectors`; and ANOMALY_ALERTS, where it says what it finds.

    Its time is the bus's: what the clock of its own machine says changes nothing.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._models = KeptModels(context.data_dir / MODELS)
        self._labels = read_labels(context.labels) if context.labels is not None else None
        self._lag = Lag(0, 0)
        self._telemetry = Telemetry(context.metrics)
        self.outcome = Outcome()
        self._begin({})
        context.parts["detector"] = self.status

    def _begin(self, committed: Mapping[Partition, Commit]) -> None:
        """Knows nothing yet; what the group has committed was decided and published before."""
        context = self._context
        self.engine = Engine(
            window_ms=context.window_ms, allowed_lateness_us=context.allowed_lateness_us, models=self._models
        )
        self._watermarks = Watermarks(context.idle_after_us)
        self._ledgers: dict[tuple[bytes, int, int], Ledger] = {}
        self._published = {partition: commit.next_offset for partition, commit in committed.items()}
        self._offsets = dict(self._published)
        self._marks = Marks(committed)
        self._said = agents.Said()
        self._since_us = _NEVER_US  # it has listened, by a clock that was not set since
        self._listens = False  # it has read all that had come once; before, nobody is lost
        self._ticked_us = 0
        self._last_us = 0  # of the record that was taken last
        self._is_live = False  # all that had come was taken
        self._is_news = True  # what is taken was not taken before a restart

    def status(self) -> dict[str, Any]:
        """For a person: what it has decided, who still learns, and how far it is behind."""
        return {
            "decided": self.engine.decided,
            "late_events": self.engine.late_events,
            "overflowed": list(self._watermarks.overflowed),
            "behind": self._lag.records,
            "learning": self.engine.learning(),
            "models": self.engine.models(),
        }

    async def run(self) -> Outcome:
        """Decides until it is told to drain and nothing is left to read.

        It begins with the oldest record that the bus keeps, so that baselines and models are what they
        were before a restart; alerts of records that were committed then are not published again. So it
        does when partitions come or go: services are known whole, or not at all.
        """
        await asyncio.to_thread(self._models.open)
        topics = (Topic.WINDOWS, Topic.EVENTS, Topic.ANOMALY_ALERTS)
        consumer = await until_available(partial(self._context.bus.subscribe, GROUP, topics))
        try:
            while True:
                share = consumer.partitions, consumer.departures
                self._begin(await until_available(consumer.committed))
                await until_available(consumer.rewind)
                outcome = await self._follow(consumer, share)
                if outcome is not None:
                    return outcome
                _log.info("partitions_changed", before=len(share[0]), now=len(consumer.partitions))
        finally:
            await consumer.close()

    async def _follow(self, consumer: Consumer, share: tuple[frozenset[Partition], int]) -> Outcome | None:
        """Decides while these partitions are read; None when they are others, or were somebody else's meanwhile."""
        while True:
            ending = self._context.drain.is_set()
            poll = partial(consumer.poll, max_records=_MAX_RECORDS, timeout_s=0 if ending else _POLL_S)
            received = await until_available(poll)
            if (consumer.partitions, consumer.departures) != share:
                return None
            self._lag = await until_available(consumer.lag)
            self._telemetry.lag.set(self._lag.records)
            if not received and ending:
                return self._finished()
            alerts = await asyncio.to_thread(self._take, received)
            await self._publish(alerts)
            if received:
                await until_available(partial(consumer.commit, self._done(received)))

    async def rebuild(self) -> None:
        """Learns all that the bus keeps; publishes and commits nothing."""
        await asyncio.to_thread(self._models.open)
        consumer = await self._context.bus.subscribe("training", (Topic.WINDOWS, Topic.EVENTS), at_end=True)
        await consumer.rewind()
        while received := await consumer.poll(max_records=_MAX_RECORDS, timeout_s=0):
            await asyncio.to_thread(self._take, received)
        await consumer.close()

    def _done(self, received: Sequence[Received]) -> dict[Partition, Commit]:
        """How far all partitions are decided, by records and by time; it never goes back while it catches up."""
        for record in received:
            self._offsets[record.partition] = max(record.offset + 1, self._offsets.get(record.partition, 0))
        return {
            partition: Commit(offset, self._marks.metadata(partition, self._ticked_us))
            for partition, offset in self._offsets.items()
        }

    def _take(self, received: Sequence[Received]) -> list[Alert]:
        """The alerts to publish. Off the event loop: it computes.

        Records are taken in the order of the bus's clock, and what time alone decides is decided between
        them, second by second, and after the last of all until it was asked for more: so a restart decides
        what was decided.
        """
        now_us = self._lag.asked_us
        alerts: list[Alert] = []
        if not self._context.files:  # live, a training is a second or two in which nothing is decided
            self.engine.trainings = 1
        with self._telemetry.latency.time():
            for record in self._in_order(received):
                if record.partition.topic is not Topic.ANOMALY_ALERTS:  # which decide nothing
                    self._is_news = record.offset >= self._published.get(record.partition, 0)
                if self._is_set_back(record.time_us):
                    self._step_back(record.time_us)
                alerts += self._tick(record.time_us)
                decided = self._one(record)
                if self._is_news:
                    alerts += decided
                self._last_us = record.time_us
            self._is_news = True
            self._is_live = self._has_caught_up()
            if self._is_live and now_us:
                if now_us < self._ticked_us - _STEP_BACK_US:
                    self._step_back(now_us)
                if not self._listens and self._context.idle_after_us is not None:
                    self._resume(now_us)
                if not self._lag.records:
                    alerts += self._tick(now_us)
        return alerts

    def _has_caught_up(self) -> bool:
        """All that had come is read; or, where something always comes, all but what came just now."""
        few, newest_us = self._lag.records < _MAX_RECORDS, self._lag.asked_us - _STEP_BACK_US
        return not self._lag.records or (few and self._last_us >= newest_us)

    def _in_order(self, received: Sequence[Received]) -> Iterator[Received]:
        """By the bus's clock; where it was set back, all that came before it comes first."""
        runs: defaultdict[int, defaultdict[Partition, list[Received]]] = defaultdict(lambda: defaultdict(list))
        reached: dict[Partition, tuple[int, int]] = {}  # the run, and its latest time
        for record in received:
            run, latest_us = reached.get(record.partition, (0, self._ticked_us))
            if record.time_us < latest_us - _STEP_BACK_US:
                run, latest_us = run + 1, 0
            reached[record.partition] = run, max(latest_us, record.time_us)
            runs[run][record.partition].append(record)
        for run in sorted(runs):
            yield from in_order_of_time(runs[run].values())

    def _one(self, record: Received) -> list[Alert]:
        """What is decided when a record has been taken."""
        try:
            if record.partition.topic is Topic.ANOMALY_ALERTS:
                self._said.take(Alert.from_bytes(record.value))
                return []
            service, deltas, back = self._opened(record)
        except WireError as error:
            _log.error("record_skipped", topic=record.partition.topic, offset=record.offset, error=str(error))
            return []
        for delta in deltas:
            first, last = self.outcome.span_us.get(service, (delta.start_us, delta.end_us))
            self.outcome.span_us[service] = (min(first, delta.start_us), max(last, delta.end_us))
            if self._is_news:
                self._telemetry.events.inc(delta.events)
                self._telemetry.overflow.inc(delta.events if service == OVERFLOW_SERVICE else 0)
        late = self.engine.observe(service, deltas)
        if self._is_news:
            self._telemetry.late.inc(late)
        return back + self._decided(service, record.time_us)

    def _decided(self, service: str, now_us: int) -> list[Alert]:
        reached = self._watermarks.of(service, now_us)
        if not reached.watermark_us:
            return []
        alerts = self.engine.advance(service, reached.watermark_us, history=reached.history, watched=reached.watched)
        self._note(alerts)
        return alerts

    def _note(self, alerts: list[Alert]) -> None:
        if self._context.files:  # a replay is judged by them; a live detector would keep them for ever
            self.outcome.alerts += alerts
        for alert in alerts:
            if alert.state is AlertState.FIRED and self._is_news:
                self._telemetry.anomalies.labels(alert.family.value, alert.severity.value).inc()

    def _opened(self, record: Received) -> tuple[str, list[WindowDelta], list[Alert]]:
        """(service, deltas, ends of losses of an agent that is back); no deltas when it came before."""
        check_version(record)
        if record.partition.topic is Topic.EVENTS:
            events = wire.record_from_bytes(record.value)
            service = self._watermarks.under(events.service)
            self._marks.found(service, record.partition)
            self._watermarks.received(service, record.time_us)
            return service, deltas_of(events, duration_ms=self._context.window_ms), []
        id_, content, part = slice_of(record)
        service = self._watermarks.under(part.service, id_.agent_id)
        self._marks.found(service, record.partition)
        if not self._is_new(id_, record.partition.number, part.service, content):
            return service, [], []
        if part.history:
            self._watermarks.read_history(service, part.watermark_us)
            return service, part.deltas, []
        host = record.headers.get("host", "")
        agent = self._watermarks.heard(
            service,
            id_.agent_id,
            host,
            part.watermark_us,
            record.time_us,
            own=part.service == agent_service(host),
            closing=part.closing,
        )
        return service, part.deltas, [] if agent is None else self._found(agent, record.time_us)

    def _is_new(self, id_: BatchId, partition: int, service: str, content: bytes) -> bool:
        """It was not taken before. Of the runs of agents that were heard of longest ago nothing is remembered."""
        key = (id_.agent_id, id_.incarnation, partition)
        ledger = self._ledgers.pop(key, None) or Ledger()
        self._ledgers[key] = ledger  # the newest last
        if len(self._ledgers) > _MAX_LEDGERS:
            del self._ledgers[next(iter(self._ledgers))]
        return ledger.apply(id_.sequence, service, content) is Verdict.APPLIED

    def _tick(self, until_us: int) -> list[Alert]:
        """What time alone decides, at each full second, and nobody has published: silent sources, lost agents."""
        if self._context.idle_after_us is None:
            return []
        alerts: list[Alert] = []
        if not self._ticked_us:
            self._ticked_us = until_us // _TICK_US * _TICK_US
        if self._is_live and until_us - self._ticked_us > _STEP_FORWARD_US:
            self._step_forward(until_us)
        while self._ticked_us + _TICK_US <= until_us:
            before_us, self._ticked_us = self._ticked_us, self._ticked_us + _TICK_US
            now_us = self._ticked_us
            decided: list[Alert] = []
            for agent in self._watermarks.newly_lost(now_us, self._since_us):
                decided += self._lost(agent)
            self._watermarks.forget(now_us)
            if self._listens:
                decided += self._saying([agents.ended(alert, now_us) for alert in self._said.given_up(now_us)])
            for service in sorted(self._watermarks.waiting(now_us, before_us)):
                decided += self._decided(service, now_us)
            is_unsaid = partial(self._marks.is_unsaid, now_us=now_us, is_news=self._is_news)
            alerts += (alert for alert in decided if is_unsaid(alert.service))
        return alerts

    def _lost(self, agent: Agent) -> list[Alert]:
        """What there is to say of it, unless somebody has said it: he may have heard of the agent at another time."""
        if self._said.of(agent):
            return []
        return self._saying([agents.lost(agent)])

    def _found(self, agent: Agent, now_us: int) -> list[Alert]:
        """The ends of the losses of it that were said, whoever said them."""
        return self._saying([agents.ended(alert, now_us) for alert in self._said.of(agent)])

    def _saying(self, alerts: list[Alert]) -> list[Alert]:
        for alert in alerts:
            self._said.take(alert)
        self._note(alerts)
        return alerts

    def _resume(self, now_us: int) -> None:
        """All that had come was read for the first time: while this was down it has heard nobody."""
        if self._last_us and now_us - self._last_us >= (self._context.idle_after_us or 0):
            self._listen(now_us, self._watermarks.resume(now_us))
        self._since_us, self._listens = now_us, True

    def _is_set_back(self, record_us: int) -> bool:
        """The bus's clock was, before it took a record; that of one broker may be behind those of others."""
        limit_us = self._ticked_us - _STEP_BACK_US
        return record_us < limit_us and (not self._is_live or self._lag.asked_us < limit_us)

    def _step_back(self, now_us: int) -> None:
        """Time goes on from the new one. What was decided stands: nothing is decided of its windows again."""
        _log.warning(
            "clock_stepped_back",
            seconds=round((self._ticked_us - now_us) / US_PER_S),
            now=rfc3339(now_us),
            late_until=rfc3339(self._ticked_us),  # what is read up to there counts as late
        )
        self._watermarks.step_to(now_us)
        self._marks.forget()
        self._listen(now_us)

    def _step_forward(self, now_us: int) -> None:
        """The clock was set, or the machine slept: in between nobody has listened."""
        seconds = round((now_us - self._ticked_us) / US_PER_S)
        _log.warning("clock_stepped_forward", seconds=seconds, now=rfc3339(now_us))
        self._listen(now_us, self._watermarks.step_to(now_us))

    def _listen(self, since_us: int, unknown: Sequence[str] = ()) -> None:
        """Begins to listen at that time; of the services given nothing is known until then."""
        for service in unknown:
            self.engine.skip_to(service, since_us)
        if self._listens:
            self._since_us = since_us
        self._ticked_us = since_us // _TICK_US * _TICK_US

    async def _publish(self, alerts: list[Alert]) -> None:
        records = [Record(Topic.ANOMALY_ALERTS, alert.service, alert.to_bytes()) for alert in alerts]
        if records:
            await until_available(lambda: self._context.bus.publish(records))

    def _finished(self) -> Outcome:
        self.outcome.learned_us = self.engine.learning_until()
        self.outcome.decided = self.engine.decided
        self.outcome.late_events = self.engine.late_events
        if self._labels is not None:
            learned = self.outcome.learned_us
            spans = {name: (first, learned[name], last) for name, (first, last) in self.outcome.span_us.items()}
            self.outcome.evaluation = evaluate(self.outcome.alerts, self._labels, spans)
        return self.outcome


async def run(context: Context) -> Outcome:
    """The service `detector`."""
    return await DetectorService(context).run()
