"""What a service is given when it runs: live, in replay and in tests alike.

A package offers its services through the entry-point group `helios.services`, each an
`async run(context)`. It returns when `context.drain` is set and all that came before is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry

from helios_core.bus.base import Bus
from helios_core.clock import US_PER_S, Clock
from helios_core.errors import HeliosError
from helios_core.keys import Keys
from helios_core.routes import Routes
from helios_core.settings import ROLES, Limits, Role
from helios_core.store.base import Store
from helios_core.tls import Certificate
from helios_core.workers import Worker

LIVE_LATENESS_US: Final = 2 * US_PER_S
REPLAY_LATENESS_US: Final = 60 * US_PER_S
IDLE_AFTER_US: Final = 30 * US_PER_S


@dataclass(slots=True)
class Progress:
    """How far a replay has got, for whoever shows it. Written by the agent, read by the command."""

    bytes_total: int = 0
    bytes_read: int = 0
    event_time_us: int = 0


@dataclass(frozen=True, slots=True)
class Context:
    """Everything that a service needs from outside itself.

    Attributes:
        data_dir: holds one folder for each service; it is locked by this instance.
        clock: the time of receipt; in replay it follows event time.
        bus, store: where things come from and go to.
        collector: resolves to `host:port` of the collector when it listens.
        grpc: where the collector listens; port 0 takes a free one.
        keys: who may do what.
        certificate: of the listeners; None where they are in the clear.
        limits: how much the collector takes at once.
        roles: what the collector does.
        worker: which of several processes this is, that listen on the same ports; None for one alone.
        routes: where a service mounts what it answers over HTTP; None where nothing is served.
        otlp_routes: the same of a listener for OTLP alone; None where there is none.
        metrics: where a service registers what it counts.
        parts: what each service says of itself, asked when somebody looks.
        drain: set when no more input will come.
        window_ms: the duration of a window.
        allowed_lateness_us: how long after its end a horizon waits for late deltas.
        idle_after_us: how long after its last news a source stops to hold its services back; None where
            none can go away.
        retention_us: how long the store keeps what was measured; None keeps everything.
        files: what a replay reads; empty when live.
        watch: globs of the files that a live agent follows.
        history: what the agent sends is of the past: to learn from, never to alert.
        parser: of the files, by name; `auto` looks at their first lines.
        service: of lines that name none; None takes it from the file's name.
        labels: known anomalies that the detector is judged by; None when there are none.
        progress: of a replay.
    """

    data_dir: Path
    clock: Clock
    bus: Bus
    store: Store
    collector: asyncio.Future[str]
    grpc: str = "127.0.0.1:0"
    keys: Keys = field(default_factory=lambda: Keys(None))
    certificate: Certificate | None = None
    limits: Limits = field(default_factory=Limits)
    roles: tuple[Role, ...] = ROLES
    worker: Worker | None = None
    routes: Routes | None = None
    otlp_routes: Routes | None = None
    metrics: CollectorRegistry = field(default_factory=CollectorRegistry)
    parts: dict[str, Callable[[], dict[str, Any]]] = field(default_factory=dict)
    drain: asyncio.Event = field(default_factory=asyncio.Event)
    window_ms: int = 10_000
    allowed_lateness_us: int = LIVE_LATENESS_US
    idle_after_us: int | None = None
    retention_us: int | None = None
    files: tuple[Path, ...] = ()
    watch: tuple[str, ...] = ()
    history: bool = False
    parser: str = "auto"
    service: str | None = None
    labels: Path | None = None
    progress: Progress = field(default_factory=Progress)

    def status(self) -> dict[str, Any]:
        """What all services of this process say of themselves, by name."""
        return {name: say() for name, say in self.parts.items()}


Run = Callable[[Context], Coroutine[Any, Any, Any]]


def services() -> dict[str, Run]:
    """The services that are installed, by name.

    Raises:
        HeliosError: one of them cannot be loaded; the message says what to install.
    """
    found: dict[str, Run] = {}
    for entry in entry_points(group="helios.services"):
        try:
            found[entry.name] = entry.load()
        except ImportError as error:
            raise HeliosError(
                f"the {entry.name} cannot be loaded ({error}): pip install 'helios-observability[all]'"
            ) from error
    return found
