"""The tree of errors is the one that is drawn."""

from __future__ import annotations

import inspect
import re

from helios import errors


def drawn() -> dict[str, tuple[str | None, bool]]:
    """Name → (name of the parent, drawn as retryable), from the lines of the docstring."""
    found: dict[str, tuple[str | None, bool]] = {"HeliosClientError": (None, False)}
    path = ["HeliosClientError"]
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"(?P<lines>[│├└─ ]+)(?P<name>[A-Z]\w+) {2,}(?P<rest>.*)", line):
            depth = len(match["lines"]) // 4
            path[depth:] = [match["name"]]
            found[match["name"]] = (path[depth - 1], match["rest"].startswith("retryable"))
    return found


def test_the_drawing_shows_every_class_its_parent_and_whether_it_is_retryable() -> None:
    actual: dict[str, tuple[str | None, bool]] = {}
    for name, error in inspect.getmembers(errors, inspect.isclass):
        if issubclass(error, errors.HeliosClientError):
            parent = None if error is errors.HeliosClientError else error.__mro__[1].__name__
            actual[name] = (parent, error.retryable)
    assert drawn() == actual
