"""JSON lines: one object a line, its fields found by the names that loggers use.

The first lines decide which names this source uses; a decoder made for just these reads whole
blocks, and skips every other field almost free. Lines of another shape take the careful way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgspec

from helios_agent.parsers.base import BLANK, Block, Parsed, ParserContext, Rows, latencies_us, lines_of
from helios_core.columns import Columns, Notable
from helios_core.levels import Levels, level_of_status
from helios_core.model import Level
from helios_core.timestamps import IsoTimes, epoch_us

# The names of each role, the likeliest first; a dot goes into an object unless the flat name exists.
_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "time": (
        "timestamp", "time", "ts", "@timestamp", "date", "datetime", "eventTime", "t", "asctime",
        "created_at",
    ),
    "service": (
        "service", "service_name", "service.name", "serviceName", "app", "application", "logger_service",
        "kubernetes.labels.app", "component", "container_name",
    ),
    "level": ("level", "severity", "lvl", "log.level", "levelname", "loglevel", "log_level"),
    "message": ("message", "msg", "log", "event", "body", "text"),
    "status": ("status", "status_code", "http.status_code", "statusCode", "metadata.status"),
    "endpoint": (
        "endpoint", "path", "route", "uri", "request_uri", "http.route", "http.path", "url.path", "url",
        "metadata.endpoint", "metadata.path",
    ),
    "trace_id": ("trace_id", "traceId", "trace.id", "traceID", "dd.trace_id", "metadata.trace_id"),
    "span_id": ("span_id", "spanId", "span.id", "dd.span_id"),
}  # fmt: skip
# Latency names with the µs of their unit.
_LATENCIES: Final[dict[str, float]] = {
    "latency_ms": 1e3, "duration_ms": 1e3, "elapsed_ms": 1e3, "response_time_ms": 1e3, "took_ms": 1e3,
    "metadata.latency_ms": 1e3, "metadata.duration_ms": 1e3, "http.latency_ms": 1e3, "responseTime": 1e3,
    "latency_us": 1.0, "duration_us": 1.0, "elapsed_us": 1.0, "duration_ns": 1e-3, "latency_ns": 1e-3,
    "latency_s": 1e6, "duration_s": 1e6, "duration_seconds": 1e6, "request_time": 1e6,
}  # fmt: skip

_OPENING: Final = {ord("{")}
_CLOSING: Final = {ord("}")}
# A member of an enum takes long to compare with, for every line.
_WARN: Final = int(Level.WARN)
_UNSPECIFIED: Final = int(Level.UNSPECIFIED)


def _lookup(record: Mapping[str, Any], name: str) -> Any:
    """The value at a name, flat (`log.level`) or nested (`log` → `level`); None when there is none."""
    if name in record or "." not in name:
        return record.get(name)
    value: Any = record
    for step in name.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(step)
    return value


@dataclass(frozen=True, slots=True)
class Shape:
    """Which name plays which role in the lines of one source."""

    names: Mapping[str, str]
    latency: str | None
    latency_unit_us: float

    @classmethod
    def of(cls, records: Sequence[Mapping[str, Any]]) -> Shape:
        """The first name of each role that any of the records has."""

        def used(role: str, names: Sequence[str]) -> str | None:
            return next((n for n in names if any(_value(r, role, n) is not None for r in records)), None)

        names = {role: name for role, candidates in _NAMES.items() if (name := used(role, candidates)) is not None}
        latency = used("latency", tuple(_LATENCIES))
        return cls(names, latency, _LATENCIES.get(latency or "", 1.0))


def _value(record: Mapping[str, Any], role: str, name: str) -> Any:
    """The value at a name, None for an object or array: only a message may be one."""
    value = _lookup(record, name)
    return None if isinstance(value, dict | list) and role != "message" else value


class _NotTaken(ValueError):
    """A line that is no JSON object."""


_Decoder: TypeAlias = "msgspec.json.Decoder[Any]"


class JsonLines:
    """Parser of JSON lines (see `base.Parser`)."""

    name = "json"

    def __init__(self, context: ParserContext, shape: Shape) -> None:
        self._context = context
        self._shape = shape
        self._times = IsoTimes(context.utc_offset_s)
        self._levels = Levels()
        self._decoders = _decoders(shape)

    @classmethod
    def make(cls, context: ParserContext, lines: Sequence[bytes]) -> JsonLines:
        """For a source whose first lines are given."""
        return cls(context, Shape.of(_records(lines)))

    @staticmethod
    def recognises(lines: Sequence[bytes]) -> float:
        """The share of the lines that are JSON objects."""
        return sum(1 for _ in _records(lines)) / len(lines) if lines else 0.0

    def learn(self, lines: Sequence[bytes]) -> None:
        """More first lines: they may have names that those before them had not."""
        shape = Shape.of(_records(lines))
        if shape != self._shape:
            self._shape, self._decoders = shape, _decoders(shape)

    def parse(self, block: Block) -> Parsed:
        lines = lines_of(block.data)
        if self._decoders is not None and lines:
            try:
                columns = self._fast(*self._decoders, block, lines)
            except (msgspec.DecodeError, ValueError, LookupError, OverflowError, TypeError, RecursionError):
                columns = None  # some line is of another shape: the careful way tells which
            if columns is not None:
                return Parsed(columns, len(lines))
        rows = Rows(len(lines))
        for number, line in enumerate(lines):
            if not line.strip(BLANK):
                rows.blank()
                continue
            try:
                self._careful(rows, line, block, number)
            except _NotTaken:
                rows.unparsed(line)
        return rows.parsed

    def _fast(self, counted: _Decoder, shown: _Decoder, block: Block, lines: list[bytes]) -> Columns | None:
        """All lines at once; None or an error when any of them is of another shape."""
        rows = counted.decode_lines(block.data)
        if len(rows) != len(lines):
            return None
        # The decoder does not mind where lines end, but each must hold one object and the whole of it.
        if {line[0] for line in lines} != _OPENING:
            return None
        if {line[-1] for line in lines} != _CLOSING and {line[-2:] for line in lines} != {b"}\r"}:
            return None
        times = block.times_us or self._times.column([row.time for row in rows])
        services = [row.service for row in rows]
        names = set(services)
        if "" in names:
            services = [name or self._context.service for name in services]
            names = set(services)
        levels = bytes(map(self._levels.__getitem__, [row.level for row in rows]))
        if _UNSPECIFIED in levels:  # also where there is none
            return None
        latencies: list[int | None] = []
        if self._shape.latency is not None:
            latencies = latencies_us([row.latency for row in rows], self._shape.latency_unit_us)
        details = {i: shown.decode(lines[i]) for i, level in enumerate(levels) if level >= _WARN}
        return Columns(
            time_us=times,
            service=services if len(names) > 1 else services[0],
            level=levels,
            latency_us=latencies,
            endpoint=[row.endpoint for row in rows] if "endpoint" in self._shape.names else [],
            size=list(map(len, lines)),
            notable=[Notable(i, d.message or "", d.trace_id or "", d.span_id or "") for i, d in details.items()],
        )

    def _careful(self, rows: Rows, line: bytes, block: Block, number: int) -> None:
        """One line of any shape."""
        record = _record(line)
        shape = self._shape
        # The fast way reads a line that has the shape's level by the shape's names alone: so does this one.
        of_shape = self._decoders is not None and _lookup(record, shape.names["level"]) is not None

        def value_of(role: str) -> Any:
            value = _value(record, role, shape.names[role]) if role in shape.names else None
            if value is None and (not of_shape or role in ("time", "status")):
                value = next((v for n in _NAMES[role] if (v := _value(record, role, n)) is not None), None)
            return value

        time_us = self._time_us(value_of("time")) if block.times_us is None else block.times_us[number]
        if time_us is None:
            rows.parsed.mended["bad_time"] += 1
            time_us = block.receipt_us
        written = value_of("level")
        level = self._levels[written] if isinstance(written, str | int) else Level.UNSPECIFIED
        if level == Level.UNSPECIFIED:
            status = value_of("status")
            if isinstance(status, str) and status.isdecimal() and len(status) == 3:
                status = int(status)
            if isinstance(status, int) and 100 <= status <= 599:
                level = level_of_status(status)
        endpoint = value_of("endpoint")
        rows.add(
            time_us=time_us,
            service=_text(value_of("service")) or self._context.service,
            level=level,
            message=_text(value_of("message")),
            size=len(line),
            latency_us=_latency_us(record, shape, rows.parsed, of_shape=of_shape),
            endpoint=_text(endpoint) if isinstance(endpoint, str) else None,
            trace_id=_text(value_of("trace_id")),
            span_id=_text(value_of("span_id")),
        )

    def _time_us(self, value: object) -> int | None:
        try:
            if isinstance(value, str):
                if not _is_number(value):
                    return self._times.one(value)
                return epoch_us(float(value) if "." in value else int(value))
            if isinstance(value, int | float) and not isinstance(value, bool):
                return epoch_us(value)
        except (ValueError, OverflowError):
            return None
        return None


# What counts of every line, and what is shown of the notable ones: kinds and defaults.
_COUNTED: Final[tuple[tuple[str, Any, Any], ...]] = (
    ("time", str, ""),
    ("service", str, ""),
    ("level", str | int | None, None),
    ("latency", float | None, None),
    ("endpoint", str | None, None),
)
_SHOWN: Final[tuple[tuple[str, Any, Any], ...]] = tuple(
    (role, str | None, None) for role in ("message", "trace_id", "span_id")
)


def _decoders(shape: Shape) -> tuple[_Decoder, _Decoder] | None:
    """One for every line and one for the notable ones; None when the shape has no fast way."""
    if "time" not in shape.names or "level" not in shape.names:
        return None
    if any("." in name for name in (*shape.names.values(), shape.latency or "")):
        return None
    names = {role: name for role, name in shape.names.items() if role != "status"}
    if shape.latency is not None:
        names["latency"] = shape.latency

    def decoder(kinds: Sequence[tuple[str, Any, Any]]) -> _Decoder:
        # A role without a name gets one that no line has, so that a field of the role's own name is not read.
        renamed = {role: names.get(role, f"<no {role}>") for role, _, _ in kinds}
        return msgspec.json.Decoder(msgspec.defstruct("Line", kinds, rename=renamed, gc=False))

    return decoder(_COUNTED), decoder(_SHOWN)


def _latency_us(record: Mapping[str, Any], shape: Shape, parsed: Parsed, *, of_shape: bool) -> float | None:
    name, unit = shape.latency, shape.latency_unit_us
    value = None if name is None else _lookup(record, name)
    if value is None:
        name = None if of_shape else next((n for n in _LATENCIES if _lookup(record, n) is not None), None)
        if name is None:
            return None
        value, unit = _lookup(record, name), _LATENCIES[name]
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            return float(value) * unit
    parsed.mended["bad_latency"] += 1
    return None


def _record(line: bytes) -> dict[str, Any]:
    """One object. NaN and Infinity, which Python's own encoder writes, are taken as Python takes them."""
    try:
        record = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:
            record = json.loads(line.lstrip(b"\0").decode("utf-8", "replace"), strict=False)
        except (ValueError, RecursionError):
            raise _NotTaken from None
    if not isinstance(record, dict):
        raise _NotTaken
    return record


def _records(lines: Sequence[bytes]) -> list[dict[str, Any]]:
    found = []
    for line in lines:
        try:
            found.append(_record(line))
        except _NotTaken:
            continue
    return found


def _text(value: object) -> str:
    """As text that has a UTF-8 form: half of a surrogate pair (`"\\ud800"`) has none."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    try:
        return json.dumps(value)
    except RecursionError:
        return ""


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdecimal()
