"""Windows in the binary format of PostgreSQL's COPY. Most rows are windows, and encoding them value by value is
most of what writing them costs.

The format: PostgreSQL's documentation of COPY, "Binary Format"; that of the values is what their types' `_send`
functions make, as `bigint[]` in `array_send`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct, error
from typing import Final

from helios_core.model import Level
from helios_core.stored import StoredWindow

EPOCH_2000_US: Final = 946_684_800_000_000  # PostgreSQL counts its microseconds from there
_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER: Final = b"\xff\xff"
_BIGINT: Final = 20  # the object id of the type
_N_LEVELS: Final = len(Level)
# Each value behind its length in bytes: start_time, duration_ms.
_START: Final = Struct(">hiqii")
# signal, events, errors, warnings, levels, unparsed, bytes_in, latency_count, latency_sum_us.
_COUNTS: Final = Struct(">ihiqiqiq" + "iiiiii" + "iq" * _N_LEVELS + "iqiqiqiq")
_ARRAY_BYTES: Final = 20 + 12 * _N_LEVELS
_OVERFLOW: Final = Struct(">iq")
_LENGTH: Final = Struct(">i")
_NULL: Final = _LENGTH.pack(-1)
_CHUNK: Final = 2_000  # rows


def windows_copied(windows: Iterable[StoredWindow]) -> Iterator[bytes]:
    """What COPY windows FROM STDIN (FORMAT binary) reads, some rows at a time.

    Raises:
        ValueError: a number is beyond its column, or a text has a lone surrogate.
    """
    texts: dict[str, bytes] = {}
    parts = [_HEADER]
    for window in windows:
        parts += _row(window, texts)
        if len(parts) >= _CHUNK * 8:
            yield b"".join(parts)
            parts = []
    parts.append(_TRAILER)
    yield b"".join(parts)


def _row(window: StoredWindow, texts: dict[str, bytes]) -> tuple[bytes, ...]:
    (
        start_us, duration_ms, service, host, signal, events, errors, warnings, levels, unparsed, bytes_in,
        latency_count, latency_sum_us, latency, endpoints, overflow,
    ) = window  # fmt: skip
    l0, l1, l2, l3, l4, l5 = levels
    try:
        return (
            _START.pack(16, 8, start_us - EPOCH_2000_US, 4, duration_ms),
            texts.get(service) or texts.setdefault(service, _text(service)),
            texts.get(host) or texts.setdefault(host, _text(host)),
            _COUNTS.pack(
                2, signal, 8, events, 8, errors, 8, warnings,
                _ARRAY_BYTES, 1, 0, _BIGINT, _N_LEVELS, 1, 8, l0, 8, l1, 8, l2, 8, l3, 8, l4, 8, l5,
                8, unparsed, 8, bytes_in, 8, latency_count, 8, latency_sum_us,
            ),
            _NULL if latency is None else _LENGTH.pack(len(latency)) + latency,
            _NULL if endpoints is None else _LENGTH.pack(len(endpoints)) + endpoints,
            _OVERFLOW.pack(8, overflow),
        )  # fmt: skip
    except error as reason:
        raise ValueError(f"the window of {service!r} at {start_us} µs: a count is beyond 64 bits") from reason


def _text(text: str) -> bytes:
    """Without NUL, which PostgreSQL's texts cannot hold."""
    data = text.replace("\0", "\ufffd").encode()
    return _LENGTH.pack(len(data)) + data
