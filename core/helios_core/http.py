"""The one HTTP listener of a process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Final

from helios_core.errors import ConfigError, HeliosError
from helios_core.routes import Routes
from helios_core.settings import split

_GRACE_S: Final = 5


@contextlib.asynccontextmanager
async def serving(
    routes: Routes, address: str, tls: ssl.SSLContext | None = None, *, shared: bool = False
) -> AsyncIterator[str]:
    """What is mounted, at an address, while the context is open; yields `host:port`.

    Args:
        shared: other processes listen there, too.

    Raises:
        ConfigError: the address cannot be used.
        HeliosError: no server is installed.
    """
    try:
        from helios_core.server import Config, Connection, Server, raise_limit_of_files
    except ImportError as error:
        raise HeliosError(f"HTTP needs a server ({error}): pip install 'helios-observability[collector]'") from error
    raise_limit_of_files()
    listener = _listener(address, shared=shared)
    config = Config(
        routes,
        http=Connection,
        lifespan="on",
        ws="wsproto",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    config.load()
    config.ssl = tls  # uvicorn would make one of its own, which nobody could renew
    server = Server(config)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started and not running.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        host = split(address)[0]
        yield f"{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await running
        listener.close()


def _listener(address: str, *, shared: bool) -> socket.socket:
    host, port = split(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP, or asyncio leaves Nagle's algorithm on, and every answer takes 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except (OSError, TypeError, ValueError) as error:  # what a name that cannot be one gives
        listener.close()
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"HTTP cannot listen on {address}: {reason}; choose another with --http, or end what listens there"
        ) from error
    return listener
