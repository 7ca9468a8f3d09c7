"""One event as an application makes it: checked when it is made, so that what is sent is never refused for its form."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from functools import partial
from math import isfinite
from typing import Final, cast

from helios.errors import InvalidEvent
from helios.v1 import events_pb2

MAX_SERVICE_BYTES: Final = 256
MAX_EVENT_BYTES: Final = 256 * 1024
MAX_LATENCY_US: Final = 3_600_000_000  # one hour
_MAX_TIME_US: Final = 253_402_300_799_999_999  # the end of the year 9999
# Integers below are seconds or milliseconds by mistake: as microseconds they lie before March 1973.
_MIN_INTEGER_TIME_US: Final = 100_000_000_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_HEXADECIMAL = re.compile(r"[0-9a-f]*")


class Level(IntEnum):
    """Severity of an event, in order; the numbers are those of the contract."""

    UNSPECIFIED = 0
    DEBUG = 1
    INFO = 2
    WARN = 3
    ERROR = 4
    CRITICAL = 5


class Signal(IntEnum):
    """Where a count comes from; the numbers are those of the contract."""

    LOG = 1
    SPAN = 2


_LEVEL_NAMES: Final = {
    **{level.name: level for level in Level},
    "TRACE": Level.DEBUG,
    "NOTICE": Level.INFO,
    "WARNING": Level.WARN,
    "FATAL": Level.CRITICAL,
    "ALERT": Level.CRITICAL,
    "EMERGENCY": Level.CRITICAL,
}


@dataclass(frozen=True, slots=True)
class Event:
    """One log record or span. Making it checks it: InvalidEvent says which field is wrong.

    Attributes:
        service: 1 to 256 bytes of UTF-8 that can be printed.
        message: characters that UTF-8 cannot carry are replaced by `?`.
        level: a `Level` or its name in any case; also TRACE, NOTICE, WARNING, FATAL, ALERT, EMERGENCY.
        time: when it happened: an aware datetime, or integer microseconds since the Unix epoch; now
            when it is left out. It reads as an aware datetime in UTC.
        latency_ms: 0 to 3,600,000, kept to the microsecond; None when the event has none.
        endpoint: what was called; a query is cut off.
        trace_id: hexadecimal, kept in lower case; so is `span_id`.
        host: where it happened.
        attributes: what JSON can say; taken when the event is made, later changes do nothing.
        id: the same id with the same content is applied once. One is made up when it is left out,
            so that an event can be sent again without counting twice.
    """

    service: str
    message: str = ""
    _: KW_ONLY
    level: Level | str = Level.UNSPECIFIED
    time: datetime | int | None = None
    latency_ms: float | None = None
    endpoint: str = ""
    trace_id: str = ""
    span_id: str = ""
    host: str = ""
    signal: Signal = Signal.LOG
    attributes: Mapping[str, object] = field(default_factory=dict, hash=False)
    id: str = ""
    _proto: events_pb2.Event = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        put = partial(object.__setattr__, self)  # the class is frozen for its users
        time_us = _time_us(self.time)
        latency_us = _latency_us(self.latency_ms)
        put("level", _level(self.level))
        put("signal", _signal(self.signal))
        put("time", _EPOCH + timedelta(microseconds=time_us))
        put("latency_ms", None if latency_us is None else latency_us / 1_000)
        put("message", _text("message", self.message).encode("utf-8", "replace").decode())
        put("service", _service(self.service))
        put("endpoint", _text("endpoint", self.endpoint).partition("?")[0])
        put("trace_id", _hexadecimal("trace_id", self.trace_id))
        put("span_id", _hexadecimal("span_id", self.span_id))
        put("id", _text("id", self.id) or uuid.uuid4().hex)
        encoded = _json(self.attributes)
        put("attributes", dict(self.attributes))
        try:
            message = events_pb2.Event(
                time_us=time_us,
                service=self.service,
                level=cast("events_pb2.Level.ValueType", self.level),  # the numbers are the same
                message=self.message,
                latency_us=latency_us,
                endpoint=self.endpoint,
                trace_id=self.trace_id,
                span_id=self.span_id,
                host=_text("host", self.host),
                signal=cast("events_pb2.Signal.ValueType", self.signal),
                id=self.id,
                attributes=encoded,
            )
        except UnicodeEncodeError as error:
            raise InvalidEvent(f"the text {error.object!r} has characters that UTF-8 cannot carry") from None
        size = message.ByteSize()
        if size > MAX_EVENT_BYTES:
            raise InvalidEvent(f"the event has {size} bytes, {len(encoded)} of attributes: at most {MAX_EVENT_BYTES}")
        put("_proto", message)

    @property
    def time_us(self) -> int:
        """Microseconds since the Unix epoch, UTC."""
        return self._proto.time_us

    @property
    def size_bytes(self) -> int:
        """Its size as a message of the contract."""
        return self._proto.ByteSize()

    def to_proto(self) -> events_pb2.Event:
        """The message of the contract; it is shared and not to be changed."""
        return self._proto

    @classmethod
    def from_proto(cls, message: events_pb2.Event) -> Event:
        """InvalidEvent when the message breaks the contract."""
        try:
            attributes = json.loads(message.attributes) if message.attributes else {}
            level, signal = Level(message.level), Signal(message.signal)
        except ValueError as error:
            raise InvalidEvent(f"the message is not an event of the contract: {error}") from error
        return cls(
            message.service,
            message.message,
            level=level,
            time=_EPOCH + timedelta(microseconds=message.time_us),
            latency_ms=message.latency_us / 1_000 if message.HasField("latency_us") else None,
            endpoint=message.endpoint,
            trace_id=message.trace_id,
            span_id=message.span_id,
            host=message.host,
            signal=signal,
            attributes=attributes,
            id=message.id,
        )


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidEvent(f"{name} is {value!r}: give a str")
    return value


def _service(value: object) -> str:
    name = _text("service", value)
    size = len(name.encode("utf-8", "surrogatepass"))
    if not 0 < size <= MAX_SERVICE_BYTES:
        raise InvalidEvent(f"service is {name[:40]!r}, {size} bytes: 1 to {MAX_SERVICE_BYTES}")
    if not name.isprintable():
        raise InvalidEvent(f"service is {name[:40]!r}: some of its characters cannot be printed")
    return name


def _hexadecimal(name: str, value: object) -> str:
    digits = _text(name, value).lower()
    if not _HEXADECIMAL.fullmatch(digits):
        raise InvalidEvent(f"{name} is {digits[:80]!r}: hexadecimal digits and nothing else")
    return digits


def _level(value: object) -> Level:
    if isinstance(value, Level):
        return value
    level = _LEVEL_NAMES.get(value.strip().upper()) if isinstance(value, str) else None
    if level is None:
        raise InvalidEvent(f"level is {value!r}: a helios.Level, or one of {', '.join(_LEVEL_NAMES)}")
    return level


def _signal(value: object) -> Signal:
    if not isinstance(value, Signal):
        raise InvalidEvent(f"signal is {value!r}: Signal.LOG or Signal.SPAN")
    return value


def _time_us(value: object) -> int:
    if value is None:
        value = datetime.now(UTC)
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise InvalidEvent(f"time is {value!r} without a time zone: use datetime.now(UTC)")
        time_us = (value - _EPOCH) // _MICROSECOND
        if not 0 <= time_us <= _MAX_TIME_US:
            raise InvalidEvent(f"time is {value.isoformat()}: the years 1970 to 9999")
        return time_us
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidEvent(f"time is {value!r}: an aware datetime, or integer microseconds since the Unix epoch")
    if not _MIN_INTEGER_TIME_US <= value <= _MAX_TIME_US:
        raise InvalidEvent(f"time is {value}: integer microseconds since the Unix epoch, not s, ms or ns")
    return value


def _latency_us(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise InvalidEvent(f"latency_ms is {value!r}: a number of milliseconds, or None")
    latency_us = round(value * 1_000)
    if not 0 <= latency_us <= MAX_LATENCY_US:
        raise InvalidEvent(f"latency_ms is {value!r}: 0 to {MAX_LATENCY_US // 1_000}")
    return latency_us


def _json(attributes: object) -> bytes:
    if not isinstance(attributes, Mapping):
        raise InvalidEvent(f"attributes is {attributes!r}: give a mapping")
    if odd := [key for key in attributes if not isinstance(key, str)]:
        raise InvalidEvent(f"attributes has the key {odd[0]!r}: keys are str")
    if not attributes:
        return b""
    try:
        text = json.dumps(dict(attributes), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidEvent(f"attributes cannot be written as JSON: {error}") from error
    return text.encode("utf-8", "replace")
