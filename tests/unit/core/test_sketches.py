"""Sketches merge in any order to the same result, and their errors are the documented ones."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios_core.sketches import distinct, latency, templates
from helios_core.sketches.distinct import DistinctCount
from helios_core.sketches.latency import MAX_LATENCY_US, N_BUCKETS, RELATIVE_ERROR, LatencyHistogram
from helios_core.sketches.templates import TemplateCounts, template_of

latencies = st.lists(st.integers(0, 2 * MAX_LATENCY_US) | st.integers(0, 100_000), max_size=60)


@given(st.integers(2, MAX_LATENCY_US))
def test_a_value_lies_in_its_bucket(value: int) -> None:
    # In integers: 2^(i/32) < v <= 2^((i+1)/32)  <=>  2^i < v^32 <= 2^(i+1).
    index = latency.bucket_of(value)
    assert 2**index < value**32 <= 2 ** (index + 1)


def test_the_last_bucket_is_that_of_one_hour() -> None:
    assert latency.bucket_of(MAX_LATENCY_US) == N_BUCKETS - 1


@given(latencies.filter(bool), st.floats(0, 1))
def test_a_quantile_is_within_the_stated_error_of_the_exact_one(values: list[int], q: float) -> None:
    clamped = sorted(min(v, MAX_LATENCY_US) for v in values)
    exact = clamped[max(1, math.ceil(q * len(clamped))) - 1]
    assert LatencyHistogram.of(values).quantile_us(q) == pytest.approx(exact, rel=RELATIVE_ERROR * 1.000001, abs=1)


def test_the_stated_error_is_about_1_083_percent() -> None:
    assert pytest.approx(0.01083, rel=1e-4) == RELATIVE_ERROR


@given(latencies.filter(bool))
def test_mean_and_stddev_are_exact(values: list[int]) -> None:
    clamped = [min(v, MAX_LATENCY_US) for v in values]
    histogram = LatencyHistogram.of(values)
    assert histogram.mean_us == pytest.approx(statistics.fmean(clamped), rel=1e-12)
    assert histogram.stddev_us == pytest.approx(statistics.pstdev(clamped), rel=1e-9, abs=1e-6)


@given(st.lists(latencies, max_size=6), st.randoms())
def test_histograms_merge_in_any_order_and_grouping(parts: list[list[int]], shuffle: random.Random) -> None:
    whole = LatencyHistogram.of([value for part in parts for value in part])
    pieces = [LatencyHistogram.of(part) for part in parts]
    while len(pieces) > 1:
        shuffle.shuffle(pieces)
        pieces[-2].merge(pieces.pop())
    assert (pieces[0] if pieces else LatencyHistogram()) == whole


def test_an_empty_histogram_has_no_quantile() -> None:
    empty = LatencyHistogram()
    assert empty.count == 0
    assert all(map(math.isnan, (empty.quantile_us(0.5), empty.mean_us, empty.stddev_us)))


def test_a_negative_latency_is_refused() -> None:
    with pytest.raises(ValueError, match="-5 µs"):
        LatencyHistogram.of([3, -5])


@given(st.lists(st.lists(st.integers(0, 400), max_size=200), max_size=5), st.randoms())
def test_distinct_counts_merge_in_any_order_and_grouping(parts: list[list[int]], shuffle: random.Random) -> None:
    whole = DistinctCount.of(str(value) for part in parts for value in part)
    pieces = [DistinctCount.of(map(str, part)) for part in parts]
    assert DistinctCount.union(pieces) == whole
    while len(pieces) > 1:
        shuffle.shuffle(pieces)
        pieces[-2].merge(pieces.pop())
    assert (pieces[0] if pieces else DistinctCount()) == whole


@given(st.sets(st.text(max_size=5), max_size=distinct.MAX_EXACT))
def test_few_values_are_counted_exactly(values: set[str]) -> None:
    assert DistinctCount.of(values).estimate() == len(values)


@pytest.mark.parametrize("n", [129, 500, 2_000, 20_000, 200_000])
def test_many_values_are_estimated_as_the_method_says(n: int) -> None:
    # Standard error 1.04/sqrt(2048) = 2.3 %; four of them are never reached by sound hashes.
    estimate = DistinctCount.of(f"/path/{i}" for i in range(n)).estimate()
    assert estimate == pytest.approx(n, rel=4 * 0.023)


def test_distinct_counts_agree_with_apache_datasketches() -> None:
    from datasketches import hll_sketch, tgt_hll_type

    for n in (300, 3_000, 30_000):
        theirs = hll_sketch(11, tgt_hll_type.HLL_8)
        for i in range(n):
            theirs.update(f"/path/{i}")
        ours = DistinctCount.of(f"/path/{i}" for i in range(n))
        assert ours.estimate() == pytest.approx(theirs.get_estimate(), rel=0.1)


template_parts = st.lists(st.lists(st.integers(0, 600), max_size=300), max_size=4)


@given(template_parts, st.randoms())
def test_template_counts_merge_in_any_order_and_grouping(parts: list[list[int]], shuffle: random.Random) -> None:
    def counts(numbers: list[int]) -> TemplateCounts:
        made = TemplateCounts.empty()
        for number in numbers:
            made.add(4, f"template {number:x}")
        return made

    whole = counts([number for part in parts for number in part])
    assert whole.total() == sum(map(len, parts))
    pieces = list(map(counts, parts))
    while len(pieces) > 1:
        shuffle.shuffle(pieces)
        pieces[-2].merge(pieces.pop())
    assert (pieces[0] if pieces else TemplateCounts.empty()) == whole


@pytest.mark.parametrize(
    ("message", "template"),
    [
        ("Order 8421 of user 77 not found", "Order <*> of user <*> not found"),
        ("connection to 10.0.0.7:5432 refused", "connection to <*> refused"),
        ('cannot open "/var/lib/x y" (code=ENOENT)', "cannot open <*> (code=<*>)"),
        ("id 6926fc51ca821581ad9f03504e7fbfda gone", "id <*> gone"),
        ("retry in 250ms, 3 left", "retry in <*> left"),
        ("Traceback (most recent call last):\n  File 'x.py'", "Traceback (most recent call last):"),
        ("disk   full", "disk full"),
        ("", ""),
    ],
)
def test_what_varies_leaves_the_template(message: str, template: str) -> None:
    assert template_of(message) == template


@given(st.text(max_size=700))
def test_a_template_is_bounded_and_stable(message: str) -> None:
    template = template_of(message)
    assert len(template) <= templates.MAX_TEXT_CHARS
    assert template_of(message) == template
