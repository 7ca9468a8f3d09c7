"""The level of an event from the words, numbers and status codes that logs use for it."""

from __future__ import annotations

from typing import Final

from helios_core.model import Level

_WORDS: Final = {
    Level.DEBUG: "trace debug verbose fine finer finest dbug trc dbg silly d t v",
    Level.INFO: "info information notice log ok inf success i n config informational",
    Level.WARN: "warn warning wrn w",
    Level.ERROR: "error err severe failed failure eror e",
    Level.CRITICAL: "critical crit fatal alert emerg emergency panic dpanic ftl f a c",
}
_BY_WORD: Final = {word: level for level, words in _WORDS.items() for word in words.split()}
_MAX_KNOWN: Final = 1_000


class Levels(dict[object, int]):
    """Level numbers by what a log wrote: a word in any case, or a number of pino and bunyan.

    It remembers the levels that it has found, up to a bound; what it does not know is UNSPECIFIED.
    """

    def __missing__(self, written: object) -> int:
        level = int(level_of(written))
        if level and len(self) < _MAX_KNOWN:
            self[written] = level
        return level


def level_of(written: object) -> Level:
    """A word, or 10 to 60 as pino and bunyan number their levels."""
    if isinstance(written, str):
        word = written.strip().strip("[]<>()|:").lower()
        if word.isdecimal() and len(word) <= 3:
            return level_of(int(word))
        return _BY_WORD.get(word, Level.UNSPECIFIED)
    if isinstance(written, int) and 10 <= written <= 69:
        return Level(min(max(written // 10 - 1, 1), 5))
    return Level.UNSPECIFIED


def level_of_status(status: int) -> Level:
    """HTTP: 5xx is ERROR, 4xx is WARN, all else INFO."""
    if status >= 500:
        return Level.ERROR
    return Level.WARN if status >= 400 else Level.INFO


def level_of_syslog(severity: int) -> Level:
    """Syslog (RFC 5424): 0 to 2 CRITICAL, 3 ERROR, 4 WARN, 5 and 6 INFO, 7 DEBUG."""
    if severity <= 2:
        return Level.CRITICAL
    return (Level.ERROR, Level.WARN, Level.INFO, Level.INFO, Level.DEBUG)[min(severity, 7) - 3]
