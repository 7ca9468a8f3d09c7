"""Sends events to a collector at localhost:4317, with asyncio: `python examples/send_events_async.py`.

With a key: HELIOS_API_KEY=… python examples/send_events_async.py
"""

from __future__ import annotations

import asyncio
import os
import sys

from helios import AsyncClient, Event, HeliosClientError


async def handle(client: AsyncClient, order: int) -> None:
    """What a request of an application might do: log, and go on."""
    await asyncio.sleep(0.01)
    client.log(Event("checkout", "payment taken", level="info", latency_ms=10, attributes={"order": order}))


async def send(endpoint: str, api_key: str | None) -> int:
    """How many events the collector accepted."""
    async with AsyncClient(endpoint, api_key=api_key, timeout_s=5) as client:
        await client.send_event(Event("checkout", "started", level="info"))
        await asyncio.gather(*(handle(client, order) for order in range(100)))
        await client.flush()
        return 1 + client.stats.accepted


def main() -> int:
    try:
        accepted = asyncio.run(send("http://localhost:4317", os.environ.get("HELIOS_API_KEY")))
    except HeliosClientError as error:
        sys.stderr.write(f"The events were not sent: {error}\n")
        return 1
    sys.stdout.write(f"{accepted} events accepted.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
