"""The brokers' clock as a reader knows it: never ahead of what it says, and soon close to it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from helios_core.bus.kafka.brokerclock import BrokerClock

S = 1_000_000
T0 = 1_772_409_600 * S


def test_nothing_is_known_before_the_first_record() -> None:
    assert BrokerClock().at(5 * S) == 0


def test_it_goes_on_while_nothing_comes() -> None:
    clock = BrokerClock()
    clock.saw(0, T0, 100 * S)
    assert clock.at(100 * S) == T0
    assert clock.at(4_000 * S) == T0 + 3_900 * S


@given(
    st.integers(-(10**12), 10**12),
    st.lists(st.tuples(st.integers(0, 30 * S), st.integers(0, 20 * S), st.integers(0, 3)), min_size=1, max_size=60),
)
def test_it_is_never_ahead_and_as_near_as_the_quickest_record(
    offset_us: int, records: list[tuple[int, int, int]]
) -> None:
    """Records come after `passed`, each having been under way for `late`; the two clocks differ by `offset`."""
    clock, steady_us, quickest_us = BrokerClock(), 0, 2**62
    last_us: dict[int, int] = {}
    for passed_us, late_us, partition in records:
        steady_us += passed_us
        time_us = max(T0 + offset_us + steady_us - late_us, last_us.get(partition, 0))  # in order within a partition
        last_us[partition] = time_us
        clock.saw(partition, time_us, steady_us)
        quickest_us = min(quickest_us, T0 + offset_us + steady_us - time_us)
        assert clock.at(steady_us) <= T0 + offset_us + steady_us
        if steady_us < 60 * S:  # of a minute everything is remembered
            assert clock.at(steady_us) == T0 + offset_us + steady_us - quickest_us


def test_a_clock_that_is_set_back_is_believed_at_once_and_one_that_is_a_little_behind_is_not() -> None:
    clock = BrokerClock()
    clock.saw(0, T0, 100 * S)
    clock.saw(1, T0 - 3 * S, 100 * S)  # another broker's
    assert clock.at(101 * S) == T0 + S
    clock.saw(0, T0 - 3_600 * S, 102 * S)
    assert clock.at(102 * S) == T0 - 3_600 * S
    clock.saw(1, T0 - 3_599 * S, 103 * S)
    assert clock.at(103 * S) == T0 - 3_599 * S


def test_what_was_appended_before_a_clock_was_set_back_and_is_read_after_says_nothing() -> None:
    clock = BrokerClock()
    clock.saw(0, T0, 100 * S)
    clock.saw(0, T0 - 120 * S, 101 * S)
    clock.saw(1, T0 + S, 101 * S)  # of the same answer, from before
    assert clock.at(101 * S) == T0 - 120 * S
    clock.saw(1, T0 - 60 * S, 161 * S)
    assert clock.at(161 * S) == T0 - 60 * S
    clock.saw(0, T0 + 3_600 * S, 170 * S)  # and it was set forward later
    assert clock.at(170 * S) == T0 + 3_600 * S


def test_a_clock_that_drifts_is_followed() -> None:
    """It loses a second a minute: what it said long ago is no measure of it."""
    clock = BrokerClock()
    for second in range(0, 3_600, 5):
        clock.saw(0, T0 + round(second * S * 59 / 60), second * S)
        assert 0 <= clock.at(second * S) - (T0 + round(second * S * 59 / 60)) <= 3 * S


def test_a_clock_that_is_set_forward_is_known_with_the_next_record() -> None:
    clock = BrokerClock()
    clock.saw(0, T0, 0)
    clock.saw(0, T0 + 3_600 * S, 10 * S)
    assert clock.at(11 * S) == T0 + 3_601 * S
