"""The reporter as a service: alerts from the bus become incidents, and incidents reports."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec
import structlog

from helios_core.alerts import Alert, AlertState
from helios_core.bus.base import Commit, Partition, Topic
from helios_core.clock import US_PER_S
from helios_core.errors import WireError
from helios_core.retry import until_available
from helios_core.service import Context
from helios_core.store.base import Statement
from helios_reporter import markdown, report
from helios_reporter.evidence import EvidencePack, gather
from helios_reporter.incidents import Incident, Incidents, IncidentState
from helios_reporter.verify import verify

GROUP: Final = "reporters"
_MAX_RECORDS: Final = 100
_POLL_S: Final = 0.5
_MAX_KNOWN: Final = 500
_TRACES_US: Final = 300 * US_PER_S
_MAX_TRACES: Final = 2_000
_MIN_SHARED_TRACES: Final = 2
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
        self.outcome = Outcome()

    async def run(self) -> Outcome:
        """Reports until it is told to drain and nothing is left to read."""
        self._folder.mkdir(parents=True, exist_ok=True)
        rows = await until_available(lambda: self._store.query("incidents_to_know", limit=_MAX_KNOWN))
        incidents = Incidents([msgspec.json.decode(row["document"], type=Incident) for row in rows])
        consumer = await self._context.bus.subscribe(GROUP, (Topic.ANOMALY_ALERTS,))
        try:
            while True:
                ending = self._context.drain.is_set()
                received = await consumer.poll(max_records=_MAX_RECORDS, timeout_s=0 if ending else _POLL_S)
                if not received and ending:
                    return self.outcome
                for record in received:
                    try:
                        alert = Alert.from_bytes(record.value)
                    except WireError as error:
                        _log.error("record_skipped", offset=record.offset, error=str(error))
                        continue
                    await self._take(incidents, alert)
                if received:
                    done: dict[Partition, Commit] = {r.partition: Commit(r.offset + 1) for r in received}
                    await until_available(partial(consumer.commit, done))
        finally:
            await consumer.close()

    async def _take(self, incidents: Incidents, alert: Alert) -> None:
        links = {}
        if alert.state is not AlertState.RESOLVED:
            for candidate in incidents.candidates(alert):
                shared = await self._shared_traces(alert, candidate)
                if shared >= _MIN_SHARED_TRACES:
                    links[candidate.id] = f"{shared} shared traces with {', '.join(candidate.services[:3])}"
        incident = incidents.take(alert, links)
        if incident is None:
            return
        self.outcome.incidents += len(incident.members) == 1 and len(incident.members[0].alerts) == 1
        statements = [Statement("upsert_incident", _incident_row(incident))]
        pack = await until_available(lambda: gather(self._store, incident, alert.decided_us))
        statements.append(self._report(incident, pack, alert.decided_us))
        await until_available(lambda: self._store.transact(statements))

    def _report(self, incident: Incident, pack: EvidencePack, now_us: int) -> Statement:
        written, dropped = verify(report.write(incident, pack), pack)
        for claim in dropped:
            _log.error("claim_dropped", incident=incident.id, claim=claim)
        self.outcome.claims_dropped += len(dropped)
        self.outcome.reports += 1
        text = markdown.render(written, pack)
        (self._folder / f"{incident.id}.md").write_text(text, encoding="utf-8")
        return Statement(
            "upsert_report",
            {
                "incident_id": incident.id,
                "revision": 2 if incident.state is IncidentState.RESOLVED else 1,
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


async def run(context: Context) -> Outcome:
    """The service `reporter`."""
    return await ReporterService(context).run()
