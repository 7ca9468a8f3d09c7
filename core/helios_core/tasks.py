"""Futures that may fail when nobody waits for them any more."""

from __future__ import annotations

import asyncio
from typing import Any


def seen(future: asyncio.Future[Any]) -> None:
    """For `add_done_callback`: its error is no news then, of which asyncio would complain."""
    if not future.cancelled():
        future.exception()
