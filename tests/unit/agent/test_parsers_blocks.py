"""A line means the same whatever stands beside it and wherever a block ends; and no bytes make a parser fail."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.examples import examples
from tests.unit.agent.strategies import (
    ACCESS_SAMPLE,
    BAD_ACCESS,
    BAD_JSON,
    BLANK,
    CONTEXT,
    JSON_SAMPLE,
    LOGFMT_SAMPLE,
    MENDED_JSON,
    ODD_ACCESS,
    ODD_JSON,
    PARSERS,
    PLAIN_SAMPLE,
    RECEIPT,
    Totals,
    access_lines,
    check,
    cuts,
    docker_lines,
    each_alone,
    in_blocks,
    in_one,
    joined,
    json_lines,
    json_objects,
    logfmt_lines,
    number_of_lines,
    one_of,
    parse,
    plain_lines,
    totals,
    wrapped,
)

from helios_agent.parsers.base import Block
from helios_agent.parsers.detect import by_name, detect

SAMPLES: dict[str, tuple[bytes, ...]] = {
    "docker": (wrapped(JSON_SAMPLE.decode() + "\n"),),
    "json": (JSON_SAMPLE,),
    "access": ACCESS_SAMPLE,
    "logfmt": (LOGFMT_SAMPLE,),
    "plain": PLAIN_SAMPLE,
}
bad_json = [*BAD_JSON.values(), *BLANK, *(line for line, _ in MENDED_JSON.values()), *ODD_JSON.values()]
bad_access = [*BAD_ACCESS.values(), *BLANK, *ODD_ACCESS.values()]
bad_logfmt = [
    b"oops", b"a=b", *BLANK, JSON_SAMPLE, b"\0", b"\xff=1 b=2 c=3", b"ts=x level=y latency_ms=z",
    b"ts=9999-12-31T23:59:59Z level=\xc2\xb2 status=\xc2\xb2", b'ts="2026-03-02T10:15:03Z" level="error msg="x y',
]  # fmt: skip
lines_of_any_kind = {
    "json": json_lines() | one_of(bad_json),
    "access": access_lines() | one_of(bad_access),
    "logfmt": logfmt_lines() | one_of(bad_logfmt),
}


# ---- the fast way is the careful way


@given(st.lists(json_lines(), max_size=12))
def test_good_json_lines_alone_and_together(lines: list[bytes]) -> None:
    together = in_one("json", lines, SAMPLES["json"])
    assert together == each_alone("json", lines, SAMPLES["json"])
    assert len(together.rows) == len(lines)
    assert not together.mended


@given(st.lists(access_lines(), max_size=12))
def test_good_access_lines_alone_and_together(lines: list[bytes]) -> None:
    together = in_one("access", lines, ACCESS_SAMPLE)
    assert together == each_alone("access", lines, ACCESS_SAMPLE)
    assert len(together.rows) == len(lines)
    assert not together.mended


@given(st.lists(logfmt_lines(), max_size=12))
def test_good_logfmt_lines_alone_and_together(lines: list[bytes]) -> None:
    together = in_one("logfmt", lines, SAMPLES["logfmt"])
    assert together == each_alone("logfmt", lines, SAMPLES["logfmt"])
    assert len(together.rows) == len(lines)


@given(st.lists(json_objects(), min_size=1, max_size=8))
@settings(max_examples=examples(50))
def test_the_shape_of_any_sample(records: list[dict[str, Any]]) -> None:
    lines = [json.dumps(record).encode() for record in records]
    assert in_one("json", lines, lines) == each_alone("json", lines, lines)
    assert in_one("json", [*lines, b"oops"], lines).rows == each_alone("json", lines, lines).rows


def _without(whole: Totals, good: Totals, at: int, n_bad: int) -> bool:
    """Whether the events of the good lines stand in the whole, unchanged, with 0 or 1 more for each bad line."""
    more = len(whole.rows) - len(good.rows)
    return 0 <= more <= n_bad and whole.rows[:at] + whole.rows[at + more :] == good.rows


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        (name, bad)
        for name, kinds in (("json", bad_json), ("access", bad_access), ("logfmt", bad_logfmt))
        for bad in kinds
    ],
    ids=lambda value: re.sub(r"[^ -~]", ".", str(value)[:40]),
)
def test_a_bad_line_changes_nothing_about_the_good_ones(name: str, bad: bytes) -> None:
    lines = [*SAMPLES[name]] * 5
    good = in_one(name, lines, SAMPLES[name])
    for at in (0, 3, 5):
        assert _without(in_one(name, [*lines[:at], bad, *lines[at:]], SAMPLES[name]), good, at, 1)


@pytest.mark.parametrize("name", lines_of_any_kind)
@given(data=st.data())
def test_any_lines_alone_and_together(name: str, data: st.DataObject) -> None:
    lines = data.draw(st.lists(lines_of_any_kind[name], max_size=10))
    assert in_one(name, lines, SAMPLES[name]) == each_alone(name, lines, SAMPLES[name])


@given(json_objects(), st.integers(0, 5))
def test_a_pretty_printed_object_changes_nothing_about_the_good_ones(record: dict[str, Any], at: int) -> None:
    pretty = json.dumps(record, indent=1).encode().split(b"\n")
    lines = [JSON_SAMPLE] * 5
    whole = in_one("json", [*lines[:at], *pretty, *lines[at:]], SAMPLES["json"])
    assert _without(whole, in_one("json", lines, SAMPLES["json"]), at, len(pretty))


@pytest.mark.parametrize("name", PARSERS)
def test_ten_megabytes_on_a_line_change_nothing_about_the_good_ones(name: str) -> None:
    lines = [*SAMPLES[name]] * 3
    good = in_one(name, lines, SAMPLES[name])
    for bad in (b"x" * 10_000_000, SAMPLES[name][0][:-3] + b"y" * 10_000_000, b'{"a": "' + b"z" * 10_000_000 + b'"}'):
        whole = in_one(name, [*lines[:2], bad, *lines[2:]], SAMPLES[name])
        assert [row._replace(size=0) for row in whole.rows if row.size < 1_000][:2] == [
            row._replace(size=0) for row in good.rows[:2]
        ][: sum(row.size < 1_000 for row in whole.rows)]
        assert whole.rows[-1] == good.rows[-1]


# ---- what a power cut leaves


@pytest.mark.parametrize("nuls", [b"\0", b"\0" * 512])
@pytest.mark.parametrize("name", PARSERS)
def test_nul_bytes_before_a_line_count_for_its_size_alone(name: str, nuls: bytes) -> None:
    (line,) = SAMPLES[name]
    whole = in_one(name, [line, nuls + line, nuls, line, nuls + line], SAMPLES[name])
    sizes = [len(line), len(nuls + line), len(line), len(nuls + line)]
    (row, *_) = in_one(name, [line], SAMPLES[name]).rows
    assert whole.rows == [row._replace(size=size) for size in sizes]
    assert (whole.unparsed, whole.dropped, whole.mended) == (0, {"blank": 1}, {})
    assert detect(CONTEXT, [nuls + line]).name == name


@pytest.mark.parametrize("name", lines_of_any_kind)
@given(data=st.data())
@settings(max_examples=examples(50))
def test_nul_bytes_before_any_lines_change_nothing_else(name: str, data: st.DataObject) -> None:
    lines = data.draw(st.lists(lines_of_any_kind[name].filter(lambda line: line[:1] != b"\0"), max_size=10))
    with_nuls = [data.draw(st.sampled_from([b"", b"\0", b"\0\0"])) + line for line in lines]
    found, due = in_one(name, with_nuls, SAMPLES[name]), in_one(name, lines, SAMPLES[name])
    assert [row._replace(size=0) for row in found.rows] == [row._replace(size=0) for row in due.rows]
    assert found[1:4] + found[5:] == due[1:4] + due[5:]


# ---- cutting


@pytest.mark.parametrize("name", lines_of_any_kind)
@given(data=st.data())
@settings(max_examples=examples(50))
def test_blocks_of_any_length(name: str, data: st.DataObject) -> None:
    lines = data.draw(st.lists(lines_of_any_kind[name], max_size=20))
    assert in_blocks(name, lines, SAMPLES[name], data.draw(cuts)) == in_one(name, lines, SAMPLES[name])


def _no_sizes(whole: Totals) -> Totals:
    # A line that continues an event of an earlier block is counted, but its bytes can no longer be added.
    return whole._replace(rows=[row._replace(size=0) for row in whole.rows])


@given(st.lists(plain_lines, max_size=30), cuts)
def test_stack_traces_in_blocks_of_any_length(lines: list[bytes], edges: list[int]) -> None:
    for sample in (PLAIN_SAMPLE, (b"no time",)):
        cut, whole = in_blocks("plain", lines, sample, edges), in_one("plain", lines, sample)
        assert _no_sizes(cut) == _no_sizes(whole)
        assert sum(row.size for row in cut.rows) <= sum(row.size for row in whole.rows)


@given(st.lists(docker_lines(json_lines()), max_size=10), cuts)
def test_pieces_of_docker_lines_in_blocks_of_any_length(written: list[list[bytes]], edges: list[int]) -> None:
    lines = [piece for pieces in written for piece in pieces]
    whole = in_one("docker", lines, SAMPLES["docker"])
    assert in_blocks("docker", lines, SAMPLES["docker"], edges) == whole
    assert len(whole.rows) == len(written)


@given(
    st.lists(docker_lines(plain_lines) | st.sampled_from([[b"oops"], [b""], [wrapped("no end")]]), max_size=10), cuts
)
def test_stack_traces_in_docker_in_blocks_of_any_length(written: list[list[bytes]], edges: list[int]) -> None:
    lines = [piece for pieces in written for piece in pieces]
    sample = (wrapped(PLAIN_SAMPLE[0].decode() + "\n"),)
    cut, whole = in_blocks("docker", lines, sample, edges), in_one("docker", lines, sample)
    assert _no_sizes(cut) == _no_sizes(whole)


# ---- any bytes

real_lines = one_of([*bad_json, *bad_access, *bad_logfmt, *SAMPLES["docker"], JSON_SAMPLE, LOGFMT_SAMPLE]) | st.one_of(
    json_lines(), access_lines(), logfmt_lines(), plain_lines
)
SNIPPETS = [
    b"\n", b"\r", b"\0", b"\xff", b'"', b"\\", b"{", b"}", b"[", b"\xc2\xb2", b"\xd9\xa1", b"\xc5\xbf",
    b"\xce\xbcs", b"=",
    b"-", b"9" * 30, b"\\ud800", b"\xe2\x80\xa8", b"\xc2\x85", b"\x1c", b"null", b"NaN", b"1e999", b'" 200 ',
    b" took 5 \xce\x9cs",
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = joined(draw(st.lists(real_lines, min_size=1, max_size=4)))
    if len(data) > 3_000:
        data = data[:3_000]
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        until = at + draw(st.sampled_from([0, 0, 1, 1, 2, 7, 40]))
        data = data[:at] + draw(st.sampled_from(SNIPPETS) | st.binary(max_size=4)) + data[until:]
    return data


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.binary(max_size=300))
@example(b"")
@example(b"\n")
def test_any_bytes(name: str, data: bytes) -> None:
    for sample in ((), SAMPLES[name]):
        parse(by_name(name, CONTEXT, sample), data)


@pytest.mark.parametrize("name", PARSERS)
@given(data=mutated())
@settings(max_examples=examples(50))
def test_any_mutation_of_real_lines(name: str, data: bytes) -> None:
    parser = by_name(name, CONTEXT, SAMPLES[name])
    whole = parse(parser, data)
    parse(by_name(name, CONTEXT, data.split(b"\n")), data)  # what was looked at first may be as bad
    if name in lines_of_any_kind:
        lines = data.split(b"\n")
        alone = each_alone(name, lines if lines[-1] else lines[:-1], SAMPLES[name])
        assert totals([whole]) == alone


@pytest.mark.parametrize("inner", ["json", "access", "logfmt", "plain"])
@given(data=mutated())
@settings(max_examples=examples(50))
def test_any_mutation_in_docker(inner: str, data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    edges = [0, *range(50, len(text), 50), len(text)]
    lines = [wrapped(text[a:b]) for a, b in pairwise(edges)] + [wrapped(line + "\n") for line in text.split("\n")]
    sample = [wrapped(SAMPLES[inner][0].decode() + "\n")]
    parse(by_name("docker", CONTEXT, sample), joined(lines))


@pytest.mark.parametrize("name", ["json", "access", "logfmt", "plain"])
@given(data=mutated())
@settings(max_examples=examples(50))
def test_any_mutation_with_times_from_what_wraps_it(name: str, data: bytes) -> None:
    times = [RECEIPT + i for i in range(number_of_lines(data))]
    parsed = check(by_name(name, CONTEXT, SAMPLES[name]).parse(Block(data, RECEIPT, times)), data)
    assert set(parsed.events.time_us) <= set(times)
    assert "bad_time" not in parsed.mended


# ---- bounded


def _size_of(value: object, seen: set[int]) -> int:
    """How many things hang on a parser, deep."""
    if id(value) in seen or isinstance(value, str | bytes | int | float | type | None):
        return 1
    seen.add(id(value))
    if isinstance(value, dict):
        inside = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set):
        inside = [*value]
    else:
        slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
        inside = [getattr(value, name) for name in slots if hasattr(value, name)]
        inside += list(getattr(value, "__dict__", {}).values())
    if isinstance(value, dict) and getattr(value, "__dict__", None):
        inside += list(value.__dict__.values())
    return 1 + sum(_size_of(one, seen) for one in inside)


@pytest.mark.parametrize("name", PARSERS)
def test_state_is_bounded(name: str) -> None:
    """30,000 distinct times, services, levels, statuses and fractions leave less than one thing each behind."""
    digits = "٠١٢٣٤٥٦٧٨٩"

    def line(i: int) -> str:
        second = f"{i // 3600 % 24:02d}:{i // 60 % 60:02d}:{i % 60:02d}"
        day = f"{i // 86_400 + 1:02d}"
        if name in {"json", "docker"}:
            time = f"2026-03-{day}T{second}.{i:09d}Z"
            inner = f'{{"timestamp": "{time}", "service": "s{i}", "level": "l{i}", "message": "m{i}"}}'
            return inner if name == "json" else wrapped(inner + "\n", time, stream=("stdout", "stderr")[i % 2]).decode()
        if name == "access":
            status = f"{i % 1000:03d}" if i % 2 else "".join(digits[int(d)] for d in f"{i // 2 % 1000:03d}")
            return f'10.0.0.1 - u{i} [{day}/Mar/2026:{second} +0000] "GET /{i} HTTP/1.1" {status} {i} "{i}" "{i}" {i}'
        if name == "logfmt":
            return f"ts=2026-03-{day}T{second}.{i:09d}Z service=s{i} level=l{i} msg=m{i}"
        return f"2026-03-{day} {second},{i:06d} level=l{i} s{i}: m{i}"

    parser = by_name(name, CONTEXT, SAMPLES[name])
    for start in range(0, 30_000, 5_000):
        parsed = parser.parse(Block("".join(f"{line(i)}\n" for i in range(start, start + 5_000)).encode(), RECEIPT))
        assert len(parsed.events.time_us) >= 2_500  # an access line whose status is in other digits is refused
        assert _size_of(parser, set()) < 30_000
