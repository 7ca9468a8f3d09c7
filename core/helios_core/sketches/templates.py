"""Which message templates were seen how often: the 256 with the smallest ids, counted exactly.

A template is in the 256 smallest ids of a union only if it is there in every part that has it, so
its count is complete, and merging is exact in any order (a bottom-k sample by hash).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

MAX_TEMPLATES: Final = 256
MAX_TEXT_CHARS: Final = 256
_MAX_MESSAGE_CHARS: Final = 512
WILDCARD: Final = "<*>"

# What varies in a message: quoted text, the value of key=value, and every word with a digit in it
# (numbers, hexadecimal ids, UUIDs, addresses, times, versions).
_VARIABLE: Final = re.compile(
    r"""(?x)
    "[^"]*" | (?<!\w)'[^']*'
    | (?<=[\w\]]=) (?: "[^"]*" | [^\s,;&)\]}]+ )
    | (?<![\w<]) [\w.:@/+%\#$~-]* \d [\w.:@/+%\#$~-]*
    """
)
_SPACES: Final = re.compile(r"\s+")
_REPEATED: Final = re.compile(r"<\*>(?:[\s,;:|]*<\*>)+")


def template_of(message: str) -> str:
    """The message with its variable parts replaced by `<*>`; only its first line is looked at.

    It depends on the message alone, so that every host mines the same template.
    """
    line = message[:_MAX_MESSAGE_CHARS].lstrip().partition("\n")[0]
    text = _VARIABLE.sub(WILDCARD, line)
    return _SPACES.sub(" ", _REPEATED.sub(WILDCARD, text)).strip()[:MAX_TEXT_CHARS]


def template_id(level: int, text: str) -> int:
    """The id of the contract: BLAKE2b with an 8-byte digest over the level's digit and the text."""
    return int.from_bytes(blake2b(f"{level:d}{text}".encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


@dataclass(slots=True)
class TemplateCount:
    """One template of messages of one level, and how often it was seen."""

    text: str
    level: int
    count: int


@dataclass(slots=True)
class TemplateCounts:
    """Counts by template id, with the number of events whose templates did not fit."""

    counts: dict[int, TemplateCount]
    overflow: int = 0

    @classmethod
    def empty(cls) -> TemplateCounts:
        return cls({})

    def add(self, level: int, text: str, count: int = 1, *, id_: int | None = None) -> None:
        """Counts `count` events of a template; `id_` spares computing its id again."""
        key = template_id(level, text) if id_ is None else id_
        known = self.counts.get(key)
        if known is not None:
            known.count += count
            return
        self.counts[key] = TemplateCount(text, level, count)
        self._trim()

    def merge(self, other: TemplateCounts) -> None:
        """Adds what `other` has counted."""
        for key, theirs in other.counts.items():
            known = self.counts.get(key)
            if known is None:
                self.counts[key] = TemplateCount(theirs.text, theirs.level, theirs.count)
            else:
                known.count += theirs.count
        self.overflow += other.overflow
        self._trim()

    def total(self) -> int:
        """All events that have a template, the overflow among them."""
        return self.overflow + sum(entry.count for entry in self.counts.values())

    def _trim(self) -> None:
        excess = len(self.counts) - MAX_TEMPLATES
        if excess > 0:
            for key in sorted(self.counts, reverse=True)[:excess]:
                self.overflow += self.counts.pop(key).count

    def __bool__(self) -> bool:
        return bool(self.counts) or self.overflow > 0
