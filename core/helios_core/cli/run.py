"""The command `run` of one part: its service as a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import click

from helios_core import config, log
from helios_core.errors import ConfigError, HeliosError
from helios_core.settings import Settings
from helios_core.up import up


def run_command(service: str, *, http: str, about: str, grpc: str = "") -> click.Command:
    """`run` for one service.

    Args:
        http, grpc: where it answers unless it is told otherwise; no gRPC when that is empty.
        about: the help text.
    """

    @click.command("run", help=about)
    @click.option("--config", "path", type=click.Path(path_type=Path), help="A YAML file; without one defaults hold.")
    @click.option("--data-dir", help="Holds what it keeps on disk; each process needs its own.")
    @click.option("--http", help=f"host:port of its HTTP server.  [default: {http}]")
    @click.option("--log-level", type=click.Choice(log.LEVELS), default="info", show_default=True)
    @click.option("--log-json", is_flag=True, help="Write the log as JSON.")
    def run(path: Path | None, log_level: str, log_json: bool, **given: str | None) -> None:
        log.configure(log_level, as_json=log_json)
        try:
            settings = Settings(http=http)
            if path is not None:
                settings = config.load(path, Settings, os.environ)
                if settings.http == Settings().http and given["http"] is None:
                    settings = config.override(settings, {"http": http})
            settings = config.override(settings, {name: value for name, value in given.items() if value is not None})
            if service != "collector" and (settings.kafka is None or settings.postgres is None):
                raise ConfigError(
                    f"the {service} as a process of its own needs a bus and a store that several processes can use: "
                    "`kafka:` and `postgres:` in the configuration; on one machine `helios up` runs all in one"
                )
            asyncio.run(up(settings, (service,)))
        except asyncio.CancelledError:
            click.echo(f"helios-{service}: ended at once; what was not done is done at the next start", err=True)
            sys.exit(130)
        except HeliosError as error:
            click.echo(f"helios-{service}: {error}", err=True)
            sys.exit(1)

    if grpc:
        run.params.insert(2, click.Option(["--grpc"], help=f"host:port of its gRPC server.  [default: {grpc}]"))
    return run
