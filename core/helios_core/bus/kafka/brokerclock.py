"""What the clock of the brokers says, as far as a reader can know: from the times at which they appended records."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

_S: Final = 1_000_000
_KEPT_US: Final = 60 * _S  # clocks drift: what was found is forgotten after once to twice as long
_SET_BACK_US: Final = 5 * _S  # less is how far the clocks of several brokers are apart


class BrokerClock:
    """The least that the brokers' clock can say, by a steady clock of the reader.

    A record was appended before it was read. So when it is read the brokers' clock says at least its time, and goes on
    from there; of several records the one that was under way least says most. The clock of the reader's machine is not
    asked: it may be wrong by minutes.
    """

    def __init__(self) -> None:
        self._ahead_us: int | None = None  # of the steady clock, at least: the most that was found lately
        self._before_us: int | None = None  # and before that
        self._since_us = 0
        self._last_us: dict[Hashable, int] = {}
        self._believed_us = 0  # at most so far ahead, until it is no longer doubted
        self._doubted_until_us = 0

    def saw(self, partition: Hashable, time_us: int, steady_us: int) -> None:
        """A record of that partition was read.

        Args:
            time_us: when it was appended, by the broker's clock.
            steady_us: when it was read, by the steady clock.
        """
        ahead_us = time_us - steady_us
        if time_us < self._last_us.get(partition, 0) - _SET_BACK_US:
            # The broker's clock was set back, or another broker leads. What others have from before may still come.
            self._ahead_us = self._before_us = None
            self._last_us.clear()
            self._believed_us, self._doubted_until_us = ahead_us + _SET_BACK_US, steady_us + _KEPT_US
        if ahead_us > self._believed_us and steady_us < self._doubted_until_us:
            return
        self._last_us[partition] = time_us
        if steady_us - self._since_us >= _KEPT_US:
            self._before_us, self._ahead_us, self._since_us = self._ahead_us, None, steady_us
        if self._ahead_us is None or ahead_us > self._ahead_us:
            self._ahead_us = ahead_us

    def at(self, steady_us: int) -> int:
        """What it said at least, microseconds since the epoch; 0 before any record was read."""
        found = [ahead_us for ahead_us in (self._ahead_us, self._before_us) if ahead_us is not None]
        return steady_us + max(found) if found else 0
