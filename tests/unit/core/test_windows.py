"""Windows: every event is counted once, in the window of its time, and deltas merge in any order."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios_core.columns import Columns, Notable
from helios_core.endpoints import normalise_endpoint, without_numbers
from helios_core.model import Event, EventRecord, Level
from helios_core.windows import WindowBuilder, WindowDelta, deltas_of, merge_all

rows = st.lists(
    st.tuples(
        st.integers(0, 60_000_000),
        st.sampled_from(["checkout", "cart"]),
        st.sampled_from(list(Level)),
        st.none() | st.integers(0, 10_000_000),
        st.none() | st.sampled_from(["/a", "/b?x=1", "/orders/17", "/orders/18"]),
    ),
    max_size=80,
)
Row = tuple[int, str, Level, int | None, str | None]


def columns(block: list[Row]) -> Columns:
    return Columns(
        time_us=[row[0] for row in block],
        service=[row[1] for row in block],
        level=[row[2] for row in block],
        latency_us=[row[3] for row in block],
        endpoint=[row[4] for row in block],
        size=[100] * len(block),
        notable=[Notable(i, f"failed {row[0]}") for i, row in enumerate(block) if row[2] >= Level.WARN],
    )


def built(block: list[Row]) -> list[WindowDelta]:
    builder = WindowBuilder("host-1")
    builder.add(columns(block))
    return builder.take()


@given(rows)
def test_every_event_is_in_the_window_of_its_time(block: list[Row]) -> None:
    deltas = built(block)
    assert len({delta.key for delta in deltas}) == len(deltas)
    for delta in deltas:
        own = [row for row in block if delta.start_us <= row[0] < delta.end_us and row[1] == delta.service]
        assert delta.events == len(own) > 0
        assert delta.errors == sum(row[2] >= Level.ERROR for row in own)
        assert delta.latency.count == sum(row[3] is not None for row in own)
        assert delta.latency.sum_us == sum(row[3] or 0 for row in own)
        assert delta.endpoints.estimate() == len({normalise_endpoint(row[4]) for row in own if row[4]})
        assert delta.templates.total() == sum(row[2] >= Level.WARN for row in own)
        assert delta.bytes_in == 100 * len(own)
    assert sum(delta.events for delta in deltas) == len(block)


@given(st.lists(rows, max_size=5), st.randoms())
def test_deltas_of_any_cut_merge_to_the_whole_in_any_order(blocks: list[list[Row]], shuffle: random.Random) -> None:
    whole = {delta.key: delta for delta in built([row for block in blocks for row in block])}
    parts = [delta for block in blocks for delta in built(block)]
    shuffle.shuffle(parts)
    assert merge_all(parts) == whole


def test_a_block_of_one_service_and_window_takes_the_short_way_to_the_same_result() -> None:
    block: list[Row] = [(i, "cart", Level.ERROR, i, f"/x/{i}") for i in range(50)]
    short = columns(block)
    short.service = "cart"
    builder = WindowBuilder("host-1")
    builder.add(short)
    assert builder.take() == built(block)


def test_take_starts_anew() -> None:
    builder = WindowBuilder("host-1")
    builder.add(columns([(0, "cart", Level.INFO, None, None)]))
    assert len(builder) == 1
    assert len(builder.take()) == 1
    assert builder.take() == []


def test_unparsed_lines_are_no_events() -> None:
    builder = WindowBuilder("host-1")
    builder.add_unparsed(5_000_000, "cart", lines=3, size=70)
    (delta,) = builder.take()
    assert (delta.events, delta.unparsed, delta.bytes_in) == (0, 3, 70)


def test_deltas_of_different_windows_do_not_merge() -> None:
    with pytest.raises(ValueError, match="does not merge"):
        WindowDelta(0, "cart", "h").merge(WindowDelta(10_000_000, "cart", "h"))


def test_a_record_of_raw_events_derives_what_an_agent_would_have_counted() -> None:
    events = [
        Event(
            i * 1_000_000,
            "cart",
            Level.ERROR if i % 7 == 0 else Level.INFO,
            f"no item {i}",
            i,
            f"/items/{i}",
            host="h",
        )
        for i in range(25)
    ]
    deltas = deltas_of(EventRecord("cart", 0, events))
    assert [delta.events for delta in deltas] == [10, 10, 5]
    assert sum(delta.errors for delta in deltas) == 4
    assert deltas[0].endpoints.estimate() == 1
    assert [entry.text for entry in deltas[0].templates.counts.values()] == ["no item <*>"]


def test_events_that_were_counted_before_derive_nothing() -> None:
    assert deltas_of(EventRecord("cart", 0, [Event(0, "cart", counted=True)])) == []


@pytest.mark.parametrize(
    ("raw", "endpoint"),
    [
        ("/orders/8421?expand=1", "/orders/:id"),
        ("/a/550e8400-e29b-41d4-a716-446655440000/b", "/a/:uuid/b"),
        ("/v2/54fadb412c4e40cdbaed9335e4c35a9e/servers/detail", "/v2/:uuid/servers/detail"),
        ("/blob/deadbeef01", "/blob/:hex"),
        ("/facade", "/facade"),
        ("/x/", "/x"),
        ("/", "/"),
        ("", ""),
    ],
)
def test_endpoints_lose_what_varies(raw: str, endpoint: str) -> None:
    assert normalise_endpoint(raw) == endpoint


@given(st.text(alphabet="/ab19.-?#", max_size=20))
def test_replacing_numbers_first_changes_no_endpoint(raw: str) -> None:
    assert normalise_endpoint(without_numbers(raw)) == normalise_endpoint(raw)
