"""The gRPC side of the collector: streams of batches, single batches, raw events."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any, Final, TypeAlias

import grpc
import structlog
from grpc import aio

from helios.v1 import service_pb2, service_pb2_grpc
from helios_collector.ingest import Ingest
from helios_core import wire
from helios_core.bus.base import Bus
from helios_core.clock import Clock
from helios_core.errors import BusUnavailable, WireError
from helios_core.model import Event, EventRecord
from helios_core.records import dead_letter, events_record

_RETRY_AFTER_MS: Final = "1000"
_Context: TypeAlias = "aio.ServicerContext[Any, Any]"
_log = structlog.get_logger(__name__)


class HeliosServicer(service_pb2_grpc.HeliosServicer):
    """See helios/v1/service.proto."""

    def __init__(self, bus: Bus, clock: Clock) -> None:
        self._bus = bus
        self._clock = clock
        self._ingest = Ingest(bus)

    async def Stream(
        self, request_iterator: AsyncIterator[service_pb2.SendBatchRequest], context: _Context
    ) -> AsyncIterator[service_pb2.SendBatchResponse]:
        async for request in request_iterator:
            response = await self._ingest.take_batch(request)
            yield response
            if response.answer != service_pb2.ANSWER_ACCEPTED:
                return

    async def SendBatch(
        self, request: service_pb2.SendBatchRequest, context: _Context
    ) -> service_pb2.SendBatchResponse:
        return await self._ingest.take_batch(request)

    async def SendEvents(
        self, request: service_pb2.SendEventsRequest, context: _Context
    ) -> service_pb2.SendEventsResponse:
        response = service_pb2.SendEventsResponse()
        by_service: defaultdict[str, list[Event]] = defaultdict(list)
        records = []
        for index, message in enumerate(request.events):
            try:
                by_service[message.service].append(wire.event_from_proto(message))
            except WireError as error:
                response.rejected.add(index=index, reason=str(error))
                records.append(dead_letter("event", str(error), message.SerializeToString()))
        now_us = self._clock.now_us()
        records += [events_record(EventRecord(service, now_us, events)) for service, events in by_service.items()]
        try:
            await self._bus.publish(records)
        except BusUnavailable as error:
            context.set_trailing_metadata((("retry-after-ms", _RETRY_AFTER_MS),))
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        response.accepted = sum(map(len, by_service.values()))
        return response


async def serve(bus: Bus, clock: Clock, address: str) -> tuple[aio.Server, int]:
    """A running server and its port.

    Raises:
        OSError: the address cannot be bound.
    """
    server = aio.server(options=[("grpc.max_receive_message_length", 4 * 1024 * 1024), ("grpc.so_reuseport", 0)])
    service_pb2_grpc.add_HeliosServicer_to_server(HeliosServicer(bus, clock), server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:  # what grpcio raises when it cannot bind
        raise OSError(f"the collector cannot listen on {address}: {error}") from error
    try:
        await server.start()
    except BaseException:  # also when cancelled: a server that was not stopped complains at exit
        await server.stop(None)
        raise
    return server, port
