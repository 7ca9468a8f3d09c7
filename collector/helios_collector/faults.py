"""What becomes of a call that fails by no fault of its sender: it is to be made again.

For what gRPC makes of an exception, UNKNOWN, as for HTTP 500, senders drop their data (OTLP specification).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import ceil
from typing import Any, Final, TypeAlias

import grpc
import structlog
from grpc import aio

from helios.retry_info import TRAILER, retry_details
from helios_collector.admission import Busy, RateLimited
from helios_collector.telemetry import Telemetry
from helios_core.errors import BusUnavailable

_RETRY_AFTER_S: Final = 1.0
_Context: TypeAlias = "aio.ServicerContext[Any, Any]"
_log = structlog.get_logger(__name__)


def retry_after_s(error: Exception) -> float:
    """When to make the call again."""
    if isinstance(error, Busy | RateLimited):
        return ceil(error.retry_after_s * 1_000) / 1_000  # milliseconds are told, and less would be too soon
    return _RETRY_AFTER_S


def http_answer(error: Exception, telemetry: Telemetry) -> tuple[int, str, list[tuple[bytes, bytes]]]:
    """(status, message, headers): for any status but these senders give up."""
    status = 429 if isinstance(error, RateLimited) else 503
    after = str(ceil(retry_after_s(error))).encode()
    return status, explained(error, telemetry), [(b"retry-after", after)]


def explained(error: Exception, telemetry: Telemetry) -> str:
    """What a sender is told. An error that was not expected is logged and counted."""
    if isinstance(error, BusUnavailable | RateLimited):
        return str(error)
    telemetry.faults.inc()
    _log.error("request_failed", exc_info=error)
    return f"an error of the collector ({type(error).__name__}), which is in its log: send it again"


async def unavailable(context: _Context, message: str, error: Exception | None = None) -> None:
    """Ends the call, and says when to try again: UNAVAILABLE, or RESOURCE_EXHAUSTED for a client's rate."""
    is_rate = isinstance(error, RateLimited)
    code = grpc.StatusCode.RESOURCE_EXHAUSTED if is_rate else grpc.StatusCode.UNAVAILABLE
    after_s = _RETRY_AFTER_S if error is None else retry_after_s(error)
    context.set_trailing_metadata(((TRAILER, retry_details(code.value[0], message, after_s)),))
    await context.abort(code, message)


class Faults(aio.ServerInterceptor):  # type: ignore[misc]  # grpcio ships no types
    """Ends unary calls that fail with UNAVAILABLE. A stream that breaks advances nothing, however it does."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler

        async def answer(request: Any, context: _Context) -> Any:
            try:
                return await handler.unary_unary(request, context)
            except aio.AbortError:  # it is answered
                raise
            except Exception as error:  # noqa: BLE001 -- the edge of the process
                return await unavailable(context, explained(error, self._telemetry), error)

        return grpc.unary_unary_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)
