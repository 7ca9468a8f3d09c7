"""Trying again what may work later: for consumers, which commit nothing before it has worked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

from helios_core.errors import BusUnavailable, StoreUnavailable

_T = TypeVar("_T")
_PAUSE_S: Final = 1.0
_log = structlog.get_logger(__name__)


async def until_available(call: Callable[[], Awaitable[_T]]) -> _T:
    """Calls until the bus or the store can be reached; every other error is raised."""
    while True:
        try:
            return await call()
        except (BusUnavailable, StoreUnavailable) as error:
            _log.warning("waiting", error=str(error), pause_s=_PAUSE_S)
            await asyncio.sleep(_PAUSE_S)
