"""The last messages of the live stream, and who listens: everything bounded, every drop counted."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

import msgspec

MAX_MESSAGES: Final = 1_000
MAX_BYTES: Final = 4 * 1024 * 1024
MAX_CLIENTS: Final = 100
MAX_QUEUED: Final = 256  # messages that a slow client may be behind


class TooManyClients(Exception):
    """The console has as many listeners as it takes."""


class Client:
    """One listener: a bounded queue of serialised messages; the oldest are dropped when it is slow."""

    def __init__(self) -> None:
        self._queue: deque[str] = deque()
        self._changed = asyncio.Event()
        self.dropped = 0
        self.is_closed = False

    def push(self, message: str) -> None:
        if len(self._queue) >= MAX_QUEUED:
            self._queue.popleft()
            self.dropped += 1
        self._queue.append(message)
        self._changed.set()

    async def next(self) -> str | None:
        """The next message, when there is one; None when it was closed."""
        while not self._queue and not self.is_closed:
            self._changed.clear()
            await self._changed.wait()
        return None if self.is_closed else self._queue.popleft()

    def forget(self) -> None:
        """Empties the queue of what the client is sent in another way."""
        self._queue.clear()

    def close(self) -> None:
        self.is_closed = True
        self._changed.set()


class Ring:
    """Numbers messages, keeps the last ones, and hands each to all clients, serialised once.

    Args:
        first_id: ids ascend from here. With the time in milliseconds a client that comes back after a
            restart is not taken for one that has seen what came since.
    """

    def __init__(self, first_id: int = 1) -> None:
        self._next_id = first_id
        self._kept: deque[tuple[int, str]] = deque()
        self._bytes = 0
        self._clients: set[Client] = set()
        self.pushed = 0
        self.dropped = 0  # by clients that have left

    @property
    def last_id(self) -> int:
        return self._next_id - 1

    @property
    def clients(self) -> int:
        return len(self._clients)

    def push(self, message: dict[str, Any]) -> None:
        """Gives the message its id, and sends it."""
        text = msgspec.json.encode({"id": self._next_id, **message}).decode()
        self._kept.append((self._next_id, text))
        self._bytes += len(text)
        self._next_id += 1
        self.pushed += 1
        while len(self._kept) > MAX_MESSAGES or self._bytes > MAX_BYTES:
            self._bytes -= len(self._kept.popleft()[1])
        for client in self._clients:
            client.push(text)

    def last(self, count: int) -> list[str]:
        """The newest messages, the oldest of them first."""
        return [text for _, text in list(self._kept)[-count:]]

    def after(self, last_seen: int) -> list[str] | None:
        """What came after a message; None when not all of it is kept, or it is none of ours."""
        first_kept = self._kept[0][0] if self._kept else self._next_id
        if not first_kept - 1 <= last_seen <= self.last_id:
            return None
        return [text for id_, text in self._kept if id_ > last_seen]

    def join(self) -> Client:
        """A new listener.

        Raises:
            TooManyClients: there are MAX_CLIENTS of them.
        """
        if len(self._clients) >= MAX_CLIENTS:
            raise TooManyClients(f"{MAX_CLIENTS} listeners are connected: close one, or read the API")
        client = Client()
        self._clients.add(client)
        return client

    def leave(self, client: Client) -> None:
        if client in self._clients:
            self._clients.discard(client)
            self.dropped += client.dropped

    def close(self) -> None:
        """Lets every listener go."""
        for client in self._clients:
            client.close()
