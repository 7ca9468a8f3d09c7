"""The ledger: whatever is resent, in whatever order the bound allows, each slice is applied once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from helios_core.batches import MAX_UNACKNOWLEDGED
from helios_core.store.ledger import Ledger, Verdict

services = st.sampled_from(["cart", "checkout", "users"])


@given(st.data())
def test_each_slice_is_applied_exactly_once(data: st.DataObject) -> None:
    """A sender with at most MAX_UNACKNOWLEDGED open batches, a bus that repeats and reorders them."""
    ledger = Ledger()
    applied: list[tuple[int, str]] = []
    sent: list[tuple[int, str]] = []
    first_open = 1
    for _ in range(data.draw(st.integers(1, 40))):
        sequence = data.draw(st.integers(first_open, first_open + MAX_UNACKNOWLEDGED - 1))
        key = (sequence, data.draw(services))
        sent.append(key)
        again = data.draw(st.sampled_from(sent)) if data.draw(st.booleans()) else key
        applied += [item for item in (key, again) if ledger.apply(*item, b"content") is Verdict.APPLIED]
        if data.draw(st.booleans()):  # a restart between two transactions
            ledger = Ledger.from_bytes(ledger.to_bytes())
        if data.draw(st.booleans()):
            # Everything up to here was acknowledged, so it had been applied, and the sender goes on.
            first_open = min(first_open + data.draw(st.integers(0, 5)), min(item[0] for item in sent[-3:]))
    assert len(applied) == len(set(applied))
    assert set(applied) == set(sent)


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=300))
def test_what_it_remembers_is_bounded(sequences: list[int]) -> None:
    ledger = Ledger()
    for sequence in sequences:
        ledger.apply(sequence, "cart", b"x")
    assert len(ledger.to_bytes()) < 64 * 30


def test_other_content_under_the_same_identity_is_a_conflict() -> None:
    ledger = Ledger()
    assert ledger.apply(1, "cart", b"one") is Verdict.APPLIED
    assert ledger.apply(1, "cart", b"two") is Verdict.CONFLICT
    assert ledger.apply(1, "cart", b"one") is Verdict.DUPLICATE
