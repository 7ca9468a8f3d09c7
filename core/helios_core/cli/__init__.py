"""The command `helios`: it runs the whole system, and finds the parts' own commands by their entry points."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points, version

import click

from helios_core import log
from helios_core.cli.db import db_command
from helios_core.cli.keys import keys_command
from helios_core.cli.learn import learn_command
from helios_core.cli.replay import replay_command
from helios_core.cli.topics import topics_command
from helios_core.cli.up import up_command


class _Commands(click.Group):
    """Its own commands and those of the entry-point group `helios.commands`, loaded when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *(entry.name for entry in _entries())})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        for entry in _entries():
            if entry.name == cmd_name:
                try:
                    loaded: click.Command = entry.load()
                except ImportError as error:
                    raise click.ClickException(
                        f"{cmd_name} needs more than is installed ({error}): pip install 'helios-observability[all]'"
                    ) from error
                return loaded
        return None


def _entries() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group="helios.commands"))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("helios-observability"), prog_name="helios")
@click.option(
    "--log-level", type=click.Choice(log.LEVELS), default="warning", show_default=True, help="Of Helios's own log."
)
@click.option("--log-json", is_flag=True, help="Write the own log as JSON.")
def cli(log_level: str, log_json: bool) -> None:
    """Turns logs into feature windows, finds what is anomalous, and says why."""
    log.configure(log_level, as_json=log_json)


cli.add_command(db_command)
cli.add_command(keys_command)
cli.add_command(learn_command)
cli.add_command(replay_command)
cli.add_command(topics_command)
cli.add_command(up_command)
