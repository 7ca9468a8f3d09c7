"""The writer says when it falls behind, once in a while, and not of a burst that it works off."""

from __future__ import annotations

from structlog.testing import capture_logs

from helios_collector.lag import Lag


def said(lags: list[int], *, every_s: float = 10) -> list[tuple[str, int]]:
    """What is logged when these lags are seen one after the other."""
    now_s = 0.0
    watched = Lag(lambda: now_s)
    with capture_logs() as logs:
        for records in lags:
            watched.saw(records)
            now_s += every_s
    return [(entry["event"], entry["records"]) for entry in logs]


def test_a_lag_that_grows_from_minute_to_minute_is_said() -> None:
    assert said([1_000 * n for n in range(1, 14)]) == [("store_falls_behind", 7_000)]


def test_it_is_said_again_after_ten_minutes_and_that_it_is_over() -> None:
    events = said([1_000 * n for n in range(1, 100)] + [50_000, 999, 10])
    assert [event for event, _ in events] == ["store_falls_behind", "store_falls_behind", "store_has_caught_up"]


def test_a_burst_that_is_worked_off_is_no_news() -> None:
    assert said([0] * 12 + [50_000, 40_000, 30_000, 20_000, 10_000, 0] + [0] * 12) == []


def test_a_large_lag_that_gets_smaller_is_no_news() -> None:
    assert said([100_000 - 1_000 * n for n in range(80)]) == []


def test_a_small_lag_is_no_news_however_it_grows() -> None:
    assert said(list(range(0, 990, 5))) == []
