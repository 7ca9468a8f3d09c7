"""Long work on the event loop that lets others have their turn."""

from __future__ import annotations

import asyncio
import time
from typing import Final

_TURN_S: Final = 0.004


class Turns:
    """Awaited after each piece of the work; others come to their turn every few milliseconds of it."""

    def __init__(self) -> None:
        self._until_s = time.monotonic() + _TURN_S

    async def pause(self) -> None:
        """Lets others go first when it has taken long enough."""
        if time.monotonic() > self._until_s:
            await asyncio.sleep(0)
            self._until_s = time.monotonic() + _TURN_S
