"""Which ASGI application of a process answers which path."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

Message = MutableMapping[str, Any]
HttpScope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[HttpScope, Receive, Send], Awaitable[None]]


class Routes:
    """The ASGI application of a process: each service mounts its own, the longest path wins.

    What is not mounted is not there, but while services start it may only be late: that is to be asked again.
    """

    def __init__(self) -> None:
        self._apps: dict[str, App] = {}
        self._settled = False

    def settle(self) -> None:
        """All services have mounted what they answer."""
        self._settled = True

    def mount(self, path: str, app: App) -> None:
        """`app` answers `path` and what lies under it; `/` answers what nothing else does."""
        self._apps[path.rstrip("/")] = app

    async def __call__(self, scope: HttpScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        path = scope["path"].rstrip("/")
        while True:
            app = self._apps.get(path)
            if app is not None:
                await app(scope, receive, send)
                return
            if not path:
                break
            path = path.rpartition("/")[0]
        if scope["type"] == "http" and not self._settled:
            await respond_json(send, 503, {"error": "Helios is starting"}, [(b"retry-after", b"1")])
        elif scope["type"] == "http":
            await respond_json(send, 404, {"error": f"there is no {scope['path']} here"})
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": "there is nothing here"})


async def respond_json(send: Send, status: int, body: Any, more: list[tuple[bytes, bytes]] | None = None) -> None:
    """A whole answer, with `more` headers."""
    data = msgspec.json.encode(body)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode()), *(more or ())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        kind = message["type"].removeprefix("lifespan.")
        await send({"type": f"lifespan.{kind}.complete"})
        if kind == "shutdown":
            return
