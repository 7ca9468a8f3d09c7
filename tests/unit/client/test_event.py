"""An event is checked when it is made, and says what is wrong."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helios import Event, InvalidEvent, Level, Signal
from helios.event import MAX_EVENT_BYTES
from helios.v1 import events_pb2

NOON = datetime(2026, 3, 2, 12, 0, 0, 123_456, tzinfo=UTC)


def test_it_becomes_the_message_of_the_contract() -> None:
    event = Event(
        "checkout",
        "payment declined",
        level="error",
        time=NOON,
        latency_ms=812.3456,
        endpoint="/pay?card=4111",
        trace_id="4BF92F3577B34DA6A3CE929D0E0E4736",
        span_id="00f067aa0ba902b7",
        host="web-1",
        attributes={"order": 17, "why": {"code": "ü"}},
        id="order-17",
    )
    assert event.to_proto() == events_pb2.Event(
        time_us=1_772_452_800_123_456,
        service="checkout",
        level=events_pb2.LEVEL_ERROR,
        message="payment declined",
        latency_us=812_346,
        endpoint="/pay",
        trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
        span_id="00f067aa0ba902b7",
        host="web-1",
        signal=events_pb2.SIGNAL_LOG,
        id="order-17",
        attributes='{"order":17,"why":{"code":"ü"}}'.encode(),
    )
    assert event.time_us == event.to_proto().time_us
    assert event.size_bytes == len(event.to_proto().SerializeToString())
    assert Event.from_proto(event.to_proto()) == event


def test_the_numbers_of_levels_and_signals_are_those_of_the_contract() -> None:
    assert {f"LEVEL_{level.name}": level.value for level in Level} == dict(events_pb2.Level.items())
    assert {f"SIGNAL_{signal.name}": signal.value for signal in Signal} | {"SIGNAL_UNSPECIFIED": 0} == dict(
        events_pb2.Signal.items()
    )


def test_what_is_left_out() -> None:
    before = datetime.now(UTC)
    event = Event("checkout")
    assert isinstance(event.time, datetime)
    assert before <= event.time <= datetime.now(UTC)
    assert (event.level, event.signal, event.latency_ms) == (Level.UNSPECIFIED, Signal.LOG, None)
    assert not event.to_proto().HasField("latency_us")
    assert event.to_proto().attributes == b""


def test_each_event_gets_an_id_of_its_own_and_keeps_it() -> None:
    ids = {Event("checkout").id for _ in range(1_000)}
    assert len(ids) == 1_000
    assert "" not in ids
    event = Event("checkout")
    assert copy.deepcopy(event).id == event.id == pickle.loads(pickle.dumps(event)).id
    assert replace(event, level="warn").to_proto().id == event.id


def test_a_latency_of_zero_is_a_latency() -> None:
    assert Event("checkout", latency_ms=0).to_proto().HasField("latency_us")


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("debug", Level.DEBUG),
        ("TRACE", Level.DEBUG),
        ("notice", Level.INFO),
        ("Warning", Level.WARN),
        (" ERROR ", Level.ERROR),
        ("fatal", Level.CRITICAL),
        ("ALERT", Level.CRITICAL),
        ("emergency", Level.CRITICAL),
        (Level.INFO, Level.INFO),
    ],
)
def test_levels_by_name(name: str | Level, level: Level) -> None:
    assert Event("checkout", level=name).level is level


def test_any_time_zone_is_the_same_instant() -> None:
    there = NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert (
        Event("a", time=there, id="1")
        == Event("a", time=NOON, id="1")
        == Event("a", time=1_772_452_800_123_456, id="1")
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"service": ""}, "service is '', 0 bytes: 1 to 256"),
        ({"service": "ü" * 129}, "258 bytes"),
        ({"service": "a\nb"}, "cannot be printed"),
        ({"service": None}, "service is None: give a str"),
        ({"message": b"bytes"}, "message is b'bytes': give a str"),
        ({"level": "loud"}, "level is 'loud'"),
        ({"level": 40}, "level is 40"),
        ({"signal": 1}, "signal is 1"),
        ({"time": NOON.replace(tzinfo=None)}, "without a time zone"),
        ({"time": datetime(1969, 12, 31, tzinfo=UTC)}, "the years 1970 to 9999"),
        ({"time": 1_772_452_800}, "not s, ms or ns"),
        ({"time": 1_772_452_800_123}, "not s, ms or ns"),
        ({"time": 1_772_452_800_123_456_789}, "not s, ms or ns"),
        ({"time": 1_772_452_800.5}, "an aware datetime, or integer microseconds"),
        ({"time": "2026-03-02T12:00:00Z"}, "an aware datetime, or integer microseconds"),
        ({"latency_ms": -0.01}, "latency_ms is -0.01: 0 to 3600000"),
        ({"latency_ms": 3_600_001}, "0 to 3600000"),
        ({"latency_ms": float("nan")}, "a number of milliseconds"),
        ({"latency_ms": "12"}, "a number of milliseconds"),
        ({"trace_id": "4bf9-2f35"}, "hexadecimal digits"),
        ({"span_id": "xyz"}, "span_id is 'xyz'"),
        ({"endpoint": None}, "endpoint is None"),
        ({"id": 17}, "id is 17: give a str"),
        ({"id": "\udc80"}, "UTF-8 cannot carry"),
        ({"attributes": ["a"]}, "give a mapping"),
        ({"attributes": {1: "a"}}, "the key 1"),
        ({"attributes": {"when": NOON}}, "cannot be written as JSON: Object of type datetime"),
        ({"attributes": {"rate": float("nan")}}, "cannot be written as JSON"),
        ({"message": "x" * MAX_EVENT_BYTES}, f"at most {MAX_EVENT_BYTES}"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        Event(**({"service": "checkout"} | fields))
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300


def test_attributes_without_an_end_are_refused() -> None:
    endless: dict[str, object] = {}
    endless["again"] = endless
    with pytest.raises(InvalidEvent, match="Circular"):
        Event("checkout", attributes=endless)


def test_text_that_utf8_cannot_carry_is_replaced_in_the_free_parts() -> None:
    event = Event("checkout", "open caf\udce9.txt", attributes={"file": "caf\udce9"})
    assert event.message == "open caf?.txt"
    assert event.to_proto().attributes == b'{"file":"caf?"}'


def test_it_cannot_be_changed() -> None:
    attributes = {"a": 1}
    event = Event("checkout", attributes=attributes)
    attributes["a"] = 2
    assert event.attributes == {"a": 1}
    with pytest.raises(FrozenInstanceError):
        event.service = "other"  # type: ignore[misc]
    assert hash(event) == hash(copy.copy(event))


@settings(deadline=None)
@given(
    st.builds(
        Event,
        st.text("abc-_ü", min_size=1, max_size=60),
        st.text(max_size=100),
        level=st.sampled_from(Level),
        time=st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - Hypothesis wants it
        latency_ms=st.none() | st.floats(0, 3_600_000),
        trace_id=st.text("0123456789abcdef", max_size=32),
        signal=st.sampled_from(Signal),
        attributes=st.dictionaries(
            st.text(max_size=9), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text()), max_size=4
        ),
    )
)
def test_every_event_survives_the_wire(event: Event) -> None:
    message = events_pb2.Event.FromString(event.to_proto().SerializeToString())
    assert Event.from_proto(message) == event


@pytest.mark.parametrize(
    "message",
    [
        events_pb2.Event(service="a", signal=events_pb2.SIGNAL_LOG, attributes=b"{"),
        events_pb2.Event(service="a", signal=events_pb2.SIGNAL_LOG, attributes=b"[1]"),
        events_pb2.Event(service="a"),
        events_pb2.Event(signal=events_pb2.SIGNAL_LOG),
    ],
)
def test_a_message_that_breaks_the_contract_is_no_event(message: events_pb2.Event) -> None:
    with pytest.raises(InvalidEvent):
        Event.from_proto(message)
