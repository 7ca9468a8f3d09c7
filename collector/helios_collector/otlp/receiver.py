"""Takes what OTLP brings: converts it, puts it on the bus, and only then says what became of it.

OTLP has no identity for a resend, so that what is sent again is counted again: at least once.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs_pb2
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_pb2

from helios_collector.admission import Admission, Visit
from helios_collector.ingest import ServiceNames
from helios_collector.otlp import convert
from helios_collector.telemetry import Telemetry
from helios_core import wire
from helios_core.bus.base import MAX_RECORD_BYTES, Record
from helios_core.clock import Clock
from helios_core.model import Event, MetricRecord, MetricSample
from helios_core.records import metrics_record

_MAX_REASONS: Final = 3
_T = TypeVar("_T", Event, MetricSample)


@dataclass(frozen=True, slots=True)
class Kind:
    """One of the three requests of OTLP.

    Attributes:
        name: in paths and metrics.
        request, response: the messages.
        converted: what the request says.
        rejected: the field of a partial success that counts what was not taken.
    """

    name: str
    request: type[Message]
    response: type[Message]
    converted: Callable[[Any, int], convert.Converted]
    rejected: str


KINDS: Final[Mapping[str, Kind]] = {
    kind.name: kind
    for kind in (
        Kind(
            "logs",
            logs_pb2.ExportLogsServiceRequest,
            logs_pb2.ExportLogsServiceResponse,
            convert.logs,
            "rejected_log_records",
        ),
        Kind(
            "traces",
            trace_pb2.ExportTraceServiceRequest,
            trace_pb2.ExportTraceServiceResponse,
            convert.traces,
            "rejected_spans",
        ),
        Kind(
            "metrics",
            metrics_pb2.ExportMetricsServiceRequest,
            metrics_pb2.ExportMetricsServiceResponse,
            convert.metrics,
            "rejected_data_points",
        ),
    )
}


class Receiver:
    """See the module.

    Args:
        names: of services; shared with whatever else takes raw events.
    """

    def __init__(self, admission: Admission, clock: Clock, names: ServiceNames, telemetry: Telemetry) -> None:
        self._admission = admission
        self._clock = clock
        self._names = names
        self._telemetry = telemetry

    async def take(self, kind: Kind, request: Message, client: str, visit: Visit) -> Any:
        """The response, when all that is taken is safe on the bus.

        What can never be taken goes to the dead letter and is counted in a partial success, which the
        sender does not repeat; without any the partial success is not set (OTLP specification).

        Raises:
            BusUnavailable: nothing of it is known to be safe; it is to be sent again.
        """
        now_us = self._clock.now_us()
        # On a thread: a large request, which takes seconds, must not hold up everybody else.
        made = await asyncio.to_thread(kind.converted, request, now_us)
        services = [event.service for event in made.events] + [sample.service for sample in made.metrics]
        names = {service: self._names.under(service, client) for service in dict.fromkeys(services)}
        events, others = await asyncio.to_thread(_published, kind, made, names, now_us)
        await self._admission.publish_events(visit, now_us, events, others)
        visit.spend(made.taken + made.rejected.count)
        self._telemetry.otlp_taken.labels(kind.name).inc(made.taken)
        self._telemetry.otlp_rejected.labels(kind.name).inc(made.rejected.count)
        self._telemetry.otlp_passed_over.inc(made.passed_over)
        response: Any = kind.response()
        if made.rejected.count:
            setattr(response.partial_success, kind.rejected, made.rejected.count)
            reasons = list(dict.fromkeys(reason for _, reason in made.rejected.listed))
            response.partial_success.error_message = "; ".join(reasons[:_MAX_REASONS])
        return response


def _published(
    kind: Kind, made: convert.Converted, names: Mapping[str, str], now_us: int
) -> tuple[dict[str, list[bytes]], list[Record]]:
    """What is to be: the events of each service, and records beside them.

    Args:
        names: under which each service is counted.
    """
    records = made.rejected.records()
    for service, samples in _by_service(made.metrics, names).items():
        records += _metric_records(MetricRecord(service, now_us, samples))
    found = {
        service: [wire.event_field(wire.event_to_proto(event)) for event in events]
        for service, events in _by_service(made.events, names).items()
    }
    return found, records


def _by_service(items: Sequence[_T], names: Mapping[str, str]) -> dict[str, list[_T]]:
    found: defaultdict[str, list[_T]] = defaultdict(list)
    for item in items:
        name = names[item.service]
        found[name].append(item if name == item.service else replace(item, service=name))
    return found


def _metric_records(record: MetricRecord) -> list[Record]:
    """As records that the bus takes: usually one."""
    made = metrics_record(record)
    if len(made.value) <= MAX_RECORD_BYTES // 2 or len(record.metrics) == 1:
        return [made]
    middle = len(record.metrics) // 2
    return [
        part
        for samples in (record.metrics[:middle], record.metrics[middle:])
        for part in _metric_records(MetricRecord(record.service, record.received_us, samples))
    ]
