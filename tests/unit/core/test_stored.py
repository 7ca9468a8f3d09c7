"""What a store keeps of a slice: the same rows, and the same refusals, as of the slice decoded."""

from __future__ import annotations

from dataclasses import replace

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
    bucket_counts=st.lists(st.integers(0, 2), max_size=4),
    sum_us=big,
    sum_of_squares_us2=big,
    min_us=numbers,
    max_us=numbers,
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
    levels=st.lists(st.integers(0, 2), max_size=7),
    latency=st.none() | latencies,
    endpoints=st.none() | distinct,
    templates=st.lists(templates, max_size=1),
)


def _lawful(delta: Delta) -> Delta:
    delta.events = sum(delta.levels)
    return delta


@given(raw | raw.map(_lawful))
@example(Delta(duration_ms=10_000, signal=1, events=1, levels=[1], latency=Latency(bucket_counts=[1], max_us=5)))
@example(Delta(duration_ms=10_000, signal=1, latency=Latency(offset=2_000, bucket_counts=[0, 0])))
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
