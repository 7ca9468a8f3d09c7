"""Where the whole lines of what was read begin and end, when one may be longer than is taken. It reads nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lines:
    """The whole lines of some bytes.

    Attributes:
        start, end: where they stand. What is before them is of a line that is too long; what is behind
            them is the beginning of a line.
        too_long: a line that is too long ended before them.
        skipping: a line that is too long goes on behind these bytes.
    """

    start: int
    end: int
    too_long: bool
    skipping: bool


def whole_lines(data: bytes, *, max_bytes: int, skipping: bool) -> Lines:
    """Looks whether the first line is too long; the others are shorter than the block that they came in.

    Args:
        data: from the beginning of a line on, or from within one that is too long.
        max_bytes: a longer line, its line feed counted, is too long.
        skipping: it is such a line, whose beginning has been passed over.
    """
    first = data.find(b"\n") + 1
    if skipping or (first or len(data)) > max_bytes:
        start = first or len(data)  # the beginning of such a line goes at once, its end when the line feed has come
        return Lines(start, max(start, data.rfind(b"\n") + 1), too_long=bool(first), skipping=not first)
    return Lines(0, data.rfind(b"\n") + 1, too_long=False, skipping=False)
