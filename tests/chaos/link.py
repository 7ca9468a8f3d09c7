"""A TCP connection between two parts that can be cut, frozen and slowed: a relay on loopback."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from enum import StrEnum
from typing import Final

_CHUNK: Final = 65_536
_SLOW_S: Final = 0.15  # for each chunk
_SLOW_CHUNK: Final = 4_096


class Mood(StrEnum):
    """What a link does with what comes."""

    OPEN = "open"
    CUT = "cut"  # connections are reset, and new ones as soon as they are made
    FROZEN = "frozen"  # connections stay, and nothing passes, in neither direction
    DEAF = "no answers"  # what is sent arrives, and what is answered does not
    SLOW = "slow"  # about 25 kB/s, and 150 ms


class Link:
    """A relay to one address on loopback.

    Args:
        port: where it listens.
        to: the port of whom it stands before.
    """

    def __init__(self, port: int, to: int) -> None:
        self.port = port
        self.to = to
        self._server: asyncio.Server | None = None
        self._relays: set[asyncio.Task[None]] = set()
        self._mood = Mood.OPEN
        self._moves = asyncio.Event()
        self._answers = asyncio.Event()
        self.become(Mood.OPEN)

    async def open(self) -> None:
        """Listens."""
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)

    def become(self, mood: Mood) -> None:
        """From now on, for connections that are there and for new ones."""
        self._mood = mood
        for passing, stopped in ((self._moves, (Mood.FROZEN,)), (self._answers, (Mood.FROZEN, Mood.DEAF))):
            if mood in stopped:
                passing.clear()
            else:
                passing.set()
        if mood is Mood.CUT:
            for relay in self._relays:
                relay.cancel()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.become(Mood.CUT)
        await asyncio.gather(*self._relays, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = asyncio.current_task()
        if relay is None or self._mood is Mood.CUT:
            writer.transport.abort()
            return
        self._relays.add(relay)
        there: asyncio.StreamWriter | None = None
        try:
            back, there = await asyncio.open_connection("127.0.0.1", self.to)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, there, self._moves))
                group.create_task(self._pass(back, writer, self._answers))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass  # one of the two has gone, or the link was cut: both connections end below
        finally:
            self._relays.discard(relay)
            for end in filter(None, (writer, there)):
                end.transport.abort()

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, passing: asyncio.Event) -> None:
        while data := await source.read(_SLOW_CHUNK if self._mood is Mood.SLOW else _CHUNK):
            if self._mood is Mood.SLOW:
                await asyncio.sleep(_SLOW_S)
            await passing.wait()
            target.write(data)
            await target.drain()
        with suppress(OSError):
            target.write_eof()
