"""The command `run` of one part: its service as a process of its own, or the collector's as several."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec
import structlog

from helios_core import config, log
from helios_core.datadir import DataDir
from helios_core.errors import ConfigError, HeliosError
from helios_core.settings import Settings
from helios_core.up import Listening, up
from helios_core.upkeep import collect_seldom
from helios_core.workers import Reserved, Worker, supervise

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Run:
    """What one process does; made anew in each of several."""

    service: str
    settings: Settings
    level: str
    as_json: bool

    def __call__(self, worker: Worker | None = None, ready: Callable[[], None] | None = None) -> int:
        log.configure(self.level, as_json=self.as_json)
        structlog.contextvars.bind_contextvars(**({} if worker is None else {"worker": worker.number}))

        def say(_: Listening) -> None:
            collect_seldom()
            if ready is not None:
                ready()

        try:
            asyncio.run(up(self.settings, (self.service,), worker=worker, ready=say))
        except asyncio.CancelledError:
            click.echo(f"helios-{self.service}: ended at once; what was not done is done at the next start", err=True)
            return 130
        except HeliosError as error:
            click.echo(f"helios-{self.service}: {error}", err=True)
            return 1
        return 0

    def several(self) -> int:
        """As many processes as the settings say, on the same ports."""
        settings = self.settings
        settings.keys()  # what is not safe is said once
        with closing(DataDir(settings.folder)), closing(Reserved()) as reserved:
            addresses = {"http": reserved.take(settings.http), "grpc": reserved.take(settings.grpc)}
            if settings.otlp_http:
                addresses["otlp_http"] = reserved.take(settings.otlp_http)
            limits = msgspec.structs.replace(
                settings.limits, pending_bytes=max(settings.limits.pending_bytes // settings.workers, 1_024)
            )
            shared = msgspec.structs.replace(settings, **addresses, limits=limits)

            def said() -> None:
                _log.info("workers_listening", workers=settings.workers, **addresses)

            return supervise(_Run(self.service, shared, self.level, self.as_json), settings.workers, said=said)


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
    def run(path: Path | None, log_level: str, log_json: bool, **given: Any) -> None:
        log.configure(log_level, as_json=log_json)
        try:
            settings = _settings(path, http, given)
            _check(settings, service)
            process = _Run(service, settings, log_level, log_json)
            sys.exit(process.several() if service == "collector" and settings.workers > 1 else process())
        except HeliosError as error:
            click.echo(f"helios-{service}: {error}", err=True)
            sys.exit(1)

    if grpc:
        run.params.insert(2, click.Option(["--grpc"], help=f"host:port of its gRPC server.  [default: {grpc}]"))
        run.params.append(
            click.Option(
                ["--workers"], type=click.IntRange(1, 64), help="Processes that share the ports.  [default: 1]"
            )
        )
    return run


def _settings(path: Path | None, http: str, given: dict[str, Any]) -> Settings:
    """Those of the file, with what the command line says in their place."""
    settings = Settings(http=http)
    if path is not None:
        settings = config.load(path, Settings, os.environ)
        if settings.http == Settings().http and given["http"] is None:
            settings = config.override(settings, {"http": http})
    return config.override(settings, {name: value for name, value in given.items() if value is not None})


def _check(settings: Settings, service: str) -> None:
    """ConfigError when a process of its own, or several, cannot be with these engines."""
    if service != "collector":
        if settings.kafka is None or settings.postgres is None:
            raise ConfigError(
                f"the {service} as a process of its own needs a bus and a store that several processes can use: "
                "`kafka:` and `postgres:` in the configuration; on one machine `helios up` runs all in one"
            )
        return
    if not settings.roles:
        raise ConfigError("roles: ingest, store, or both: a collector without one does nothing")
    is_alone = settings.workers == 1 and set(settings.roles) == {"ingest", "store"}
    lacks_store = settings.postgres is None and "store" in settings.roles
    if not is_alone and (settings.kafka is None or lacks_store):
        raise ConfigError(
            "`roles` and `workers` are for a bus and a store that several processes can use: `kafka:`, and `postgres:` "
            "where `store` is one of the roles"
        )
