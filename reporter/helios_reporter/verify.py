"""Keeps only the claims that the evidence pack bears out: every id exists, every direction is that of its change."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from helios_reporter.evidence import Evidence, EvidencePack
from helios_reporter.report import Claim, Report

_CLAIMS: Final = (
    "summary", "impact", "causes", "actions_immediate", "actions_short_term", "actions_long_term", "checked_and_normal",
)  # fmt: skip
_UP: Final = re.compile(r"\b(rose|rises|increased|grew|jumped|climbed|higher than before)\b", re.IGNORECASE)
_DOWN: Final = re.compile(r"\b(fell|falls|decreased|dropped|sank|lower than before)\b", re.IGNORECASE)
_QUOTED: Final = re.compile(r"“[^”]*”")


def verify(report: Report, pack: EvidencePack) -> tuple[Report, list[str]]:
    """The report with the claims that hold, and why each of the others was dropped."""
    items = {item.id: item for item in pack.items}
    names = _names({item.service for item in pack.items} | set(report.services))
    dropped: list[str] = []
    kept: dict[str, tuple[Claim, ...]] = {}
    for section in _CLAIMS:
        sound = []
        for claim in getattr(report, section):
            fault = _fault(claim, items, names)
            if fault is None:
                sound.append(claim)
            else:
                dropped.append(f"{section}: {fault}: {claim.text}")
        kept[section] = tuple(sound)
    return msgspec.structs.replace(report, **kept), dropped


def _fault(claim: Claim, items: Mapping[str, Evidence], names: re.Pattern[str]) -> str | None:
    """Why a claim does not hold; None when it does."""
    if not claim.evidence:
        return "it cites nothing"
    unknown = [id_ for id_ in claim.evidence if id_ not in items]
    if unknown:
        return f"{unknown[0]} is no evidence"
    # What a log line says is no word of the report, nor is the name of a service.
    text = _QUOTED.sub("", names.sub("", claim.text))
    cited = [items[id_] for id_ in claim.evidence]
    for pattern, sign, word in ((_UP, 1, "rose"), (_DOWN, -1, "fell")):
        if pattern.search(text) and not any(_sign(item) == sign for item in cited):
            return f"nothing that it cites {word}"
    return None


def _names(services: set[str]) -> re.Pattern[str]:
    """Finds the names of services as whole words."""
    longest_first = sorted(map(re.escape, services), key=len, reverse=True)
    return re.compile(rf"(?<![\w-])(?:{'|'.join(longest_first)})(?![\w-])")


def _sign(item: Evidence) -> int:
    if item.value is None or item.baseline is None:
        return 0
    return (item.value > item.baseline) - (item.value < item.baseline)
