"""The messages that only incidents bring, by number; the level stands beside each."""

from __future__ import annotations

from helios_detector.simulate.model import Message

HEAP_FULL, NO_MEMORY, UNKNOWN_KEY, UPSTREAM_REFUSED = range(4)

INCIDENT_MESSAGES: tuple[tuple[str, Message], ...] = (
    ("WARN", Message("heap at {n} % of the limit after a full collection", 200, 1, 88, 99)),
    ("ERROR", Message("aborted: cannot allocate {n} kB", 503, 1, 64, 8192)),
    ("WARN", Message("token refused: key set is {n} min old and lacks its key", 401, 1, 30, 600)),
    ("WARN", Message("upstream refused the token, key set version {n}", 401, 1, 11, 12)),
)
"""Without `{op}`: services without latency have them too."""
