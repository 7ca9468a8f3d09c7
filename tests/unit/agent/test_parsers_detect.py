"""Which parser a source gets, from its first lines or by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.agent.strategies import (
    ACCESS_SAMPLE,
    CONTEXT,
    JSON_SAMPLE,
    LOGFMT_SAMPLE,
    PARSERS,
    PLAIN_SAMPLE,
    parse,
    wrapped,
)

from helios_agent.parsers.detect import by_name, detect
from helios_core.errors import ConfigError

SAMPLES = {
    "docker": wrapped("started\n"),
    "json": JSON_SAMPLE,
    "access": ACCESS_SAMPLE[0],
    "logfmt": LOGFMT_SAMPLE,
    "plain": PLAIN_SAMPLE[0],
}


@pytest.mark.parametrize("name", PARSERS)
def test_each_is_found_by_its_own_lines(name: str) -> None:
    line = SAMPLES[name]
    assert detect(CONTEXT, [line]).name == name
    assert detect(CONTEXT, [line] * 300).name == name
    assert detect(CONTEXT, [line] * 6 + [b"a banner at the start"] * 4).name == name
    assert detect(CONTEXT, [b"oops"] * 6 + [line] * 4).name == "plain"
    assert by_name("auto", CONTEXT, [line]).name == name


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (b'10.0.0.1 - - [02/Mar/2026:10:15:03 +0000] "GET / HTTP/1.0" 200 5', "access"),
        (b'10.0.0.1 - - [02/Mar/2026:10:15:03 +0000] "GET / HTTP/1.0" 200 5\r', "access"),
        (b'10.0.0.1 - - [02/Mar/2026:10:15:03 +0000] "GET / HTTP/1.0" 200 5 "-" "curl" "10.1.1.1"', "access"),
        (b"{}", "json"),
        (b'{"a": 1}\r', "json"),
        (b"[1, 2]", "plain"),
        (b'level=info ts=1 msg="a b"', "logfmt"),
        (b"a=1 b=2", "plain"),
        (b"Mar  2 10:15:03 web-1 sshd[7]: logname= uid=0 euid=0 tty=ssh", "plain"),
        (b"E0302 10:15:03.123456       1 a.go:7] no", "plain"),
        (b"\xff\xfe", "plain"),
    ],
)
def test_lines_of_the_field(line: bytes, name: str) -> None:
    assert detect(CONTEXT, [line]).name == name


def test_nothing_to_look_at() -> None:
    assert detect(CONTEXT, []).name == "plain"
    for name in PARSERS:
        assert by_name(name, CONTEXT, []).name == name


def test_one_is_left_out() -> None:
    assert detect(CONTEXT, [SAMPLES["docker"]], without="docker").name == "json"


def test_only_the_first_lines_are_looked_at() -> None:
    assert detect(CONTEXT, [JSON_SAMPLE] * 200 + [b"oops"] * 10_000).name == "json"


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("jsn", "json"),
        ("JSON", ""),
        ("acces", "access"),
        ("logfm", "logfmt"),
        ("dokcer", "docker"),
        ("plane", "plain"),
        ("zzz", ""),
    ],
)
def test_a_name_that_none_has(wrong: str, near: str) -> None:
    with pytest.raises(ConfigError) as caught:
        by_name(wrong, CONTEXT, [])
    message = str(caught.value)
    assert repr(wrong) in message
    assert (f"did you mean {near}?" in message) if near else ("did you mean" not in message)
    assert all(name in message for name in ("auto", *PARSERS))


@given(st.lists(st.binary(max_size=60).map(lambda line: line.replace(b"\n", b"")), max_size=6))
def test_any_first_lines_will_do(lines: list[bytes]) -> None:
    parser = detect(CONTEXT, lines)
    assert parser.name in PARSERS
    for name in PARSERS:
        parse(by_name(name, CONTEXT, lines), b"\n".join(lines))
