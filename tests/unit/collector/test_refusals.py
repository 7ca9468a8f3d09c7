"""What can never be taken: all of it in the dead letter, and not at a hundred times its size."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from helios_collector.refusals import MAX_LISTED, Refusals
from helios_core.bus.base import check


def test_each_of_a_few_has_a_reason_and_a_dead_letter() -> None:
    refused = Refusals("event")
    refused.add(3, "no service", b"{}")
    refused.add(5, "no time", b"[]")
    assert (refused.count, refused.listed) == (2, [(3, "no service"), (5, "no time")])
    records = refused.records()
    assert [(record.headers["reason"], record.value) for record in records] == [
        ("no service", b"{}"),
        ("no time", b"[]"),
    ]
    assert {record.headers["kind"] for record in records} == {"event"}


def test_of_very_many_the_others_share_dead_letters() -> None:
    refused = Refusals("event")
    for index in range(100_000):
        refused.add(index, f"reason {index}", b"%d" % index)
    assert (refused.count, len(refused.listed)) == (100_000, MAX_LISTED)
    records = refused.records()
    assert len(records) == MAX_LISTED + 2
    assert "such as: reason 999" in records[-1].headers["reason"]
    kept = [record.value for record in records[:MAX_LISTED]]
    kept += [line for record in records[MAX_LISTED:] for line in record.value.splitlines()]
    assert kept == [b"%d" % index for index in range(100_000)]
    check(records)


@given(st.lists(st.integers(0, 200_000), min_size=1, max_size=12))
def test_whatever_their_size_the_bus_takes_them(sizes: list[int]) -> None:
    refused = Refusals("slice")
    for index in range(MAX_LISTED):
        refused.add(index, "", b"")
    for index, size in enumerate(sizes):
        refused.add(index, "too large", bytes(size))
    records = refused.records()
    check(records)
    assert sum(len(record.value) for record in records[MAX_LISTED:]) == sum(sizes) + len(sizes)
