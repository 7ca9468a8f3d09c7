"""The wire form: what is encoded decodes to the same, and what breaks a limit is refused by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios.v1 import batch_pb2, events_pb2, windows_pb2
from helios_core import wire
from helios_core.batches import Batch, BatchId, Slice, SourceRange
from helios_core.errors import WireError
from helios_core.model import Event, EventRecord, Level, MetricSample
from helios_core.sketches.distinct import DistinctCount
from helios_core.sketches.latency import LatencyHistogram
from helios_core.windows import WindowDelta

names = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=20)


@st.composite
def deltas(draw: st.DrawFn) -> WindowDelta:
    levels = draw(st.lists(st.integers(0, 50), min_size=6, max_size=6))
    delta = WindowDelta(draw(st.integers(0, 10**6)) * 10_000_000, "cart", draw(names), levels=levels)
    delta.latency = LatencyHistogram.of(
        draw(st.lists(st.integers(0, 4 * 10**9), max_size=sum(levels) and 20))[: sum(levels)]
    )
    delta.endpoints = DistinctCount.of(map(str, range(draw(st.integers(0, 300)))))
    for text in draw(st.lists(st.text(max_size=20), max_size=5)):
        delta.templates.add(Level.ERROR, text)
    delta.unparsed = draw(st.integers(0, 9))
    return delta


events = st.builds(
    Event,
    time_us=st.integers(0, 4 * 10**15),
    service=st.just("cart"),
    level=st.sampled_from(list(Level)),
    message=st.text(max_size=30),
    latency_us=st.none() | st.integers(0, 3_600_000_000),
    endpoint=st.text(max_size=10),
    attributes=st.dictionaries(st.text(max_size=5), st.integers(-5, 5) | st.text(max_size=5), max_size=3),
    template_id=st.integers(0, 2**64 - 1),
    counted=st.booleans(),
)


@given(st.lists(deltas(), max_size=3), st.lists(events, max_size=3))
def test_a_batch_comes_back_as_it_was(parts: list[WindowDelta], samples: list[Event]) -> None:
    batch = Batch(
        host="h",
        cut_us=17,
        sources=[SourceRange("file:1:2:ab", "/var/log/x.log", 5, 99, 1_000, 7)],
        slices=[
            Slice("cart", 123, 7, True, True, parts, [MetricSample("cpu", 0.5, {"core": "1"}, 5, "cart", "h")], samples)
        ],
    )
    assert wire.batch_from_bytes(wire.batch_to_bytes(batch)) == batch


@given(st.lists(events, max_size=3))
def test_a_record_of_events_comes_back_as_it_was(items: list[Event]) -> None:
    record = EventRecord("cart", 99, items)
    assert wire.record_from_bytes(wire.record_to_bytes(record)) == record


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    for decode in (wire.batch_from_bytes, wire.slice_from_bytes, wire.record_from_bytes):
        try:
            decode(data)
        except WireError:
            continue


def test_the_size_of_a_histogram_on_the_wire() -> None:
    import random

    values = random.Random(1)
    histogram = LatencyHistogram.of([round(values.lognormvariate(11, 0.6)) for _ in range(1_000)])
    assert wire.latency_to_proto(histogram).ByteSize() < 650


def _delta(**changes: object) -> windows_pb2.WindowDelta:
    fields: dict[str, object] = {
        "start_us": 0,
        "duration_ms": 10_000,
        "signal": 1,
        "events": 1,
        "levels": [0, 0, 1],
    }
    return windows_pb2.WindowDelta(**{**fields, **changes})  # type: ignore[arg-type]  # built from names


@pytest.mark.parametrize(
    ("delta", "message"),
    [
        (_delta(start_us=3), "not aligned"),
        (_delta(duration_ms=0), "not aligned"),
        (_delta(events=2), "add up to 1"),
        (_delta(signal=9), "signal 9"),
        (_delta(start_us=-10_000_000), "outside the years"),
        (_delta(latency=windows_pb2.LatencyHistogram(zero_count=2)), "2 latencies of 1 events"),
        (_delta(latency=windows_pb2.LatencyHistogram(offset=1016, bucket_counts=[1])), "bucket outside"),
        (_delta(latency=windows_pb2.LatencyHistogram(zero_count=1, min_us=9, max_us=3)), "min 9, max 3"),
        (_delta(latency=windows_pb2.LatencyHistogram(zero_count=1, count=2)), "of 1 that says 2"),
        (_delta(endpoints=windows_pb2.DistinctCount(registers=b"123")), "3 HyperLogLog registers"),
        (_delta(endpoints=windows_pb2.DistinctCount(hashes=range(129))), "129 exact hashes"),
        (
            _delta(templates=[windows_pb2.TemplateCount(id=1, text="x", level="LEVEL_ERROR", count=1)]),
            "not that of",
        ),
    ],
)
def test_a_delta_that_breaks_a_law_is_refused(delta: windows_pb2.WindowDelta, message: str) -> None:
    with pytest.raises(WireError, match=message):
        wire.delta_from_proto(delta, "cart")


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (events_pb2.Event(), "service name of 0 bytes"),
        (events_pb2.Event(service="x" * 10_240), "service name of 10240 bytes"),
        (events_pb2.Event(service="a\x00b"), "cannot be printed"),
        (events_pb2.Event(service="cart", signal=1, time_us=-62_135_596_800_000_000), "outside the years"),
        (events_pb2.Event(service="cart", signal=1, latency_us=-1), "latency of -1"),
        (events_pb2.Event(service="cart", signal=1, attributes=b"[1]"), "not a JSON object"),
        (events_pb2.Event(service="cart", signal=1, attributes=b"\xff"), "not a JSON object"),
    ],
)
def test_an_event_that_breaks_a_law_is_refused(event: events_pb2.Event, message: str) -> None:
    with pytest.raises(WireError, match=message):
        wire.event_from_proto(event)


def test_a_slice_over_the_limit_is_refused() -> None:
    big = batch_pb2.Slice(service="cart", samples=[events_pb2.Event(service="cart", signal=1, message="x" * 600_000)])
    with pytest.raises(WireError, match="at most 524288"):
        wire.slice_from_bytes(big.SerializeToString())


def test_a_batch_id_is_checked() -> None:
    good = BatchId(b"0123456789abcdef", 7, 1)
    assert wire.id_from_proto(wire.id_to_proto(good)) == good
    with pytest.raises(WireError, match="sequence 0"):
        wire.id_from_proto(batch_pb2.BatchId(agent_id=b"0123456789abcdef", sequence=0))
