"""The command `helios up`."""

from __future__ import annotations

import asyncio
import os
from glob import glob
from pathlib import Path
from typing import Final

import click

from helios_core import config
from helios_core.cli.fail import fail
from helios_core.errors import ConfigError, HeliosError
from helios_core.settings import ROLES, Settings
from helios_core.up import Listening, up
from helios_core.upkeep import collect_seldom

_SERVICES: Final = ("collector", "detector", "reporter")


@click.command("up")
@click.option("--config", "path", type=click.Path(path_type=Path), help="A YAML file; without one the defaults hold.")
@click.option("--data-dir", envvar="HELIOS_DATA_DIR", help="Where everything is kept.  [default: helios-data]")
@click.option("--http", envvar="HELIOS_HTTP", help="host:port of the console and API.  [default: 127.0.0.1:8080]")
@click.option("--grpc", envvar="HELIOS_GRPC", help="host:port for agents and clients.  [default: 127.0.0.1:4317]")
@click.option("--watch", multiple=True, metavar="GLOB", help="Follow these log files, too; may be given again.")
def up_command(
    path: Path | None, data_dir: str | None, http: str | None, grpc: str | None, watch: tuple[str, ...]
) -> None:
    """Run everything in one process: collector, detector, reporter and console.

    Nothing is needed beside it; all is kept in the data directory. Ctrl-C stops cleanly and loses
    nothing. On loopback it is open to whoever is on this machine, until there are API keys; any other
    address needs them (`helios keys create`).

    \b
    Try it:
      helios up --watch '/var/log/*.log'
      curl -d '{"service":"shop","level":"ERROR","message":"no stock"}' localhost:8080/api/v1/events
    """
    try:
        settings = config.load(path, Settings, os.environ) if path is not None else Settings()
        given = {"data_dir": data_dir, "http": http, "grpc": grpc}
        settings = config.override(settings, {name: value for name, value in given.items() if value is not None})
        if settings.workers > 1 or settings.roles != ROLES:
            raise ConfigError(
                "`workers` and `roles` are for `helios-collector run`: `helios up` is one process that does everything"
            )
        names = (*_SERVICES, "agent") if watch else _SERVICES
        for pattern in watch:
            click.echo(f"follows   {_matched(pattern)}")
        late = asyncio.run(up(settings, names, watch=watch, ready=_say))
    except HeliosError as error:
        fail(str(error))
    except asyncio.CancelledError:
        fail("ended at once; what was not done is done at the next start", code=130)
    if late:
        said = " and ".join(late)
        click.echo(f"stopped; {said} could not end in time: what was taken is kept, and goes on at the next start")
    else:
        click.echo("stopped; everything that was taken is stored")


def _matched(pattern: str) -> str:
    """What a pattern of --watch means now."""
    if Path(pattern).is_dir():
        return f"nothing: {pattern} is a directory: name the files in it, for example {pattern.rstrip('/')}/*.log"
    found = sum(Path(name).is_file() for name in glob(pattern, recursive=True))
    return f"{pattern}: {found or 'no'} {'file' if found == 1 else 'files'} now"


def _say(listening: Listening) -> None:
    collect_seldom()
    click.echo(f"console   {listening.http}/")
    click.echo(f"events    POST {listening.http}/api/v1/events")
    click.echo(f"agents    {listening.grpc} (helios-agent, helios.Client)")
    click.echo(f"access    {listening.access}")
    click.echo("Ctrl-C stops.")
