"""The command `helios learn`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from helios_core.cli.fail import fail
from helios_core.cli.progress import shown
from helios_core.clock import rfc3339
from helios_core.errors import HeliosError
from helios_core.replay import Files, learn
from helios_core.service import Progress


@click.command("learn")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    default=Path("helios-data"),
    envvar="HELIOS_DATA_DIR",
    show_default=True,
    help="That of `helios up`, while it does not run.",
)
@click.option("--parser", default="auto", show_default=True, help="auto, json, docker, access, logfmt or plain.")
@click.option("--service", help="Service of lines that name none. Without it: the file's name.")
def learn_command(files: tuple[Path, ...], data_dir: Path, parser: str, service: str | None) -> None:
    """Read old logs so that Helios knows what is normal before it starts: they are counted, and never alert.

    \b
    Example:
      helios learn /var/log/nginx/access.log.*.gz --data-dir helios-data
      helios up --data-dir helios-data --watch /var/log/nginx/access.log
    """
    progress = Progress()
    try:
        read = Files(files, parser, service)
        counts = asyncio.run(shown(progress, learn(read, data_dir, progress=progress)))
    except (HeliosError, OSError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted; the same command goes on where it ended", code=130)
    if not counts.lines:
        click.echo("nothing new: these files were read before")
        return
    click.echo(f"{counts.lines:,} lines, {counts.events:,} events until {rfc3339(progress.event_time_us, digits=0)}")
    click.echo(f"learned from at the next `helios up --data-dir {data_dir}`")
