"""The commands `helios topics`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import click
import msgspec

from helios_core import config
from helios_core.bus.kafka.settings import KafkaSettings
from helios_core.cli.fail import fail
from helios_core.errors import ConfigError, HeliosError, MissingExtra
from helios_core.settings import Settings

_CONFIG = click.option(
    "--config", "path", type=click.Path(path_type=Path), help="The configuration whose `kafka:` names the cluster."
)
_BOOTSTRAP = click.option(
    "--bootstrap", envvar="KAFKA_BROKERS", help="host:port of some brokers, instead of a configuration."
)
_PARTITIONS = click.option(
    "--partitions", type=click.IntRange(1, 10_000), help="Of topics that are made.  [default: 10]"
)
_REPLICATION = click.option(
    "--replication", type=click.IntRange(1, 10), help="Copies of each record; fewer on a small cluster.  [default: 3]"
)
_RETENTION = click.option(
    "--retention-days", type=click.IntRange(1, 3_650), help="How long records are kept.  [default: 7]"
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")


@click.group("topics")
def topics_command() -> None:
    """The topics of Helios on a Kafka cluster.

    \b
    Try it:
      helios topics apply --bootstrap localhost:9092
      helios topics check --bootstrap localhost:9092
    """


@topics_command.command("apply")
@_CONFIG
@_BOOTSTRAP
@_PARTITIONS
@_REPLICATION
@_RETENTION
@_JSON
def apply_command(path: Path | None, bootstrap: str | None, as_json: bool, **plan: int | None) -> None:
    """Make the topics that are not there, and put the settings of the others right.

    The number of partitions of a topic that is there never changes: it decides what was applied where.
    """
    _run("apply", path, bootstrap, plan, as_json=as_json)


@topics_command.command("check")
@_CONFIG
@_BOOTSTRAP
@_PARTITIONS
@_REPLICATION
@_RETENTION
@_JSON
def check_command(path: Path | None, bootstrap: str | None, as_json: bool, **plan: int | None) -> None:
    """Say how the topics are, and change nothing. It fails when one is not as it must be."""
    _run("check", path, bootstrap, plan, as_json=as_json)


def _run(verb: str, path: Path | None, bootstrap: str | None, given: dict[str, int | None], *, as_json: bool) -> None:
    try:
        try:
            from helios_core.bus.kafka import topics
        except ImportError as error:
            raise MissingExtra("aiokafka", "kafka") from error
        plan = topics.Plan(**{name: value for name, value in given.items() if value is not None})
        act: Callable[[KafkaSettings, topics.Plan], Coroutine[Any, Any, list[topics.TopicState]]]
        act = topics.apply if verb == "apply" else topics.check
        states = asyncio.run(act(_settings(path, bootstrap), plan))
    except HeliosError as error:
        fail(str(error))
    if as_json:
        click.echo(msgspec.json.encode(states))
    else:
        for state in states:
            mark = "✗" if state.faults else "✓"
            done = " made" if state.made else f" set {', '.join(state.changed)}" if state.changed else ""
            click.echo(f"{mark} {state.name}: {state.partitions} partitions, {state.replication} copies{done}")
            for text in (*state.faults, *state.warnings):
                click.echo(f"    {text}")
    if any(state.faults for state in states):
        sys.exit(1)


def _settings(path: Path | None, bootstrap: str | None) -> KafkaSettings:
    if path is not None:
        settings = config.load(path, Settings, os.environ).kafka
        if settings is None:
            raise ConfigError(f"{path} says nothing under kafka: the bus would be the embedded log")
        return settings
    if bootstrap is None:
        raise ConfigError("which cluster? --bootstrap host:port, or --config FILE with kafka: in it")
    return KafkaSettings(bootstrap)
