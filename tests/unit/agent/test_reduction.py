"""The reduction: every line is accounted for, whatever it says of its time and its service."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.unit.agent.strategies import us

from helios_agent.cut import Cutter
from helios_agent.parsers.base import Block, Parsed, ParserContext
from helios_agent.parsers.detect import by_name
from helios_agent.reduction import MAX_AHEAD_US, Reduction
from helios_core import wire
from helios_core.clock import US_PER_S, EventClock
from helios_core.columns import Columns, Notable
from helios_core.model import MAX_SERVICES_PER_CLIENT, OVERFLOW_SERVICE, Event, Level
from helios_core.windows import WindowDelta

NOW = us("2026-03-02T12:00:00Z")
EARLIEST = us("2026-02-02T12:00:00Z")
WINDOW_US = 10 * US_PER_S
HOUR_US = 3_600 * US_PER_S
YEAR_1 = us("0001-01-01T00:00:00Z")
YEAR_9999 = us("9999-12-31T23:59:59Z")


class Ready:
    """A parser that gives what it was made with, whatever the lines."""

    name = "ready"

    def __init__(self, parsed: Parsed) -> None:
        self._parsed = parsed

    def parse(self, block: Block) -> Parsed:
        return self._parsed

    def learn(self, lines: Sequence[bytes]) -> None:
        pass


def reduction(now_us: int = NOW, *, clock: EventClock | None = None) -> Reduction:
    latest = EventClock(now_us)
    return Reduction("host-1", clock or latest, earliest_us=EARLIEST, latest=latest, window_ms=10_000)


def columns(
    times: Sequence[int], service: str | list[str] = "cart", level: int = Level.INFO, messages: Sequence[str] = ()
) -> Columns:
    n = len(times)
    return Columns(
        time_us=list(times),
        service=service,
        level=[int(level)] * n,
        size=[10] * n,
        notable=[Notable(row, message) for row, message in enumerate(messages)],
    )


def add(into: Reduction, events: Columns, unparsed: int = 0) -> int:
    lines = len(events) + unparsed
    parsed = Parsed(events, lines, unparsed=unparsed, unparsed_bytes=7 * unparsed)
    return into.add(Ready(parsed), b"x\n" * lines, "fallback")


def law(of: Reduction) -> None:
    """lines = lines in events (a multi-line event holds several) + unparsed + dropped by reason."""
    counts = of.counts
    assert counts.lines == counts.events + counts.continued + counts.unparsed + counts.dropped.total()


def events_at(deltas: Sequence[WindowDelta]) -> dict[int, int]:
    return {delta.start_us: delta.events for delta in deltas}


# ---- the counting law

LINES = st.one_of(
    st.binary(max_size=40).map(lambda line: line.replace(b"\n", b" ")),
    st.builds(
        lambda time, service, level, message, latency: json.dumps(
            {"timestamp": time, "service": service, "level": level, "message": message, "latency_ms": latency}
        ).encode(),
        st.sampled_from(
            ["2026-03-02T11:59:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-03-02T12:11:00Z", "x", -1]
        ),
        st.sampled_from(["cart", "", "x" * 300, "a\x01b", "\ud800", "_overflow", None, 7]),
        st.sampled_from(["INFO", "ERROR", "CRITICAL", "what", None]),
        st.sampled_from(["paid", "no item 17", "", "x" * 5_000, "\udfff"]),
        st.sampled_from([1, 0.5, -1, 7_200_001, 1e300, None, "12", True]),
    ),
    st.sampled_from(
        [
            b"", b" ", b"\tat shop.Cart.add(Cart.java:17)", b"Traceback (most recent call last):",
            b'10.0.0.1 - - [02/Mar/2026:10:15:03 +0000] "GET /a HTTP/1.1" 500 123 "-" "curl/8.5.0" 0.043',
            b"2026-03-02 11:59:01,123 ERROR shop.cart: no item", b"level=error msg=oops ts=2026-03-02T11:59:02Z",
            b'{"log":"x\\n","stream":"stderr","time":"2026-03-02T11:59:02.1Z"}', b"[1,2]", b"{", b"null",
        ]
    ),
)  # fmt: skip


@given(
    blocks=st.lists(st.lists(LINES, max_size=12), max_size=5),
    name=st.sampled_from(["auto", "json", "access", "logfmt", "plain", "docker"]),
    service=st.sampled_from(["shop", "", "\udcff", "x" * 255, "new\nline", "ü" * 200]),
    drops=st.lists(st.tuples(st.sampled_from(["line_too_long", "other"]), st.integers(0, 5), st.integers(0, 99))),
)
def test_every_line_is_accounted_for(
    blocks: list[list[bytes]], name: str, service: str, drops: list[tuple[str, int, int]]
) -> None:
    made = reduction()
    parser = by_name(name, ParserContext(service, NOW), blocks[0] if blocks else [])
    deltas: list[WindowDelta] = []
    samples: list[Event] = []
    for lines in blocks:
        made.add(parser, b"".join(line + b"\n" for line in lines), service)
        taken, shown = made.take()
        deltas += taken
        samples += [event for events in shown.values() for event in events]
    for reason, count, size in drops:
        made.drop(reason, count, size)
    law(made)
    counts = made.counts
    assert all(counts.dropped.values())
    assert counts.lines == sum(map(len, blocks)) + sum(count for _, count, _ in drops)
    assert counts.bytes == sum(len(line) + 1 for lines in blocks for line in lines) + sum(size for *_, size in drops)
    assert sum(delta.events for delta in deltas) == counts.events
    assert sum(delta.unparsed for delta in deltas) == counts.unparsed
    assert all(EARLIEST - WINDOW_US < delta.start_us <= NOW + MAX_AHEAD_US for delta in deltas)
    # and the collector and the store take all of it
    by_service: dict[str, list[Event]] = {}
    for event in samples:
        by_service.setdefault(event.service, []).append(event)
    cutter = Cutter(b"a" * 16, "host-1")
    for request in cutter.cut(now_us=NOW, deltas=deltas, samples=by_service, services=[], sources=[], watermark_us=NOW):
        wire.batch_from_bytes(request.batch)


def test_unparsed_lines_count_in_the_window_of_the_event_before_them() -> None:
    made = reduction()
    add(made, columns([NOW - 60 * US_PER_S]), unparsed=3)
    (delta,) = made.take()[0]
    assert (delta.service, delta.events, delta.unparsed) == ("cart", 1, 3)
    assert delta.start_us == NOW - 60 * US_PER_S
    assert delta.bytes_in == 10 + 21
    law(made)


@pytest.mark.parametrize("clock_us", [0, NOW - HOUR_US, YEAR_9999])
def test_unparsed_lines_alone_count_at_a_plausible_time(clock_us: int) -> None:
    made = reduction(clock=EventClock(clock_us))
    assert add(made, columns([]), unparsed=3) == 0
    (delta,) = made.take()[0]
    assert (delta.service, delta.events, delta.unparsed) == ("fallback", 0, 3)
    assert delta.start_us == (clock_us if clock_us == NOW - HOUR_US else NOW)
    law(made)


# ---- times


@pytest.mark.parametrize(
    ("time_us", "reason"),
    [
        (YEAR_1, "time_too_old"),
        (-1, "time_too_old"),
        (0, "time_too_old"),
        (EARLIEST - 1, "time_too_old"),
        (EARLIEST, None),
        (NOW, None),
        (NOW + MAX_AHEAD_US, None),
        (NOW + MAX_AHEAD_US + 1, "time_in_future"),
        (NOW + HOUR_US, "time_in_future"),
        (YEAR_9999, "time_in_future"),
        (2**63 - 1, "time_in_future"),
        (-(2**63), "time_too_old"),
    ],
)
@pytest.mark.parametrize("beside", [[], [NOW - 5 * US_PER_S], [NOW - 5 * US_PER_S] * 9])
def test_an_implausible_time_counts_at_receipt_with_the_reason(
    time_us: int, reason: str | None, beside: list[int]
) -> None:
    for times in ([time_us, *beside], [*beside, time_us], [*beside, time_us, *beside]):
        made = reduction()
        watermark_us = add(made, columns(times))
        normal = len(times) - 1
        deltas = made.take()[0]
        assert sum(delta.events for delta in deltas) == normal + 1
        if reason is None:
            assert not made.counts.mended
            assert events_at(deltas)[time_us // WINDOW_US * WINDOW_US] == 1
        else:
            assert made.counts.mended == {reason: 1}
            assert events_at(deltas) == {NOW: 1} | ({NOW - WINDOW_US: normal} if normal else {})
            assert watermark_us == (beside[0] if beside else 0)
        law(made)


def test_in_a_replay_receipt_is_where_event_time_has_got() -> None:
    clock = EventClock(0)
    made = reduction(clock=clock)
    start = NOW - 24 * HOUR_US
    assert add(made, columns([YEAR_1, start + 1, start, YEAR_9999])) == start + 1
    assert events_at(made.take()[0]) == {start: 4}  # nothing better is known than the other lines
    clock.advance_to(start + WINDOW_US)
    assert add(made, columns([YEAR_1])) == 0
    assert events_at(made.take()[0]) == {start + WINDOW_US: 1}
    assert made.counts.mended == {"time_too_old": 2, "time_in_future": 1}


def test_without_any_plausible_time_it_is_the_machines() -> None:
    made = reduction(clock=EventClock(0))
    assert add(made, columns([YEAR_1, 0, YEAR_9999])) == 0
    assert events_at(made.take()[0]) == {NOW: 3}


START = NOW - 20 * 24 * HOUR_US
DAY_US = 24 * HOUR_US


@given(
    lines=st.integers(30, 80),
    step_us=st.integers(0, 20 * US_PER_S),
    jitter=st.lists(st.integers(-30 * US_PER_S, 30 * US_PER_S), min_size=80, max_size=80),
    at=st.integers(0, 79),
    run=st.integers(1, 8),
    ahead_us=st.integers(2 * HOUR_US, 20 * DAY_US),
)
@example(60, US_PER_S, [0] * 80, 30, 1, DAY_US)  # in the middle
@example(60, US_PER_S, [0] * 80, 59, 1, DAY_US)  # the last line
@example(60, US_PER_S, [0] * 80, 0, 1, DAY_US)
def test_an_outlier_does_not_move_the_watermark(
    lines: int, step_us: int, jitter: list[int], at: int, run: int, ahead_us: int
) -> None:
    times = [START + row * step_us + jitter[row] for row in range(lines)]
    at %= lines
    if at + run > lines - 10:
        run = min(run, 2)
    for row in range(at, min(at + run, lines)):
        times[row] += ahead_us
    expected = max(time for row, time in enumerate(times) if not at <= row < at + run)
    made = reduction()
    assert add(made, columns([min(time, NOW) for time in times])) == expected
    assert sum(events_at(made.take()[0]).values()) == lines  # they count all the same
    assert not made.counts.mended


@pytest.mark.parametrize("step_us", [US_PER_S, 600 * US_PER_S, 1_700 * US_PER_S])
@pytest.mark.parametrize("lines", [1, 2, 3, 10, 500])
def test_a_quiet_source_is_read_to_its_last_line(lines: int, step_us: int) -> None:
    times = [START + row * step_us for row in range(lines)]
    assert add(reduction(), columns(times)) == times[-1]


def test_one_old_line_does_not_hold_the_watermark_back() -> None:
    times = [START + row * US_PER_S for row in range(100)]
    for row in (0, 50, 99):
        assert add(reduction(), columns([*times[:row], START - 5 * DAY_US, *times[row:]])) == times[-1]


@given(st.lists(st.integers(YEAR_1, YEAR_9999) | st.integers(START, NOW), min_size=1, max_size=30))
def test_the_watermark_is_a_plausible_time_of_the_block_or_none(times: list[int]) -> None:
    plausible = [time for time in times if EARLIEST <= time <= NOW + MAX_AHEAD_US]
    assert add(reduction(), columns(times)) in (plausible or [0])


# ---- services


def test_services_beyond_the_limit_count_together() -> None:
    made = reduction()
    names = [f"service-{number}" for number in range(MAX_SERVICES_PER_CLIENT + 500)]
    for _ in range(2):
        for start in range(0, len(names), 700):
            block = names[start : start + 700]
            add(made, columns([NOW] * len(block), block))
    deltas = made.take()[0]
    by_name = {delta.service: delta.events for delta in deltas}
    assert by_name.pop(OVERFLOW_SERVICE) == 1_000
    assert len(by_name) == MAX_SERVICES_PER_CLIENT
    assert set(by_name.values()) == {2}
    assert made.counts.mended == {"service_overflow": 1_000}
    assert len(set(made.overflowed)) == len(made.overflowed) == 100
    assert set(made.overflowed) == set(names).difference(by_name).intersection(made.overflowed)
    add(made, columns([NOW] * 3, "one more"))
    add(made, columns([]), unparsed=2)  # the fallback is a service as any other
    assert {delta.service: (delta.events, delta.unparsed) for delta in made.take()[0]} == {OVERFLOW_SERVICE: (3, 2)}
    assert made.counts.mended == {"service_overflow": 1_003}
    law(made)


@pytest.mark.parametrize("name", ["", "x" * 257, "ü" * 129, "a\x00b", "a\nb", "\x1b[31m", "\ud800", "\udcff.log"])
def test_a_name_that_the_contract_does_not_take_counts_as_overflow(name: str) -> None:
    made = reduction()
    add(made, columns([NOW] * 2, [name, "cart"]))
    add(made, columns([NOW] * 2, name))
    parsed = Parsed(columns([]), 1, unparsed=1, unparsed_bytes=5)
    made.add(Ready(parsed), b"junk\n", name)
    by_name = {delta.service: (delta.events, delta.unparsed) for delta in made.take()[0]}
    assert by_name == {"cart": (1, 0), OVERFLOW_SERVICE: (3, 1)}
    assert len(made.overflowed) == 1
    json.dumps(made.overflowed, ensure_ascii=False).encode()


@pytest.mark.parametrize("name", ["x" * 256, "ü" * 128, "a b", "日本", OVERFLOW_SERVICE])
def test_a_name_that_the_contract_takes_is_kept(name: str) -> None:
    made = reduction()
    add(made, columns([NOW], name))
    assert [delta.service for delta in made.take()[0]] == [name]
    assert not made.counts.mended


# ---- samples


def sampled(made: Reduction, service: str = "cart") -> list[Event]:
    return made.take()[1].get(service, [])


def test_samples_are_few_in_a_window_and_errors_have_a_place() -> None:
    made = reduction()
    warnings = [f"warning {word}" for word in "abcdefghij"]
    add(made, columns([NOW] * 10, level=Level.WARN, messages=warnings))
    add(made, columns([NOW] * 10, level=Level.ERROR, messages=[f"error {word}" for word in "abcdefghij"]))
    shown = sampled(made)
    assert len(shown) == 4
    assert shown[0].level == Level.ERROR
    assert [event.level for event in shown] == sorted((event.level for event in shown), reverse=True)
    assert all(event.counted and event.host == "host-1" and event.service == "cart" for event in shown)
    assert made.take()[1] == {}


def test_each_window_and_each_service_has_its_own_samples() -> None:
    made = reduction()
    for number in range(5):
        for service in ("cart", "users"):
            time_us = NOW - number * WINDOW_US
            words = [f"error {number}{letter} {chr(97 + number)}{letter}" for letter in "abcdef"]
            add(
                made,
                columns([time_us] * 6, service, Level.ERROR, [word.translate({48 + number: None}) for word in words]),
            )
    shown = made.take()[1]
    assert shown.keys() == {"cart", "users"}
    for events in shown.values():
        assert Counter(event.time_us for event in events) == {NOW - number * WINDOW_US: 4 for number in range(5)}


def test_a_template_is_shown_once_a_minute() -> None:
    made = reduction()
    start = NOW - HOUR_US
    for second in range(180):
        add(made, columns([start + second * US_PER_S], level=Level.ERROR, messages=[f"no item {second}"]))
    assert [event.time_us - start for event in sampled(made)] == [0, 60 * US_PER_S, 120 * US_PER_S]
    add(made, columns([start + 181 * US_PER_S], level=Level.ERROR, messages=["no user 1"]))
    assert len(sampled(made)) == 1


def test_an_outlier_does_not_silence_a_template() -> None:
    made = reduction()
    for time_us in (NOW, NOW - DAY_US):  # a line of tomorrow, as the others are of today
        add(made, columns([time_us], level=Level.ERROR, messages=["no item"]))
    assert len(sampled(made)) == 2


def test_a_sample_fits_the_contract_whatever_the_event() -> None:
    made = reduction()
    events = columns([NOW], level=Level.ERROR)
    events.latency_us = [7_200_000_000]
    events.endpoint = ["/search?q=" + "ü" * 600_000]
    events.notable = [Notable(0, "ü" * 600_000, "t" * 600_000, "s" * 600_000)]
    add(made, events)
    (event,) = sampled(made)
    assert wire.event_from_proto(wire.event_to_proto(event)) == event
    assert len(wire.event_to_bytes(event)) < 16 * 1024


def test_memory_of_templates_is_bounded() -> None:
    made = reduction()
    for number in range(0, 30_000, 1_000):
        words = ["".join(chr(97 + int(digit)) for digit in str(number + row)) for row in range(1_000)]
        add(made, columns([NOW - number * US_PER_S] * 1_000, level=Level.ERROR, messages=words))
        made.take()
    assert len(made._last_sampled) <= 10_000


def test_a_new_error_is_told_until_it_is_taken() -> None:
    made = reduction()
    add(made, columns([NOW], level=Level.WARN, messages=["slow"]))
    assert not made.has_new_error
    add(made, columns([NOW], level=Level.ERROR, messages=["no item 1"]))
    assert made.has_new_error
    made.take()
    assert not made.has_new_error
    add(made, columns([NOW], level=Level.ERROR, messages=["no item 2"]))
    assert not made.has_new_error
