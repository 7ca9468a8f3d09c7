"""The reporter as a service: alerts from the bus become incidents, and incidents reports."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from helios_core.alerts import Alert, AlertState
from helios_core.bus.base import Commit, Partition, Topic
from helios_core.clock import US_PER_S, rfc3339
from helios_core.errors import HeliosError, WireError
from helios_core.retry import until_available
from helios_core.service import Context
from helios_core.store.base import Statement
from helios_reporter import markdown, report
from helios_reporter.evidence import EvidencePack, gather
from helios_reporter.incidents import Incident, Incidents, IncidentState, link_of
from helios_reporter.telemetry import Telemetry
from helios_reporter.verify import verify

if TYPE_CHECKING:
    from helios_reporter.console.app import Console

GROUP: Final = "reporters"
_MAX_RECORDS: Final = 100
_POLL_S: Final = 0.5
_MAX_KNOWN: Final = 500
_TRACES_US: Final = 300 * US_PER_S
_MAX_TRACES: Final = 2_000
_MIN_SHARED_TRACES: Final = 2
_STORE_WAIT_S: Final = 2.0
_STORE_LOOK_S: Final = 0.1
_GOODBYE_S: Final = 3.0
_FEED_PAUSE_S: Final = 2.0
_PRUNE_EVERY_US: Final = 3_600 * US_PER_S
_KEEP_INCIDENTS_US: Final = 365 * 86_400 * US_PER_S
_MAX_PRUNED: Final = 1_000  # incidents in an hour
SECOND_REPORT_US: Final = 600 * US_PER_S
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Outcome:
    """What a run of the reporter came to: incidents opened, reports written, claims that did not hold."""

    incidents: int = 0
    reports: int = 0
    claims_dropped: int = 0


class ReporterService:
    """Reads ANOMALY_ALERTS as one member of the group `reporters`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._store = context.store
        self._folder = context.data_dir / "reports"
        self._due: dict[str, int] = {}  # incidents that wait for their second report, and since when
        self._pruned_us = 0
        self._telemetry = Telemetry(context.metrics)
        self.outcome = Outcome()
        context.parts["reporter"] = lambda: msgspec.to_builtins(self.outcome)

    async def run(self) -> Outcome:
        """Reports until it is told to drain and nothing is left to read."""
        self._folder.mkdir(parents=True, exist_ok=True)
        rows = await until_available(lambda: self._store.query("incidents_to_know", limit=_MAX_KNOWN))
        incidents = Incidents([msgspec.json.decode(row["document"], type=Incident) for row in rows])
        for incident in incidents.open:
            reports = await until_available(partial(self._store.query, "report", incident_id=incident.id))
            if not reports or reports[0]["revision"] == 1:
                self._due[incident.id] = incident.opened_us + SECOND_REPORT_US
        subscribe = partial(self._context.bus.subscribe, GROUP, (Topic.ANOMALY_ALERTS,))
        consumer = await until_available(subscribe)
        try:
            while True:
                ending = self._context.drain.is_set()
                poll = partial(consumer.poll, max_records=_MAX_RECORDS, timeout_s=0 if ending else _POLL_S)
                received = await until_available(poll)
                if not received and ending:
                    return self.outcome
                deadline_s = time.monotonic() + _STORE_WAIT_S  # of all that came together
                for record in received:
                    try:
                        alert = Alert.from_bytes(record.value)
                    except WireError as error:
                        _log.error("record_skipped", offset=record.offset, error=str(error))
                        continue
                    await self._take(incidents, alert, deadline_s)
                if received:
                    done: dict[Partition, Commit] = {r.partition: Commit(r.offset + 1) for r in received}
                    await until_available(partial(consumer.commit, done))
                if not ending:
                    await self._look_again(incidents)
        finally:
            await consumer.close()

    async def _take(self, incidents: Incidents, alert: Alert, deadline_s: float) -> None:
        links = {}
        if alert.state is not AlertState.RESOLVED:
            for candidate in incidents.candidates(alert):
                reason = link_of(alert, candidate)
                if reason is not None:
                    links[candidate.id] = reason
                    continue
                shared = await until_available(partial(self._shared_traces, alert, candidate))
                if shared >= _MIN_SHARED_TRACES:
                    links[candidate.id] = f"{shared} shared traces with {', '.join(candidate.services[:3])}"
        incident = incidents.take(alert, links)
        if incident is None:
            return
        if len(incident.members) == 1 and len(incident.members[0].alerts) == 1:
            self.outcome.incidents += 1
            self._telemetry.incidents.labels(incident.severity.value).inc()
            self._due[incident.id] = incident.opened_us + SECOND_REPORT_US
        held = alert.state is AlertState.RESOLVED or await self._held(alert, deadline_s)
        await self._write(incident, alert.decided_us, held=held)

    async def _held(self, alert: Alert, deadline_s: float) -> bool:
        """Whether the store has counted all events of the alert's horizon; waits for them until the deadline."""
        expected = alert.features.get("events") or 0
        interval = {"from_us": alert.decided_us - alert.horizon_us, "to_us": alert.decided_us}
        query = partial(self._store.query, "events_of_service", service=alert.service, **interval)
        while True:
            (row,) = await until_available(query)
            if row["events"] >= expected:
                return True
            if self._context.drain.is_set() or time.monotonic() >= deadline_s:
                return False
            await asyncio.sleep(_STORE_LOOK_S)

    async def _look_again(self, incidents: Incidents) -> None:
        """The second report of those that have gone on for ten minutes: more is known by then."""
        now_us = self._context.clock.now_us()
        for incident in incidents.open:
            if incident.id in self._due and now_us >= self._due[incident.id]:
                await self._write(incident, now_us, held=True)
        if self._context.retention_us is not None and now_us - self._pruned_us >= _PRUNE_EVERY_US:
            self._pruned_us = now_us
            await until_available(partial(self._prune, now_us - _KEEP_INCIDENTS_US))

    async def _prune(self, before_us: int) -> None:
        """Drops incidents that were over long ago, with their reports."""
        for row in await self._store.query("incidents_before", before_us=before_us, limit=_MAX_PRUNED):
            parameters = {"incident_id": row["id"]}
            await self._store.transact([Statement(f"delete_{kind}", parameters) for kind in ("reports", "incident")])
            with suppress(OSError):
                (self._folder / f"{row['id']}.md").unlink(missing_ok=True)

    async def _write(self, incident: Incident, now_us: int, *, held: bool) -> None:
        """The incident and its report, in one transaction."""
        with self._telemetry.seconds.time():
            pack = await until_available(lambda: gather(self._store, incident, now_us))
            if not held:
                end = rfc3339(now_us, digits=0)
                pack.truncation.append(f"windows that were stored by then: the last ones before {end} were not")
            report = self._report(incident, pack, now_us)
        statements = [Statement("upsert_incident", _incident_row(incident)), report]
        await until_available(lambda: self._store.transact(statements))

    def _report(self, incident: Incident, pack: EvidencePack, now_us: int) -> Statement:
        written, dropped = verify(report.write(incident, pack), pack)
        for claim in dropped:
            _log.error("claim_dropped", incident=incident.id, claim=claim)
        self.outcome.claims_dropped += len(dropped)
        self.outcome.reports += 1
        self._telemetry.claims_dropped.inc(len(dropped))
        self._telemetry.reports.inc()
        second = incident.state is IncidentState.RESOLVED or now_us >= self._due.get(incident.id, 0)
        if second:
            self._due.pop(incident.id, None)
        text = markdown.render(written, pack)
        try:
            (self._folder / f"{incident.id}.md").write_text(text, encoding="utf-8")
        except OSError as error:  # the store has it, too
            _log.error("report_file_not_written", incident=incident.id, error=str(error))
        return Statement(
            "upsert_report",
            {
                "incident_id": incident.id,
                "revision": 2 if second else 1,
                "created_us": now_us,
                "generator": written.generator,
                "document": msgspec.json.encode({"report": written, "evidence": pack.items}).decode(),
                "markdown": text,
            },
        )

    async def _shared_traces(self, alert: Alert, incident: Incident) -> int:
        """How many traces have sampled events in both, round the onset."""
        found: list[set[str]] = []
        for services in ([alert.service], incident.services):
            traces: set[str] = set()
            for service in services:
                rows = await self._store.query(
                    "traces_of_service",
                    service=service,
                    from_us=alert.onset_us - _TRACES_US,
                    to_us=alert.decided_us + _TRACES_US,
                    limit=_MAX_TRACES,
                )
                traces |= {row["trace_id"] for row in rows}
            found.append(traces)
        return len(found[0] & found[1])


def _incident_row(incident: Incident) -> dict[str, object]:
    return {
        "id": incident.id,
        "state": incident.state.value,
        "severity": incident.severity.value,
        "opened_us": incident.opened_us,
        "updated_us": incident.updated_us,
        "resolved_us": incident.resolved_us,
        "document": msgspec.json.encode(incident).decode(),
    }


async def _feed(console: Console, drain: asyncio.Event) -> None:
    """Keeps the live stream going: what it did not expect is logged, and it begins again."""
    while not drain.is_set():
        try:
            await console.run(drain)
        except Exception:  # noqa: BLE001 - the edge of a task: reports go on without the stream
            _log.exception("live_stream_failed", pause_s=_FEED_PAUSE_S)
            await asyncio.sleep(_FEED_PAUSE_S)


async def run(context: Context) -> Outcome:
    """The service `reporter`, with the console when the process serves HTTP.

    Raises:
        HeliosError: the console is not installed.
    """
    service = ReporterService(context)
    if context.routes is None:
        return await service.run()
    try:
        from helios_reporter.console.app import Console
    except ImportError as error:
        raise HeliosError(f"the console needs more ({error}): pip install 'helios-observability[console]'") from error
    console = Console(
        bus=context.bus, store=context.store, clock=context.clock, keys=context.keys, parts=context.status
    )
    context.routes.mount("/", console)
    feeding = asyncio.create_task(_feed(console, context.drain))
    try:
        outcome = await service.run()
        await asyncio.wait({feeding}, timeout=_GOODBYE_S)  # it tells its clients that it goes
        return outcome
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
