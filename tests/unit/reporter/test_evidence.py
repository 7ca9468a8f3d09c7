"""The evidence pack: its numbers are those of the store, and nothing in it is from after its time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from itertools import count
from typing import Any

import pytest

from helios_core import wire
from helios_core.alerts import Alert, AlertState, Contribution, Family, Finding, Severity, alert_row
from helios_core.batches import BatchId, Slice
from helios_core.model import Event, Level
from helios_core.sketches.templates import template_id
from helios_core.store.base import SliceWrite, Statement
from helios_core.store.sqlite import SqliteStore
from helios_core.windows import WindowDelta
from helios_reporter.evidence import Evidence, EvidencePack, _sent_minutes, gather
from helios_reporter.incidents import Incident, Incidents

S = 1_000_000
MINUTE_US = 60 * S
T0 = 1_772_409_600 * S  # the onset
FIRED, RAISED, RESOLVED = AlertState.FIRED, AlertState.RAISED, AlertState.RESOLVED
Templates = Sequence[tuple[Level, str, int]]


@pytest.fixture
async def store() -> AsyncIterator[SqliteStore]:
    made = SqliteStore(":memory:")
    yield made
    await made.close()


_sequence = count(1)


def window(
    second: int,
    service: str = "web",
    *,
    info: int = 0,
    warn: int = 0,
    error: int = 0,
    latency_ms: Sequence[float] = (),
    unparsed: int = 0,
    host: str = "h1",
    templates: Templates = (),
) -> WindowDelta:
    """The window that begins so many seconds after the onset."""
    delta = WindowDelta(T0 + second * S, service, host)
    delta.levels[Level.INFO], delta.levels[Level.WARN], delta.levels[Level.ERROR] = info, warn, error
    delta.unparsed = unparsed
    delta.latency.add([round(ms * 1_000) for ms in latency_ms])
    for level, text, times in templates:
        delta.templates.add(level, text, times)
    return delta


async def put(store: SqliteStore, deltas: Sequence[WindowDelta], samples: Sequence[Event] = ()) -> None:
    services = {d.service for d in deltas} | {e.service for e in samples}
    await store.apply(
        [
            SliceWrite(
                BatchId(b"0123456789abcdef", 1, next(_sequence)),
                0,
                b"content",
                wire.stored_slice(
                    Slice(
                        service,
                        0,
                        deltas=[d for d in deltas if d.service == service],
                        samples=[e for e in samples if e.service == service],
                    )
                ),
            )
            for service in sorted(services)
        ]
    )


def finding(*parts: Contribution, **changed: Any) -> Finding:
    fields: dict[str, Any] = {
        "detector": "rules",
        "family": Family.ERRORS,
        "severity": Severity.HIGH,
        "minutes": 5.0,
        "contributions": parts or (Contribution(feature="error_rate", unit="share", actual=0.4, typical=0.01),),
    }
    return Finding(**(fields | changed))


def alert(service: str = "web", second: int = 0, state: AlertState = FIRED, **changed: Any) -> Alert:
    family = changed.get("family", Family.ERRORS)
    fields: dict[str, Any] = {
        "id": f"{service}.{family}.{second}.{state}",
        "episode": f"{service}.{family}",
        "service": service,
        "family": family,
        "state": state,
        "severity": Severity.HIGH,
        "decided_us": T0 + second * S,
        "onset_us": T0,
        "seen_us": T0 + second * S,
        "horizon_us": 300 * S,
        "detectors": ("rules",),
        "findings": () if state is RESOLVED else (finding(),),
        "features": {},
    }
    return Alert(**(fields | changed))


def incident_of(*alerts: Alert) -> Incident:
    """One incident of all of them: other services are linked."""
    incidents = Incidents()
    for made in alerts:
        incident = incidents.take(made, {i.id: "5 shared traces" for i in incidents.candidates(made)})
        assert incident is not None
    return incident


async def alerted(store: SqliteStore, *alerts: Alert) -> None:
    await store.transact([Statement("upsert_anomaly", alert_row(made)) for made in alerts])


def metrics(pack: EvidencePack, service: str = "web") -> dict[str, Evidence]:
    return {item.name: item for item in pack.of("metric", service)}


def steady(from_s: int, to_s: int, service: str = "web", **fields: Any) -> list[WindowDelta]:
    return [window(second, service, **fields) for second in range(from_s, to_s, 10)]


async def test_measures_are_those_of_the_minute_before_and_the_incident_beside_the_half_hour_before(
    store: SqliteStore,
) -> None:
    await put(store, steady(-1_870, -1_860, error=1_000))  # before the half hour
    await put(store, steady(-1_860, -60, info=9, warn=1, latency_ms=[20] * 10))
    await put(store, steady(-60, 120, info=10, warn=4, error=6, latency_ms=[30] * 19 + [900], host="h1"))
    await put(store, steady(-60, 120, info=10, unparsed=2, host="h2"))
    await put(store, steady(120, 300, error=5_000, unparsed=9))  # after it
    pack = await gather(store, incident_of(alert(second=120)), T0 + 120 * S)
    found = metrics(pack)
    assert {name: (item.value, item.baseline) for name, item in found.items() if "latency" not in name} == {
        "events_per_minute": (180.0, 60.0),
        "error_rate": (0.2, 0.0),
        "warning_rate": (4 / 30, 0.1),
        "unparsed_per_minute": (12.0, 0.0),
    }
    for name, value, baseline in (("p50", 30, 20), ("p95", 30, 20), ("p99", 900, 20)):
        assert found[f"{name}_latency"].value == pytest.approx(value, rel=0.011)
        assert found[f"{name}_latency"].baseline == pytest.approx(baseline, rel=0.011)
    for item in found.values():
        assert (item.from_us, item.to_us) == (T0 - 60 * S, T0 + 120 * S)
        assert item.unit == ("share" if item.name.endswith("rate") else item.unit)


async def test_what_was_looked_at_and_is_normal_is_marked_as_normal(store: SqliteStore) -> None:
    await put(store, steady(-1_860, -60, info=100, error=1, latency_ms=[20]))
    await put(store, steady(-60, 120, info=109, error=2, latency_ms=[60]))
    found = metrics(await gather(store, incident_of(alert()), T0 + 120 * S))
    assert {name: item.notable for name, item in found.items()} == {
        "events_per_minute": False,
        "error_rate": False,
        "warning_rate": False,
        "p50_latency": True,
        "p95_latency": True,
        "p99_latency": True,
    }


async def test_a_service_without_latency_has_no_latency(store: SqliteStore) -> None:
    await put(store, steady(-1_860, 120, info=10))
    pack = await gather(store, incident_of(alert()), T0 + 120 * S)
    assert set(metrics(pack)) == {"events_per_minute", "error_rate", "warning_rate"}


async def test_a_silent_service_has_no_traffic(store: SqliteStore) -> None:
    await put(store, steady(-1_860, -60, info=10, unparsed=1))
    found = metrics(await gather(store, incident_of(alert()), T0 + 120 * S))
    assert (found["events_per_minute"].value, found["events_per_minute"].baseline) == (0.0, 60.0)
    assert (found["unparsed_per_minute"].value, found["unparsed_per_minute"].baseline) == (0.0, 6.0)
    assert (found["error_rate"].value, found["error_rate"].baseline) == (None, 0.0)


async def test_without_anything_in_the_store_the_alert_stands_alone(store: SqliteStore) -> None:
    pack = await gather(store, incident_of(alert()), T0)
    assert [(item.id, item.kind) for item in pack.items if item.kind != "metric"] == [("E1", "detector")]
    assert all(item.value in (None, 0.0) for item in metrics(pack).values())


async def test_items_are_numbered_in_order(store: SqliteStore) -> None:
    await put(store, steady(-1_860, 120, info=10))
    await put(store, steady(-1_860, 120, "api", info=10))
    pack = await gather(store, incident_of(alert()), T0 + 120 * S)
    assert [item.id for item in pack.items] == [f"E{i + 1}" for i in range(len(pack.items))]


# --- detectors -------------------------------------------------------------------------------------


async def test_what_the_detectors_found_is_cited_with_its_alert(store: SqliteStore) -> None:
    parts = [
        Contribution(feature=f"p{q}_latency", unit="ms", actual=90.0 + q, typical=20.0, limit=40.0, share=0.25)
        for q in (99, 95, 50, 10)
    ]
    one = alert(second=60, findings=(finding(*parts, detector="baseline"), finding(minutes=1.0)))
    pack = await gather(store, incident_of(one, alert(second=70, state=RAISED)), T0 + 120 * S)
    items = pack.of("detector")
    assert [(i.name, i.value, i.baseline, i.unit) for i in items] == [
        ("p99_latency", 189.0, 20.0, "ms"),
        ("p95_latency", 185.0, 20.0, "ms"),
        ("p50_latency", 140.0, 20.0, "ms"),
        ("error_rate", 0.4, 0.01, "share"),
    ]
    assert [(i.from_us - T0, i.to_us - T0) for i in items] == [(-240 * S, 60 * S)] * 3 + [(0, 60 * S)]
    assert all(one.id in item.source for item in items)


async def test_of_new_errors_the_one_whose_text_is_known_is_cited(store: SqliteStore) -> None:
    parts = [
        Contribution(feature="new_template", unit="events", actual=count, typical=0.0, limit=5.0, share=0.5)
        for count in (20.0, 6.0)
    ]
    found = finding(*parts, detector="patterns", family=Family.PATTERN, detail="disk <*> is full")
    pack = await gather(store, incident_of(alert(family=Family.PATTERN, findings=(found,))), T0)
    assert [(item.name, item.value) for item in pack.of("detector")] == [("disk <*> is full", 20.0)]


async def test_a_finding_without_reasons_is_cited_with_its_score(store: SqliteStore) -> None:
    found = finding(detector="forest", family=Family.ANOMALY, contributions=(), score=0.71)
    pack = await gather(store, incident_of(alert(family=Family.ANOMALY, findings=(found,))), T0)
    assert [(item.name, item.value) for item in pack.of("detector")] == [("score", 0.71)]


# --- templates -------------------------------------------------------------------------------------


async def test_templates_that_are_new_or_more_frequent_are_cited_with_their_rates(store: SqliteStore) -> None:
    text = {"old": "no item <*>", "more": "timeout of <*>", "new": "disk <*> is full", "few": "odd"}
    before: Templates = [(Level.ERROR, text["old"], 2), (Level.WARN, text["more"], 1)]
    after: Templates = [(Level.ERROR, text["old"], 3), (Level.WARN, text["more"], 4), (Level.ERROR, text["new"], 5)]
    await put(store, steady(-1_860, -60, info=10, templates=before))
    await put(store, steady(-60, 120, info=10, templates=after))
    await put(store, [window(0, templates=[(Level.ERROR, text["few"], 2)])])
    pack = await gather(store, incident_of(alert()), T0 + 120 * S)
    assert [(i.name, i.unit, i.value, i.baseline) for i in pack.of("log_template")] == [
        ("ERROR disk <*> is full", "events/min", 30.0, None),
        ("WARN timeout of <*>", "events/min", 24.0, 6.0),
    ]


async def test_more_traffic_makes_no_template_more_frequent(store: SqliteStore) -> None:
    await put(store, steady(-1_860, -60, info=10, templates=[(Level.ERROR, "no item <*>", 1)]))
    await put(store, steady(-60, 120, info=40, templates=[(Level.ERROR, "no item <*>", 4)]))
    pack = await gather(store, incident_of(alert()), T0 + 120 * S)
    assert pack.of("log_template") == []


async def test_a_template_that_was_first_seen_within_the_hour_before_is_not_new(store: SqliteStore) -> None:
    await put(store, [window(-3_000, templates=[(Level.ERROR, "no item <*>", 1)])])
    await put(store, steady(-60, 120, info=10, templates=[(Level.ERROR, "no item <*>", 1)]))
    (item,) = (await gather(store, incident_of(alert()), T0 + 120 * S)).of("log_template")
    assert (item.value, item.baseline) == (6.0, 0.0)


async def test_samples_of_a_template_are_lines_of_the_incident(store: SqliteStore) -> None:
    id_ = template_id(Level.ERROR, "disk <*> is full")

    def sample(second: int, message: str) -> Event:
        return Event(T0 + second * S, "web", Level.ERROR, message, host="h9", template_id=id_, counted=True)

    lines = [sample(second, f"disk {second} is full " + "x" * 500) for second in (-600, 10, 20, 30, 121)]
    await put(store, steady(0, 120, templates=[(Level.ERROR, "disk <*> is full", 2)]), lines)
    pack = await gather(store, incident_of(alert()), T0 + 120 * S)
    samples = pack.of("log_sample")
    assert [item.name[:10] for item in samples] == ["disk 10 is", "disk 20 is"]
    assert all(len(item.name) <= 300 for item in samples)
    assert [(item.from_us, item.to_us, item.source) for item in samples] == [
        (T0 + second * S, T0 + second * S, "events on h9") for second in (10, 20)
    ]


async def test_what_is_left_out_is_stated(store: SqliteStore) -> None:
    letters = "abcdefghijkl"
    await put(store, steady(0, 120, templates=[(Level.ERROR, f"failure {x}", 3) for x in letters]))
    services = [f"s{i:02d}" for i in range(12)]
    pack = await gather(store, incident_of(alert(), *(alert(service) for service in services)), T0 + 120 * S)
    assert len(pack.of("log_template", "web")) == 8
    assert "8 of 12 changed templates of web" in pack.truncation
    assert "10 of 13 services" in pack.truncation
    assert len({item.service for item in pack.of("metric")}) == 10


# --- neighbours ------------------------------------------------------------------------------------


def neighbours(pack: EvidencePack) -> dict[str, tuple[str, bool]]:
    return {item.service: (item.name, item.notable) for item in pack.of("neighbour")}


async def test_other_services_are_named_with_whether_they_alerted(store: SqliteStore) -> None:
    for service in ("web", "quiet", "loud", "over"):
        await put(store, steady(-600, 120, service, info=3))
    await alerted(store, alert(), alert("loud", -60), alert("loud", 30, RAISED, severity=Severity.CRITICAL))
    await alerted(store, alert("over", -500), alert("over", -60, RESOLVED))
    pack = await gather(store, incident_of(alert()), T0 + 120 * S)
    assert neighbours(pack) == {
        "loud": ("also ongoing (errors, critical)", True),
        "over": ("an alert that is over (errors, high)", True),
        "quiet": ("no alert", False),
    }
    item = pack.of("neighbour", "quiet")[0]
    assert (item.from_us, item.to_us) == (T0 - 600 * S, T0 + 120 * S)
    assert (item.value, item.unit) == (3 * 72.0, "events")


async def test_a_neighbour_that_has_gone_silent_is_named(store: SqliteStore) -> None:
    """It has no events, which is what is wrong with it."""
    await put(store, steady(-5_000, -900, "database", info=3))
    await put(store, steady(-600, 120, "web", info=3))
    await alerted(store, alert("database", -60, family=Family.VOLUME, severity=Severity.CRITICAL))
    pack = await gather(store, incident_of(alert()), T0 + 120 * S)
    assert neighbours(pack) == {"database": ("also ongoing (volume, critical)", True)}
    assert pack.of("neighbour")[0].value == 0.0


async def test_an_alert_that_has_long_been_open_is_named_and_one_that_is_long_over_is_not(store: SqliteStore) -> None:
    for service in ("web", "open", "over"):
        await put(store, steady(-600, 120, service, info=3))
    await alerted(store, alert("open", -3_000), alert("over", -3_000), alert("over", -1_000, RESOLVED))
    pack = await gather(store, incident_of(alert()), T0 + 120 * S)
    assert neighbours(pack) == {"open": ("also ongoing (errors, high)", True), "over": ("no alert", False)}


async def test_members_of_the_incident_are_no_neighbours(store: SqliteStore) -> None:
    for service in ("web", "api"):
        await put(store, steady(-600, 120, service, info=3))
    await alerted(store, alert(), alert("api"))
    pack = await gather(store, incident_of(alert(), alert("api")), T0 + 120 * S)
    assert neighbours(pack) == {}


async def test_of_many_neighbours_those_that_alerted_are_named_and_the_rest_is_stated(store: SqliteStore) -> None:
    names = [f"n{i:03d}" for i in range(70)]
    await put(store, [window(0, name, info=1) for name in names])
    await alerted(store, alert("n069", -60))
    pack = await gather(store, incident_of(alert()), T0 + 120 * S)
    assert neighbours(pack)["n069"][1]
    assert len(neighbours(pack)) == 50
    assert "50 of 70 other services" in pack.truncation


# --- time ------------------------------------------------------------------------------------------


async def test_nothing_from_after_its_time_is_in_the_pack(store: SqliteStore) -> None:
    """What is in the store later, but not yet: windows, templates, samples, alerts and services."""
    now_s = 120
    incident = incident_of(alert(second=60))
    await put(store, steady(-1_860, now_s, info=10, error=1, latency_ms=[20], templates=[(Level.ERROR, "a <*>", 1)]))
    await put(store, steady(-1_860, now_s, "api", info=10))
    early = await gather(store, incident, T0 + now_s * S)
    late = template_id(Level.ERROR, "a <*>")
    await put(
        store,
        steady(now_s, now_s + 900, error=500, latency_ms=[9_000], unparsed=7, templates=[(Level.ERROR, "b <*>", 9)])
        + steady(now_s, now_s + 900, "late", info=10)
        + steady(now_s, now_s + 900, "api", info=10),
        [Event(T0 + now_s * S, "web", Level.ERROR, "a 1", template_id=late, counted=True)],
    )
    await alerted(store, alert("api", now_s + 10), alert("late", now_s + 10), alert("web", now_s + 10, RESOLVED))
    again = await gather(store, incident, T0 + now_s * S)
    assert again == early
    assert all(item.to_us <= T0 + now_s * S for item in again.items)


async def test_an_alert_of_this_very_instant_is_in_the_pack(store: SqliteStore) -> None:
    await put(store, steady(-600, 120, "api", info=10))
    await alerted(store, alert("api", 120))
    assert neighbours(await gather(store, incident_of(alert()), T0 + 120 * S))["api"][1]


async def test_an_incident_that_is_over_is_measured_to_where_it_ended(store: SqliteStore) -> None:
    """Not to where it was called over, five quiet minutes later."""
    await put(store, steady(-1_860, -60, info=10))
    await put(store, steady(-60, 240, info=10, error=10))
    await put(store, steady(240, 900, info=10))
    over = incident_of(alert(second=60), alert(second=540, state=RESOLVED, seen_us=T0 + 240 * S))
    for now_s in (540, 900):
        found = metrics(await gather(store, over, T0 + now_s * S))
        assert (found["error_rate"].value, found["error_rate"].to_us) == (0.5, T0 + 240 * S)


async def test_the_same_input_makes_the_same_pack(store: SqliteStore) -> None:
    await put(store, steady(-1_860, 120, info=10, error=2, templates=[(Level.ERROR, f"x {c}", 2) for c in "abc"]))
    await alerted(store, alert("api"), alert("api", family=Family.LATENCY))
    packs = [await gather(store, incident_of(alert()), T0 + 120 * S) for _ in range(2)]
    assert packs[0] == packs[1]


@pytest.mark.parametrize(
    ("events", "windows", "minutes"),
    [(30, 60, 10.0), (3, 60, 10.0), (2, 60, None), (0, 0, 0.0)],
)
def test_of_a_busy_service_the_time_without_windows_was_not_read(
    events: int, windows: int, minutes: float | None
) -> None:
    rows = [
        {"start_us": n * 10_000_000, "duration_ms": 10_000, "levels": f"[0,0,{events},0,0,0]"} for n in range(windows)
    ]
    assert _sent_minutes(rows) == minutes
