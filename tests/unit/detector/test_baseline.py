"""The baseline: it learns the day, follows slow change, and does not take an incident for normal."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import cos, isnan, nan, pi

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.examples import examples

from helios_detector.baseline import Band, Measure

MINUTE_US = 60_000_000
DAY_MIN = 1_440
START_MIN = 29_540_160  # 2026-03-02T00:00:00Z
FLOOR = 0.02
NOISE = 0.05


def day(minute: int) -> float:
    """A day between 4 and 6, highest in the afternoon."""
    return 5 - cos(2 * pi * (minute % DAY_MIN - 120) / DAY_MIN)


class Fed:
    """A measure that is fed minute by minute."""

    def __init__(self, seed: int = 1) -> None:
        self.measure = Measure(FLOOR)
        self.minute = 0
        self._rng = random.Random(seed)

    @property
    def now_us(self) -> int:
        return (START_MIN + self.minute) * MINUTE_US

    def band(self) -> Band:
        return self.measure.band(self.now_us)

    def feed(
        self, minutes: int, value: Callable[[int], float] = day, *, normal: Callable[[int], bool] = lambda _: True
    ) -> list[tuple[float, Band]]:
        """Feeds values with noise; returns each with the band just before it was seen."""
        fed = []
        for _ in range(minutes):
            seen = value(self.minute) + self._rng.gauss(0, NOISE)
            fed.append((seen, self.band()))
            self.measure.see(self.now_us, seen)
            if normal(self.minute):
                self.measure.learn(self.now_us, seen)
            self.minute += 1
        return fed


def outside(value: float, band: Band) -> float:
    """How many sigma the value lies outside the band."""
    return max(0.0, value - band.high, band.low - value) / band.sigma


def test_nothing_is_expected_before_anything_is_known() -> None:
    band = Measure(FLOOR).band(START_MIN * MINUTE_US)
    assert isnan(band.value)
    assert band.sigma == FLOOR


def test_it_learns_the_shape_of_the_day() -> None:
    fed = Fed()
    fed.feed(3 * DAY_MIN)
    bands = fed.feed(DAY_MIN)
    errors = [abs(band.value - day(i)) for i, (_, band) in enumerate(bands)]
    assert sum(errors) / len(errors) < NOISE
    assert max(errors) < 4 * NOISE
    assert sum(outside(value, band) > 5 for value, band in bands) == 0


def test_on_the_first_day_it_knows_the_level() -> None:
    fed = Fed()
    fed.feed(300, lambda _: 7.0)
    assert fed.band().value == pytest.approx(7.0, abs=NOISE)


def test_its_spread_is_that_of_the_noise() -> None:
    fed = Fed()
    fed.feed(2 * DAY_MIN, lambda _: 7.0)
    assert 0.5 * NOISE < fed.band().sigma < 1.5 * NOISE


def test_the_spread_is_never_below_what_is_believed() -> None:
    measure = Measure(FLOOR)
    for minute in range(2 * DAY_MIN):
        measure.learn((START_MIN + minute) * MINUTE_US, 3.0)
    assert measure.band((START_MIN + 2 * DAY_MIN) * MINUTE_US) == Band(3.0, 3.0, 3.0, FLOOR)


@pytest.mark.parametrize("shift", [0.15, -0.15])
def test_the_offset_follows_a_shift_of_the_level(shift: float) -> None:
    fed = Fed()
    fed.feed(3 * DAY_MIN)
    assert abs(fed.band().value - day(fed.minute)) < 2 * NOISE
    fed.feed(300, lambda minute: day(minute) + shift)
    assert fed.band().value - day(fed.minute) == pytest.approx(shift, abs=1.5 * NOISE)


def test_a_weekend_is_followed_within_hours() -> None:
    fed = Fed()
    fed.feed(4 * DAY_MIN)
    weekend = fed.feed(DAY_MIN, lambda minute: day(minute) - 0.3)
    after = weekend[8 * 60 :]
    assert sum(outside(value, band) for value, band in after) / len(after) < 1


def test_an_incident_widens_what_is_normal_only_a_little() -> None:
    """Even when nobody held it back from what is learned."""
    fed = Fed()
    fed.feed(3 * DAY_MIN)
    before = fed.band()
    fed.feed(30, lambda minute: day(minute) + 40 * NOISE)
    assert fed.band().sigma < 1.25 * before.sigma
    assert abs(fed.band().value - day(fed.minute)) < 4 * NOISE


def test_an_incident_that_is_held_back_changes_nothing() -> None:
    fed, other = Fed(), Fed()
    fed.feed(3 * DAY_MIN)
    other.feed(3 * DAY_MIN)
    fed.feed(30, lambda minute: day(minute) + 3, normal=lambda _: False)
    other.minute += 30
    assert fed.band() == other.band()


def nightly(minute: int) -> float:
    """A job from 02:00 to 02:45 that triples everything."""
    return day(minute) + (10.0 if 120 <= minute % DAY_MIN < 165 else 0.0)


def is_day(minute: int) -> bool:
    return not 100 <= minute % DAY_MIN < 185


def test_what_recurs_every_night_is_part_of_the_band_after_two_days() -> None:
    """Although it alarmed, and so was never learned as normal."""
    fed = Fed()
    fed.feed(DAY_MIN)  # a day without it
    first = fed.feed(DAY_MIN, nightly, normal=is_day)
    assert max(outside(value, band) for value, band in first[120:165]) > 20
    fed.feed(DAY_MIN, nightly, normal=is_day)
    third = fed.feed(DAY_MIN, nightly, normal=is_day)
    assert max(outside(value, band) for value, band in third[120:165]) < 7
    missing = fed.feed(200)
    assert max(outside(value, band) for value, band in missing) < 7


def test_what_recurs_from_the_first_day_on_is_part_of_the_band_on_the_second() -> None:
    fed = Fed()
    fed.feed(DAY_MIN, nightly, normal=is_day)
    second = fed.feed(DAY_MIN, nightly, normal=is_day)
    assert max(outside(value, band) for value, band in second[120:165]) < 7


# The quarter of an hour before is compared by how often it was seen, and so by a day later than the two after it.


def test_what_happened_on_one_of_three_days_is_not_part_of_the_band() -> None:
    fed = Fed()
    fed.feed(2 * DAY_MIN)
    fed.feed(DAY_MIN, nightly, normal=is_day)
    fed.feed(DAY_MIN)
    again = fed.feed(DAY_MIN, nightly, normal=is_day)
    assert min(outside(value, band) for value, band in again[125:160]) > 20


def test_an_incident_on_the_second_day_does_not_become_part_of_the_band() -> None:
    fed = Fed()
    fed.feed(DAY_MIN + 600, lambda _: 5.0)
    incident = fed.feed(90, lambda _: 8.0, normal=lambda _: False)
    assert min(outside(value, band) for value, band in incident) > 20


def test_an_incident_on_a_later_day_does_not_become_part_of_the_band() -> None:
    fed = Fed()
    fed.feed(2 * DAY_MIN + 600, lambda _: 5.0)
    incident = fed.feed(90, lambda _: 8.0, normal=lambda _: False)
    assert min(outside(value, band) for value, band in incident) > 20


def test_a_recurring_deviation_does_not_move_what_is_expected() -> None:
    fed = Fed()
    fed.feed(4 * DAY_MIN, nightly, normal=is_day)
    night = fed.feed(180)
    assert all(abs(band.value - day(i)) < 1 for i, (_, band) in enumerate(night) if band.value)


VALUES = st.lists(st.floats(-50, 50) | st.just(nan), min_size=1, max_size=200)


@settings(max_examples=examples(60), deadline=None)
@given(VALUES, st.integers(1, 40))
def test_missing_values_leave_no_trace(values: list[float], step: int) -> None:
    fed, clean = Measure(FLOOR), Measure(FLOOR)
    for i, value in enumerate(values):
        time_us = (START_MIN + i * step) * MINUTE_US
        for measure in (fed, clean) if not isnan(value) else (fed,):
            measure.see(time_us, value)
            measure.learn(time_us, value)
    assert fed.steps == clean.steps == sum(not isnan(value) for value in values)
    for hour in range(24):
        time_us = (START_MIN + 10_000 + 60 * hour) * MINUTE_US
        assert repr(fed.band(time_us)) == repr(clean.band(time_us))


@settings(max_examples=examples(60), deadline=None)
@given(VALUES, st.integers(1, 40), st.integers(0, 200))
def test_nothing_looks_ahead(values: list[float], step: int, cut: int) -> None:
    """The band before a minute is learned depends on the minutes before it alone, and asking changes nothing."""
    whole, part, quiet = Measure(FLOOR), Measure(FLOOR), Measure(FLOOR)
    for i, value in enumerate(values):
        time_us = (START_MIN + i * step) * MINUTE_US
        band = whole.band(time_us)
        if i <= cut:
            assert repr(part.band(time_us)) == repr(band)
        whole.band(time_us + 5 * 3_600_000_000)
        for measure in (whole, quiet, *([part] if i < cut else [])):
            measure.see(time_us, value)
            measure.learn(time_us, value)
    end_us = (START_MIN + len(values) * step) * MINUTE_US
    assert repr(quiet.band(end_us)) == repr(whole.band(end_us))


@settings(max_examples=examples(60), deadline=None)
@given(VALUES, st.integers(1, 97), st.integers(0, 2 * DAY_MIN))
def test_a_band_is_a_range_round_its_value(values: list[float], step: int, after: int) -> None:
    measure = Measure(FLOOR)
    for i, value in enumerate(values):
        measure.see((START_MIN + i * step) * MINUTE_US, value)
        measure.learn((START_MIN + i * step) * MINUTE_US, value)
    band = measure.band((START_MIN + len(values) * step + after) * MINUTE_US)
    if measure.steps:
        assert band.low - 1e-9 <= band.value <= band.high + 1e-9
    assert band.sigma >= FLOOR
