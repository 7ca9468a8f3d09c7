"""The cutter: whatever was counted goes into batches that fit the contract, once, and in order."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helios.v1 import batch_pb2, service_pb2
from helios_agent import cut as cut_module
from helios_agent.cut import Cutter
from helios_core import wire
from helios_core.batches import MAX_SLICE_BYTES, Batch, SourceRange
from helios_core.model import Event, Level
from helios_core.windows import WindowDelta, merge_all

AGENT = bytes(range(16))
WATERMARK = 1_700_000_000_000_000
NOW = WATERMARK + 5
MAX_MESSAGE_BYTES = 4 * 1024 * 1024  # what a gRPC server takes unless told otherwise
WINDOW_US = 10_000_000


def delta(service: str, window: int, *, templates: int = 0, host: str = "host-1", width: int = 256) -> WindowDelta:
    made = WindowDelta(window * WINDOW_US, service, host)
    made.levels[Level.ERROR] = max(1, templates)
    made.bytes_in = window % 1_000
    made.latency.add([window + 1])
    made.endpoints.add_hashes({window})
    for number in range(templates):
        made.templates.add(Level.ERROR, f"{window} {number} {service} ".ljust(width, "ü")[:width])
    return made


def sample(service: str, number: int, size: int = 10) -> Event:
    return Event(number * 1_000, service, Level.ERROR, "m" * size, host="host-1", counted=True)


def source(number: int, path_bytes: int = 20, backlog: int = 0) -> SourceRange:
    path = f"/var/log/{number}".ljust(path_bytes, "x")
    return SourceRange(f"file:{number}", path, number, number + 10, WATERMARK - number, backlog)


def cut(
    cutter: Cutter,
    deltas: Sequence[WindowDelta] = (),
    samples: dict[str, list[Event]] | None = None,
    services: Sequence[str] = (),
    sources: Sequence[SourceRange] = (),
) -> list[Batch]:
    """The batches of a cut, after all that the contract says of them was checked."""
    samples = samples or {}
    requests = cutter.cut(
        now_us=NOW,
        deltas=deltas,
        samples={name: list(events) for name, events in samples.items()},
        services=services,
        sources=sources,
        watermark_us=WATERMARK,
    )
    batches = [checked(request) for request in requests]
    assert len(batches) >= 1
    # every delta and every sample once, in the order in which it was given
    names = {*services, *samples, *(one.service for one in deltas)}
    parts = {name: [part for batch in batches for part in batch.slices if part.service == name] for name in names}
    assert sum(map(len, parts.values())) == sum(len(batch.slices) for batch in batches)
    for name, pieces in parts.items():
        assert [one for piece in pieces for one in piece.deltas] == [one for one in deltas if one.service == name]
        assert [one for piece in pieces for one in piece.samples] == samples.get(name, [])
        assert [piece.watermark_us for piece in pieces] == [0] * (len(pieces) - 1) + [WATERMARK]
        assert {piece.backlog_bytes for piece in pieces} == {sum(one.backlog_bytes for one in sources)}
        assert len(pieces) == 1 or all(piece.deltas or piece.samples for piece in pieces)
    assert [one for batch in batches for one in batch.sources] == list(sources)
    with_sources = [bool(batch.sources) for batch in batches]
    assert with_sources == sorted(with_sources)  # at the end: what they cover stands before them or beside them
    assert sum(with_sources) <= 1 or not batches[-1].slices
    return batches


def checked(request: service_pb2.SendBatchRequest) -> Batch:
    assert request.ByteSize() < MAX_MESSAGE_BYTES
    assert request.contract_version == wire.CONTRACT_VERSION
    _, message = wire.open_request(request)
    assert all(len(part) <= MAX_SLICE_BYTES for part in message.slices)
    names = [wire.view_slice(part).service for part in message.slices]
    assert len(set(names)) == len(names)
    batch = wire.batch_from_bytes(request.batch)
    assert (batch.host, batch.cut_us) == ("host-1", NOW)
    return batch


names = st.sampled_from(["cart", "checkout", "users", "ü" * 128, "_overflow"])
deltas_drawn = st.lists(
    st.builds(delta, names, st.integers(0, 10**6), templates=st.integers(0, 6), width=st.sampled_from([10, 256])),
    max_size=40,
).map(lambda made: sorted(made, key=lambda one: one.key))
samples_drawn = st.dictionaries(
    names, st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 2_000)), max_size=6), max_size=3
)


@given(
    deltas=deltas_drawn,
    samples=samples_drawn,
    services=st.lists(names, unique=True),
    sources=st.lists(st.builds(source, st.integers(0, 99), st.integers(10, 300), st.integers(0, 10**9)), max_size=8),
    slice_bytes=st.sampled_from([5_000, 8_000, 30_000, MAX_SLICE_BYTES]),
    batch_bytes=st.sampled_from([9_000, 40_000, 3 * 1024 * 1024]),
)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_all_of_it_arrives_once_in_pieces_that_fit(
    deltas: list[WindowDelta],
    samples: dict[str, list[tuple[int, int]]],
    services: list[str],
    sources: list[SourceRange],
    slice_bytes: int,
    batch_bytes: int,
) -> None:
    events = {name: [sample(name, *one) for one in drawn] for name, drawn in samples.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cut_module, "_SLICE_TARGET_BYTES", slice_bytes - 1_024)
        patch.setattr(cut_module, "MAX_BATCH_BYTES", batch_bytes)
        batches = cut(Cutter(AGENT, "host-1"), deltas, events, services, sources)
    for batch in batches:
        for part in batch.slices:
            size = wire.slice_to_proto(part).ByteSize()
            assert size <= slice_bytes or len(part.deltas) + len(part.samples) == 1
        if len(batch.slices) > 1:
            assert len(wire.batch_to_bytes(batch)) <= batch_bytes + 5_000
    assert merge_all(one for batch in batches for part in batch.slices for one in part.deltas) == merge_all(deltas)


def test_a_cut_of_nothing_is_a_heartbeat() -> None:
    (batch,) = cut(Cutter(AGENT, "host-1"), services=["cart", "users"], sources=[source(1)])
    assert [(part.service, part.watermark_us) for part in batch.slices] == [("cart", WATERMARK), ("users", WATERMARK)]
    (batch,) = cut(Cutter(AGENT, "host-1"))
    assert batch.slices == []


def test_sequences_have_no_gaps_and_start_anew_with_each_run() -> None:
    big = [delta("cart", window, templates=256) for window in range(30)]
    cutter = Cutter(AGENT, "host-1")
    ids = []
    for deltas in ([], big, [delta("cart", 1)], []):
        requests = cutter.cut(now_us=NOW, deltas=deltas, samples={}, services=[], sources=[], watermark_us=WATERMARK)
        ids += [wire.id_from_proto(request.id) for request in requests]
    assert [id_.sequence for id_ in ids] == list(range(1, len(ids) + 1))
    assert len(ids) > 4
    assert {(id_.agent_id, id_.incarnation) for id_ in ids} == {(AGENT, cutter.incarnation)}
    others = {Cutter(AGENT, "host-1").incarnation for _ in range(50)}
    assert len(others) == 50
    assert all(0 <= incarnation < 2**64 for incarnation in others)


def test_two_thousand_services_with_full_windows() -> None:
    names = [f"service-{number}".ljust(256, "x") for number in range(2_000)]
    deltas = [delta(name, 1, templates=25) for name in names]
    batches = cut(Cutter(AGENT, "host-1"), deltas, {name: [sample(name, 1, 2_000)] for name in names}, names)
    assert len(batches) > 3
    assert all(len(part.deltas) == 1 for batch in batches for part in batch.slices)


def test_a_service_with_hundreds_of_full_windows() -> None:
    shared = delta("cart", 0, templates=256)
    deltas = []
    for window in range(250):
        made = delta("cart", window)
        made.templates, made.levels = shared.templates, shared.levels
        deltas.append(made)
    batches = cut(Cutter(AGENT, "host-1"), deltas, {"cart": [sample("cart", n, 2_000) for n in range(400)]}, ["users"])
    assert len(batches) > 60
    assert sum(part.service == "users" for batch in batches for part in batch.slices) == 1


def test_a_service_with_thousands_of_small_windows() -> None:
    deltas = [delta("cart", window, templates=2, width=40) for window in range(8_000)]
    assert len(cut(Cutter(AGENT, "host-1"), deltas)) > 1


@pytest.mark.parametrize("near", range(-3, 4))
def test_a_slice_just_at_the_limit_fits(near: int) -> None:
    """Filled with samples, byte by byte around the limit."""
    events = [sample("cart", 1, 100_000) for _ in range(5)]
    part = batch_pb2.Slice(service="cart", watermark_us=WATERMARK, samples=map(wire.event_to_proto, events))
    missing = MAX_SLICE_BYTES - part.ByteSize() + near * 1_500
    events[0].message += "m" * missing
    cut(Cutter(AGENT, "host-1"), [], {"cart": events})


@pytest.mark.parametrize(("count", "path_bytes"), [(2_000, 250), (10_000, 100), (1_000, 4_000), (10_000, 4_000)])
def test_many_sources_do_not_make_a_batch_too_large(count: int, path_bytes: int) -> None:
    """10,000 followed files whose paths are as long as the system allows: 40 MB."""
    deltas = [delta(f"service-{number}", 1, templates=200) for number in range(60)]
    sources = [source(number, path_bytes) for number in range(count)]
    cutter = Cutter(AGENT, "host-1")
    requests = cutter.cut(now_us=NOW, deltas=deltas, samples={}, services=[], sources=sources, watermark_us=WATERMARK)
    batches = [checked(request) for request in requests]
    assert [one for batch in batches for one in batch.sources] == sources
    with_sources = [bool(batch.sources) for batch in batches]
    assert with_sources == sorted(with_sources)


def test_a_path_that_is_no_text_can_be_sent() -> None:
    name = SourceRange("file:1", "/var/log/\udcff\udcfe.log", 0, 10, WATERMARK, 0)
    (request,) = Cutter(AGENT, "host-1").cut(
        now_us=NOW, deltas=[], samples={}, services=[], sources=[name], watermark_us=WATERMARK
    )
    (sent,) = checked(request).sources
    assert sent.path == "/var/log/??.log"
