"""Whether the store writer falls behind: said when it does from one minute to the next, and when it has caught up."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

_PERIOD_S: Final = 60.0
_MANY: Final = 1_000  # records: fewer are a second's, and no news
_SAY_AGAIN_S: Final = 600.0
_log = structlog.get_logger(__name__)


class Lag:
    """Holds the least lag of a minute against that of the minute before: a burst that is worked off is no news.

    Args:
        now_s: seconds that only go forward.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._began_s = now_s()
        self._least: int | None = None
        self._before: int | None = None
        self._said_s: float | None = None  # while it has not caught up since

    def saw(self, records: int) -> None:
        """So many records are not in the store now."""
        now_s = self._now_s()
        if now_s - self._began_s >= _PERIOD_S:
            self._end(now_s)
        self._least = records if self._least is None else min(self._least, records)
        if self._said_s is not None and records < _MANY:
            self._said_s = None
            _log.info("store_has_caught_up", records=records)

    def _end(self, now_s: float) -> None:
        """A minute is over."""
        before, least = self._before, self._least
        self._before, self._least, self._began_s = least, None, now_s
        if before is None or least is None or least < _MANY or least <= before:
            return
        if self._said_s is None or now_s - self._said_s >= _SAY_AGAIN_S:
            self._said_s = now_s
            _log.warning(
                "store_falls_behind",
                records=least,
                a_minute_ago=before,
                remedy="the database is slower than what comes in: see what holds it up, or add writers (`workers`)",
            )
