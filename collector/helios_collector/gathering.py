"""What requests bring on its way to the bus: what arrives within a few milliseconds goes together.

Raw events for one service share a record.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from helios_core import wire
from helios_core.bus.base import MAX_RECORD_BYTES, Record
from helios_core.records import joined_events
from helios_core.rounds import Rounds

_FRAME_BYTES: Final = 512  # of a record, beside its events: a service's name and a time


@dataclass(frozen=True, slots=True)
class _Brought:
    """By one request."""

    received_us: int
    events: Mapping[str, Sequence[bytes]]
    others: Sequence[Record]


class Gathering:
    """What all requests pass on their way to the bus.

    Args:
        publish: puts records on the bus, for which that many requests wait.
    """

    def __init__(self, publish: Callable[[Sequence[Record], int], Awaitable[None]]) -> None:
        self._publish = publish
        self._rounds = Rounds(self._together)

    async def publish(
        self, received_us: int, events: Mapping[str, Sequence[bytes]], others: Sequence[Record] = ()
    ) -> None:
        """Returns when everything is safe on the bus; see `join`.

        Raises:
            BusUnavailable: it is not known to be: it is to be sent again.
        """
        if events or others:
            await asyncio.shield(self.join(received_us, events, others))  # who goes takes nobody else's with it

    def join(
        self, received_us: int, events: Mapping[str, Sequence[bytes]], others: Sequence[Record] = ()
    ) -> asyncio.Future[None]:
        """What is done when everything is safe on the bus, for all who have joined: not to be cancelled.

        Where it is not known to be it has the BusUnavailable that says so: everything is to be sent again.

        Args:
            received_us: when the request came.
            events: as `wire.event_field` makes them, by the service that they count under.
            others: what the request brings beside them.
        """
        return self._rounds.join(_Brought(received_us, events, others))

    async def _together(self, brought: Sequence[_Brought]) -> None:
        by_service: defaultdict[str, list[bytes]] = defaultdict(list)
        others: list[Record] = []
        for one in brought:
            for service, events in one.events.items():
                by_service[service] += events
            others += one.others
        received_us = max(one.received_us for one in brought)
        made = [
            joined_events(service, wire.record_of(service, received_us, part))
            for service, events in by_service.items()
            for part in _parts(events)
        ]
        await self._publish(made + others, len(brought))


def _parts(events: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """In the same order, each as large as a record may be: usually one."""
    first, size = 0, _FRAME_BYTES
    for index, event in enumerate(events):
        if size + len(event) > MAX_RECORD_BYTES and index > first:
            yield events[first:index]
            first, size = index, _FRAME_BYTES
        size += len(event)
    yield events[first:]
