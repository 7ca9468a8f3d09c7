"""The deterministic report: it says what the evidence says, and nothing that the verifier would drop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.examples import examples

from helios_core import wire
from helios_core.alerts import Alert, AlertState, Contribution, Family, Finding, Severity, alert_row
from helios_core.batches import BatchId, Slice
from helios_core.model import Event, Level
from helios_core.sketches.templates import template_id
from helios_core.store.base import SliceWrite, Statement
from helios_core.store.sqlite import SqliteStore
from helios_core.windows import WindowDelta
from helios_reporter import markdown
from helios_reporter.evidence import Evidence, EvidencePack, gather
from helios_reporter.incidents import Incident, Incidents
from helios_reporter.report import Claim, Report, changed, number, write
from helios_reporter.verify import verify

S = 1_000_000
T0 = 1_772_409_600 * S
FIRED, RAISED, RESOLVED = AlertState.FIRED, AlertState.RAISED, AlertState.RESOLVED


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0, "share", "0 %"),
        (0.00123, "share", "0.123 %"),
        (0.4, "share", "40 %"),
        (0.12345, "share", "12.3 %"),
        (1.0, "share", "100 %"),
        (0.0, "events/min", "0 events/min"),
        (0.5, "ms", "0.5 ms"),
        (12.345, "ms", "12.3 ms"),
        (99.96, "ms", "100 ms"),
        (123.456, "ms", "123 ms"),
        (1_234.5, "events", "1,234 events"),
        (12_345_678.9, "events", "12,345,679 events"),
        (-12.345, "ms", "-12.3 ms"),
        (-1_234.6, "", "-1,235"),
        (0.71, "", "0.71"),
    ],
)
def test_numbers_read_as_a_person_reads_them(value: float, unit: str, text: str) -> None:
    assert number(value, unit) == text


def item(value: float | None, baseline: float | None, name: str = "error_rate", unit: str = "share") -> Evidence:
    return Evidence(
        id="E1", kind="metric", service="web", from_us=0, to_us=1, source="test", name=name, unit=unit,
        value=value, baseline=baseline,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("evidence", "text"),
    [
        (item(0.4, 0.01), "the error rate rose from 1 % to 40 %"),
        (item(0.01, 0.4), "the error rate fell from 40 % to 1 %"),
        (item(0.4, 0.4), "the error rate stayed at 40 %"),
        (item(0.40001, 0.4), "the error rate stayed at 40 %"),
        (item(0.4, None), "the error rate is 40 %"),
        (item(None, 0.4), "the error rate is missing"),
        (item(None, None), "the error rate is missing"),
        (item(0.0, 60.0, "events_per_minute", "events/min"), "traffic fell from 60 events/min to 0 events/min"),
        (item(410.0, 80.0, "p99_latency", "ms"), "p99 latency rose from 80 ms to 410 ms"),
        (item(-2.0, -1.0, "log_p50_residual", "ms"), "log p50 residual fell from -1 ms to -2 ms"),
    ],
)  # fmt: skip
def test_a_change_is_a_sentence_with_its_direction(evidence: Evidence, text: str) -> None:
    assert changed(evidence) == text


# --- whole reports ---------------------------------------------------------------------------------


RATE = Contribution(feature="error_rate", unit="share", actual=0.4, typical=0.01, limit=0.15)
SLOW = Contribution(feature="p99_latency", unit="ms", actual=900.0, typical=80.0, limit=200.0)
MORE = Contribution(feature="events_per_5_min", unit="events", actual=3_000.0, typical=900.0, limit=2_000.0)
LESS = Contribution(feature="events_per_5_min", unit="events", actual=100.0, typical=900.0, limit=400.0)
STOP = Contribution(feature="events_per_minute", unit="events/min", actual=0.0, typical=180.0)
FRESH = Contribution(feature="new_template", unit="events", actual=20.0, typical=0.0, limit=5.0)
ODD = Contribution(feature="rate_of_change", unit="ratio", actual=4.2, typical=1.0)
PARTS = {
    Family.ERRORS: RATE,
    Family.LATENCY: SLOW,
    Family.VOLUME: MORE,
    Family.PATTERN: FRESH,
    Family.ANOMALY: ODD,
}


def alert(
    service: str = "web",
    family: Family = Family.ERRORS,
    second: int = 60,
    state: AlertState = FIRED,
    *,
    parts: Sequence[Contribution] | None = None,
    detail: str = "disk <*> is full",
    **more: Any,
) -> Alert:
    found = Finding(
        detector="patterns" if family is Family.PATTERN else "baseline",
        family=family,
        severity=Severity.HIGH,
        minutes=5.0,
        contributions=tuple([PARTS[family]] if parts is None else parts),
        score=0.7,
        detail=detail,
    )
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
        "detectors": ("baseline",),
        "findings": () if state is RESOLVED else (found,),
        "features": {},
    }
    return Alert(**(fields | more))


def incident_of(*alerts: Alert) -> Incident:
    incidents = Incidents()
    for made in alerts:
        incident = incidents.take(made, {i.id: "5 shared traces with web" for i in incidents.candidates(made)})
        assert incident is not None
    return incident


def window(service: str, second: int, info: int, error: int, latency_ms: float | None, text: str) -> WindowDelta:
    delta = WindowDelta(T0 + second * S, service, "h1")
    delta.levels[Level.INFO], delta.levels[Level.ERROR] = info, error
    if latency_ms is not None:
        delta.latency.add([round(latency_ms * 1_000)] * (info + error))
    if error:
        delta.templates.add(Level.ERROR, text, error)
    return delta


def traffic(
    service: str, *, latency: bool = True, text: str = "disk <*> is full", before: int = 0, after: int = 4
) -> tuple[list[WindowDelta], list[Event]]:
    """Half an hour and the incident: more errors, slower answers; `text` is the message of the errors."""
    deltas = []
    for second in range(-1_860, 120, 10):
        errors, latency_ms = (before, 20) if second < -60 else (after, 90)
        deltas.append(window(service, second, 20, errors, latency_ms if latency else None, text))
    id_ = template_id(Level.ERROR, text)
    return deltas, [
        Event(T0 + 5 * S, service, Level.ERROR, f"sample: {text}", host="h1", template_id=id_, counted=True)
    ]


async def reported(
    incident: Incident,
    traffics: Sequence[tuple[list[WindowDelta], list[Event]]],
    others: Sequence[Alert] = (),
    now_s: int = 120,
) -> tuple[Report, EvidencePack]:
    store = SqliteStore(":memory:")
    try:
        writes = [
            SliceWrite(
                BatchId(b"0123456789abcdef", 1, i + 1),
                0,
                b"c",
                wire.stored_slice(Slice(deltas[0].service, 0, deltas=deltas, samples=samples)),
            )
            for i, (deltas, samples) in enumerate(traffics)
        ]
        await store.apply(writes)
        await store.transact([Statement("upsert_anomaly", alert_row(other)) for other in others])
        pack = await gather(store, incident, T0 + now_s * S)
    finally:
        await store.close()
    return write(incident, pack), pack


def report_of(*arguments: Any, **more: Any) -> tuple[Report, EvidencePack]:
    return asyncio.run(reported(*arguments, **more))


def claims(report: Report) -> list[Claim]:
    sections = (
        report.summary, report.impact, report.causes, report.actions_immediate, report.actions_short_term,
        report.actions_long_term, report.checked_and_normal,
    )  # fmt: skip
    return [claim for section in sections for claim in section]


def texts(section: Sequence[Claim]) -> list[str]:
    return [claim.text for claim in section]


def test_it_says_what_is_wrong_since_when_and_how_far_from_normal() -> None:
    incident = incident_of(alert(), alert(family=Family.LATENCY, second=70))
    report, _ = report_of(incident, [traffic("web")])
    assert report.title == "web: more errors, slower"
    assert (report.severity, report.services) == ("high", ("web",))
    assert (report.started_us, report.ended_us) == (T0, None)
    assert texts(report.summary) == [
        "On web the error rate rose from 1 % to 40 % "
        "(over 5 min, against what is normal for this service at this time of day).",
        "On web p99 latency rose from 80 ms to 900 ms "
        "(over 5 min, against what is normal for this service at this time of day).",
    ]
    assert "On web the error rate rose from 0 % to 16.7 % against the half hour before." in texts(report.impact)
    assert any(text.startswith("On web median latency rose from ") for text in texts(report.impact))
    assert texts(report.checked_and_normal) == [
        "On web traffic rose from 120 events/min to 144 events/min, which is no notable change.",
        "On web the share of warnings stayed at 0 %, which is no notable change.",
    ]
    assert [(entry.time_us - T0) // S for entry in report.timeline] == [0, 0, 60, 70]
    assert len(report.unknowns) == 1


def test_causes_are_hypotheses_and_what_is_new_comes_first() -> None:
    report, pack = report_of(incident_of(alert()), [traffic("web")])
    assert [(claim.kind, claim.text) for claim in report.causes] == [
        ("hypothesis", "On web a new message appeared, “ERROR disk <*> is full”, 24 events/min: look here first.")
    ]
    assert [item.kind for item in pack.items if item.id in report.causes[0].evidence] == ["log_template"]
    assert texts(report.actions_short_term) == ["Follow this event on web: “sample: disk <*> is full”."]


def test_without_a_new_message_what_comes_more_often_is_named() -> None:
    report, _ = report_of(incident_of(alert()), [traffic("web", before=1)])
    assert texts(report.causes) == [
        "On web “ERROR disk <*> is full” comes more often: 24 events/min, before 6 events/min."
    ]


def test_a_new_error_is_said_to_be_new() -> None:
    report, _ = report_of(incident_of(alert(family=Family.PATTERN)), [traffic("web")])
    assert report.title == "web: a new error"
    assert texts(report.summary) == ["On web an error is logged that was not logged before: “disk <*> is full”."]


def test_traffic_where_there_was_none_is_no_new_error() -> None:
    began = Contribution(feature="events_per_5_min", unit="events", actual=300.0, typical=0.0, limit=50.0)
    report, _ = report_of(incident_of(alert(family=Family.VOLUME, parts=[began])), [traffic("web")])
    assert texts(report.summary)[0].startswith("On web traffic in 5 minutes rose from 0 events to 300 events")


def test_where_an_incident_spread_is_inferred_with_its_link() -> None:
    incident = incident_of(alert("database", onset_us=T0 - 30 * S), alert("web", second=70))
    report, _ = report_of(incident, [traffic("web"), traffic("database")])
    assert report.title == "database: more errors (with web)"
    assert (report.causes[0].kind, report.causes[0].text) == (
        "inferred",
        "It began on database, web followed; they are linked by 5 shared traces with web.",
    )


@pytest.mark.parametrize(
    ("alerts", "words"),
    [
        ([alert()], ["what was deployed or changed on web shortly before 2026-03-02T00:00:00Z"]),
        ([alert(family=Family.PATTERN)], ["what was deployed or changed on web"]),
        ([alert(family=Family.LATENCY)], ["the dependencies of web"]),
        ([alert(family=Family.VOLUME)], ["who sends web the additional traffic"]),
        ([alert(family=Family.VOLUME, parts=[LESS])], ["whether the callers of web reach it"]),
        ([alert(family=Family.VOLUME, parts=[STOP])], ["whether the callers of web reach it"]),
        ([alert(family=Family.ANOMALY)], ["Compare the features of web"]),
        # Each by the service that it happened on, whatever else went up there.
        (
            [alert("api"), alert("web", Family.VOLUME, parts=[STOP])],
            ["deployed or changed on api", "whether the callers of web reach it"],
        ),
        (
            [alert(), alert(family=Family.VOLUME, parts=[LESS])],
            ["deployed or changed on web", "whether the callers of web reach it"],
        ),
        (
            [alert(family=Family.PATTERN), alert(family=Family.VOLUME, parts=[STOP])],
            ["deployed or changed on web", "whether the callers of web reach it"],
        ),
    ],
)
def test_actions_are_about_what_happened_where_it_happened(alerts: list[Alert], words: list[str]) -> None:
    report, pack = report_of(incident_of(*alerts), [traffic("web"), traffic("api")])
    assert len(report.actions_immediate) == len(words)
    items = {item.id: item for item in pack.items}
    for claim, wanted in zip(report.actions_immediate, words, strict=True):
        assert wanted in claim.text
        assert {items[id_].service for id_ in claim.evidence} == {"api" if " api " in claim.text else "web"}


def test_a_service_without_latency_is_reported_and_said_to_have_none() -> None:
    report, pack = report_of(incident_of(alert()), [traffic("web", latency=False)])
    assert "The events carry no latency." in report.unknowns
    assert "latency" not in " ".join(texts(claims(report)))
    assert verify(report, pack) == (report, [])
    assert "latency" not in markdown.render(report, pack).replace("carry no latency", "")


def test_what_alerted_without_a_link_stands_beside_it() -> None:
    report, pack = report_of(
        incident_of(alert()), [traffic("web"), traffic("api"), traffic("cart")], [alert("api", second=0)]
    )
    (beside,) = pack.of("neighbour", "api")
    assert report.unknowns[-1] == f"Also alerted, without a known link: api [{beside.id}]."
    assert "No alert on cart within 10 minutes." in texts(report.checked_and_normal)


def test_an_incident_that_is_over_says_so() -> None:
    over = incident_of(alert(), alert(second=540, state=RESOLVED, seen_us=T0 + 240 * S))
    report, pack = report_of(over, [traffic("web")], now_s=540)
    assert report.ended_us is not None
    assert report.ended_us <= T0 + 540 * S
    assert "ongoing" not in markdown.render(report, pack).split("## Summary")[0]


def test_the_same_input_makes_the_same_bytes() -> None:
    made = []
    for _ in range(2):
        incident = incident_of(alert(), alert("api", Family.LATENCY))
        report, pack = report_of(incident, [traffic("web"), traffic("api"), traffic("cart")], [alert("cart")])
        made.append((msgspec.json.encode(report), markdown.render(report, pack)))
    assert made[0] == made[1]


def test_a_report_comes_back_from_its_json() -> None:
    report, _ = report_of(incident_of(alert()), [traffic("web")])
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report


# Names and messages that could be taken for words of the report, or end a quotation.
SERVICES = st.sampled_from(["web", "api", "dropped-frames", "rose", "fell", "a.b", "increased", "x”y", "“z", "- 1. #"])
MESSAGES = st.sampled_from(
    ["disk <*> is full", "rate rose”, and fell", "“fell", "”", "“” jumped “", "dropped <*> packets", "", "a|b\\|c `d`"]
)
CHANGES = st.sampled_from([RATE, SLOW, MORE, LESS, STOP, ODD]) | st.builds(
    Contribution,
    feature=st.sampled_from(["error_rate", "p50_latency", "unique_endpoints", "log_events_residual"]),
    unit=st.sampled_from(["share", "ms", "endpoints"]),
    actual=st.none() | st.floats(-1e6, 1e6),
    typical=st.none() | st.floats(-1e6, 1e6),
)


@st.composite
def alerts(draw: st.DrawFn) -> Alert:
    family = draw(st.sampled_from(Family))
    parts = [FRESH] * draw(st.integers(1, 2)) if family is Family.PATTERN else draw(st.lists(CHANGES, max_size=4))
    return alert(
        draw(SERVICES),
        family,
        draw(st.integers(0, 12)) * 10,
        draw(st.sampled_from([FIRED, RAISED])),
        parts=parts,
        detail=draw(MESSAGES),
    )


@settings(max_examples=examples(30), deadline=None)
@given(
    st.lists(alerts(), min_size=1, max_size=5),
    st.dictionaries(SERVICES, st.tuples(MESSAGES, st.booleans(), st.integers(0, 3), st.integers(0, 6)), max_size=4),
    st.lists(alerts(), max_size=2),
)
def test_every_claim_of_every_report_survives_the_verifier(
    members: list[Alert], traffics: dict[str, tuple[str, bool, int, int]], others: list[Alert]
) -> None:
    incidents = Incidents()
    for member in sorted(members, key=lambda a: a.decided_us):
        incident = incidents.take(member, {i.id: "5 shared traces" for i in incidents.candidates(member)})
        if incident is None:
            continue
        report, pack = report_of(
            incident,
            [
                traffic(service, text=text, latency=latency, before=before, after=after)
                for service, (text, latency, before, after) in traffics.items()
            ],
            others,
        )
        assert verify(report, pack) == (report, [])
        assert claims(report)
        assert report.summary
        assert report.actions_immediate
        cited = {id_ for claim in claims(report) for id_ in claim.evidence}
        assert cited <= {item.id for item in pack.items}
        assert markdown.render(report, pack) == markdown.render(report, pack)
