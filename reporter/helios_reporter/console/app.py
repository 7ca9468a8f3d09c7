"""The console as one ASGI application, and the task that feeds its live stream."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from helios_core.bus.base import Bus
from helios_core.clock import Clock
from helios_core.errors import InputError, StoreUnavailable
from helios_core.keys import Keys
from helios_core.routes import HttpScope, Receive, Send
from helios_core.store.base import Store
from helios_reporter.console.api import Api, Parts, answer, refuse
from helios_reporter.console.assets import Assets
from helios_reporter.console.feed import Feed
from helios_reporter.console.guard import Guard
from helios_reporter.console.live import Live
from helios_reporter.console.sessions import Sessions

_RETRY_AFTER_S = "2"


class Console:
    """Serves the console; reads incidents, reports and windows from the store, and what is live from the bus.

    Args:
        bus: read from its end by the group `console`, which commits nothing.
        store: everything else.
        clock: the time of the page, of sessions and of heartbeats.
        keys: who may read; when they are open, only loopback names are answered to.
        parts: what each service of this process says of itself, as JSON; every key is optional.
    """

    def __init__(self, *, bus: Bus, store: Store, clock: Clock, keys: Keys, parts: Parts) -> None:
        self.feed = Feed(bus=bus, store=store, clock=clock)
        sessions = Sessions(clock, keys)
        assets = Assets()
        app = FastAPI(
            title="Helios console",
            docs_url=None,  # their pages load scripts from elsewhere
            redoc_url=None,
            redirect_slashes=False,
            exception_handlers={
                RequestValidationError: _bad_parameters,
                InputError: _bad_input,
                StoreUnavailable: _no_store,
                HTTPException: _http_error,
                Exception: _our_fault,
            },
        )
        app.include_router(Api(store, clock, keys, sessions, self.feed, parts).router())
        app.add_api_websocket_route("/api/v1/ws/events", Live(self.feed, clock).serve)
        _add_pages(app, assets)
        self._guard = Guard(app, keys=keys, sessions=sessions, policy=assets.policy)

    async def __call__(self, scope: HttpScope, receive: Receive, send: Send) -> None:
        """The ASGI application, for http and websocket; mounted at "/"."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        else:
            await self._guard(scope, receive, send)

    async def run(self, drain: asyncio.Event) -> None:
        """Reads the bus and feeds the live stream until drain is set; then lets the listeners go."""
        await self.feed.run(drain)


def _add_pages(app: FastAPI, assets: Assets) -> None:
    async def index(_: Request) -> Response:
        return Response(assets.page, 200, {"cache-control": "no-cache"}, "text/html; charset=utf-8")

    async def static(request: Request) -> Response:
        asset = assets.get(request.path_params["version"], request.path_params["path"])
        if asset is None:
            return refuse(404, f"there is no {request.url.path}: reload the page")
        headers = {"cache-control": "public, max-age=31536000, immutable", "vary": "accept-encoding"}
        content = asset.content
        if asset.gzipped is not None and "gzip" in request.headers.get("accept-encoding", ""):
            content, headers["content-encoding"] = asset.gzipped, "gzip"
        return Response(content, 200, headers, asset.content_type)

    async def icon(_: Request) -> Response:
        asset = assets.get(assets.version, "favicon.svg")
        return Response(asset.content if asset else b"", 200, {"cache-control": "max-age=3600"}, "image/svg+xml")

    app.add_route("/", index)
    app.add_route("/favicon.ico", icon)
    app.add_route("/static/{version}/{path:path}", static)


async def _bad_parameters(_: Request, error: Exception) -> Response:
    found: list[Any] = list(error.errors()) if isinstance(error, RequestValidationError) else []
    said = [f"{item['loc'][-1]}={str(item.get('input'))[:100]!r}: {item['msg']}" for item in found]
    return refuse(400, "; ".join(said))


async def _bad_input(_: Request, error: Exception) -> Response:
    return refuse(400, str(error))


async def _no_store(_: Request, error: Exception) -> Response:
    return answer({"error": str(error)}, 503, {"retry-after": _RETRY_AFTER_S})


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 404:
        return refuse(404, f"there is no {request.url.path}; /openapi.json lists what there is")
    if status == 405:
        return refuse(405, f"{request.method} {request.url.path}: this is not offered; see /openapi.json")
    return refuse(status, str(error))


async def _our_fault(_: Request, __: Exception) -> Response:
    """The error is raised again behind this answer, for the log."""
    return refuse(500, "this is an error of the console: see its log")


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        kind = message["type"].removeprefix("lifespan.")
        await send({"type": f"lifespan.{kind}.complete"})
        if kind == "shutdown":
            return
