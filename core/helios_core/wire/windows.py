"""Window deltas and their sketches as messages of the contract, and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from helios.v1 import windows_pb2
from helios_core.errors import WireError
from helios_core.model import Level
from helios_core.sketches.distinct import DistinctCount
from helios_core.sketches.latency import LatencyHistogram
from helios_core.sketches.templates import MAX_TEMPLATES, TemplateCount, TemplateCounts, template_id
from helios_core.windows import WindowDelta
from helios_core.wire.checks import check_time, level, level_to_proto, signal, signal_to_proto

_MAX_DURATION_MS: Final = 3_600_000
_N_LEVELS: Final = len(Level)


def _big_endian(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def latency_to_proto(latency: LatencyHistogram) -> windows_pb2.LatencyHistogram:
    """Dense counts from the first to the last bucket in use."""
    offset = min(latency.buckets, default=0)
    counts = [0] * (max(latency.buckets, default=-1) - offset + 1)
    for index, count in latency.buckets.items():
        counts[index - offset] = count
    return windows_pb2.LatencyHistogram(
        zero_count=latency.zero_count,
        offset=offset,
        bucket_counts=counts,
        sum_us=_big_endian(latency.sum_us),
        sum_of_squares_us2=_big_endian(latency.sum_squares_us2),
        min_us=latency.min_us,
        max_us=latency.max_us,
        count=latency.count,
    )


def latency_from_proto(message: windows_pb2.LatencyHistogram) -> LatencyHistogram:
    """WireError when its parts cannot belong together."""
    try:
        latency = LatencyHistogram.from_parts(
            zero_count=message.zero_count,
            buckets=Counter(dict(enumerate(message.bucket_counts, message.offset))),
            sum_us=int.from_bytes(message.sum_us, "big"),
            sum_squares_us2=int.from_bytes(message.sum_of_squares_us2, "big"),
            min_us=message.min_us,
            max_us=message.max_us,
        )
    except ValueError as error:
        raise WireError(str(error)) from error
    if message.count not in {0, latency.count}:
        raise WireError(f"a latency histogram of {latency.count} that says {message.count}")
    return latency


def distinct_to_proto(distinct: DistinctCount) -> windows_pb2.DistinctCount:
    if distinct.registers is not None:
        return windows_pb2.DistinctCount(registers=bytes(distinct.registers))
    return windows_pb2.DistinctCount(hashes=sorted(distinct.hashes))


def distinct_from_proto(message: windows_pb2.DistinctCount) -> DistinctCount:
    """WireError when it breaks its form."""
    try:
        return DistinctCount.from_parts(message.hashes, message.registers)
    except ValueError as error:
        raise WireError(str(error)) from error


def latency_to_bytes(latency: LatencyHistogram) -> bytes:
    """The form in which a store keeps it: the message of the contract."""
    return latency_to_proto(latency).SerializeToString()


def latency_from_bytes(data: bytes) -> LatencyHistogram:
    return latency_from_proto(windows_pb2.LatencyHistogram.FromString(data))


def distinct_to_bytes(distinct: DistinctCount) -> bytes:
    """The form in which a store keeps it: the message of the contract."""
    return distinct_to_proto(distinct).SerializeToString()


def distinct_from_bytes(data: bytes) -> DistinctCount:
    return distinct_from_proto(windows_pb2.DistinctCount.FromString(data))


def delta_to_proto(delta: WindowDelta) -> windows_pb2.WindowDelta:
    """Without the service, which is the slice's."""
    levels = delta.levels
    while levels and not levels[-1]:
        levels = levels[:-1]
    return windows_pb2.WindowDelta(
        start_us=delta.start_us,
        duration_ms=delta.duration_ms,
        host=delta.host,
        signal=signal_to_proto(delta.signal),
        events=delta.events,
        levels=levels,
        unparsed=delta.unparsed,
        bytes_in=delta.bytes_in,
        latency=latency_to_proto(delta.latency) if delta.latency.count else None,
        endpoints=distinct_to_proto(delta.endpoints) if delta.endpoints else None,
        templates=[
            windows_pb2.TemplateCount(id=id_, text=entry.text, level=level_to_proto(entry.level), count=entry.count)
            for id_, entry in sorted(delta.templates.counts.items())
        ],
        templates_overflow=delta.templates.overflow,
    )


def check_start(start_us: int, duration_ms: int) -> None:
    """WireError unless a window of this duration may start then."""
    if not 0 < duration_ms <= _MAX_DURATION_MS or start_us % (duration_ms * 1_000):
        raise WireError(f"a window of {duration_ms} ms that starts at {start_us} µs is not aligned")
    check_time(start_us)


def check_counts(events: int, levels: Sequence[int], latency_count: int) -> None:
    """WireError when a law of counting is broken."""
    if len(levels) > _N_LEVELS or sum(levels) != events:
        raise WireError(f"{events} events, but the levels add up to {sum(levels)}")
    if latency_count > events:
        raise WireError(f"{latency_count} latencies of {events} events")


def check_templates(n_templates: int) -> None:
    """WireError when one window has more than are kept."""
    if n_templates > MAX_TEMPLATES:
        raise WireError(f"{n_templates} templates in one window: at most {MAX_TEMPLATES}")


def check_template(message: windows_pb2.TemplateCount) -> None:
    """WireError when its id is not its own, or its level none."""
    if message.id != template_id(message.level, message.text):
        raise WireError(f"the id of the template {message.text[:80]!r} is not that of its level and text")
    level(message.level)


def delta_from_proto(message: windows_pb2.WindowDelta, service: str) -> WindowDelta:
    """WireError when a limit or a law of counting is broken."""
    latency = latency_from_proto(message.latency)
    levels = message.levels[:]
    check_start(message.start_us, message.duration_ms)
    check_counts(message.events, levels, latency.count)
    check_templates(len(message.templates))
    return WindowDelta(
        start_us=message.start_us,
        service=service,
        host=message.host,
        signal=signal(message.signal),
        duration_ms=message.duration_ms,
        levels=levels + [0] * (_N_LEVELS - len(levels)),
        unparsed=message.unparsed,
        bytes_in=message.bytes_in,
        latency=latency,
        endpoints=distinct_from_proto(message.endpoints),
        templates=_templates_from_proto(message),
    )


def _templates_from_proto(message: windows_pb2.WindowDelta) -> TemplateCounts:
    counts = {}
    for entry in message.templates:
        check_template(entry)
        counts[entry.id] = TemplateCount(entry.text, Level(entry.level), entry.count)
    return TemplateCounts(counts, message.templates_overflow)
