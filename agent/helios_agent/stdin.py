"""Standard input as a source: at most once, for what is read cannot be read again."""

from __future__ import annotations

import os
import select

from helios_agent.lines import whole_lines
from helios_agent.reader import BLOCK_BYTES, MAX_LINE_BYTES, Chunk
from helios_agent.settings import StdinSettings


class Stdin:
    """See the module.

    Attributes:
        ended: there will be no more.
    """

    def __init__(self, settings: StdinSettings, descriptor: int) -> None:
        self.settings = settings
        self.ended = False
        self._descriptor = descriptor
        self._offset = 0
        self._rest = b""
        self._skipping = False

    def read(self) -> Chunk | None:
        """The whole lines that are there now, which may be none of what has come; None when nothing has.

        At the end of input the last line may lack its line feed.
        """
        if self.ended or not select.select([self._descriptor], [], [], 0)[0]:
            return None
        block = os.read(self._descriptor, BLOCK_BYTES)
        data, start = self._rest + block, self._offset
        if not block:
            self.ended = True
            return Chunk(data, start, start + len(data), int(self._skipping))
        lines = whole_lines(data, max_bytes=MAX_LINE_BYTES, skipping=self._skipping)
        self._rest, self._skipping = data[lines.end :], lines.skipping
        self._offset += lines.end
        return Chunk(data[lines.start : lines.end], start + lines.start, self._offset, int(lines.too_long), lines.start)
