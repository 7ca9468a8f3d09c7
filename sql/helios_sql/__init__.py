"""The SQL of Helios as package data: schema, migrations and queries, for each engine. No logic."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final

ENGINES: Final = ("postgres", "sqlite")


@cache
def query(engine: str, name: str) -> str:
    """The text of one named query; LookupError when the engine has none of that name."""
    path = files(__name__) / engine / "queries" / f"{name}.sql"
    if not path.is_file():
        raise LookupError(f"{engine} has no query {name!r}")
    return path.read_text(encoding="utf-8")


def query_names(engine: str) -> list[str]:
    """The names of all queries of an engine, sorted."""
    folder = files(__name__) / engine / "queries"
    return sorted(entry.name.removesuffix(".sql") for entry in folder.iterdir() if entry.name.endswith(".sql"))


def migrations(engine: str) -> list[tuple[int, str, str]]:
    """(version, name, SQL) of all migrations of an engine, in order; versions start at 1 without gaps."""
    folder = files(__name__) / engine / "migrations"
    found = []
    for entry in folder.iterdir():
        version, _, name = entry.name.removesuffix(".sql").partition("_")
        if entry.name.endswith(".sql"):
            found.append((int(version), name, entry.read_text(encoding="utf-8")))
    return sorted(found)


def schema(engine: str) -> str:
    """The schema that all migrations together make."""
    return (files(__name__) / engine / "schema.sql").read_text(encoding="utf-8")
