"""Times and levels as logs write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.agent.strategies import EPOCH, instants, iso_times, us

from helios_agent.parsers.base import Block, ParserContext
from helios_agent.parsers.plain import Plain
from helios_core.levels import Levels, level_of, level_of_status, level_of_syslog
from helios_core.model import Level
from helios_core.timestamps import IsoTimes, epoch_us, with_year

NOON = us("2026-03-02T12:00:00Z")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("2026-03-02T12:00:00Z", NOON),
        ("2026-03-02t12:00:00z", NOON),
        ("2026-03-02 12:00:00", NOON),
        ("2026/03/02 12:00:00", NOON),
        ("2026-03-02T12:00:00UTC", NOON),
        ("2026-03-02T12:00:00 GMT", NOON),
        ("2026-03-02T14:00:00+02:00", NOON),
        ("2026-03-02T14:00:00+0200", NOON),
        ("2026-03-02T14:00:00+02", NOON),
        ("2026-03-02 06:30:00 -05:30", NOON),
        ("2026-03-02T12:00:00-00:00", NOON),
        ("2026-03-02T12:00:00.5Z", NOON + 500_000),
        ("2026-03-02T12:00:00.123Z", NOON + 123_000),
        ("2026-03-02 12:00:00,123", NOON + 123_000),
        ("2026-03-02T12:00:00.123456Z", NOON + 123_456),
        ("2026-03-02T12:00:00.000001+00:00", NOON + 1),
        ("2026-03-02T12:00:00.123456789Z", NOON + 123_456),
        ("2026-03-02T12:00:00.999999999Z", NOON + 999_999),
        ("2024-02-29T23:59:59Z", us("2024-02-29T23:59:59Z")),
        ("2000-02-29T00:00:00Z", us("2000-02-29T00:00:00Z")),
        ("2016-12-31T23:59:60Z", us("2017-01-01T00:00:00Z")),
        ("1969-12-31T23:59:59.999999Z", -1),
        ("0001-01-01T00:00:00Z", us("0001-01-01T00:00:00+00:00")),
        ("9999-12-31T23:59:59.999999Z", us("9999-12-31T23:59:59.999999+00:00")),
    ],
)
def test_iso_times(written: str, expected: int) -> None:
    times = IsoTimes()
    assert times.one(written) == expected
    assert times.column([written, written]) == [expected, expected]


@pytest.mark.parametrize("offset_s", [0, 3_600, -5 * 3_600, 19_800, 14 * 3_600])
def test_times_that_name_no_zone_are_in_that_of_the_source(offset_s: int) -> None:
    times = IsoTimes(offset_s)
    local = datetime(2026, 3, 2, 12, tzinfo=timezone(timedelta(seconds=offset_s)))
    assert times.one("2026-03-02 12:00:00,250") == us(local.isoformat()) + 250_000
    assert times.one("2026-03-02T12:00:00Z") == NOON
    assert times.one("2026-03-02T12:00:00.000+00:00") == NOON


@pytest.mark.parametrize(
    "written",
    [
        "", "x", "2026", "2026-03-02", "2026-13-02T12:00:00Z", "2026-02-29T12:00:00Z", "2026-04-31T12:00:00Z",
        "0000-03-02T12:00:00Z", "2026-03-02T24:00:00Z", "2026-03-02T12:60:00Z", "2026-03-02T12:00:61Z",
        "2026-03-02T12:00:99Z", "2026-03-02T12:00:00+99:99", "2026-03-02T12:00:00.Z", "2026-03-02T12:00:00Zulu",
        "2026-03/02T12:00:00Z", "2026-03-02x12:00:00Z", "2026-03-02T12-00-00Z", "2026-03-02T 2:00:00Z",
        "2_26-03-02T12:00:00Z", "+026-03-02T12:00:00Z", "1772452800", "1772452800123456789", "²⁰²⁶-03-02T12:00:00Z",
    ],
)  # fmt: skip
def test_what_is_no_time(written: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        IsoTimes().one(written)
    with pytest.raises(ValueError, match=r".+"):
        IsoTimes().column(["2026-03-02T12:00:00Z", written])


@given(instants, st.sampled_from(["", "+00:00", "+05:30", "-08:00"]))
def test_what_the_standard_library_writes(when: datetime, zone: str) -> None:
    text = when.replace(tzinfo=None).isoformat() + zone
    aware = datetime.fromisoformat(text)
    expected = (aware if aware.tzinfo else aware.replace(tzinfo=UTC)) - EPOCH
    assert IsoTimes().one(text) == expected // timedelta(microseconds=1)


@given(st.lists(iso_times(), max_size=20))
def test_a_column_is_its_times(texts: list[str]) -> None:
    assert IsoTimes().column(texts) == [IsoTimes().one(text) for text in texts]


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (1_772_452_800, NOON),
        (1_772_452_800.0, NOON),
        (1_772_452_800.123456, NOON + 123_456),
        (1_772_452_800_123, NOON + 123_000),
        (1_772_452_800_123.5, NOON + 123_500),
        (1_772_452_800_123_456, NOON + 123_456),
        (1_772_452_800_123_456_789, NOON + 123_456),
        (100_000_000, us("1973-03-03T09:46:40Z")),
        (9_999_999_999, us("2286-11-20T17:46:39Z")),
        (9_999_999_999_999, us("2286-11-20T17:46:39.999Z")),
    ],
)
def test_numbers_since_the_epoch(number: float, expected: int) -> None:
    assert epoch_us(number) == expected


@pytest.mark.parametrize("number", [0, -1, 7, 99_999_999, 1e19, 10**400, float("inf"), float("-inf"), float("nan")])
def test_numbers_that_are_no_time(number: float) -> None:
    with pytest.raises(ValueError, match=r".+"):
        epoch_us(number)


@given(instants)
def test_every_unit_of_the_same_time(when: datetime) -> None:
    exact = (when - EPOCH) // timedelta(microseconds=1)
    assert epoch_us(exact) == exact if exact >= 10**13 else True
    assert epoch_us(exact * 1_000 + 999) == exact
    assert epoch_us(exact // 1_000) == exact // 1_000 * 1_000
    assert epoch_us(exact // 1_000_000) == exact // 1_000_000 * 1_000_000


@pytest.mark.parametrize(
    ("month", "day", "reference", "year"),
    [
        (12, 31, "2026-01-01T00:00:05Z", 2025),
        (1, 1, "2026-01-01T10:15:03Z", 2026),
        (1, 1, "2026-12-30T00:00:00Z", 2026),
        (7, 1, "2026-06-30T12:00:00Z", 2026),  # a clock that is a little ahead
        (1, 1, "2025-12-31T23:59:55Z", 2026),
        (7, 3, "2026-06-30T12:00:00Z", 2025),
        (2, 29, "2024-03-01T00:00:00Z", 2024),
        (2, 29, "2025-01-01T00:00:00Z", 2024),
        (2, 29, "2023-12-01T00:00:00Z", 2020),
        (2, 29, "1903-06-01T00:00:00Z", 1896),
    ],
)
def test_the_year_that_was_not_written(month: int, day: int, reference: str, year: int) -> None:
    when = datetime(2000, month, day, 10, 15, 3, tzinfo=UTC)
    assert with_year(when, us(reference)) == when.replace(year=year)


LEVELS = {
    Level.DEBUG: ("trace", "TRACE", "debug", "DEBUG", "Debug", "verbose", "FINE", "dbg", "silly", 10, "20"),
    Level.INFO: ("info", "INFO", "Info", "Information", "informational", "notice", "NOTICE", "inf", "i", 30, "30"),
    Level.WARN: ("warn", "WARN", "Warning", "WARNING", "wrn", "w", "[warn]", " WARN ", 40, "40"),
    Level.ERROR: ("error", "ERROR", "Error", "err", "ERR", "SEVERE", "failure", "e", "<error>", "ERROR:", 50, "50"),
    Level.CRITICAL: (
        "critical", "CRITICAL", "crit", "fatal", "FATAL", "Fatal", "alert", "emerg", "EMERGENCY", "panic", "dpanic", 60,
    ),
    Level.UNSPECIFIED: (
        "", " ", "loud", "²", "1" * 5_000, "9" * 400, -1, 0, 7, 9, 70, 10**400, None, True, False, 30.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("written", "level"), [(w, level) for level, words in LEVELS.items() for w in words])
def test_levels(written: object, level: Level) -> None:
    assert level_of(written) == level
    assert Levels()[written] == level


@pytest.mark.parametrize(
    ("status", "level"),
    [(100, "INFO"), (200, "INFO"), (304, "INFO"), (399, "INFO"), (400, "WARN"), (404, "WARN"), (499, "WARN"),
     (500, "ERROR"), (503, "ERROR"), (599, "ERROR")],
)  # fmt: skip
def test_levels_of_status_codes(status: int, level: str) -> None:
    assert level_of_status(status) == Level[level]


def test_levels_of_syslog() -> None:
    expected = ["CRITICAL", "CRITICAL", "CRITICAL", "ERROR", "WARN", "INFO", "INFO", "DEBUG"]
    assert [level_of_syslog(severity).name for severity in range(8)] == expected


def test_the_year_follows_the_clock_while_the_parser_lives() -> None:
    parser = Plain.make(ParserContext("web", us("2026-12-31T12:00:00Z")), [b"Dec 31 12:00:00 host app: started"])
    first = parser.parse(Block(b"Dec 31 12:00:00 host app: started\n", us("2026-12-31T12:00:00Z")))
    later = parser.parse(Block(b"Mar  2 12:00:00 host app: still there\n", us("2027-03-02T12:00:01Z")))
    assert first.events.time_us == [us("2026-12-31T12:00:00Z")]
    assert later.events.time_us == [us("2027-03-02T12:00:00Z")]
