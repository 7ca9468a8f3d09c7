"""The commands `helios db`."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from types import ModuleType

import click
import msgspec

from helios_core import config
from helios_core.cli.fail import fail
from helios_core.errors import ConfigError, HeliosError, MissingExtra
from helios_core.settings import Settings
from helios_core.store.postgres.settings import PostgresSettings

_CONFIG = click.option(
    "--config", "path", type=click.Path(path_type=Path), help="The configuration whose `postgres:` names the database."
)
_DSN = click.option("--dsn", envvar="HELIOS_DSN", help="postgresql://…, instead of a configuration.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")


@click.group("db")
def db_command() -> None:
    """The schema of a PostgreSQL database, with TimescaleDB or without.

    \b
    Try it:
      createdb helios
      helios db migrate --dsn postgresql://localhost/helios
      helios db status --dsn postgresql://localhost/helios

    With `CREATE EXTENSION timescaledb` before the first migration the tables of measurements are
    hypertables; without it they are partitioned by day.
    """


@db_command.command("migrate")
@_CONFIG
@_DSN
def migrate_command(path: Path | None, dsn: str | None) -> None:
    """Bring the schema up to date. It may be called again, and by several at once."""
    try:
        applied = asyncio.run(_library().migrate(_settings(path, dsn)))
    except HeliosError as error:
        fail(str(error))
    for name in applied:
        click.echo(f"✓ {name}")
    click.echo("the schema is up to date")


@db_command.command("status")
@_CONFIG
@_DSN
@_JSON
def status_command(path: Path | None, dsn: str | None, as_json: bool) -> None:
    """Say which version the schema has, and what is pending."""
    _status(path, dsn, as_json=as_json)


@db_command.command("check")
@_CONFIG
@_DSN
@_JSON
def check_command(path: Path | None, dsn: str | None, as_json: bool) -> None:
    """Like status, and fail unless the schema is the one of this Helios."""
    if not _status(path, dsn, as_json=as_json):
        sys.exit(1)


def _status(path: Path | None, dsn: str | None, *, as_json: bool) -> bool:
    try:
        state = asyncio.run(_library().status(_settings(path, dsn)))
    except HeliosError as error:
        fail(str(error))
    if as_json:
        click.echo(msgspec.json.encode(state))
    else:
        click.echo(f"PostgreSQL {state.server}, TimescaleDB {state.timescale or 'not in this database'}")
        if state.compression:
            click.echo(f"compression: {state.compression}")
        click.echo(f"schema version {state.version} of {state.known}")
        for name in state.pending:
            click.echo(f"  pending: {name}")
        if state.version > state.known:
            click.echo("  newer than this Helios knows: use a newer Helios")
    return bool(state.version == state.known)


def _library() -> ModuleType:
    try:
        from helios_core.store.postgres import migrate
    except ImportError as error:
        raise MissingExtra("asyncpg", "timescale") from error
    return migrate


def _settings(path: Path | None, dsn: str | None) -> PostgresSettings:
    if path is not None:
        settings = config.load(path, Settings, os.environ).postgres
        if settings is None:
            raise ConfigError(f"{path} says nothing under postgres: the store would be SQLite")
        return settings
    if dsn is None:
        raise ConfigError("which database? --dsn postgresql://…, or --config FILE with postgres: in it")
    return PostgresSettings(dsn)
