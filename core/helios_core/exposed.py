"""What every process with an HTTP port answers, `GET /health` and `GET /metrics`; and who may ask at all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from helios_core.keys import Keys, Scope
from helios_core.routes import Headers, HttpScope, Receive, Send, is_local, respond

PATHS: Final = ("/health", "/metrics")
Answer = tuple[int, Any, list[tuple[bytes, bytes]]]


def scraped(registry: CollectorRegistry) -> Callable[[], Awaitable[bytes]]:
    """What a process that is alone answers to a scrape."""

    async def answer() -> bytes:
        return generate_latest(registry)

    return answer


class Exposed:
    """The ASGI application for PATHS.

    Args:
        keys: `/metrics` asks for the scope `metrics`; `/health` is open.
        metrics: those of the whole process, or of all that share its work, as Prometheus reads them.
    """

    def __init__(self, keys: Keys, metrics: Callable[[], Awaitable[bytes]]) -> None:
        self._keys = keys
        self._metrics = metrics

    async def __call__(self, scope: HttpScope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        path, headers = scope["path"].rstrip("/"), headers_of(scope["headers"])
        wanted = Scope.METRICS if path == "/metrics" else None
        refused = refusal(self._keys, headers, wanted)
        if scope["method"] not in ("GET", "HEAD") and refused is None:
            refused = 405, {"error": f"{scope['method']} {path}: use GET"}, [(b"allow", b"GET, HEAD")]
        if refused is not None:
            status, body, extra = refused
            await respond(send, status, body, extra)
        elif path == "/metrics":
            await respond(send, 200, await self._metrics(), kind=CONTENT_TYPE_LATEST.encode())
        else:
            await respond(send, 200, {"status": "ok"})


def headers_of(headers: Headers) -> dict[str, str]:
    """The headers of a request, by their names in lower case."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}


def refusal(keys: Keys, headers: Mapping[str, str], scope: Scope | None) -> Answer | None:
    """The answer to a request that may not do what it wants; None when it may.

    Args:
        scope: what its key must be for; None where none is asked for.
    """
    if keys.are_local and not (is_local(headers.get("host", "")) and is_local(headers.get("origin", "localhost"))):
        message = "without API keys only programs and pages of this machine are answered: use localhost, or set keys"
        return 403, {"error": message}, []
    if scope is None:
        return None
    fault = keys.fault(headers.get("authorization", ""), headers.get("x-api-key", ""), scope)
    if fault is None:
        return None
    return (
        403 if fault.known else 401,
        {"error": fault.message},
        [] if fault.known else [(b"www-authenticate", b"Bearer")],
    )
