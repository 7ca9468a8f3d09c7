"""One name for all requests to an endpoint: no query, and placeholders for segments that vary."""

from __future__ import annotations

import re
from typing import Final

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")
_HEX: Final = re.compile(r"(?=[0-9a-fA-F]*\d)[0-9a-fA-F]{8,}")
_NUMBER: Final = re.compile(r"-?\d+(?:\.\d+)?")
_NUMBER_SEGMENT: Final = re.compile(r"/-?\d+(?:\.\d+)?(?=/|$)")
_MAX_CHARS: Final = 256


def normalise_endpoint(raw: str) -> str:
    """`GET /Orders/8421?x=1` → `GET /Orders/:id`.

    Numeric, UUID and hexadecimal (8 digits or more) segments become `:id`, `:uuid` and `:hex`;
    the query and the fragment go; a trailing slash goes; at most 256 characters are kept.
    """
    path = raw.partition("?")[0].partition("#")[0]
    if any(character.isdigit() for character in path) or "-" in path:
        path = "/".join(map(_segment, path.split("/")))
    if len(path) > 1:
        path = path.rstrip("/") or "/"
    return path[:_MAX_CHARS]


def without_numbers(raw: str) -> str:
    """The first and cheapest step of normalise_endpoint, which gives the same for its result."""
    return _NUMBER_SEGMENT.sub("/:id", raw.partition("?")[0])


def _segment(segment: str) -> str:
    if _NUMBER.fullmatch(segment):
        return ":id"
    if _UUID.fullmatch(segment):
        return ":uuid"
    if _HEX.fullmatch(segment):
        return ":hex"
    return segment
