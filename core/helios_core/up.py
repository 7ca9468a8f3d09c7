"""Services live in one process: one data directory, one HTTP port, until they are told to stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog
from prometheus_client import CollectorRegistry

from helios_core import flow
from helios_core.clock import US_PER_S, SystemClock
from helios_core.engines import opened
from helios_core.errors import ConfigError
from helios_core.exposed import PATHS, Exposed, scraped
from helios_core.http import serving
from helios_core.routes import Routes
from helios_core.service import IDLE_AFTER_US, Context
from helios_core.settings import Settings
from helios_core.tls import Certificate
from helios_core.workers import Siblings, Worker

_DAY_US: Final = 86_400 * US_PER_S
_ONE_PRESS_S: Final = 1.0  # what starts a process may pass a signal on that the terminal has sent already
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a running process is reached, and by whom.

    Attributes:
        http: the URL of its HTTP server.
        grpc: `host:port`; empty without a collector.
        access: who is let in, for people.
    """

    http: str
    grpc: str
    access: str


async def up(
    settings: Settings,
    names: Sequence[str],
    *,
    watch: Sequence[str] = (),
    worker: Worker | None = None,
    ready: Callable[[Listening], object] = lambda _: None,
) -> tuple[str, ...]:
    """Runs the named services until SIGINT or SIGTERM; returns those that could not end in time.

    On the first signal nothing new is taken, and what was taken goes on to the store and the reports,
    within half a minute. A second one ends it at once; what is not done is done at the next start.

    Args:
        worker: which of several processes this is, that listen on the same ports.

    Raises:
        ConfigError: the settings are not safe, or an address cannot be used.
        DataDirError: the data directory cannot be used, or belongs to a running instance.
    """
    found = flow.installed(names)
    if "collector" not in names:  # whose it is
        settings = msgspec.structs.replace(settings, otlp_http="")
    stop = asyncio.Event()
    with stopping_on_signals(stop):
        async with process(settings, watch=watch, worker=worker, stop=stop) as (context, http):
            telling = asyncio.create_task(_tell(context, http, ready, listens="collector" in names))
            try:
                results = await flow.run(found, context, stop=stop)
            finally:
                telling.cancel()
    return tuple(name for name, result in results.items() if result is flow.NOT_DRAINED)


@asynccontextmanager
async def process(
    settings: Settings, *, watch: Sequence[str] = (), worker: Worker | None = None, stop: asyncio.Event | None = None
) -> AsyncIterator[tuple[Context, str]]:
    """The context of live services, with everything opened and HTTP served at the address that it yields beside it.

    Args:
        worker: which of several processes this is.
        stop: with it engines may be away when it starts, see `engines.opened`.
    """
    keys = settings.keys()  # what is not safe is said before anything is opened
    certificate = Certificate(settings.tls) if settings.tls is not None else None
    if certificate is not None and watch:
        raise ConfigError("--watch does not go with `tls`: run `helios-agent` beside it, which has `helios.ca_file`")
    routes = Routes()
    otlp_routes = Routes() if settings.otlp_http else None
    stores = "store" in settings.roles
    shared = worker is not None
    async with (
        opened(settings.folder, settings.kafka, settings.postgres, stores=stores, shared=shared, stop=stop) as engines,
        AsyncExitStack() as listening,
    ):
        context = Context(
            data_dir=settings.folder,
            clock=SystemClock(),
            bus=engines.bus,
            store=engines.store,
            collector=asyncio.get_running_loop().create_future(),
            grpc=settings.grpc,
            keys=keys,
            certificate=certificate,
            limits=settings.limits,
            roles=settings.roles,
            worker=worker,
            routes=routes,
            otlp_routes=otlp_routes,
            idle_after_us=IDLE_AFTER_US,
            retention_us=settings.retention_days * _DAY_US,
            watch=tuple(watch),
        )
        metrics = await listening.enter_async_context(_scraped(context.metrics, worker))
        for path in PATHS:
            routes.mount(path, Exposed(keys, metrics))
        tls = certificate.context if certificate is not None else None
        http = await listening.enter_async_context(serving(routes, settings.http, tls, shared=shared))
        if otlp_routes is not None:
            await listening.enter_async_context(serving(otlp_routes, settings.otlp_http, tls, shared=shared))
        if certificate is not None:
            listening.callback(asyncio.create_task(certificate.follow()).cancel)
        yield context, http


@asynccontextmanager
async def _scraped(registry: CollectorRegistry, worker: Worker | None) -> AsyncIterator[Callable[[], Awaitable[bytes]]]:
    """What `/metrics` answers."""

    if worker is None:
        yield scraped(registry)
        return
    siblings = Siblings(worker, registry)
    await siblings.open()
    try:
        yield siblings.metrics
    finally:
        await siblings.close()


@contextmanager
def stopping_on_signals(stop: asyncio.Event) -> Iterator[None]:
    """Sets `stop` on SIGINT or SIGTERM; cancels the task that entered when another follows after a second."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    first_s = 0.0

    def on_signal() -> None:
        nonlocal first_s
        if not stop.is_set():
            _log.info("stopping")
            first_s = loop.time()
            stop.set()
        elif task is not None and loop.time() - first_s > _ONE_PRESS_S:
            task.cancel()

    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _tell(context: Context, http: str, ready: Callable[[Listening], object], *, listens: bool) -> None:
    grpc = await asyncio.shield(context.collector) if listens else ""
    for routes in (context.routes, context.otlp_routes):
        if routes is not None:
            routes.settle()  # all have mounted before the collector listens
    scheme = "http" if context.certificate is None else "https"
    listening = Listening(f"{scheme}://{http}", grpc, _access(context))
    _log.info("listening", http=http, grpc=grpc, access=listening.access)
    ready(listening)


def _access(context: Context) -> str:
    is_mutual = context.certificate is not None and context.certificate.pem.client_ca is not None
    if context.keys.are_open:
        return "by certificate" if is_mutual else "open to everyone on this machine (loopback)"
    return "by certificate and API key" if is_mutual else "by API key"
