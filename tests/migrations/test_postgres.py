"""Migrations of a real PostgreSQL: once, all or nothing; a schema that is not the right one is said in a sentence."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from click.testing import CliRunner, Result
from tests.engines.fixtures import fresh_database

import helios_sql
from helios_core.cli.db import db_command
from helios_core.errors import StoreMismatch, StoreUnavailable
from helios_core.store.postgres.migrate import migrate, status
from helios_core.store.postgres.settings import PostgresSettings
from helios_core.store.postgres.store import PostgresStore

NAMES = tuple(f"{version:04d}_{name}" for version, name, _ in helios_sql.migrations("postgres"))
BY_DAY = ("windows", "window_templates", "events", "metrics")
engines = pytest.mark.engines


@asynccontextmanager
async def session(dsn: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def objects(dsn: str) -> dict[str, list[tuple[Any, ...]]]:
    """Everything of ours in the database, as its catalogue describes it."""
    queries = {
        "columns": """
            SELECT table_name::text, column_name::text, data_type::text, is_nullable::text, collation_name::text,
                column_default::text
            FROM information_schema.columns WHERE table_schema = 'public' ORDER BY table_name, ordinal_position
        """,
        "indexes": "SELECT indexname::text, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1",
        "constraints": """
            SELECT conname::text, pg_get_constraintdef(oid) FROM pg_constraint
            WHERE connamespace = 'public'::regnamespace ORDER BY 1
        """,
        "routines": """
            SELECT proname::text, pg_get_functiondef(p.oid) FROM pg_proc AS p
            WHERE pronamespace = 'public'::regnamespace AND prokind IN ('f', 'p')
              AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = p.oid AND deptype = 'e')
            ORDER BY 1
        """,
    }
    async with session(dsn) as connection:
        return {name: [tuple(row) for row in await connection.fetch(query)] for name, query in queries.items()}


def command(*words: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(db_command, words, env={"HELIOS_DSN": "", **(env or {})}, catch_exceptions=False)


def process(*words: str, before: str = "") -> subprocess.Popen[str]:
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", f"{before}\nfrom helios_core.main import main; main()", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("HELIOS_")},
    )


async def called(*words: str) -> Result:
    """In a thread: it has an event loop of its own."""
    return await asyncio.to_thread(command, *words)


def test_versions_start_at_1_without_gaps() -> None:
    versions = [version for version, _, _ in helios_sql.migrations("postgres")]
    assert versions == list(range(1, len(versions) + 1))


@engines
async def test_an_empty_database_is_migrated_once(database: str) -> None:
    settings = PostgresSettings(database)
    before = await status(settings)
    assert (before.version, before.known, before.pending) == (0, len(NAMES), NAMES)
    assert await migrate(settings) == NAMES
    made = await objects(database)
    assert await migrate(settings) == ()
    assert await objects(database) == made
    after = await status(settings)
    assert (after.version, after.known, after.pending) == (len(NAMES), len(NAMES), ())
    async with session(database) as connection:
        rows = await connection.fetch("SELECT version, name, applied_at FROM helios_migrations ORDER BY version")
    assert [f"{row['version']:04d}_{row['name']}" for row in rows] == list(NAMES)


@engines
async def test_the_tables_of_measurements_are_kept_by_day(database: str, request: pytest.FixtureRequest) -> None:
    state = await status(PostgresSettings(database))
    await migrate(PostgresSettings(database))
    async with session(database) as connection:
        kinds = {
            row["relname"]: row["relkind"].decode()
            for row in await connection.fetch("SELECT relname, relkind FROM pg_class WHERE relname = any($1)", BY_DAY)
        }
        if state.timescale:
            found = await connection.fetch(
                "SELECT hypertable_name, time_interval FROM timescaledb_information.dimensions"
            )
            assert {row["hypertable_name"] for row in found} == set(BY_DAY)
            assert {row["time_interval"].days for row in found} == {1}
    assert set(kinds) == set(BY_DAY)
    assert set(kinds.values()) == {"r" if state.timescale else "p"}
    assert bool(state.timescale) == ("timescale" in request.node.name)
    assert state.server[:2].isdigit()


@engines
async def test_several_processes_migrate_at_once(database: str) -> None:
    running = [process("db", "migrate", "--dsn", database) for _ in range(3)]
    said = [await asyncio.to_thread(process.communicate, None, 60) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], said
    lines = sorted(line for out, _ in said for line in out.splitlines() if line.startswith("✓"))
    assert lines == [f"✓ {name}" for name in NAMES]  # each of them by one process
    assert all(out.splitlines()[-1] == "the schema is up to date" for out, _ in said)
    found = await asyncio.gather(*(migrate(PostgresSettings(database)) for _ in range(5)))
    assert set(found) == {()}


@engines
async def test_a_schema_without_migrations_is_refused(database: str) -> None:
    with pytest.raises(StoreMismatch, match=rf"lacks {NAMES[0]}.*`helios db migrate` brings it up to date"):
        await PostgresStore.open(PostgresSettings(database))
    checked = await called("check", "--dsn", database)
    assert checked.exit_code == 1
    assert f"pending: {NAMES[0]}" in checked.output
    assert (await called("status", "--dsn", database)).exit_code == 0
    assert (await objects(database))["columns"] == []  # looking changes nothing


@engines
async def test_a_schema_that_lacks_the_last_migrations_is_refused(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = PostgresSettings(database)
    await migrate(settings)
    more = [*helios_sql.migrations("postgres"), (len(NAMES) + 1, "more", "CREATE TABLE more (a integer)")]
    monkeypatch.setattr(helios_sql, "migrations", lambda _: more)
    last = f"{len(more):04d}_more"
    with pytest.raises(StoreMismatch, match=rf"lacks {last}: `helios db migrate`"):
        await PostgresStore.open(settings)
    assert (await called("check", "--dsn", database)).exit_code == 1
    assert await migrate(settings) == (last,)
    await (await PostgresStore.open(settings)).close()
    assert (await called("check", "--dsn", database)).exit_code == 0


@engines
async def test_a_newer_schema_is_refused(database: str) -> None:
    settings = PostgresSettings(database)
    await migrate(settings)
    made = await objects(database)
    async with session(database) as connection:
        await connection.execute("INSERT INTO helios_migrations VALUES (999, 'of_the_future')")
    message = rf"schema version 999, newer than this Helios knows \({len(NAMES)}\): use a newer Helios"
    for call in (PostgresStore.open, migrate):
        with pytest.raises(StoreMismatch, match=message):
            await call(settings)
    said = await called("migrate", "--dsn", database)
    assert said.exit_code == 1
    assert said.stderr.startswith("helios: the database has schema version 999")
    assert len(said.stderr.splitlines()) == 1
    checked = await called("check", "--dsn", database)
    assert checked.exit_code == 1
    assert "newer than this Helios knows" in checked.output
    assert (await called("status", "--dsn", database)).exit_code == 0
    assert await objects(database) == made


@engines
@pytest.mark.parametrize("fault", ["SELECT 1 / 0", "SELECT no_such_function()", "THIS IS NO SQL"])
async def test_a_migration_that_fails_leaves_nothing_behind(
    database: str, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    settings = PostgresSettings(database)
    (version, name, text), *rest = helios_sql.migrations("postgres")
    with monkeypatch.context() as patch:
        patch.setattr(helios_sql, "migrations", lambda _: [(version, name, f"{text};\n{fault}"), *rest])
        with pytest.raises(
            StoreMismatch, match=r"\d{4}_\w+ cannot be applied to this database \(.*\); nothing of it was"
        ):
            await migrate(settings)
    assert {row[0] for row in (await objects(database))["columns"]} == {"helios_migrations"}
    assert (await status(settings)).version == 0
    assert await migrate(settings) == NAMES


@engines
async def test_migrations_before_one_that_fails_stay(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = PostgresSettings(database)
    more = [*helios_sql.migrations("postgres"), (len(NAMES) + 1, "more", "CREATE TABLE more (a integer); SELECT 1 / 0")]
    with monkeypatch.context() as patch:
        patch.setattr(helios_sql, "migrations", lambda _: more)
        with pytest.raises(
            StoreMismatch, match=r"\d{4}_\w+ cannot be applied to this database \(.*\); nothing of it was"
        ):
            await migrate(settings)
    assert (await status(settings)).version == len(NAMES)
    assert "more" not in {row[0] for row in (await objects(database))["columns"]}
    await (await PostgresStore.open(settings)).close()


@engines
async def test_a_migration_whose_server_ends_it_is_done_again(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = PostgresSettings(database)
    (version, name, text), *rest = helios_sql.migrations("postgres")
    with monkeypatch.context() as patch:
        ended = f"{text};\nSELECT pg_terminate_backend(pg_backend_pid())"
        patch.setattr(helios_sql, "migrations", lambda _: [(version, name, ended), *rest])
        with pytest.raises(StoreUnavailable):
            await migrate(settings)
    assert (await status(settings)).version == 0
    assert await migrate(settings) == NAMES  # the lock is gone with its session


@engines
async def test_both_variants_have_the_same_tables(postgres: str) -> None:
    """Columns, indexes and routines are the same with TimescaleDB and without it, but for one column of one index."""
    found = []
    for timescale in (False, True):
        async with fresh_database(postgres, timescale=timescale) as dsn:
            await migrate(PostgresSettings(dsn))
            found.append(await objects(dsn))
    plain, hyper = found
    assert plain["columns"] == hyper["columns"]
    assert plain["routines"] == hyper["routines"]
    assert [name for name, _ in plain["indexes"]] == [name for name, _ in hyper["indexes"]]
    assert [
        text.replace(" ON ONLY ", " ON ").replace('("time", idem_key)', '("time", idem_key, service)')
        for _, text in plain["indexes"]
    ] == [text.replace(" ON ONLY ", " ON ") for _, text in hyper["indexes"]]


# The commands


@engines
async def test_the_commands_say_what_there_is(database: str) -> None:
    before = json.loads((await called("status", "--dsn", database, "--json")).output)
    assert before["version"] == 0
    assert before["pending"] == list(NAMES)
    assert (await called("check", "--dsn", database, "--json")).exit_code == 1
    migrated = await called("migrate", "--dsn", database)
    assert migrated.exit_code == 0
    assert migrated.output.splitlines() == [*(f"✓ {name}" for name in NAMES), "the schema is up to date"]
    assert (await called("migrate", "--dsn", database)).output == "the schema is up to date\n"
    checked = await called("check", "--dsn", database, "--json")
    assert checked.exit_code == 0
    state = json.loads(checked.output)
    compression = "days older than 7 days" if state["timescale"] else "off: without TimescaleDB"
    assert state == before | {"version": len(NAMES), "pending": [], "compression": compression}
    text = (await called("status", "--dsn", database)).output
    assert text.splitlines()[0].startswith(f"PostgreSQL {state['server']}, TimescaleDB ")
    assert (state["timescale"] or "not in this database") in text
    assert f"schema version {len(NAMES)} of {len(NAMES)}" in text


@engines
async def test_the_database_comes_from_a_configuration_or_the_environment(database: str, tmp_path: Any) -> None:
    path = tmp_path / "up.yaml"
    path.write_text("postgres: {dsn: '${HELIOS_TEST_DATABASE}'}\n")
    by_file = await asyncio.to_thread(command, "status", "--config", str(path), env={"HELIOS_TEST_DATABASE": database})
    by_environment = await asyncio.to_thread(command, "status", env={"HELIOS_DSN": database})
    assert by_file.exit_code == by_environment.exit_code == 0
    assert by_file.output == by_environment.output


@pytest.fixture(params=["migrate", "status", "check"])
def words(request: pytest.FixtureRequest) -> list[str]:
    return [request.param]


def one_sentence(result: Result) -> str:
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("helios: ")
    return str(line)


def test_without_an_address_it_asks_for_one(words: list[str], tmp_path: Any) -> None:
    assert "which database? --dsn postgresql://" in one_sentence(command(*words))
    (tmp_path / "up.yaml").write_text("data_dir: x\n")
    said = one_sentence(command(*words, "--config", str(tmp_path / "up.yaml")))
    assert "says nothing under postgres" in said
    (tmp_path / "up.yaml").write_text("postgres: {dns: x}\n")
    assert "did you mean 'dsn'?" in one_sentence(command(*words, "--config", str(tmp_path / "up.yaml")))


@pytest.mark.parametrize(
    ("dsn", "message"),
    [
        ("postgresql://helios:hunter2@127.0.0.1:1/helios", "see whether the server of postgres.dsn is up"),
        ("postgresql://helios:hun/ter2@127.0.0.1:1/helios", "postgres.dsn cannot be read"),
        ("mysql://helios:hunter2@127.0.0.1:1/helios", "postgres.dsn cannot be read"),
        ("no address", "postgres.dsn cannot be read"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_sentence(words: list[str], dsn: str, message: str) -> None:
    said = one_sentence(command(*words, "--dsn", dsn))
    assert message in said
    assert "hun" not in said


def test_without_the_library_the_extra_is_named(words: list[str]) -> None:
    hidden = "import sys; sys.modules['asyncpg'] = None"
    running = process("db", *words, "--dsn", "postgresql://127.0.0.1:1/helios", before=hidden)
    out, said = running.communicate(timeout=60)
    assert (running.returncode, out) == (1, "")
    assert said == "helios: asyncpg is not installed: pip install 'helios-observability[timescale]'\n"


@engines
async def test_tables_of_somebody_else_are_left_alone(database: str) -> None:
    async with session(database) as connection:
        await connection.execute("CREATE TABLE events (theirs integer); INSERT INTO events VALUES (1)")
        with pytest.raises(StoreMismatch, match=f"{NAMES[0]} cannot be applied .*already exists"):
            await migrate(PostgresSettings(database))
        assert await connection.fetchval("SELECT theirs FROM events") == 1
    assert (await called("migrate", "--dsn", database)).exit_code == 1
