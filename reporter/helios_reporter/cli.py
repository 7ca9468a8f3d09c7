"""The command `helios-reporter`: runs it, lists incidents and shows their reports."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import NoReturn

import click
import msgspec

from helios_core.cli.run import run_command
from helios_core.clock import rfc3339
from helios_core.errors import DataDirError, HeliosError
from helios_core.store.base import Row
from helios_core.store.sqlite import SqliteStore
from helios_reporter.incidents import Incident

_data_dir = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    default=Path("helios-data"),
    envvar="HELIOS_DATA_DIR",
    show_default=True,
    help="That of `helios up` or `helios replay`.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Turns alerts into incidents and reports. `helios up` runs it; this shows what it wrote."""


cli.add_command(
    run_command(
        "reporter",
        http="127.0.0.1:8001",
        about="""Report, and serve the console, as a process of its own, until Ctrl-C or SIGTERM.

    It needs Kafka and PostgreSQL. Run one: incidents join the alerts of all services.
    """,
    )
)


@cli.command("list")
@_data_dir
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_command(data_dir: Path, limit: int, as_json: bool) -> None:
    """List incidents with their first signs, the newest first. May be asked while Helios runs."""
    rows = _asked(data_dir, "incidents_latest", limit=limit)
    if as_json:
        click.echo(msgspec.json.encode([{**row, "document": msgspec.Raw(row["document"].encode())} for row in rows]))
        return
    if not rows:
        click.echo("no incidents")
    for row in rows:
        incident = msgspec.json.decode(row["document"], type=Incident)
        services = incident.services
        click.echo(
            f"{row['id']}  {rfc3339(incident.onset_us, digits=0)}  {row['severity']:8}  {row['state']:9}  "
            f"{', '.join(services[:3])}{f' and {len(services) - 3} more' if len(services) > 3 else ''}"
        )


@cli.command()
@click.argument("incident")
@_data_dir
@click.option("--json", "as_json", is_flag=True, help="Print the report and its evidence as JSON.")
def show(incident: str, data_dir: Path, as_json: bool) -> None:
    """Print the newest report of an incident; the beginning of its id is enough."""
    known = [row["id"] for row in _asked(data_dir, "incidents_latest", limit=1_000_000)]
    meant = [id_ for id_ in known if id_.startswith(incident)]
    if len(meant) != 1:
        several = f"{len(meant)} incidents begin with {incident!r}" if meant else f"there is no incident {incident!r}"
        _fail(f"{several}: `helios-reporter list` shows all")
    reports = _asked(data_dir, "report", incident_id=meant[0])
    if not reports:
        _fail(f"the incident {meant[0]} has no report yet: try again in a moment")
    click.echo(reports[0]["document" if as_json else "markdown"])


def _asked(data_dir: Path, query: str, **parameters: object) -> list[Row]:
    async def ask() -> list[Row]:
        if not (data_dir / "store.db").exists():
            raise DataDirError(f"{data_dir} holds no store: name the directory of `helios up` or `helios replay`")
        store = SqliteStore(data_dir / "store.db")
        try:
            return await store.query(query, **parameters)
        finally:
            await store.close()

    try:
        return asyncio.run(ask())
    except HeliosError as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    click.echo(f"helios-reporter: {message}", err=True)
    sys.exit(1)
