"""The command `helios-collector`."""

from __future__ import annotations

import click

from helios_core.cli.run import run_command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Takes batches from agents and events from applications, and keeps them safe."""


cli.add_command(
    run_command(
        "collector",
        http="127.0.0.1:8080",
        grpc="127.0.0.1:4317",
        about="""Listen until Ctrl-C or SIGTERM; what was accepted by then is in the store.

    \b
    Try it:
      curl -d '{"service":"shop","level":"ERROR","message":"no stock"}' localhost:8080/api/v1/events
    """,
    )
)
