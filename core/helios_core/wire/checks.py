"""What every message is checked for, and the numbers that stand for names."""

from __future__ import annotations

from typing import Final, TypeVar, cast

from google.protobuf.message import DecodeError, Message

from helios.v1 import events_pb2
from helios_core.errors import WireError
from helios_core.model import MAX_SERVICE_BYTES, Level, Signal

_M = TypeVar("_M", bound=Message)
_MAX_EPOCH_US: Final = 253_402_300_799_999_999  # the end of the year 9999


def parsed(kind: type[_M], data: bytes, what: str) -> _M:
    """The message in these bytes; WireError when they are none."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise WireError(f"{len(data)} bytes are not {what}: {error}") from error


def check_service(name: str) -> None:
    """WireError unless `name` is 1 to 256 bytes of UTF-8 without control characters."""
    size = len(name.encode("utf-8", "surrogatepass"))
    if not 0 < size <= MAX_SERVICE_BYTES:
        raise WireError(f"a service name of {size} bytes ({name[:40]!r}…): 1 to {MAX_SERVICE_BYTES}")
    if not name.isprintable():
        raise WireError(f"the service name {name[:40]!r} has characters that cannot be printed")


def check_time(time_us: int) -> None:
    """WireError outside the years 1970 to 9999."""
    if not 0 <= time_us <= _MAX_EPOCH_US:
        raise WireError(f"the time {time_us} µs lies outside the years 1970 to 9999")


_SIGNALS: Final = {member.value: member for member in Signal}


def signal(number: int) -> Signal:
    known = _SIGNALS.get(number)
    if known is None:
        raise WireError(f"signal {number}: 1 (log) or 2 (span)")
    return known


_LEVELS: Final = {member.value: member for member in Level}


def level(number: int) -> Level:
    known = _LEVELS.get(number)
    if known is None:
        raise WireError(f"level {number}: 0 to {max(Level)}")
    return known


def level_to_proto(level: int) -> events_pb2.Level.ValueType:
    return cast("events_pb2.Level.ValueType", level)  # the numbers are the same


def signal_to_proto(signal: int) -> events_pb2.Signal.ValueType:
    return cast("events_pb2.Signal.ValueType", signal)
