"""A report as Markdown, with its evidence: text of logs is quoted so that it cannot become markup."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from helios_core.clock import rfc3339
from helios_reporter.evidence import Evidence, EvidencePack
from helios_reporter.report import Claim, Report, number

# What can begin markup within a line, or end a table's cell; an underscore between letters is none.
# The last two are what GitHub makes a link of without any brackets.
_MARKUP: Final = re.compile(r"([\\`*\[\]<>|~&]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?i:(?<=www))\.)")
_UNSEEN: Final = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, direction and zero width, surrogates, separators of lines


def escape(text: str) -> str:
    """Text of unknown origin as it reads: without control and direction characters, without markup."""
    seen = "".join("�" if unicodedata.category(character) in _UNSEEN else character for character in text)
    return _MARKUP.sub(r"\\\1", seen)


def render(report: Report, pack: EvidencePack) -> str:
    """The report for a person."""
    ended = f" to {rfc3339(report.ended_us, digits=0)}" if report.ended_us else ", ongoing"
    lines = [
        f"# [{report.severity.upper()}] {escape(report.title)}",
        "",
        f"Incident `{report.incident_id}`, {rfc3339(report.started_us, digits=0)}{ended}. "
        f"Written by {report.generator}.",
        "",
    ]
    for heading, claims in (
        ("Summary", report.summary),
        ("Impact", report.impact),
    ):
        lines += _section(heading, claims)
    lines += ["## Timeline", ""]
    lines += [
        f"- {rfc3339(entry.time_us, digits=0)} {escape(entry.text)}{_ids(entry.evidence)}" for entry in report.timeline
    ]
    lines += ["", *_section("Root cause", report.causes, "No candidate in the evidence.")]
    lines += ["## Recommended actions", ""]
    for term, claims in (
        ("Immediate", report.actions_immediate),
        ("Short-term", report.actions_short_term),
        ("Long-term", report.actions_long_term),
    ):
        lines += [f"- {term}: {escape(claim.text)}{_ids(claim.evidence)}" for claim in claims]
    lines += ["", *_section("Checked and normal", report.checked_and_normal, "Nothing that was checked is normal.")]
    lines += ["## Unknowns", "", *(f"- {escape(text)}" for text in report.unknowns), ""]
    if report.truncation:
        lines += ["Left out: " + "; ".join(f"only {escape(text)}" for text in report.truncation) + ".", ""]
    lines += ["## Evidence", "", "| id | kind | service | what | during | before | interval | from |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    lines += [_row(item) for item in pack.items]
    return "\n".join(lines) + "\n"


def _section(heading: str, claims: tuple[Claim, ...], otherwise: str = "") -> list[str]:
    lines = [f"## {heading}", ""]
    for claim in claims:
        label = "" if claim.kind == "observed" else f" *({claim.kind})*"
        lines.append(f"- {escape(claim.text)}{label}{_ids(claim.evidence)}")
    if not claims and otherwise:
        lines.append(otherwise)
    return [*lines, ""]


def _ids(evidence: tuple[str, ...]) -> str:
    return f" [{', '.join(evidence)}]" if evidence else ""


def _row(item: Evidence) -> str:
    value = "" if item.value is None else number(item.value, item.unit)
    before = "" if item.baseline is None else number(item.baseline, item.unit)
    span = rfc3339(item.from_us, digits=0)
    if item.to_us != item.from_us:
        span += f" to {rfc3339(item.to_us, digits=0)}"
    cells = (item.id, item.kind, item.service, item.name, value, before, span, item.source)
    return "| " + " | ".join(map(escape, cells)) + " |"
