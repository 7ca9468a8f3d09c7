"""What a store keeps of a slice: the same rows, and the same refusals, as of the slice decoded."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.unit.core.test_wire import deltas, events

from helios.v1 import batch_pb2, windows_pb2
from helios_core import wire
from helios_core.batches import Slice
from helios_core.errors import WireError
from helios_core.model import MetricSample
from helios_core.stored import StoredSlice
from helios_core.windows import WindowDelta

Delta = windows_pb2.WindowDelta
Latency = windows_pb2.LatencyHistogram


@given(st.lists(deltas(), max_size=3), st.lists(events, max_size=2))
def test_the_rows_are_those_of_the_decoded_slice(parts: list[WindowDelta], samples: list) -> None:  # type: ignore[type-arg]
    part = Slice("cart", 123, deltas=parts, metrics=[MetricSample("cpu", 0.5, {}, 5, "cart", "h")], samples=samples)
    data = wire.slice_to_proto(part).SerializeToString()
    assert _sorted(wire.stored_from_bytes(data)) == _sorted(wire.stored_slice(part))


def _sorted(stored: StoredSlice) -> StoredSlice:
    """Its templates have no order."""
    return replace(stored, templates=sorted(stored.templates, key=lambda t: (t.start_us, t.template_id, t.count)))


numbers = st.integers(0, 3) | st.sampled_from([1_015, 1_016, 2**32 - 1])
big = st.binary(max_size=3) | st.just(b"\xff" * 30)
latencies = st.builds(
    Latency,
    zero_count=st.integers(0, 3),
    offset=numbers,
    bucket_counts=st.lists(st.integers(0, 2) | st.sampled_from([127, 128, 2**64 - 1]), max_size=4),
    sum_us=big,
    sum_of_squares_us2=big,
    min_us=numbers,
    max_us=numbers,
    count=st.integers(0, 6),
)
distinct = st.builds(
    windows_pb2.DistinctCount,
    hashes=st.lists(st.integers(0, 400), max_size=3) | st.just([*range(129)]) | st.just([1] * 200),
    registers=st.sampled_from([b"", b"", b"\0" * 2_048, b"\x36" * 2_048, b"\x37" * 2_048, b"\0"]),
)
templates = st.builds(
    windows_pb2.TemplateCount,
    id=st.sampled_from([0, 17]),
    text=st.sampled_from(["", "a"]),
    level=st.integers(0, 7),
    count=st.integers(0, 2),
)
raw = st.builds(
    Delta,
    start_us=st.sampled_from([0, 10_000_000, 10_000_001, -10_000_000, 2**62]),
    duration_ms=st.sampled_from([10_000, 10_000, 0, 3_600_001]),
    signal=st.sampled_from([1, 1, 2, 0, 9]),
    events=st.integers(0, 6),
    levels=st.lists(st.integers(0, 2) | st.just(400), max_size=7),
    latency=st.none() | latencies,
    endpoints=st.none() | distinct,
    templates=st.lists(templates, max_size=1),
)


def _lawful(delta: Delta) -> Delta:
    delta.events = sum(delta.levels)
    if delta.HasField("latency"):
        delta.latency.count = (delta.latency.zero_count + sum(delta.latency.bucket_counts)) % 2**64
    return delta


def _timed(counts: list[int]) -> Delta:
    """With so many latencies of 4 µs, in three buckets."""
    n = sum(counts)
    latency = Latency(offset=60, bucket_counts=counts, sum_us=(4 * n).to_bytes(2, "big"), min_us=4, max_us=4, count=n)
    return Delta(duration_ms=10_000, signal=1, events=n, levels=[0, 0, n], latency=latency)


@given(raw | raw.map(_lawful))
@example(Delta(duration_ms=10_000, signal=1, events=1, levels=[1], latency=Latency(bucket_counts=[1], max_us=5)))
@example(Delta(duration_ms=10_000, signal=1, latency=Latency(offset=2_000, bucket_counts=[0, 0])))
@example(Delta(duration_ms=10_000, signal=1, events=9, levels=[9], latency=Latency(bucket_counts=[2], count=3)))
@example(
    Delta(duration_ms=10_000, signal=1, events=1, levels=[1], latency=Latency(offset=2_000, zero_count=1, count=1))
)
@example(_timed([1, 2, 127]))
@example(_timed([1, 200]))
def test_what_is_refused_decoded_is_refused_stored(delta: Delta) -> None:
    data = batch_pb2.Slice(service="cart", deltas=[delta]).SerializeToString()
    try:
        part = wire.slice_from_bytes(data)
    except WireError:
        part = None
    try:
        stored = wire.stored_from_bytes(data)
    except WireError:
        stored = None
    assert (part is None) == (stored is None)
    if part is not None and stored is not None:
        (window,), (expected,) = stored.windows, wire.stored_slice(part).windows
        sketches = {"latency": None, "endpoints": None}
        assert window._replace(**sketches) == expected._replace(**sketches)
        for mine, theirs, decode in (
            (window.latency, expected.latency, wire.latency_from_bytes),
            (window.endpoints, expected.endpoints, wire.distinct_from_bytes),
        ):
            assert (mine is None) == (theirs is None)
            assert mine is None or theirs is None or decode(mine) == decode(theirs)  # type: ignore[operator]


def _field(number: int, data: bytes) -> bytes:
    """A field of a message, by its length."""
    n_bytes = len(data)
    length = bytes([n_bytes]) if n_bytes < 128 else bytes([n_bytes & 127 | 128, n_bytes >> 7])
    return bytes([number << 3 | 2]) + length + data


PACKED = Latency(offset=60, bucket_counts=[1, 2], sum_us=b"\x0c", min_us=4, max_us=4, count=3).SerializeToString()
FORMS = {
    "one count that is not packed": _field(9, PACKED + b"\x18\x01"),
    "two packed parts": _field(9, PACKED + b"\x1a\x02\x01\x03"),
    "two parts that say how many they are": _field(9, PACKED + b"\x1a\x02\x01\x03\x22\x01\x1c\x40\x07"),
    "twice": _field(9, PACKED) * 2,
    "twice, and how many that is": _field(9, PACKED) + _field(9, PACKED + b"\x22\x01\x18\x40\x06"),
    "endpoints twice": _field(10, b"\x0a\x08" + bytes(8)) + _field(10, b"\x0a\x08" + bytes([1] * 8)),
    "endpoints of both kinds": _field(10, b"\x0a\x08" + bytes(8)) + _field(10, b"\x12\x80\x10" + bytes(2_048)),
    "of a later release": b"\xfa\x3e\x03new",
    "a latency of a later release": _field(9, PACKED + b"\xfa\x3e\x03new"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_of_another_sender_is_taken_as_a_reader_takes_it(form: str) -> None:
    delta = Delta(duration_ms=10_000, signal=1, events=7, levels=[7]).SerializeToString() + FORMS[form]
    sent = _field(1, b"cart") + _field(4, delta)
    try:
        expected = wire.stored_slice(wire.slice_from_bytes(sent))
    except WireError:
        with pytest.raises(WireError):
            wire.stored_from_bytes(sent)
    else:
        assert wire.stored_from_bytes(sent) == expected


@pytest.mark.parametrize("n_hashes", [0, 1, 15, 16, 128])
def test_any_number_of_exact_endpoints_is_kept(n_hashes: int) -> None:
    data = _field(1, b"cart") + _field(4, Delta(duration_ms=10_000, signal=1).SerializeToString())  # without endpoints
    assert wire.stored_from_bytes(data).windows[0].endpoints is None
    endpoints = windows_pb2.DistinctCount(hashes=[*range(n_hashes)])
    delta = Delta(duration_ms=10_000, signal=1, endpoints=endpoints)
    (window,) = wire.stored_from_bytes(batch_pb2.Slice(service="cart", deltas=[delta]).SerializeToString()).windows
    assert (window.endpoints or b"") == endpoints.SerializeToString()


@pytest.mark.parametrize("endpoints", [b"\x0a", b"\x0a\x07" + bytes(7), b"\x0a\x10" + bytes(8), b"\x0b\x00"])
def test_endpoints_that_are_cut_or_no_message_are_refused(endpoints: bytes) -> None:
    delta = Delta(duration_ms=10_000, signal=1).SerializeToString() + _field(10, endpoints)
    with pytest.raises(WireError):
        wire.stored_from_bytes(_field(1, b"cart") + _field(4, delta))
