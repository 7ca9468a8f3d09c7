"""The collector as a service: it listens on gRPC and HTTP, in one event loop, and writes the store."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import structlog
import uvicorn

from helios_collector.http import HttpIngest
from helios_core.keys import Keys
from helios_collector.servicer import serve
from helios_collector.settings import Settings, split
from helios_collector.writer import StoreWriter
from helios_core.bus.base import Bus
from helios_core.clock import Clock
from helios_core.errors import ConfigError
from helios_core.service import Context
from helios_core.store.base import Store

_GRACE_S: Final = 20
_log = structlog.get_logger(__name__)


async def run(context: Context) -> None:
    """As a part of one process: gRPC on a free loopback port, and the store writer, until told to drain."""
    server, port = await serve(context.bus, context.clock, "127.0.0.1:0", Keys(None))
    writing = asyncio.create_task(StoreWriter(context.bus, context.store).run(context.drain))
    try:
        context.collector.set_result(f"127.0.0.1:{port}")
        await writing
    finally:
        writing.cancel()
        await server.stop(_GRACE_S)


async def run_alone(settings: Settings, bus: Bus, store: Store, clock: Clock, stop: asyncio.Event) -> None:
    """The collector by itself, until `stop`: what was accepted by then is in the store.

    In this order: no new requests; those under way are answered; the writer drains the bus.

    Raises:
        ConfigError: an address cannot be used.
    """
    keys = settings.keys()
    listener = _listener(settings.http)
    config = uvicorn.Config(
        HttpIngest(bus, clock, keys),
        lifespan="on",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=_GRACE_S,
        h11_max_incomplete_event_size=64 * 1024,
    )
    http = _HttpServer(config)
    try:
        grpc, grpc_port = await serve(bus, clock, settings.grpc, keys)
    except OSError as error:
        listener.close()
        raise ConfigError(f"{error}; choose another with --grpc, or end what listens there") from error
    drain = asyncio.Event()
    serving = asyncio.create_task(http.serve(sockets=[listener]))
    writing = asyncio.create_task(StoreWriter(bus, store).run(drain))
    try:
        _log.info(
            "collector_listening",
            grpc=f"{split(settings.grpc)[0]}:{grpc_port}",
            http=f"{split(settings.http)[0]}:{listener.getsockname()[1]}",
            open=keys.are_open,
        )
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({stopping, serving, writing}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
    finally:
        _log.info("collector_stopping", seconds_at_most=_GRACE_S)
        http.should_exit = True
        await grpc.stop(_GRACE_S)
        await serving
        drain.set()
        await writing
        listener.close()
        _log.info("collector_stopped")


class _HttpServer(uvicorn.Server):
    """Signals are the command's: uvicorn would raise them again after it has stopped."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listener(address: str) -> socket.socket:
    host, port = split(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"the collector cannot listen on {address}: {error.strerror}; "
            "choose another with --http, or end what listens there"
        ) from error
    return listener
