"""The schema equals the sum of its migrations."""

from __future__ import annotations

import sqlite3

import helios_sql


def objects(script: str) -> list[tuple[str, ...]]:
    connection = sqlite3.connect(":memory:")
    connection.executescript(script)
    found = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name").fetchall()
    connection.close()
    return found


def test_the_schema_is_the_sum_of_its_migrations() -> None:
    migrated = "\n".join(text for _, _, text in helios_sql.migrations("sqlite"))
    assert objects(helios_sql.schema("sqlite")) == objects(migrated)


def test_versions_start_at_1_without_gaps() -> None:
    versions = [version for version, _, _ in helios_sql.migrations("sqlite")]
    assert versions == list(range(1, len(versions) + 1))
