"""The command `helios-collector`."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from pathlib import Path

import click

from helios_core import config, log
from helios_core.errors import HeliosError
from helios_core.keys import hash_of
from helios_core.settings import Settings
from helios_core.up import up


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Takes batches from agents and events from applications, and keeps them safe."""


@cli.command()
@click.option("--config", "path", type=click.Path(path_type=Path), help="A YAML file; without one the defaults hold.")
@click.option("--data-dir", help="Where the embedded log and the store are kept.")
@click.option("--grpc", help="host:port of the gRPC server.  [default: 127.0.0.1:4317]")
@click.option("--http", help="host:port of the HTTP server.  [default: 127.0.0.1:8080]")
@click.option("--log-level", type=click.Choice(log.LEVELS), default="info", show_default=True)
@click.option("--log-json", is_flag=True, help="Write the log as JSON.")
def run(
    path: Path | None, data_dir: str | None, grpc: str | None, http: str | None, log_level: str, log_json: bool
) -> None:
    """Listen until Ctrl-C or SIGTERM; what was accepted by then is in the store.

    \b
    Try it:
      curl -d '{"service":"shop","level":"ERROR","message":"no stock"}' localhost:8080/api/v1/events
    """
    log.configure(log_level, as_json=log_json)
    try:
        settings = config.load(path, Settings, os.environ) if path is not None else Settings()
        given = {"data_dir": data_dir, "grpc": grpc, "http": http}
        settings = config.override(settings, {name: value for name, value in given.items() if value is not None})
        asyncio.run(up(settings, ("collector",)))
    except asyncio.CancelledError:
        click.echo("helios-collector: ended at once; what was not done is done at the next start", err=True)
        sys.exit(130)
    except HeliosError as error:
        click.echo(f"helios-collector: {error}", err=True)
        sys.exit(1)


@cli.command("new-key")
def new_key() -> None:
    """Print a new API key, and the entry for the configuration that lets it in."""
    key = f"helios_{secrets.token_urlsafe(32)}"
    click.echo(f"# the key, for the sender (it is shown this once):\n#   {key}")
    click.echo(f"api_keys:\n  - sha256: {hash_of(key)}\n    scopes: [ingest]")
