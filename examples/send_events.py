"""Sends events to a collector at localhost:4317, without asyncio: `python examples/send_events.py`.

With a key: HELIOS_API_KEY=… python examples/send_events.py
"""

from __future__ import annotations

import os
import sys

from helios import Client, Event, HeliosClientError, SendResult


def send(endpoint: str, api_key: str | None) -> SendResult:
    """Two events in one call, which returns when they are safe, and a hundred that are not waited for."""
    with Client(endpoint, api_key=api_key, timeout_s=5) as client:
        result = client.send_events(
            [
                Event("checkout", "payment declined", level="error", latency_ms=812, attributes={"order": 17}),
                Event("checkout", "payment taken", level="info", latency_ms=95, attributes={"order": 18}),
            ]
        )
        for number in range(100):
            client.log(Event("search", f"query {number}", level="info", latency_ms=4.2))
        client.flush()
        return result


def main() -> int:
    try:
        result = send("http://localhost:4317", os.environ.get("HELIOS_API_KEY"))
    except HeliosClientError as error:
        sys.stderr.write(f"The events were not sent: {error}\n")
        return 1
    for item in result.rejected:
        sys.stderr.write(f"The collector rejected event {item.event_id}: {item.reason}\n")
    sys.stdout.write(f"{result.accepted} events accepted, and 100 more logged.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
