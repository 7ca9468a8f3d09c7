"""The command `helios-detector`: runs it, and trains and lists the models of a data directory."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec

from helios_core import log
from helios_core.cli.run import run_command
from helios_core.clock import SystemClock, rfc3339
from helios_core.engines import opened
from helios_core.errors import DataDirError, HeliosError
from helios_core.service import IDLE_AFTER_US, Context
from helios_detector.registry import Registry
from helios_detector.service import MODELS, DetectorService
from helios_detector.training import MIN_ROWS, Forest

_data_dir = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    default=Path("helios-data"),
    envvar="HELIOS_DATA_DIR",
    show_default=True,
    help="That of `helios up`.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--log-level", type=click.Choice(log.LEVELS), default="warning", show_default=True)
def cli(log_level: str) -> None:
    """Finds what is anomalous in the windows of services, and says why. `helios up` runs it."""
    log.configure(log_level)


cli.add_command(
    run_command(
        "detector",
        http="127.0.0.1:8000",
        about="""Decide as a process of its own, until Ctrl-C or SIGTERM.

    It needs Kafka and PostgreSQL. Several share the services among them: each reads its part of the bus from
    the beginning when it is given one, and goes on where the other has stopped deciding.
    """,
    )
)


@dataclass(frozen=True, slots=True)
class _Trained:
    """One line of what training came to; `version` is None with too little history."""

    service: str
    version: str | None
    minutes: int
    trained_until: str


@cli.command()
@_data_dir
@click.option("--service", help="Only this one.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def train(data_dir: Path, service: str | None, as_json: bool) -> None:
    """Train a forest for each service from all that the bus keeps of it, for its next horizons.

    A running Helios does so by itself, once a day. This is for a directory that nothing runs on:
    after `helios learn`, or to begin anew. Services need half a day of history.
    """
    try:
        done = asyncio.run(_train(data_dir, service))
    except HeliosError as error:
        click.echo(f"helios-detector: {error}", err=True)
        sys.exit(1)
    if as_json:
        click.echo(msgspec.json.encode(done))
        return
    for one in done:
        said = one.version or f"too little history: {one.minutes} of {MIN_ROWS} minutes"
        click.echo(f"{one.service:30} {said:14} {one.minutes:6} minutes until {one.trained_until}")


async def _train(data_dir: Path, only: str | None) -> list[_Trained]:
    if not (data_dir / "bus.db").exists():
        raise DataDirError(f"{data_dir} holds no data: `helios up` or `helios learn` makes some")
    async with opened(data_dir) as engines:
        context = Context(
            data_dir=data_dir,
            clock=SystemClock(),
            bus=engines.bus,
            store=engines.store,
            collector=asyncio.get_running_loop().create_future(),
            idle_after_us=IDLE_AFTER_US,
        )
        detector = DetectorService(context)
        await detector.rebuild()
        registry = Registry(data_dir / MODELS)
        names = detector.engine.services()
        if only is not None and only not in names:
            raise HeliosError(f"nothing is known of a service {only!r}; known: {', '.join(names) or 'none'}")
        done = []
        for name in names if only is None else [only]:
            forest: Forest | None = await asyncio.to_thread(detector.engine.train, name)
            if forest is not None:
                registry.save(name, forest)
            minutes, until_us = detector.engine.history(name)
            version = forest.version if forest is not None else None
            done.append(_Trained(name, version, minutes, rfc3339(until_us, digits=0)))
        return done


@cli.command()
@_data_dir
@click.option("--service", help="Only of this one.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def models(data_dir: Path, service: str | None, as_json: bool) -> None:
    """List the models that are kept, the newest first. May be asked while Helios runs."""
    if not data_dir.is_dir():
        click.echo(f"helios-detector: there is no directory {data_dir}: name that of `helios up`", err=True)
        sys.exit(1)
    found = Registry(data_dir / MODELS).versions(service)
    if as_json:
        click.echo(msgspec.json.encode([{"damaged": one.damaged, "about": one.about} for one in found]))
        return
    if not found:
        click.echo(f"no models in {data_dir / MODELS}: a service has its first after a day of history")
    for one in found:
        if one.about is None or one.damaged is not None:
            click.echo(f"{one.service:30} {one.version:14} damaged: {one.damaged}")
        else:
            about = one.about
            click.echo(
                f"{about.service:30} {about.version:14} {about.feature_set}, {about.rows} minutes "
                f"until {about.trained_until}"
            )
