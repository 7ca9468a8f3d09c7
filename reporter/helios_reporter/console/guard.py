"""Who may ask: Host, Origin, key and session are checked before anything else sees a request.

Also the headers that every answer carries.
"""

from __future__ import annotations

import asyncio
from functools import partial
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import urlsplit

from helios_core.keys import Keys, Scope
from helios_core.routes import App, HttpScope, Message, Receive, Send, is_local, respond
from helios_reporter.console.sessions import COOKIE, Sessions

_OPEN_PATHS: Final = frozenset({"/api/v1/health", "/api/v1/session"})
_LOOK_AGAIN_S: Final = 5.0
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_FOREIGN: Final = (
    "the request comes from another site ({origin}): open the console under the address that it is sent to"
)


def headers_of(scope: HttpScope) -> dict[str, str]:
    """The headers by lower-case name; of a repeated one the last, of cookies all."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        found[key] = f"{found[key]}; {text}" if key == "cookie" and key in found else text
    return found


def session_of(headers: dict[str, str]) -> str:
    """The session's token; empty without one."""
    cookies: SimpleCookie = SimpleCookie()
    try:
        cookies.load(headers.get("cookie", ""))
    except CookieError:
        return ""
    return cookies[COOKIE].value if COOKIE in cookies else ""


class Guard:
    """An ASGI application round another one.

    Args:
        app: what is behind it.
        keys: without any (a loopback install) all is open, and only loopback names are answered to, so
            that no page of another site can reach it under a name that resolves here.
        sessions: of people who signed in with a key.
        policy: the content security policy.
    """

    def __init__(self, app: App, *, keys: Keys, sessions: Sessions, policy: str) -> None:
        self._app = app
        self._keys = keys
        self._sessions = sessions
        self._headers = [
            (b"content-security-policy", policy.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
            (b"x-frame-options", b"DENY"),
            (b"cross-origin-opener-policy", b"same-origin"),
            (b"cross-origin-resource-policy", b"same-origin"),
        ]

    async def __call__(self, scope: HttpScope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self._headers]
            await send(message)

        refused = self._refused(scope)
        if refused is None and scope["type"] == "websocket":
            await self._app(scope, partial(self._receive_while_allowed, scope, receive, send), sending)
        elif refused is None:
            await self._app(scope, receive, sending)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": refused[1]})
        else:
            await _refuse(sending, *refused)

    async def _receive_while_allowed(self, scope: HttpScope, receive: Receive, send: Send) -> Message:
        """What comes; the end, once its key or session is no longer good."""
        coming = asyncio.ensure_future(receive())
        try:
            while not (await asyncio.wait((coming,), timeout=_LOOK_AGAIN_S))[0]:
                refused = self._refused(scope)
                if refused is not None:
                    await send({"type": "websocket.close", "code": 1008, "reason": refused[1]})
                    return {"type": "websocket.disconnect", "code": 1008}
            return coming.result()
        finally:
            coming.cancel()

    def _refused(self, scope: HttpScope) -> tuple[int, str] | None:
        """(status, message) for a request that is not answered."""
        headers = headers_of(scope)
        host = headers.get("host", "")
        if self._keys.are_local and not is_local(host):
            return 403, f"this console answers to localhost only, not to {host!r}: open it as http://localhost"
        origin = headers.get("origin")
        is_websocket = scope["type"] == "websocket"
        if origin is not None and (is_websocket or scope["method"] not in _SAFE_METHODS) and not _same(origin, host):
            return 403, _FOREIGN.format(origin=origin[:200])
        path: str = scope["path"]
        if not path.startswith("/api/") or path in _OPEN_PATHS or self._keys.are_open:
            return None
        if self._sessions.is_known(session_of(headers)) and (origin is not None or not is_websocket):
            return None
        fault = self._keys.fault(headers.get("authorization", ""), headers.get("x-api-key", ""), Scope.READ)
        return None if fault is None else (403 if fault.known else 401, fault.message)


def _same(origin: str, host: str) -> bool:
    """Whether a page of this origin was served by this host: the schemes may differ behind a proxy."""
    try:
        parts, own = urlsplit(origin), urlsplit(f"//{host}")
        ports = parts.port, own.port
    except ValueError:
        return False
    default = {"https": 443, "http": 80}.get(parts.scheme)
    if default is None or not parts.hostname or parts.hostname != own.hostname:
        return False
    return (ports[0] or default) == (ports[1] or default)


async def _refuse(send: Send, status: int, message: str) -> None:
    asked = [(b"www-authenticate", b"Bearer")] if status == 401 else []
    await respond(send, status, {"error": message}, [(b"cache-control", b"no-store"), *asked])
