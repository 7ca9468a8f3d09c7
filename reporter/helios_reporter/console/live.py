"""The WebSocket of the live stream: a snapshot, then every message as it comes, with a heartbeat."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from helios_core.clock import Clock
from helios_reporter.console.documents import time_of
from helios_reporter.console.feed import Feed
from helios_reporter.console.ring import Client, TooManyClients

HEARTBEAT_S: Final = 15.0
_SEND_S: Final = 20.0  # a client that takes nothing for so long is let go
_TRY_AGAIN_LATER: Final = 1013
_GOING_AWAY: Final = 1001


class Live:
    """`WS /api/v1/ws/events`.

    Args:
        feed: where the messages come from.
        clock: stamps heartbeats.
        heartbeat_s: how long nothing is sent at most.
    """

    def __init__(self, feed: Feed, clock: Clock, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._feed = feed
        self._clock = clock
        self._heartbeat_s = heartbeat_s

    async def serve(self, socket: WebSocket) -> None:
        """One listener, until it leaves, falls behind for too long, or the console ends."""
        after = socket.query_params.get("after", "")
        await socket.accept()
        try:
            client, first, is_gap = await self._feed.join(int(after) if after.isdecimal() and len(after) < 20 else None)
        except TooManyClients as error:
            await socket.close(_TRY_AGAIN_LATER, str(error))
            return
        leaving = asyncio.create_task(_until_left(socket, client))
        try:
            if is_gap:
                await self._send(socket, {"type": "gap", "after": int(after)})
            # What is kept is serialised already.
            head = msgspec.json.encode({"type": "snapshot", "id": self._feed.ring.last_id, "at": self._now()}).decode()
            await _send_text(socket, f'{head[:-1]},"messages":[{",".join(first)}]}}')
            await self._stream(socket, client)
        except (TimeoutError, WebSocketDisconnect):
            pass  # it takes nothing any more, or has left: both end here
        finally:
            self._feed.leave(client)
            leaving.cancel()
        if client.is_closed and socket.client_state is WebSocketState.CONNECTED:
            await socket.close(_GOING_AWAY, "the console is stopping")

    async def _stream(self, socket: WebSocket, client: Client) -> None:
        told = 0
        while True:
            try:
                async with asyncio.timeout(self._heartbeat_s):
                    message = await client.next()
            except TimeoutError:
                await self._send(socket, {"type": "heartbeat", "id": self._feed.ring.last_id, "at": self._now()})
                continue
            if message is None:
                return
            if client.dropped > told:
                told = client.dropped
                await self._send(socket, {"type": "dropped", "at": self._now(), "dropped": told})
            await _send_text(socket, message)

    def _now(self) -> str | None:
        return time_of(self._clock.now_us())

    @staticmethod
    async def _send(socket: WebSocket, message: dict[str, object]) -> None:
        await _send_text(socket, msgspec.json.encode(message).decode())


async def _send_text(socket: WebSocket, text: str) -> None:
    async with asyncio.timeout(_SEND_S):
        await socket.send_text(text)


async def _until_left(socket: WebSocket, client: Client) -> None:
    """Reads what the listener sends, which means nothing, until it leaves."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            client.close()
            return
