"""Names of files: which ones some globs mean, and how one is said, which need not be text."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from fnmatch import fnmatchcase


def matching(patterns: Sequence[str], exclude: Sequence[str]) -> list[str]:
    """The paths that are there and match, each once, in the order of the patterns.

    Args:
        patterns: globs; `**` goes into folders.
        exclude: globs of paths that are left out; one without a slash is for the name of a file, in any folder.
    """
    names = [pattern for pattern in exclude if "/" not in pattern]
    excluded = {path for pattern in exclude if "/" in pattern for path in glob.glob(pattern, recursive=True)}
    found = (path for pattern in patterns for path in sorted(glob.glob(pattern, recursive=True)))
    return [
        path
        for path in dict.fromkeys(found)
        if path not in excluded and not any(fnmatchcase(os.path.basename(path), name) for name in names)
    ]


def printable(path: str) -> str:
    """A path for a person, a message or a file of text: bytes of it that are no UTF-8 become question marks."""
    return path.encode("utf-8", "replace").decode()
