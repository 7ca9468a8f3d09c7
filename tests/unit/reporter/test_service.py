"""The reporter as a service: alerts from the bus become one incident and one report, however often they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from helios_core import wire
from helios_core.alerts import Alert, AlertState, Contribution, Family, Finding, Severity
from helios_core.batches import BatchId, Slice
from helios_core.bus.base import Record, Topic
from helios_core.bus.memory import MemoryBus
from helios_core.clock import EventClock
from helios_core.model import Event, Level
from helios_core.service import Context
from helios_core.store.base import SliceWrite
from helios_core.store.sqlite import SqliteStore
from helios_reporter.service import Outcome, run

S = 1_000_000
T0 = 1_772_409_600 * S
FIRED, RAISED, RESOLVED = AlertState.FIRED, AlertState.RAISED, AlertState.RESOLVED


@pytest.fixture
async def store() -> AsyncIterator[SqliteStore]:
    made = SqliteStore(":memory:")
    yield made
    await made.close()


def alert(service: str, second: int, state: AlertState = FIRED, family: Family = Family.ERRORS) -> Alert:
    part = Contribution(feature="error_rate", unit="share", actual=0.4, typical=0.01)
    found = Finding(
        detector="rules", family=family, severity=Severity.HIGH, minutes=5.0, contributions=(part,)
    )  # fmt: skip
    return Alert(
        id=f"{service}.{family}.{second}",
        episode=f"{service}.{family}",
        service=service,
        family=family,
        state=state,
        severity=Severity.HIGH,
        decided_us=T0 + second * S,
        onset_us=T0,
        seen_us=T0 + second * S,
        horizon_us=300 * S,
        detectors=("rules",),
        findings=() if state is RESOLVED else (found,),
        features={},
    )


async def reported(store: SqliteStore, folder: Path, alerts: Sequence[Alert | bytes]) -> Outcome:
    """One run of the service over what is on the bus."""
    bus = MemoryBus()
    values = [a.to_bytes() if isinstance(a, Alert) else a for a in alerts]
    await bus.publish([Record(Topic.ANOMALY_ALERTS, "web", value) for value in values])
    context = Context(
        data_dir=folder,
        clock=EventClock(),
        bus=bus,
        store=store,
        collector=asyncio.get_running_loop().create_future(),
    )
    context.drain.set()
    return await run(context)


async def incidents(store: SqliteStore) -> list[dict[str, Any]]:
    rows = await store.query("incidents_latest", limit=10)
    return [msgspec.json.decode(row["document"]) for row in rows]


async def sampled(store: SqliteStore, service: str, traces: Sequence[str]) -> None:
    events = [
        Event(T0 + i * S, service, Level.ERROR, "failed", trace_id=trace, counted=True)
        for i, trace in enumerate(traces)
    ]
    part = Slice(service, 0, samples=events)
    await store.apply([SliceWrite(BatchId(service.encode().ljust(16), 1, 1), 0, b"c", wire.stored_slice(part))])


async def test_an_alert_becomes_an_incident_a_report_and_a_file(store: SqliteStore, tmp_path: Path) -> None:
    outcome = await reported(store, tmp_path, [alert("web", 60), alert("web", 90, RAISED)])
    assert (outcome.incidents, outcome.reports, outcome.claims_dropped) == (1, 2, 0)
    (incident,) = await incidents(store)
    (row,) = await store.query("report", incident_id=incident["id"])
    file = tmp_path / "reports" / f"{incident['id']}.md"
    assert file.read_text(encoding="utf-8") == row["markdown"]
    assert row["revision"] == 1
    assert row["markdown"].startswith("# [HIGH] web: more errors")
    assert [path.name for path in file.parent.iterdir()] == [file.name]


async def test_what_is_over_has_a_second_revision(store: SqliteStore, tmp_path: Path) -> None:
    await reported(store, tmp_path, [alert("web", 60), alert("web", 600, RESOLVED)])
    (incident,) = await incidents(store)
    assert incident["state"] == "resolved"
    (row,) = await store.query("report", incident_id=incident["id"])
    assert row["revision"] == 2


async def test_services_are_joined_by_shared_traces_and_by_nothing_else(store: SqliteStore, tmp_path: Path) -> None:
    await sampled(store, "web", ["a", "b", "c", ""])
    await sampled(store, "api", ["b", "c", "d", ""])
    await sampled(store, "cart", ["c", "x", ""])
    await reported(store, tmp_path, [alert("web", 60), alert("api", 70), alert("cart", 80)])
    found = {tuple(m["service"] for m in incident["members"]): incident for incident in await incidents(store)}
    assert set(found) == {("web", "api"), ("cart",)}
    assert found["web", "api"]["members"][1]["reason"] == "2 shared traces with web"


async def test_what_is_no_alert_does_not_stop_what_is(store: SqliteStore, tmp_path: Path) -> None:
    outcome = await reported(store, tmp_path, [b"{broken", alert("web", 60), b""])
    assert outcome.incidents == 1


async def test_alerts_that_come_again_change_nothing(store: SqliteStore, tmp_path: Path) -> None:
    """The offset was not committed: the same alerts, to a new process."""
    alerts = [alert("web", 60), alert("web", 90, RAISED), alert("web", 100, family=Family.LATENCY)]
    await reported(store, tmp_path, alerts)
    before = await incidents(store)
    await reported(store, tmp_path, alerts)
    assert await incidents(store) == before


async def test_alerts_of_a_resolved_incident_that_come_again_open_none(store: SqliteStore, tmp_path: Path) -> None:
    first, *others = [
        alert("web", 60),
        alert("web", 100, family=Family.LATENCY),
        alert("web", 600, RESOLVED),
        alert("web", 700, RESOLVED, family=Family.LATENCY),
    ]
    await reported(store, tmp_path, [first, *others])
    before = await incidents(store)
    await reported(store, tmp_path, others)
    assert await incidents(store) == before
