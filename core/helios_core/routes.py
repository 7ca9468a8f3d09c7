"""Which ASGI application of a process answers which path; and who answers small requests without a task."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

Message = MutableMapping[str, Any]
HttpScope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[HttpScope, Receive, Send], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]
Answering = Callable[[int, bytes, Headers], None]
Direct = Callable[["Request", Answering], bool]
"""Answers a POST that came whole, by calling the second argument once: at once or later, with status, JSON and headers.

False when it is not for it: then the ASGI application of the path is asked. It never raises.
"""

_LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "::1")


@dataclass(slots=True)  # a frozen one takes three times as long to make
class Request:
    """One that has come whole.

    Attributes:
        headers: as in ASGI: names in lower case.
        peer: the address of the client; empty where it has none.
    """

    headers: Headers
    body: bytes
    peer: str


class Routes:
    """The ASGI application of a process: each service mounts its own, the longest path wins.

    What is not mounted is not there, but while services start it may only be late: that is to be asked again.
    """

    def __init__(self) -> None:
        self._apps: dict[str, App] = {}
        self.direct: dict[bytes, Direct] = {}
        self._settled = False

    def settle(self) -> None:
        """All services have mounted what they answer."""
        self._settled = True

    def mount(self, path: str, app: App, direct: Direct | None = None) -> None:
        """`app` answers `path` and what lies under it; `/` answers what nothing else does.

        Args:
            direct: is asked first for requests to that very path.
        """
        self._apps[path.rstrip("/")] = app
        if direct is not None:
            self.direct[path.encode()] = direct

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
            await respond(send, 503, {"error": "Helios is starting"}, [(b"retry-after", b"1")])
        elif scope["type"] == "http":
            await respond(send, 404, {"error": f"there is no {scope['path']} here"})
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": "there is nothing here"})


async def respond(
    send: Send,
    status: int,
    body: Any,
    headers: Sequence[tuple[bytes, bytes]] = (),
    *,
    kind: bytes = b"application/json",
) -> None:
    """A whole answer: bytes as they are, of the `kind` given; everything else as JSON."""
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    sent = [(b"content-type", kind), (b"content-length", str(len(data)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": sent})
    await send({"type": "http.response.body", "body": data})


@lru_cache(256)
def is_local(address: str) -> bool:
    """`host[:port]`, or an origin, names this machine by loopback; a page of another site cannot truthfully say so."""
    try:
        return urlsplit(address if "//" in address else f"//{address}").hostname in _LOCAL_NAMES
    except ValueError:
        return False


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        kind = message["type"].removeprefix("lifespan.")
        await send({"type": f"lifespan.{kind}.complete"})
        if kind == "shutdown":
            return
