"""Names of files: how one is said, which need not be text."""

from __future__ import annotations


def printable(path: str) -> str:
    """A path for a person, a message or a file of text: bytes of it that are no UTF-8 become question marks."""
    return path.encode("utf-8", "replace").decode()
