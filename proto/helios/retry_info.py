"""google.rpc.RetryInfo in the trailer `grpc-status-details-bin`: how a collector says when to come back.

The trailer holds a google.rpc.Status {1: code, 2: message, 3: repeated Any}; RetryInfo is {1: Duration}
(googleapis, google/rpc/status.proto and error_details.proto). The few bytes are read and written
here so that the client needs no package for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError

TRAILER: Final = "grpc-status-details-bin"
# A collector cannot make a client wait for longer.
MAX_RETRY_AFTER_S: Final = 300.0
_TYPE_URL: Final = "type.googleapis.com/google.rpc.RetryInfo"
_VARINT, _FIXED64, _CHUNK, _FIXED32 = 0, 1, 2, 5  # wire types of Protocol Buffers


def retry_after_s(details: bytes) -> float | None:
    """Seconds that the trailer asks to wait, 0 to 300; None when it has no RetryInfo or does not decode."""
    try:
        for number, value in _fields(details):
            if number == 3 and isinstance(value, bytes):
                delay_s = _delay_s(Any.FromString(value))
                if delay_s is not None:
                    return min(max(delay_s, 0.0), MAX_RETRY_AFTER_S)
    except (ValueError, DecodeError):
        return None
    return None


def retry_details(code: int, message: str, delay_s: float) -> bytes:
    """The trailer's value that asks for a wait of `delay_s`; `code` is that of the RPC's status."""
    delay = Duration()
    delay.FromMilliseconds(round(delay_s * 1_000))
    info = Any(type_url=_TYPE_URL, value=_chunk(1, delay.SerializeToString()))
    status = _to_varint(1 << 3 | _VARINT) + _to_varint(code)
    return status + _chunk(2, message.encode()) + _chunk(3, info.SerializeToString())


def _delay_s(detail: Any) -> float | None:
    if detail.TypeName() != "google.rpc.RetryInfo":
        return None
    for number, value in _fields(detail.value):
        if number == 1 and isinstance(value, bytes):
            delay = Duration.FromString(value)
            return delay.seconds + delay.nanos / 1e9
    return 0.0


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field; ValueError when the bytes are not a message."""
    position = 0
    while position < len(data):
        tag, position = _from_varint(data, position)
        kind = tag & 7
        if kind == _VARINT:
            value, position = _from_varint(data, position)
            yield tag >> 3, value
            continue
        if kind == _CHUNK:
            size, position = _from_varint(data, position)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if position + size > len(data):
            raise ValueError("cut short")
        yield tag >> 3, data[position : position + size]
        position += size


def _from_varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ValueError("cut short")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a varint of more than ten bytes")


def _to_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _chunk(number: int, data: bytes) -> bytes:
    return _to_varint(number << 3 | _CHUNK) + _to_varint(len(data)) + data
