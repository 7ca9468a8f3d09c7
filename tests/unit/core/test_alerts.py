"""Alerts: they come back from the bus as they went, have ids that a repeat does not change, and a fixed order."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios_core.alerts import (
    Alert,
    AlertState,
    Contribution,
    Family,
    Finding,
    Severity,
    alert_id,
    alert_row,
)
from helios_core.errors import WireError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
TIMES = st.integers(0, 253_402_300_799_999_999)  # to the end of the year 9999
NUMBER = st.none() | st.floats(allow_nan=False, allow_infinity=False)
CONTRIBUTIONS = st.builds(
    Contribution,
    feature=TEXT,
    unit=TEXT,
    actual=NUMBER,
    typical=NUMBER,
    limit=NUMBER,
    share=st.floats(0, 1),
)
FINDINGS = st.builds(
    Finding,
    detector=st.sampled_from(["forest", "baseline", "rules", "silence", "patterns"]),
    family=st.sampled_from(Family),
    severity=st.sampled_from(Severity),
    minutes=st.floats(0, 60),
    contributions=st.lists(CONTRIBUTIONS, max_size=3).map(tuple),
    score=NUMBER,
    tail_probability=NUMBER,
    detail=TEXT,
)
ALERTS = st.builds(
    Alert,
    id=TEXT,
    episode=TEXT,
    service=TEXT,
    family=st.sampled_from(Family),
    state=st.sampled_from(AlertState),
    severity=st.sampled_from(Severity),
    decided_us=TIMES,
    onset_us=TIMES,
    seen_us=TIMES,
    horizon_us=st.integers(0, 2**40),
    detectors=st.lists(TEXT, max_size=3).map(tuple),
    findings=st.lists(FINDINGS, max_size=3).map(tuple),
    features=st.dictionaries(TEXT, NUMBER, max_size=4),
    model_version=TEXT,
    suppressed=st.integers(0, 10**6),
    learning=st.booleans(),
)


def alert(**changed: Any) -> Alert:
    fields: dict[str, Any] = {
        "id": "a1", "episode": "e1", "service": "web", "family": Family.ERRORS, "state": AlertState.FIRED,
        "severity": Severity.HIGH, "decided_us": 10, "onset_us": 5, "seen_us": 10, "horizon_us": 300_000_000,
        "detectors": ("rules",), "findings": (), "features": {"p99_latency_ms": None},
    }  # fmt: skip
    return Alert(**(fields | changed))


@given(ALERTS)
def test_an_alert_comes_back_from_the_bus_as_it_went(made: Alert) -> None:
    assert Alert.from_bytes(made.to_bytes()) == made


@given(ALERTS)
def test_the_row_of_the_store_holds_the_whole_alert(made: Alert) -> None:
    row = alert_row(made)
    assert Alert.from_bytes(row["document"].encode()) == made
    assert (row["id"], row["service"], row["decided_us"]) == (made.id, made.service, made.decided_us)
    assert (row["state"], row["severity"]) == (made.state.value, made.severity.value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe\x00",
        b'{"id": "a"',
        b"[" * 500,
        alert().to_bytes()[:-1],
        alert().to_bytes().replace(b'"high"', b'"awful"'),
        alert().to_bytes().replace(b'"errors"', b'"error"'),
        alert().to_bytes().replace(b"300000000", b'"five minutes"'),
        alert().to_bytes().replace(b'"web"', b'"\xff"'),
    ],
    ids=range(12),
)
def test_what_is_no_alert_is_a_wire_error(data: bytes) -> None:
    with pytest.raises(WireError, match="are not an alert"):
        Alert.from_bytes(data)


def test_fields_that_a_newer_version_adds_are_passed_over() -> None:
    newer = msgspec.json.decode(alert().to_bytes()) | {"runbook": "https://example.org"}
    assert Alert.from_bytes(msgspec.json.encode(newer)) == alert()


def test_a_value_that_is_missing_stays_missing() -> None:
    assert Alert.from_bytes(alert().to_bytes()).features == {"p99_latency_ms": None}


def test_severities_have_an_order() -> None:
    assert [severity.rank for severity in (Severity.LOW, Severity.MEDIUM, Severity.HIGH, Severity.CRITICAL)] == [
        0, 1, 2, 3,
    ]  # fmt: skip


def test_the_id_is_a_hash_of_what_was_decided() -> None:
    known = alert_id("web", Family.ERRORS, 1_772_409_600_000_000, "v1")
    assert known == "aa2842874d77b28f"
    others = {
        alert_id("api", Family.ERRORS, 1_772_409_600_000_000, "v1"),
        alert_id("web", Family.LATENCY, 1_772_409_600_000_000, "v1"),
        alert_id("web", Family.ERRORS, 1_772_409_610_000_000, "v1"),
        alert_id("web", Family.ERRORS, 1_772_409_600_000_000, "v2"),
    }
    assert len(others | {known}) == 5


def test_a_name_that_is_no_text_has_an_id_too() -> None:
    assert len(alert_id("caf\udce9", Family.ERRORS, 0, "")) == 16


def test_deeply_nested_input_is_no_alert() -> None:
    with pytest.raises(WireError):
        Alert.from_bytes(b'{"newer":' + b"[" * 5_000 + b"]" * 5_000 + b"}")


@pytest.mark.parametrize("time_us", [-1, 253_402_300_800_000_000, 2**62])
def test_a_time_that_no_calendar_has_is_no_alert(time_us: int) -> None:
    for name in ("decided_us", "onset_us", "seen_us"):
        with pytest.raises(WireError, match="1970 to 9999"):
            Alert.from_bytes(msgspec.structs.replace(alert(), **{name: time_us}).to_bytes())
