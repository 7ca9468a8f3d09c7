"""Which parser a source gets: by name, or by looking at its first lines."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final, Protocol

from helios_agent.parsers.access import Access
from helios_agent.parsers.base import Parser, ParserContext
from helios_agent.parsers.docker import Docker
from helios_agent.parsers.json_lines import JsonLines
from helios_agent.parsers.logfmt import Logfmt
from helios_agent.parsers.plain import Plain
from helios_core.errors import ConfigError

SAMPLE_LINES: Final = 200
_ENOUGH: Final = 0.5


class _Kind(Protocol):
    """What a parser's class offers for choosing it."""

    name: str

    def make(self, context: ParserContext, lines: Sequence[bytes]) -> Parser: ...

    def recognises(self, lines: Sequence[bytes]) -> float: ...


# The most particular first: every Docker line is a JSON line, and every line is plain text.
_KINDS: Final[tuple[_Kind, ...]] = (Docker, JsonLines, Access, Logfmt, Plain)
PARSERS: Final[dict[str, _Kind]] = {kind.name: kind for kind in _KINDS}


def detect(
    context: ParserContext, lines: Sequence[bytes], *, without: str = "", before: Parser | None = None
) -> Parser:
    """The first kind of parser that recognises at least half of the lines; else plain text.

    Args:
        context: what the parser needs to know of its source.
        lines: the first lines of the source, without blank ones.
        without: the name of a parser that is not considered.
        before: what fewer of these lines have chosen: it learns of the others, and stays unless they
            make it another kind.
    """
    sample = lines[:SAMPLE_LINES]
    kinds = (kind for kind in _KINDS if kind.name != without)
    kind = next((kind for kind in kinds if kind.recognises(sample) >= _ENOUGH), PARSERS[Plain.name])
    if before is not None and before.name == kind.name:
        before.learn(sample)
        return before
    return kind.make(context, sample)


def by_name(name: str, context: ParserContext, lines: Sequence[bytes], *, before: Parser | None = None) -> Parser:
    """The parser of that name (`auto` looks at the lines, see `detect`); ConfigError for a name that none has."""
    check_name(name)
    if name == "auto":
        return detect(context, lines, before=before)
    return PARSERS[name].make(context, lines[:SAMPLE_LINES])


def check_name(name: str) -> None:
    """ConfigError for a name that no parser has."""
    if name != "auto" and name not in PARSERS:
        near = get_close_matches(name, ("auto", *PARSERS), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"there is no parser {name!r}{hint} (auto, {', '.join(PARSERS)})")
