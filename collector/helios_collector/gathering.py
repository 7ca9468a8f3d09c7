"""Raw events on their way to the bus: what arrives within a few milliseconds for one service shares a record.

There is no waiting for more: while a round of records is under way, what comes gathers for the next.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from helios_core import wire
from helios_core.bus.base import MAX_RECORD_BYTES, Record
from helios_core.errors import BusUnavailable
from helios_core.records import joined_events

Done = Callable[[Exception | None], None]
"""Is called once: with None when everything is safe on the bus, else with why that is not known."""

_ROUNDS: Final = 2  # under way at a time: one may wait for its last record while the next is sent
_FRAME_BYTES: Final = 512  # of a record, beside its events: a service's name and a time
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Round:
    """What is published together: all of it, or whoever waits is told to send again."""

    waiting: list[Done] = field(default_factory=list)
    events: defaultdict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    others: list[Record] = field(default_factory=list)
    received_us: int = 0

    def records(self) -> list[Record]:
        made = [
            joined_events(service, wire.record_of(service, self.received_us, part))
            for service, events in self.events.items()
            for part in _parts(events)
        ]
        return made + self.others


class Gathering:
    """What raw events of all requests pass on their way to the bus.

    Args:
        publish: puts records on the bus, for which that many requests wait.
    """

    def __init__(self, publish: Callable[[Sequence[Record], int], Awaitable[None]]) -> None:
        self._publish = publish
        self._next: _Round | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def publish(
        self,
        received_us: int,
        events: Mapping[str, Sequence[bytes]],
        others: Sequence[Record] = (),
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        """Returns when everything is safe on the bus; see `join`.

        Args:
            ended: is called when it is over, also when who waits has gone by then.

        Raises:
            BusUnavailable: it is not known to be: it is to be sent again.
        """
        if not events and not others:
            ended()
            return
        safe: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: Exception | None) -> None:
            ended()
            if safe.done():  # who waited has gone
                return
            if error is None:
                safe.set_result(None)
            else:
                safe.set_exception(error)

        self.join(received_us, events, others, done)
        await safe

    def join(
        self, received_us: int, events: Mapping[str, Sequence[bytes]], others: Sequence[Record], done: Done
    ) -> None:
        """Puts everything on the bus, with what others bring meanwhile, and says when it is safe.

        Where it is not known to be, `done` has the BusUnavailable that says so: everything is to be sent again.

        Args:
            received_us: when the request came.
            events: as `wire.event_field` makes them, by the service that they count under.
            others: what the request brings beside them.
        """
        if self._next is None:
            self._next = _Round()
            if len(self._running) < _ROUNDS:  # with everything that this turn of the loop brings
                asyncio.get_running_loop().call_soon(self._begin)
        joined = self._next
        for service, fields in events.items():
            joined.events[service] += fields
        joined.others += others
        joined.received_us = max(joined.received_us, received_us)
        joined.waiting.append(done)

    def _begin(self) -> None:
        if self._next is not None and len(self._running) < _ROUNDS:
            begun, self._next = self._next, None
            task = asyncio.create_task(self._run(begun))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._begin()

    async def _run(self, begun: _Round) -> None:
        failure: Exception | None = None
        try:
            await self._publish(begun.records(), len(begun.waiting))
        except Exception as error:  # noqa: BLE001 -- it is told to all who wait, and handled there
            failure = error
        except BaseException:
            failure = BusUnavailable("the collector is stopping")
            raise
        finally:
            for done in begun.waiting:
                try:
                    done(failure)
                except Exception:  # noqa: BLE001 -- the others wait for theirs
                    _log.exception("answer_failed")


def _parts(events: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """In the same order, each as large as a record may be: usually one."""
    first, size = 0, _FRAME_BYTES
    for index, event in enumerate(events):
        if size + len(event) > MAX_RECORD_BYTES and index > first:
            yield events[first:index]
            first, size = index, _FRAME_BYTES
        size += len(event)
    yield events[first:]
