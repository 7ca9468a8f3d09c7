"""OTLP over gRPC, beside Helios's own service on one port."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from grpc import aio
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc as logs_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_grpc

from helios_collector.admission import Visit
from helios_collector.otlp.receiver import KINDS, Kind, Receiver

Admitted = Callable[[Any, int], AbstractAsyncContextManager[tuple[str, Visit]]]


class _Exporter:
    """The one call of each of the three services."""

    def __init__(self, receiver: Receiver, kind: Kind, admitted: Admitted) -> None:
        self._receiver = receiver
        self._kind = kind
        self._admitted = admitted

    async def Export(self, request: Any, context: Any) -> Any:
        """Answers when it is safe; see `faults` for when it cannot be."""
        async with self._admitted(context, request.ByteSize()) as (client, visit):
            return await self._receiver.take(self._kind, request, client, visit)


def add(server: aio.Server, receiver: Receiver, admitted: Admitted) -> list[str]:
    """Adds the three services to a server that does not run yet; returns their names.

    Args:
        admitted: who calls, with so many bytes; it ends a call that may not.
    """
    logs, traces, metrics = (_Exporter(receiver, KINDS[name], admitted) for name in ("logs", "traces", "metrics"))
    logs_grpc.add_LogsServiceServicer_to_server(logs, server)
    trace_grpc.add_TraceServiceServicer_to_server(traces, server)
    metrics_grpc.add_MetricsServiceServicer_to_server(metrics, server)
    kinds = (("logs", "Logs"), ("trace", "Trace"), ("metrics", "Metrics"))
    return [f"opentelemetry.proto.collector.{package}.v1.{name}Service" for package, name in kinds]
