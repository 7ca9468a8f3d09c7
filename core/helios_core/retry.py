"""Trying again what may work later: for consumers, which commit nothing before it has worked, and for a start."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

from helios_core.errors import BusUnavailable, BusUnreachable, StoreUnavailable

_T = TypeVar("_T")
_PAUSE_S: Final = 1.0
_SAY_AGAIN_S: Final = 10.0
_log = structlog.get_logger(__name__)


class _Waiting:
    """What is said while something is waited for: at once, and then now and again."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._next_s = self._began_s

    def say(self, error: Exception) -> None:
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + _SAY_AGAIN_S
            _log.warning("waiting", error=str(error), for_s=round(now_s - self._began_s))


async def until_available(call: Callable[[], Awaitable[_T]]) -> _T:
    """Calls until the bus or the store can be reached; every other error is raised."""
    waiting: _Waiting | None = None
    while True:
        try:
            return await call()
        except (BusUnavailable, StoreUnavailable) as error:
            waiting = waiting or _Waiting()
            waiting.say(error)
            await asyncio.sleep(_PAUSE_S)


async def until_reached(call: Callable[[], Awaitable[_T]], stop: asyncio.Event) -> _T:
    """Calls until somebody answers; every error that says more than that nobody does is raised.

    Raises:
        BusUnreachable: nobody has answered until `stop` was set.
    """
    waiting = _Waiting()
    stopping = asyncio.create_task(stop.wait())
    calling: asyncio.Task[_T] | None = None
    try:
        error = BusUnreachable("stopped before anybody had answered")
        while not stop.is_set():
            calling = asyncio.ensure_future(call())
            await asyncio.wait([calling, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not calling.done():
                break
            try:
                return calling.result()
            except BusUnreachable as found:
                error = found
                waiting.say(error)
            await asyncio.wait([stopping], timeout=_PAUSE_S)
        raise error
    finally:
        for task in filter(None, (stopping, calling)):
            task.cancel()
