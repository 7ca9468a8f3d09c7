"""The live reporter: it waits for the store but not long, reports a second time, and joins what is one event."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import pytest

from helios_core import retry, wire
from helios_core.alerts import Alert, AlertState, Contribution, Family, Finding, Severity
from helios_core.batches import BatchId, Slice
from helios_core.bus.base import Record, Topic
from helios_core.bus.memory import MemoryBus
from helios_core.clock import EventClock
from helios_core.errors import StoreUnavailable
from helios_core.model import Level, agent_service
from helios_core.service import Context
from helios_core.store.base import Row, SliceWrite, Statement
from helios_core.store.sqlite import SqliteStore
from helios_core.windows import WindowDelta
from helios_reporter import service
from helios_reporter.evidence import EvidencePack
from helios_reporter.incidents import Incident, Incidents, IncidentState, Member, link_of
from helios_reporter.report import Report
from helios_reporter.service import SECOND_REPORT_US, Outcome, ReporterService
from helios_reporter.verify import verify

S = 1_000_000
T0 = 1_772_409_600 * S
FIRED, RAISED, RESOLVED = AlertState.FIRED, AlertState.RAISED, AlertState.RESOLVED


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_PAUSE_S", 0.01)
    monkeypatch.setattr(service, "_POLL_S", 0.01)


@pytest.fixture
async def store() -> AsyncIterator[SqliteStore]:
    made = SqliteStore(":memory:")
    yield made
    await made.close()


def alert(
    name: str, second: int = 60, state: AlertState = FIRED, family: Family = Family.ERRORS, **changed: Any
) -> Alert:
    part = Contribution(feature="error_rate", unit="share", actual=0.4, typical=0.01)
    found = Finding(detector="rules", family=family, severity=Severity.HIGH, minutes=5.0, contributions=(part,))
    fields: dict[str, Any] = {
        "id": f"{name}.{family}.{second}.{state}",
        "episode": f"{name}.{family}",
        "service": name,
        "family": family,
        "state": state,
        "severity": Severity.HIGH,
        "decided_us": T0 + second * S,
        "onset_us": T0,
        "seen_us": T0 + second * S,
        "horizon_us": 300 * S,
        "detectors": ("rules",),
        "findings": () if state is RESOLVED else (found,),
        "features": {"events": 100.0},
    }
    return Alert(**(fields | changed))


def silent(name: str, second: int = 60, *, onset_s: float = 0, hosts: Sequence[str] = ("h1",), **changed: Any) -> Alert:
    part = Contribution(feature="events_per_minute", unit="events/min", actual=0.0, typical=200.0)
    found = Finding(
        detector="silence",
        family=Family.VOLUME,
        severity=Severity.CRITICAL,
        minutes=1.0,
        contributions=(part,),
        detail="no events at all",
    )
    fields: dict[str, Any] = {
        "onset_us": T0 + round(onset_s * S),
        "hosts": tuple(hosts),
        "findings": (found,),
        "detectors": ("silence",),
        "features": {"events": 0.0},
    }
    return alert(name, second, family=Family.VOLUME, **(fields | changed))


def lost(host: str = "h1", second: int = 60, *, onset_s: float = 0) -> Alert:
    part = Contribution(feature="services_unwatched", unit="services", actual=2.0, typical=0.0)
    found = Finding(
        detector="agents",
        family=Family.AGENT,
        severity=Severity.HIGH,
        minutes=1.0,
        contributions=(part,),
        detail="nothing is known of web, api since then",
    )
    return alert(
        agent_service(host), second, family=Family.AGENT, findings=(found,), hosts=(host,),
        onset_us=T0 + round(onset_s * S), detectors=("agents",), features={},
    )  # fmt: skip


async def window(store: SqliteStore, name: str, end_s: int) -> None:
    """The store holds a window of the service that ends there."""
    delta = WindowDelta(T0 + (end_s - 10) * S, name, "h1")
    delta.levels[Level.INFO], delta.levels[Level.ERROR] = 60, 40
    part = Slice(name, 0, deltas=[delta])
    await store.apply(
        [SliceWrite(BatchId(name.encode().ljust(16), 1, 1_000 + end_s), 0, b"c", wire.stored_slice(part))]
    )


@dataclass
class Live:
    """A running reporter."""

    store: Any
    folder: Path
    bus: MemoryBus = field(default_factory=MemoryBus)
    clock: EventClock = field(default_factory=lambda: EventClock(T0))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[Outcome]]:
        """A process, killed at the end of the block unless it has ended."""
        self.context = Context(
            data_dir=self.folder,
            clock=self.clock,
            bus=self.bus,
            store=self.store,
            collector=asyncio.get_running_loop().create_future(),
        )
        task = asyncio.create_task(ReporterService(self.context).run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def say(self, *alerts: Alert | bytes) -> None:
        values = [a.to_bytes() if isinstance(a, Alert) else a for a in alerts]
        await self.bus.publish([Record(Topic.ANOMALY_ALERTS, "web", value) for value in values])

    async def drained(self, task: asyncio.Task[Outcome]) -> Outcome:
        self.context.drain.set()
        return await asyncio.wait_for(task, 10)

    async def incidents(self) -> list[Incident]:
        rows = await self.store.query("incidents_latest", limit=20)
        return [msgspec.json.decode(row["document"], type=Incident) for row in rows]

    async def report(self) -> dict[str, Any]:
        """The newest report of the only incident; empty while there is none."""
        found = await self.incidents()
        if not found:
            return {}
        (incident,) = found
        rows = await self.store.query("report", incident_id=incident.id)
        return {**rows[0], **msgspec.json.decode(rows[0]["document"])} if rows else {}

    async def until(self, holds: Callable[[dict[str, Any]], bool], *, within_s: float = 5) -> dict[str, Any]:
        """The report as soon as that holds."""
        async with asyncio.timeout(within_s):
            while not ((found := await self.report()) and holds(found)):  # noqa: ASYNC110 - it looks from outside
                await asyncio.sleep(0.01)
        return found


@pytest.fixture
def live(store: SqliteStore, tmp_path: Path) -> Live:
    return Live(store, tmp_path)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what is not about how long it waits for the store."""
    monkeypatch.setattr(service, "_STORE_WAIT_S", 0.2)


def any_report(report: dict[str, Any]) -> bool:
    return True


def said_of_the_store(report: dict[str, Any]) -> list[str]:
    return [text for text in report["report"]["truncation"] if "stored" in text]


# --- waiting for the store -------------------------------------------------------------------------


async def test_what_the_store_holds_is_reported_at_once(live: Live, store: SqliteStore) -> None:
    await window(store, "web", 60)
    began = monotonic()
    async with live.running():
        await live.say(alert("web"))
        report = await live.until(any_report)
    assert monotonic() - began < 1
    assert said_of_the_store(report) == []


async def test_a_report_waits_until_the_store_holds_its_horizon(live: Live, store: SqliteStore) -> None:
    await window(store, "web", 50)
    async with live.running():
        await live.say(alert("web", features={"events": 200.0}))
        await asyncio.sleep(0.5)
        assert await live.report() == {}
        await window(store, "web", 60)
        report = await live.until(any_report, within_s=1)
    assert said_of_the_store(report) == []


@pytest.mark.parametrize("stored", ["all but the last window", "another service"])
async def test_it_waits_two_seconds_and_then_says_what_is_missing(live: Live, store: SqliteStore, stored: str) -> None:
    await window(store, *(("api", 60) if stored == "another service" else ("web", 50)))
    began = monotonic()
    async with live.running():
        await live.say(alert("web", features={"events": 200.0}))
        report = await live.until(any_report)
    assert 1.5 < monotonic() - began < 3
    (text,) = said_of_the_store(report)
    assert "2026-03-02T00:01:00Z" in text
    assert text in report["markdown"]


@pytest.mark.usefixtures("impatient")
async def test_the_next_alert_is_not_told_what_an_earlier_one_missed(live: Live, store: SqliteStore) -> None:
    async with live.running():
        await live.say(alert("web"))
        assert said_of_the_store(await live.until(any_report))
        await window(store, "web", 90)
        await live.say(alert("web", 90, RAISED))
        report = await live.until(lambda report: report["created_us"] > T0 + 60 * S)
    assert said_of_the_store(report) == []


@pytest.mark.parametrize(
    "made",
    [silent("web"), lost(), alert("web", 60, RAISED, Family.VOLUME, findings=silent("web").findings, features={})],
)
async def test_what_brings_no_windows_is_not_waited_for(live: Live, made: Alert) -> None:
    began = monotonic()
    async with live.running():
        await live.say(made)
        report = await live.until(any_report)
    assert monotonic() - began < 1
    assert said_of_the_store(report) == []


async def test_what_is_over_is_not_waited_for(live: Live, store: SqliteStore) -> None:
    await window(store, "web", 60)
    began = monotonic()
    async with live.running():
        await live.say(alert("web"), alert("web", 600, RESOLVED))
        await live.until(lambda report: report["revision"] == 2)
    assert monotonic() - began < 1


async def test_nothing_is_waited_for_at_the_end(live: Live) -> None:
    """The store writer has ended before: what it has not written does not come."""
    began = monotonic()
    async with live.running() as task:
        await asyncio.sleep(0.05)
        live.context.drain.set()
        await live.say(*(alert(f"s{n}") for n in range(5)))
        outcome = await asyncio.wait_for(task, 5)
    assert outcome.reports == 5
    assert monotonic() - began < 1.5


async def test_an_alert_that_came_before_is_not_waited_for(live: Live, store: SqliteStore) -> None:
    await window(store, "web", 60)
    async with live.running() as task:
        await live.say(alert("web"), alert("web"), alert("web"))
        await live.until(any_report)
        outcome = await live.drained(task)
    assert (outcome.incidents, outcome.reports) == (1, 1)


@pytest.mark.slow
async def test_alerts_that_come_together_wait_together(live: Live) -> None:
    """Each report waits for two seconds at most: of an outage of many services the last one does not wait longest."""
    names = ["web", "api", "cart"]
    began = monotonic()
    async with live.running():
        await live.say(*(alert(name) for name in names))
        async with asyncio.timeout(10):
            while len(await live.incidents()) < len(names):  # noqa: ASYNC110 - it looks from outside
                await asyncio.sleep(0.02)
    assert monotonic() - began < 3.5


# --- the second report -----------------------------------------------------------------------------


async def test_after_ten_minutes_there_is_a_second_report_once(live: Live, store: SqliteStore) -> None:
    await window(store, "web", 60)
    async with live.running() as task:
        await live.say(alert("web"))
        first = await live.until(any_report)
        live.clock.advance_to(T0 + 60 * S + SECOND_REPORT_US - 1)
        await asyncio.sleep(0.1)
        assert (await live.report())["revision"] == 1
        live.clock.advance_to(T0 + 60 * S + SECOND_REPORT_US)
        second = await live.until(lambda report: report["revision"] == 2)
        live.clock.advance_to(T0 + 3_600 * S)
        await asyncio.sleep(0.1)
        assert await live.report() == second
        outcome = await live.drained(task)
    assert outcome.reports == 2
    assert first["revision"] == 1
    assert second["created_us"] == T0 + 660 * S


async def test_the_end_within_ten_minutes_brings_the_second_report_and_no_third(live: Live, store: SqliteStore) -> None:
    await window(store, "web", 60)
    async with live.running() as task:
        await live.say(alert("web"), alert("web", 400, RESOLVED))
        await live.until(lambda report: report["revision"] == 2)
        live.clock.advance_to(T0 + 3_600 * S)
        await asyncio.sleep(0.1)
        outcome = await live.drained(task)
    assert outcome.reports == 2
    (incident,) = await live.incidents()
    assert incident.state is IncidentState.RESOLVED


async def test_the_end_after_the_second_report_is_in_it(live: Live, store: SqliteStore) -> None:
    await window(store, "web", 60)
    async with live.running():
        await live.say(alert("web"))
        await live.until(any_report)
        live.clock.advance_to(T0 + 700 * S)
        await live.until(lambda report: report["revision"] == 2)
        await live.say(alert("web", 900, RESOLVED))
        report = await live.until(lambda report: report["report"]["ended_us"] is not None)
    assert report["revision"] == 2
    assert report["report"]["ended_us"] == T0 + 900 * S


@pytest.mark.parametrize("down_s", [0, 3_600])
async def test_a_restart_does_not_forget_the_second_report(live: Live, store: SqliteStore, down_s: int) -> None:
    await window(store, "web", 60)
    async with live.running():
        await live.say(alert("web"))
        await live.until(any_report)
    live.clock.advance_to(T0 + 300 * S + down_s * S)
    async with live.running() as task:
        if not down_s:
            await asyncio.sleep(0.1)
            assert (await live.report())["revision"] == 1
            live.clock.advance_to(T0 + 660 * S)
        await live.until(lambda report: report["revision"] == 2)
        outcome = await live.drained(task)
    assert (outcome.incidents, outcome.reports) == (0, 1)


async def test_a_restart_does_not_write_the_second_report_again(live: Live, store: SqliteStore) -> None:
    await window(store, "web", 60)
    live.clock.advance_to(T0 + 60 * S)
    async with live.running():
        await live.say(alert("web"))
        await live.until(any_report)
        live.clock.advance_to(T0 + 700 * S)
        await live.until(lambda report: report["revision"] == 2)
    async with live.running() as task:
        await asyncio.sleep(0.1)
        outcome = await live.drained(task)
    assert outcome.reports == 0


# --- what belongs together -------------------------------------------------------------------------


def incident_of(*alerts: Alert) -> Incident:
    members = [
        Member(episode=a.episode, service=a.service, family=a.family, reason="", onset_us=a.onset_us, alerts=[a])
        for a in alerts
    ]
    return Incident(
        id="i", state=IncidentState.TRIGGERED, severity=Severity.HIGH, opened_us=T0, updated_us=T0, members=members
    )


@pytest.mark.parametrize(
    ("made", "known", "joins"),
    [
        (silent("api"), silent("web"), True),
        (silent("api", onset_s=30), silent("web"), True),
        (silent("api"), silent("web", onset_s=30), True),
        (silent("api", onset_s=31), silent("web"), False),
        (silent("api"), silent("web", onset_s=31), False),
        (silent("api", hosts=["h2"]), silent("web"), False),
        (silent("api", hosts=["h2", "h1"]), silent("web", hosts=["h1", "h3"]), True),
        (silent("api", hosts=[]), silent("web", hosts=[]), False),
        (alert("api", hosts=("h1",)), silent("web"), False),
        (silent("api"), alert("web", hosts=("h1",)), False),
        (alert("api", hosts=("h1",)), alert("web", hosts=("h1",)), False),
        (lost(), silent("web"), True),
        (silent("web"), lost(), True),
        (alert("web", hosts=("h1",)), lost(), True),
        (lost("h2"), silent("web"), False),
        (lost(onset_s=31), silent("web"), False),
        (lost("h1"), lost("h2"), False),
    ],
)
def test_what_is_one_event_is_joined_and_says_why(made: Alert, known: Alert, joins: bool) -> None:
    reason = link_of(made, incident_of(known))
    assert (reason is not None) == joins
    if reason is not None:
        assert "h1" in reason
        assert "same moment" in reason


def test_any_member_gives_the_reason() -> None:
    assert link_of(silent("cart"), incident_of(alert("web"), silent("api"))) is not None


async def test_three_services_that_fall_silent_are_one_incident_with_one_statement(live: Live) -> None:
    async with live.running() as task:
        await live.say(silent("web", 60), silent("api", 70, onset_s=10), silent("cart", 80, onset_s=20))
        row = await live.until(lambda report: len(report["report"]["services"]) == 3)
        outcome = await live.drained(task)
    assert (outcome.incidents, outcome.claims_dropped) == (1, 0)
    report = msgspec.convert(row["report"], Report)
    (statement,) = report.summary
    assert all(name in statement.text for name in ("web", "api", "cart"))
    assert "3 services" in report.title
    pack = msgspec.convert({"incident_id": report.incident_id, "items": row["evidence"]}, EvidencePack)
    checked, dropped = verify(report, pack)
    assert dropped == []
    assert checked == report
    (incident,) = await live.incidents()
    assert [member.is_link for member in incident.members] == [False, True, True]


async def test_services_that_fall_silent_on_other_hosts_are_incidents_of_their_own(live: Live) -> None:
    async with live.running() as task:
        await live.say(silent("web", hosts=["h1"]), silent("api", hosts=["h2"]), silent("cart", onset_s=40))
        await asyncio.sleep(0.2)
        outcome = await live.drained(task)
    assert outcome.incidents == 3


async def test_a_lost_agent_joins_what_fell_silent_with_it_and_its_report_says_so(live: Live) -> None:
    async with live.running() as task:
        await live.say(silent("web"), lost(second=75))
        row = await live.until(lambda report: len(report["report"]["services"]) == 2)
        outcome = await live.drained(task)
    assert (outcome.incidents, outcome.claims_dropped) == (1, 0)
    assert "not heard of" in row["markdown"]
    (incident,) = await live.incidents()
    assert "agent on h1" in incident.members[1].reason


async def test_a_lost_agent_alone_is_an_incident_with_an_end(live: Live) -> None:
    async with live.running():
        began = lost()
        await live.say(began, alert(began.service, 300, RESOLVED, Family.AGENT, episode=began.episode, hosts=("h1",)))
        row = await live.until(lambda report: report["revision"] == 2)
    assert row["report"]["ended_us"] == T0 + 300 * S
    assert "web, api" in row["markdown"]
    (incident,) = await live.incidents()
    assert incident.state is IncidentState.RESOLVED


def test_links_never_join_what_is_older_than_two_hours() -> None:
    incidents = Incidents()
    incidents.take(silent("web"), {})
    late = silent("api", 3 * 3_600, onset_s=0)
    assert incidents.candidates(late) == []


# --- bad input, and a store that is away -----------------------------------------------------------


async def test_what_is_no_alert_is_skipped_and_not_read_again(live: Live, store: SqliteStore) -> None:
    await window(store, "web", 60)
    async with live.running() as task:
        await live.say(b"{broken", alert("web"), b"\xff", b"{}")
        await live.until(any_report)
        outcome = await live.drained(task)
    assert (outcome.incidents, outcome.reports) == (1, 1)
    async with live.running() as task:
        assert (await live.drained(task)).reports == 0


class Away:
    """A store that cannot be reached for a while; with `after` it does what it was asked to before it says so."""

    def __init__(self, store: SqliteStore, *, after: bool = False) -> None:
        self._store = store
        self._after = after
        self.away = 0

    def _reached(self) -> None:
        if self.away:
            self.away -= 1
            raise StoreUnavailable("the store is away")

    async def query(self, name: str, **parameters: Any) -> list[Row]:
        self._reached()
        return await self._store.query(name, **parameters)

    async def transact(self, statements: Sequence[Statement]) -> None:
        if self._after:
            await self._store.transact(statements)
        self._reached()
        await self._store.transact(statements)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("times", [1, 2, 5, 20])
async def test_a_store_that_is_away_for_a_while_loses_nothing(
    store: SqliteStore, tmp_path: Path, times: int, after: bool
) -> None:
    await window(store, "web", 60)
    away = Away(store, after=after)
    live = Live(away, tmp_path)
    async with live.running() as task:
        await asyncio.sleep(0.02)
        away.away = times
        await live.say(alert("web"), alert("web", 400, RESOLVED))
        async with asyncio.timeout(5):
            while away.away:  # noqa: ASYNC110 - it looks from outside
                await asyncio.sleep(0.01)
        await live.until(lambda report: report["revision"] == 2)
        outcome = await live.drained(task)
    assert (outcome.incidents, outcome.reports, outcome.claims_dropped) == (1, 2, 0)
    (incident,) = await live.incidents()
    assert [a.state for a in incident.members[0].alerts] == [FIRED, RESOLVED]


async def test_a_store_that_is_away_at_the_start_is_waited_for(store: SqliteStore, tmp_path: Path) -> None:
    away = Away(store)
    away.away = 3
    live = Live(away, tmp_path)
    async with live.running() as task:
        await live.say(silent("web"))
        await asyncio.sleep(0.2)
        outcome = await live.drained(task)
    assert outcome.incidents == 1


@pytest.mark.usefixtures("impatient")
async def test_killed_before_it_committed_it_says_nothing_twice(live: Live, store: SqliteStore) -> None:
    """The incident is stored, the offset is not: the alert comes again to a new process."""
    await window(store, "web", 90)

    class Dying(MemoryBus):
        """Whose commits do not become durable."""

        async def subscribe(self, group: str, topics: Sequence[Topic], *, at_end: bool = False) -> Any:
            consumer = await super().subscribe(group, topics, at_end=at_end)

            async def commit(commits: object) -> None:
                return None

            consumer.commit = commit  # type: ignore[method-assign]
            return consumer

    live.bus = Dying()
    async with live.running():
        await live.say(alert("web"), alert("web", 90, RAISED))
        await live.until(lambda report: report["created_us"] == T0 + 90 * S)
    before = await live.incidents()
    async with live.running() as task:
        outcome = await live.drained(task)
    assert (outcome.incidents, outcome.reports) == (0, 0)
    assert await live.incidents() == before
