"""Events as applications post them, to the contract's events: what is wrong with one says so, and the others go on."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from math import inf
from typing import Any, Final

import msgspec

from helios.v1 import events_pb2
from helios_collector.body import BodyError
from helios_core import wire
from helios_core.clock import US_PER_S
from helios_core.errors import WireError
from helios_core.levels import Levels, level_of_status
from helios_core.model import MAX_EVENT_BYTES, Event
from helios_core.sketches.latency import MAX_LATENCY_US
from helios_core.timestamps import IsoTimes, epoch_us

TIMESTAMP_REPLACED: Final = "helios.timestamp_replaced"  # the attribute that keeps what was written
_MAX_AHEAD_US: Final = 600 * US_PER_S
_MAX_AGE_US: Final = 30 * 86_400 * US_PER_S
_DECODER: Final = msgspec.json.Decoder(msgspec.Raw)
_ARRAY: Final = msgspec.json.Decoder(list[msgspec.Raw])
_MAX_VALUES: Final = 1_000_000  # of an array of events, or lines: each takes a hundred bytes to look at
MAX_KEY_BYTES: Final = 256  # it becomes a part of every event's id


class _Posted(msgspec.Struct):
    """One event as it is posted; fields that are not named here stay in `metadata`'s place, unread."""

    timestamp: str | int | float | None = None
    time: str | int | float | None = None
    service: str = ""
    level: str | int | None = None
    message: str = ""
    metadata: dict[str, Any] = {}
    trace_id: str = ""
    span_id: str = ""
    id: str = ""
    host: str = ""


def is_plausible(time_us: int, now_us: int) -> bool:
    """The time of an event that comes now: within retention, and not far ahead of the clock."""
    return now_us - _MAX_AGE_US <= time_us <= now_us + _MAX_AHEAD_US


def checked(event: Event, now_us: int) -> Event:
    """The event; WireError when its time is implausible: it has an id, so that its time cannot be replaced."""
    if not is_plausible(event.time_us, now_us):
        raise WireError(f"the time {event.time_us} µs is not within the last 30 days and 10 minutes ahead")
    return event


def items(data: bytes) -> Iterator[bytes]:
    """The JSON texts of the events in a body: one object, an array of objects, or NDJSON."""
    stripped = data.strip()
    if not stripped:
        raise BodyError("the body is empty: an event, a JSON array of events, or one event a line")
    try:
        if stripped.startswith(b"["):
            if (values := stripped.count(b",")) > _MAX_VALUES:
                raise BodyError(f"an array of {values} values: at most {_MAX_VALUES}; send less at once", 413)
            for raw in _ARRAY.decode(stripped):
                yield bytes(raw)
            return
        _DECODER.decode(stripped)
    except (msgspec.DecodeError, RecursionError) as error:
        if b"\n" not in stripped or stripped.startswith(b"["):
            raise BodyError(f"the body is not JSON: {error}") from error
        if (lines := stripped.count(b"\n")) > _MAX_VALUES:
            raise BodyError(f"{lines} lines: at most {_MAX_VALUES}; send less at once", 413) from error
        yield from (line for line in map(bytes.strip, BytesIO(stripped)) if line)
        return
    yield stripped


class Reader:
    """Turns posted events into the contract's."""

    def __init__(self) -> None:
        self._times = IsoTimes()
        self._levels = Levels()
        self._decoder = msgspec.json.Decoder(_Posted)

    def event(self, raw: bytes, *, now_us: int, key: str) -> tuple[events_pb2.Event, str]:
        """One event, and the timestamp that was written where another took its place; WireError with what is wrong.

        Args:
            raw: its JSON text.
            now_us: the time of receipt.
            key: what makes a repeat of it harmless when it has no id of its own; empty for none.
        """
        if len(raw) > MAX_EVENT_BYTES:
            raise WireError(f"an event of {len(raw)} bytes: at most {MAX_EVENT_BYTES}")
        try:
            posted = self._decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise WireError(f"not an event: {error}") from error
        if not posted.service:
            raise WireError("service is missing: the name of what the event comes from")
        wire.check_service(posted.service)
        id_ = posted.id or key
        attributes = posted.metadata
        time_us, replaced = self._time_us(posted, now_us, id_)
        if replaced:
            attributes[TIMESTAMP_REPLACED] = replaced
        latency_us = _latency_us(attributes)
        endpoint = attributes.pop("endpoint", "")
        made = events_pb2.Event(
            time_us=time_us,
            service=posted.service,
            level=self._level(posted.level, attributes),
            message=posted.message,
            latency_us=latency_us,
            endpoint=endpoint if isinstance(endpoint, str) else "",
            trace_id=posted.trace_id,
            span_id=posted.span_id,
            host=posted.host,
            signal=events_pb2.SIGNAL_LOG,
            id=id_,
            attributes=msgspec.json.encode(attributes) if attributes else b"",
        )
        return made, replaced

    def _time_us(self, posted: _Posted, now_us: int, id_: str) -> tuple[int, str]:
        """When it happened, and what was written where that is not plausible."""
        written = posted.timestamp if posted.timestamp is not None else posted.time
        if written is None:
            if id_:
                raise WireError("timestamp is missing: an event that may be sent again needs one")
            return now_us, ""
        try:
            time_us = self._times.one(written) if isinstance(written, str) else epoch_us(written)
        except (ValueError, OverflowError) as error:
            raise WireError(f"timestamp {written!r} is no time: {error}") from error
        if is_plausible(time_us, now_us):
            return time_us, ""
        if id_:
            raise WireError(
                f"timestamp {written!r} is not within the last 30 days and 10 minutes ahead: "
                "an event that may be sent again needs a plausible one"
            )
        return now_us, str(written)  # counted under the time of receipt

    def _level(self, written: str | int | None, attributes: dict[str, Any]) -> events_pb2.Level.ValueType:
        level = self._levels[written] if written is not None else 0
        if not level:
            status = attributes.get("status")
            if isinstance(status, int) and 100 <= status <= 599:
                level = level_of_status(status)
        return wire.level_to_proto(level)


def _latency_us(attributes: dict[str, Any]) -> int | None:
    written = attributes.pop("latency_ms", None)
    if written is None:
        return None
    if isinstance(written, bool) or not isinstance(written, int | float) or not 0 <= written < inf:
        raise WireError(f"latency_ms {written!r}: a number of milliseconds, 0 or more")
    return round(min(written * 1_000, MAX_LATENCY_US))
