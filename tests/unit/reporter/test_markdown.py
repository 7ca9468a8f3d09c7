"""Markdown: whatever stands in a log, it is read as text and never as markup."""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.examples import examples

from helios_reporter.evidence import EvidencePack
from helios_reporter.markdown import escape, render
from helios_reporter.report import Claim, Report, TimelineEntry

HOSTILE = [
    "[click here](https://evil.example/)",
    "![pixel](https://evil.example/p.png)",
    "[ref]: https://evil.example/",
    "[E1]: https://evil.example/ 'title'",
    "[E1][ref] [E1]",
    "<https://evil.example/>",
    "<a href='https://evil.example/'>x</a>",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<!-- gone -->",
    "<?php ?>",
    "<![CDATA[x]]>",
    "https://evil.example/ and HTTP://evil.example and www.evil.example and WWW.evil.example",
    "a | b | c |",
    "\\| a \\\\| b |",
    "`code` ``more`` ```",
    "`a | b`",
    "~~gone~~ ~gone~",
    "*it* **bold** ***both*** _it_ __bold__ __init__ a_b_c _ _a_",
    "*\\*a*",
    "\\[x\\](y)",
    "\\\\[x](y)",
    "a\\",
    "# heading",
    "- item",
    "1. item",
    "> quote",
    "    code",
    "---",
    "===",
    "&lt;b&gt; &#60;b&#62; &#x202e; &copy; &amp;",
    "line\nline\n\n# heading\n\n| a | b |\n|---|---|\n",
    "line\r\n- item\rmore",
    "line\u2028line\u2029line\x0bline\x0cline\x85line",
    "a\u202egnp.exe\u202c\u2066b\u2069\u200e\u200f\u061c",
    "zero\u200bwidth\u200c\u200d\ufeff\u2060\u00ad\u180e",
    "tags \U000e0041\U000e0042",
    "esc \x1b[31mred\x1b[0m \x00 \x07 \x9b",
    "tab\there",
    "emoji 🎉 and ünïcödé 日本語",
    "$x$ $$y$$ :tada: @someone #1",
    "x" * 100_000,
    "[" * 2_000 + "]" * 2_000,
    "",
    " ",
]
HARMLESS = ["plain", "snake_case_name of GET /api/v1/items: 5.3 ms (2 of 7), a=b; c+d!", "ünïcödé 日本語 🎉"]


def shown(text: str) -> str:
    """What a person is to see: the text, with what cannot be seen made visible."""
    hidden = {"Cc", "Cf", "Zl", "Zp"}
    return "".join("�" if unicodedata.category(character) in hidden else character for character in text)


def document(text: str) -> tuple[Report, EvidencePack]:
    """A report with the text wherever text of unknown origin can stand."""
    pack = EvidencePack(incident_id="0123456789ab")
    item = pack.add(
        kind="log_sample", service=text, from_us=0, to_us=60_000_000, source=text, name=text, unit=text, value=1.0,
        baseline=2.0,
    )  # fmt: skip
    claim = Claim(text=f"On {text} it said “{text}”.", evidence=(item.id,))
    guess = Claim(text=f"Look at {text}", evidence=(item.id,), kind="hypothesis")
    made = Report(
        schema_version=1,
        generator="rules",
        incident_id="0123456789ab",
        title=f"{text}: more errors",
        severity="high",
        services=(text,),
        started_us=0,
        ended_us=None,
        summary=(claim, guess),
        impact=(claim,),
        timeline=(TimelineEntry(time_us=0, text=f"first signs on {text}", evidence=(item.id,)),),
        causes=(guess,),
        actions_immediate=(guess,),
        actions_short_term=(claim,),
        actions_long_term=(),
        checked_and_normal=(claim,),
        unknowns=(f"Also alerted: {text} [{item.id}].",),
        truncation=(f"8 of 9 templates of {text}",),
    )
    return made, pack


def unescaped(text: str) -> str:
    """Without the characters behind a backslash."""
    return re.sub(r"\\[!-/:-@\[-`{-~]", "", text)


@pytest.mark.parametrize("text", [*HOSTILE, *HARMLESS], ids=range(len(HOSTILE) + len(HARMLESS)))
def test_nothing_of_markup_is_left_unescaped(text: str) -> None:
    escaped = escape(text)
    assert not set(unescaped(escaped)) & set("\\`*[]<>|~&")
    assert not re.search(r"[^\\]://|www\.", escaped, re.IGNORECASE)
    assert len(escaped.splitlines()) <= 1
    assert not any(unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for character in escaped)
    assert re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", escaped) == shown(text)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_markup_is_left_as_it_is(text: str) -> None:
    assert escape(text) == text


def test_half_a_character_can_be_written() -> None:
    assert escape("caf\udce9").encode() == "caf�".encode()


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_report_has_the_same_lines_whatever_the_text(text: str) -> None:
    plain = render(*document("plain")).split("\n")
    lines = render(*document(text)).split("\n")
    assert len(lines) == len(plain)
    for line, expected in zip(lines, plain, strict=True):
        head = re.match(r"#* |- |\| E1 \||\|---|$", expected)
        assert head is None or line.startswith(head[0])
    row = next(line for line in lines if line.startswith("| E1 |"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 9


KINDS = {
    "heading_open", "heading_close", "paragraph_open", "paragraph_close", "inline", "bullet_list_open",
    "bullet_list_close", "list_item_open", "list_item_close", "table_open", "table_close", "thead_open", "thead_close",
    "tbody_open", "tbody_close", "tr_open", "tr_close", "th_open", "th_close", "td_open", "td_close",
}  # fmt: skip
INLINE = {"text", "text_special", "code_inline", "em_open", "em_close"}


@pytest.mark.parametrize("preset", ["commonmark", "gfm-like"])
def test_a_parser_sees_text_and_no_markup(preset: str) -> None:
    """CommonMark with tables; the other preset makes links of bare addresses, too."""
    parser = pytest.importorskip("markdown_it", reason="pip install markdown-it-py").MarkdownIt("commonmark")
    parser.enable(["table", "strikethrough"])
    if preset == "gfm-like":
        linkify = pytest.importorskip("linkify_it", reason="pip install linkify-it-py").LinkifyIt()
        parser.linkify = linkify.set({"fuzzy_link": False, "fuzzy_email": False})
        parser.options["linkify"] = True
        parser.enable(["linkify"])
    plain = [token.type for token in parser.parse(render(*document("plain")))]
    for text in [*HOSTILE, *HARMLESS]:
        tokens = parser.parse(render(*document(text)))
        assert [token.type for token in tokens] == plain, text[:80]
        assert {token.type for token in tokens} <= KINDS
        for token in tokens:
            children = token.children or []
            assert {child.type for child in children} <= INLINE, text[:80]
            assert [child.content for child in children if child.type == "code_inline"] in ([], ["0123456789ab"])
            emphasised = [after.content for child, after in pairwise(children) if child.type == "em_open"]
            assert emphasised in ([], ["(hypothesis)"])
        cells = [
            "".join(child.content for child in tokens[i + 1].children or [])
            for i, token in enumerate(tokens)
            if token.type == "td_open"
        ]
        assert len(cells) == 8
        assert cells[2] == cells[3] == cells[7] == shown(text).strip(" ")


@settings(max_examples=examples(100), deadline=None)
@given(st.text(st.sampled_from("ab_*`[]()!<>|\\~&#; \n\t-+.1:/w\u202e\u200b"), max_size=40))
def test_any_text_is_one_cell_and_reads_as_it_is(text: str) -> None:
    lines = render(*document(text)).split("\n")
    row = next(line for line in lines if line.startswith("| E1 |"))
    cells = re.split(r"(?<!\\)\|", row)
    assert len(cells) == 10
    assert re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", cells[4])[1:-1] == shown(text)
    assert not set(unescaped(escape(text))) & set("\\`*[]<>|~&")
