"""The sliding horizon: at every step it is what counting its windows anew would give."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.examples import examples

from helios_core.features import Expected, HorizonView
from helios_core.model import Level
from helios_core.sketches.distinct import DistinctCount
from helios_core.sketches.latency import RELATIVE_ERROR, LatencyHistogram
from helios_core.windows import WindowDelta
from helios_detector.horizon import HORIZON_MINUTES, ServiceHorizon

WINDOW_US = 30_000_000  # 10 windows a horizon, 2 a minute
SIZE = 10
FIRST = 59_080_320  # any index that is no round number


@dataclass(frozen=True)
class Part:
    """A delta of one host, as numbers."""

    host: str
    index: int
    levels: tuple[int, ...]
    latencies_us: tuple[int, ...] = ()
    endpoints: frozenset[int] = frozenset()
    template: str = ""

    def delta(self) -> WindowDelta:
        made = WindowDelta((FIRST + self.index) * WINDOW_US, "web", self.host, duration_ms=WINDOW_US // 1_000)
        made.levels = list(self.levels)
        made.latency.add(list(self.latencies_us))
        made.endpoints.add_hashes(self.endpoints)
        if self.template:
            made.templates.add(Level.ERROR, self.template)
        return made

    @property
    def events(self) -> int:
        return sum(self.levels)

    @property
    def errors(self) -> int:
        return self.levels[Level.ERROR] + self.levels[Level.CRITICAL]


def part(index: int, events: int = 1, errors: int = 0, host: str = "a") -> Part:
    return Part(host, index, (0, 0, events - errors, 0, errors, 0))


def view(horizon: ServiceHorizon) -> HorizonView:
    return horizon.view(Expected(), 0)


def assert_is_counted_anew(horizon: ServiceHorizon, parts: list[Part]) -> None:
    """Compares with all the parts whose windows lie in the horizon, counted from nothing."""
    end = (horizon.end_us or 0) // WINDOW_US - FIRST
    inside = [p for p in parts if end - SIZE <= p.index < end]
    latency = LatencyHistogram()
    endpoints = DistinctCount()
    for p in inside:
        latency.add(list(p.latencies_us))
        endpoints.add_hashes(p.endpoints)
    seen = view(horizon)
    assert seen.end_us == (FIRST + end) * WINDOW_US
    assert seen.minutes == HORIZON_MINUTES == 5.0
    assert seen.events == sum(p.events for p in inside)
    assert seen.errors == sum(p.errors for p in inside)
    assert seen.warnings == sum(p.levels[Level.WARN] for p in inside)
    assert seen.unique_endpoints == endpoints.estimate()
    assert horizon.is_empty == (seen.events == 0)
    minute = [p for p in parts if end - 2 <= p.index < end]
    assert horizon.last_minute == (sum(p.events for p in minute), sum(p.errors for p in minute))
    assert seen.last_minute == sum(p.events for p in minute)
    for name in ("zero_count", "buckets", "sum_us", "sum_squares_us2"):
        assert getattr(seen.latency, name) == getattr(latency, name)
    if latency.count:
        exact = [q / 1_000 for q in latency.quantiles_us((0.5, 0.95, 0.99))]
        for found, expected in zip(seen.quantiles_ms(), exact, strict=True):
            assert found == pytest.approx(expected, rel=2 * RELATIVE_ERROR, abs=0.001)
    errors, events = steady(inside)
    assert seen.steady_error_rate == (errors / events if events else 0.0)


def steady(inside: list[Part]) -> tuple[int, int]:
    """(errors, events) without the window that has the most errors; among equals the first."""
    windows: dict[int, list[int]] = {}
    for p in sorted(inside, key=lambda p: p.index):
        window = windows.setdefault(p.index, [0, 0])
        window[0] += p.errors
        window[1] += p.events
    rest = sorted(windows.values(), key=lambda w: -w[0])[1:]
    return sum(w[0] for w in rest), sum(w[1] for w in rest)


PARTS = st.builds(
    Part,
    host=st.sampled_from(["a", "b", "c"]),
    index=st.integers(0, 12) | st.integers(0, 45),
    levels=st.tuples(*[st.integers(0, 4)] * 6),
    latencies_us=st.lists(st.integers(0, 3) | st.integers(0, 10_000_000), max_size=6).map(tuple),
    endpoints=st.frozensets(st.integers(0, 8), max_size=4),
    template=st.sampled_from(["", "no item <*>", "timeout"]),
)
# A part comes, or the horizon moves by one window.
STEPS = st.lists(PARTS | st.none(), max_size=120)


@settings(max_examples=examples(150), deadline=None)
@given(STEPS)
def test_sliding_is_counting_anew_whatever_comes_when(steps: list[Part | None]) -> None:
    horizon = ServiceHorizon(WINDOW_US)
    taken: list[Part] = []
    late = 0
    decided: list[int] = []
    for step in [*steps, *[None] * (SIZE + 2)]:
        if step is not None:
            if horizon.end_us is not None and (FIRST + step.index) * WINDOW_US < horizon.end_us:
                late += step.events
            else:
                taken.append(step)
            horizon.add(step.delta())
            assert horizon.late == late
            continue
        end_us = horizon.next_end_us
        if end_us is None:
            assert not taken
            continue
        window = horizon.advance()
        assert horizon.end_us == end_us
        own = [p for p in taken if (FIRST + p.index + 1) * WINDOW_US == end_us]
        assert (window is None) == (not own)
        if window is not None:
            assert window.events == sum(p.events for p in own)
            assert window.templates.total() == sum(p.template != "" for p in own)
        decided.append(end_us)
        assert_is_counted_anew(horizon, taken)
    assert decided == sorted(set(decided))


@settings(max_examples=examples(50), deadline=None)
@given(st.lists(PARTS, min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_the_order_of_arrival_before_the_decision_changes_nothing(parts: list[Part], shuffle: object) -> None:
    one, other = ServiceHorizon(WINDOW_US), ServiceHorizon(WINDOW_US)
    for p in parts:
        one.add(p.delta())
    shuffle.shuffle(parts)  # type: ignore[attr-defined]
    for p in parts:
        other.add(p.delta())
    for _ in range(SIZE + 3):
        first, second = one.advance(), other.advance()
        assert (first is None) == (second is None)
        assert_is_counted_anew(one, parts)
        assert_is_counted_anew(other, parts)


def test_a_delta_of_a_decided_window_is_late_and_one_of_the_next_is_not() -> None:
    horizon = ServiceHorizon(WINDOW_US)
    horizon.add(part(0, 5).delta())
    horizon.advance()
    horizon.add(part(0, 3, host="b").delta())
    horizon.add(part(1, 4, host="b").delta())
    assert horizon.late == 3
    assert view(horizon).events == 5
    horizon.advance()
    assert view(horizon).events == 9


def test_deltas_older_than_the_first_are_taken_before_it_is_decided() -> None:
    horizon = ServiceHorizon(WINDOW_US)
    horizon.add(part(5).delta())
    horizon.add(part(3).delta())
    assert horizon.next_end_us == (FIRST + 4) * WINDOW_US
    assert horizon.end_us is None
    assert horizon.late == 0


def test_it_is_full_after_its_whole_length() -> None:
    horizon = ServiceHorizon(WINDOW_US)
    horizon.add(part(0).delta())
    filled = []
    for _ in range(SIZE + 2):
        horizon.advance()
        filled.append(horizon.full)
    assert filled == [False] * (SIZE - 1) + [True] * 3


def test_the_given_deltas_are_left_as_they_are() -> None:
    delta = part(0, 5, 2).delta()
    delta.latency.add([7])
    horizon = ServiceHorizon(WINDOW_US)
    horizon.add(delta)
    horizon.add(delta)
    horizon.advance()
    assert view(horizon).events == 10
    assert (delta.events, delta.latency.count) == (5, 1)


def emptied(last: int) -> ServiceHorizon:
    """A horizon whose only event, at index 0, has left it; it stands behind index `last`."""
    horizon = ServiceHorizon(WINDOW_US)
    horizon.add(part(0).delta())
    for _ in range(last + 1):
        horizon.advance()
    assert horizon.is_empty
    return horizon


def at(index: int) -> int:
    return (FIRST + index) * WINDOW_US


def test_a_skip_goes_to_the_next_window_with_data() -> None:
    horizon = emptied(20)
    horizon.add(part(40, 7).delta())
    horizon.skip_to_data(at(100))
    assert horizon.next_end_us == at(41)
    assert not horizon.full
    horizon.advance()
    assert view(horizon).events == 7
    assert horizon.last_minute == (7, 0)


def test_a_skip_without_data_goes_to_the_limit() -> None:
    horizon = emptied(20)
    horizon.skip_to_data(at(100) + 17)
    assert horizon.next_end_us == at(101)
    horizon.add(part(99, 3).delta())
    assert horizon.late == 3
    horizon.add(part(100, 3).delta())
    horizon.advance()
    assert view(horizon).events == 3


def test_a_skip_never_passes_the_limit() -> None:
    """What lies between the limit and the next data is not decided yet, and may still come."""
    horizon = emptied(20)
    horizon.add(part(400).delta())  # an agent whose clock is ahead
    horizon.skip_to_data(at(100))
    horizon.add(part(100, 6, host="b").delta())
    assert horizon.late == 0
    assert horizon.next_end_us == at(101)
    horizon.advance()
    assert view(horizon).events == 6


@pytest.mark.parametrize("limit", [0, 20, 21])
def test_a_skip_never_goes_back(limit: int) -> None:
    horizon = emptied(20)
    horizon.skip_to_data(at(limit))
    assert horizon.next_end_us == at(22)
    assert horizon.full


def test_after_a_skip_it_slides_as_one_that_has_just_begun() -> None:
    horizon = emptied(20)
    parts = [part(index, index % 5 + 1, index % 2, host) for index in range(50, 80, 3) for host in "ab"]
    for p in parts:
        horizon.add(p.delta())
    horizon.skip_to_data(at(200))
    for _ in range(40):
        horizon.advance()
        assert_is_counted_anew(horizon, parts)
