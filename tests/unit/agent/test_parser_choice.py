"""The choice of a source's parser: provisional until enough was seen, and nothing that was read is lost by it."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from tests.examples import examples
from tests.unit.agent.strategies import (
    ACCESS_SAMPLE,
    CONTEXT,
    JSON_SAMPLE,
    LOGFMT_SAMPLE,
    PARSERS,
    PLAIN_SAMPLE,
    RECEIPT,
    Row,
    check,
    joined,
    plain_lines,
    rows_of,
    us,
    wrapped,
)

from helios_agent import pipeline
from helios_agent.parsers.base import Block, Parsed
from helios_agent.parsers.detect import by_name
from helios_agent.pipeline import ParserChoice
from helios_core.model import Level

BANNER = b"Starting up"
SAMPLES = {
    "docker": wrapped(JSON_SAMPLE.decode() + "\n"),
    "json": JSON_SAMPLE,
    "access": ACCESS_SAMPLE[0],
    "logfmt": LOGFMT_SAMPLE,
    "plain": PLAIN_SAMPLE[0],
}


def chosen(name: str = "auto") -> ParserChoice:
    return ParserChoice(name, CONTEXT, "app.log")


def read(choice: ParserChoice, *blocks: Sequence[bytes]) -> list[Parsed]:
    """The blocks of a source, one after the other."""
    data = [joined(block) for block in blocks]
    return [check(choice.parser(one).parse(Block(one, RECEIPT)), one) for one in data]


def rows(parsed: Sequence[Parsed]) -> list[Row]:
    return [row for one in parsed for row in rows_of(one)]


# ---- how long it is provisional


@pytest.mark.parametrize("kind", ["docker", "json", "access", "logfmt"])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_first_line_of_another_kind_decides_nothing(kind: str, at_once: bool) -> None:
    choice = chosen()
    lines = [SAMPLES[kind]] * 30
    with capture_logs() as logs:
        found = read(choice, [BANNER], *([lines] if at_once else [[line] for line in lines]))
    assert len(rows(found)) == 31
    assert sum(one.unparsed for one in found) == 0
    assert [entry["parser"] for entry in logs if entry["event"] == "parser_chosen"] == ["plain", kind]
    assert choice.parser(b"any\n").name == kind


def test_so_many_lines_settle_it() -> None:
    for lines, name in ((19, "json"), (20, "plain")):
        choice = chosen()
        read(choice, [BANNER, b"", b"\0"] * lines)
        assert choice.parser(joined([JSON_SAMPLE] * 100)).name == name


def test_so_many_bytes_settle_it() -> None:
    for size, name in ((1 << 15, "json"), (1 << 16, "plain")):
        choice = chosen()
        read(choice, [b"x" * size])
        assert choice.parser(joined([JSON_SAMPLE] * 9)).name == name
    choice = chosen()
    read(choice, *[[b" " * 1_023]] * 64)  # also when there is nothing on the lines
    assert choice.parser(joined([JSON_SAMPLE] * 9)).name == "plain"


def test_a_long_line_is_looked_at_whole() -> None:
    line = JSON_SAMPLE.replace(b"paid", b"x" * 100_000)
    assert chosen().parser(joined([line])).name == "json"
    assert chosen().parser(joined([JSON_SAMPLE, line, b"oops", b"oops", b"oops"])).name == "json"


def test_what_settled_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs nothing, and holds nothing."""
    choice = chosen()
    parser = choice.parser(joined([JSON_SAMPLE] * 20))
    monkeypatch.setattr(pipeline, "by_name", None)
    assert choice.parser(joined([BANNER] * 1_000)) is parser
    assert choice._lines == []


@pytest.mark.parametrize("name", PARSERS)
def test_a_named_parser_is_never_provisional(name: str) -> None:
    choice = chosen(name)
    parser = choice.parser(joined([BANNER]))
    assert parser.name == name
    assert all(choice.parser(joined([line] * 9)) is parser for line in SAMPLES.values())


def test_half_a_line_at_the_end_decides_only_when_it_is_alone() -> None:
    choice = chosen()
    read(choice, [BANNER, JSON_SAMPLE])
    assert choice.parser(JSON_SAMPLE[:30]).name == "json"
    assert choice.parser(joined([JSON_SAMPLE])).name == "json"
    assert chosen().parser(JSON_SAMPLE[:30]).name == "plain"
    assert chosen().parser(JSON_SAMPLE).name == "json"


# ---- what stays


@pytest.mark.parametrize("banners", [0, 2])
def test_what_is_pending_stays_when_the_kind_does(banners: int) -> None:
    """Also when another parser takes what Docker wraps from here on."""
    text = json.dumps({"service": "web", "level": "ERROR", "message": "no"}) + "\n"
    first = [wrapped("Starting up\n")] * banners + [wrapped(text), wrapped(text[:9])]
    before, after = read(chosen(), first, [wrapped(text[9:]), *[wrapped(text)] * 5])
    assert {row.service for row in rows([before])} == {"fallback" if banners else "web"}
    assert [row.service for row in rows([after])] == ["web"] * 6
    assert (before.continued, before.unparsed, after.unparsed) == (1, 0, 0)


def test_a_stack_trace_goes_on_when_the_form_of_the_time_is_known() -> None:
    trace = [b"java.lang.IllegalStateException: no such order", b"\tat shop.Cart.pay(Cart.java:42)"]
    found = read(chosen(), [BANNER], [PLAIN_SAMPLE[0]], trace, [PLAIN_SAMPLE[0]])
    assert [one.continued for one in found] == [0, 0, 2, 0]
    assert [row.time_us for row in rows(found)][1:] == [us("2026-03-02T10:15:03.123Z")] * 2


def test_the_names_of_the_first_lines_grow() -> None:
    """The fast way reads the names of the shape alone, so the shape must know them."""
    line = b'{"timestamp":"2026-03-02T10:15:03Z","level":"ERROR","app":"web","msg":"no","duration_s":2}'
    for first in (b"{}", b'{"timestamp":"2026-03-02T10:15:03Z","level":"INFO"}'):
        choice = chosen()
        parser = choice.parser(joined([first]))
        found = read(choice, [line] * 3)
        assert choice.parser(b"x") is parser
        assert [(row.service, row.level, row.message, row.latency_us) for row in rows(found)] == [
            ("web", Level.ERROR, "no", 2_000_000)
        ] * 3


def test_the_names_of_logfmt_grow() -> None:
    found = read(chosen(), [b"level=info a=1 b=2"], [b"level=error app=web msg=no"])
    assert [(row.service, row.message) for row in rows(found)] == [("fallback", None), ("web", "no")]


@given(
    st.lists(st.lists(st.sampled_from([*SAMPLES.values(), BANNER, b"", b"\0", b"{oops"]) | plain_lines), max_size=30)
)
@settings(max_examples=examples(50))
def test_whatever_comes_it_is_counted_once_and_settles_as_if_it_had_come_at_once(blocks: list[list[bytes]]) -> None:
    choice = chosen()
    blocks = [block for block in blocks if block]
    found = read(choice, *blocks)
    assert sum(one.lines for one in found) == sum(map(len, blocks))
    lines: list[bytes] = []
    for block in blocks:
        lines += [line for line in block if line.strip(b"\0 \t\r")]
        if len(lines) >= 20:
            break
    assert choice.parser(b"x").name == by_name("auto", CONTEXT, lines).name
