"""The collector as a service: it listens, and it writes the store."""

from __future__ import annotations

import asyncio

from helios_collector.servicer import serve
from helios_collector.writer import StoreWriter
from helios_core.service import Context

_GRACE_S = 5.0


async def run(context: Context) -> None:
    """Listens on a free loopback port and writes the store until it is told to drain."""
    server, port = await serve(context.bus, context.clock, "127.0.0.1:0")
    writing = asyncio.create_task(StoreWriter(context.bus, context.store).run(context.drain))
    try:
        context.collector.set_result(f"127.0.0.1:{port}")
        await writing
    finally:
        writing.cancel()
        await server.stop(_GRACE_S)
