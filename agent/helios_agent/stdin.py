"""Standard input as a source: at most once, for what is read cannot be read again."""

from __future__ import annotations

import os
import select

from helios_agent.parsers.base import Parser
from helios_agent.reader import BLOCK_BYTES, MAX_LINE_BYTES
from helios_agent.settings import StdinSettings


class Stdin:
    """See the module."""

    def __init__(self, settings: StdinSettings, descriptor: int) -> None:
        self.settings = settings
        self.parser: Parser | None = None
        self.ended = False
        self._descriptor = descriptor
        self._rest = b""

    def read(self) -> bytes:
        """Whole lines that are there now; at the end of input also the last half line."""
        ready, _, _ = select.select([self._descriptor], [], [], 0)
        if not ready or self.ended:
            return b""
        data = os.read(self._descriptor, BLOCK_BYTES)
        self.ended = not data
        data = self._rest + data
        end = len(data) if self.ended or len(data) > MAX_LINE_BYTES else data.rfind(b"\n") + 1
        self._rest = data[end:]
        return data[:end]
