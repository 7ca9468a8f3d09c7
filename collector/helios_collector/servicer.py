"""The gRPC side of the collector: streams of batches, single batches, raw events."""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

import grpc
import structlog
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from helios.v1 import service_pb2, service_pb2_grpc
from helios_collector.admission import Admission, Visit
from helios_collector.events import checked
from helios_collector.faults import Faults, unavailable
from helios_collector.ingest import Ingest, ServiceNames, client_of, peer_address
from helios_collector.otlp import servicer as otlp
from helios_collector.otlp.receiver import Receiver
from helios_collector.refusals import MAX_LISTED, Refusals
from helios_collector.telemetry import Telemetry
from helios_core import wire
from helios_core.clock import Clock
from helios_core.errors import WireError
from helios_core.keys import Keys, Scope
from helios_core.settings import split
from helios_core.tls import Certificate, Pem
from helios_core.turns import Turns

_MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
_REFLECTION: Final = "/grpc.reflection."
_HANDSHAKE_MS: Final = 10_000
_IDLE_MS: Final = 300_000  # without a call; clients connect again by themselves
_Context: TypeAlias = "aio.ServicerContext[Any, Any]"
_log = structlog.get_logger(__name__)


class HeliosServicer(service_pb2_grpc.HeliosServicer):
    """See helios/v1/service.proto."""

    def __init__(
        self, admission: Admission, clock: Clock, keys: Keys, telemetry: Telemetry, names: ServiceNames | None = None
    ) -> None:
        self._admission = admission
        self._clock = clock
        self._keys = keys
        self._telemetry = telemetry
        self._ingest = Ingest(admission, telemetry, clock)
        self._names = names or ServiceNames()
        self.stopping = asyncio.Event()

    async def Stream(
        self, request_iterator: AsyncIterator[service_pb2.SendBatchRequest], context: _Context
    ) -> AsyncIterator[service_pb2.SendBatchResponse]:
        client = await self._client(context)
        stopping = asyncio.ensure_future(self.stopping.wait())
        try:
            while True:
                coming = asyncio.ensure_future(anext(request_iterator, None))
                await asyncio.wait((coming, stopping), return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():  # what was sent and is not answered is sent again
                    coming.cancel()
                    await asyncio.gather(coming, return_exceptions=True)  # however gRPC ends it
                    return
                request = coming.result()
                if request is None:
                    return
                await self._client(context)  # its key may be revoked by now
                response = await self._ingest.take_batch(request, client)
                yield response
                if response.answer != service_pb2.ANSWER_ACCEPTED:
                    return
        finally:
            stopping.cancel()

    async def SendBatch(
        self, request: service_pb2.SendBatchRequest, context: _Context
    ) -> service_pb2.SendBatchResponse:
        client = await self._client(context)
        await self._refuse_when_stopping(context)
        return await self._ingest.take_batch(request, client)

    async def SendEvents(
        self, request: service_pb2.SendEventsRequest, context: _Context
    ) -> service_pb2.SendEventsResponse:
        async with self.admitted(context, request.ByteSize()) as (client, visit):
            return await self._events(request, client, visit)

    async def _events(
        self, request: service_pb2.SendEventsRequest, client: str, visit: Visit
    ) -> service_pb2.SendEventsResponse:
        response = service_pb2.SendEventsResponse()
        by_service: defaultdict[str, list[bytes]] = defaultdict(list)
        refused = Refusals("event")
        now_us = self._clock.now_us()
        turns = Turns()
        for index, message in enumerate(request.events):
            await turns.pause()
            try:
                service = checked(wire.event_from_proto(message), now_us).service
            except WireError as error:
                refused.add(index, str(error), message.SerializeToString())
                response.rejected.add(index=index, reason=str(error) if refused.count <= MAX_LISTED else "")
                continue
            name = self._names.under(service, client)
            message.service = name
            by_service[name].append(wire.event_field(message))
        await self._admission.publish_events(visit, now_us, by_service, refused.records())
        visit.spend(len(request.events))
        response.accepted = sum(map(len, by_service.values()))
        self._telemetry.events_accepted.labels("grpc").inc(response.accepted)
        self._telemetry.events_rejected.labels("grpc").inc(len(response.rejected))
        return response

    async def _refuse_when_stopping(self, context: _Context) -> None:
        if self.stopping.is_set():
            await unavailable(context, "the collector is stopping")

    @asynccontextmanager
    async def admitted(self, context: _Context, n_bytes: int) -> AsyncIterator[tuple[str, Visit]]:
        """Who calls with so many bytes, while it is under way. Ends a call that may not, or not now.

        Raises:
            BusUnavailable: there is no room, or the bus is away.
            RateLimited: the client has sent too much.
        """
        client = await self._client(context)
        await self._refuse_when_stopping(context)
        with self._admission.entered(client) as visit:
            visit.receive(n_bytes)
            yield client, visit

    async def _client(self, context: _Context) -> str:
        """Who calls. Ends the call with UNAUTHENTICATED or PERMISSION_DENIED unless its key is for ingestion."""
        metadata = dict(context.invocation_metadata() or ())
        sent = str(metadata.get("authorization", "")), str(metadata.get("x-api-key", ""))
        fault = self._keys.fault(*sent, Scope.INGEST)
        if fault is not None:
            code = grpc.StatusCode.PERMISSION_DENIED if fault.known else grpc.StatusCode.UNAUTHENTICATED
            await context.abort(code, fault.message)
        return client_of(self._keys, *sent, peer_address(context.peer()))


class _Reflecting(aio.ServerInterceptor):  # type: ignore[misc]  # grpcio ships no types
    """What is served here is told to whoever may use it."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        if not details.method.startswith(_REFLECTION):
            return await continuation(details)
        metadata = dict(details.invocation_metadata or ())
        sent = str(metadata.get("authorization", "")), str(metadata.get("x-api-key", ""))
        fault = self._keys.fault(*sent, Scope.INGEST)
        if fault is None:
            return await continuation(details)
        code = grpc.StatusCode.PERMISSION_DENIED if fault.known else grpc.StatusCode.UNAUTHENTICATED
        message = fault.message

        async def refuse(_: Any, context: _Context) -> AsyncIterator[Any]:
            await context.abort(code, message)
            yield  # of a stream

        return grpc.stream_stream_rpc_method_handler(refuse)


class Server:
    """A gRPC server that runs."""

    def __init__(self, server: aio.Server, servicer: HeliosServicer, port: int) -> None:
        self._server = server
        self._servicer = servicer
        self.port = port

    async def stop(self, grace_s: float | None) -> None:
        """No new calls, streams end, and what is under way is answered within the grace; None ends it at once."""
        self._servicer.stopping.set()
        await self._server.stop(grace_s)


async def serve(
    admission: Admission,
    clock: Clock,
    address: str,
    keys: Keys,
    telemetry: Telemetry | None = None,
    names: ServiceNames | None = None,
    receiver: Receiver | None = None,
    certificate: Certificate | None = None,
    *,
    shared: bool = False,
) -> Server:
    """A running server.

    Args:
        shared: other processes listen there, too.
        certificate: its own; without one it is in the clear.
        receiver: of OTLP; without one that is not spoken.

    Raises:
        OSError: the address cannot be bound.
    """
    if not shared:
        _probe(address)
    telemetry = telemetry or Telemetry()
    server = aio.server(
        interceptors=[Faults(telemetry), _Reflecting(keys)],
        options=[
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.so_reuseport", int(shared)),
            ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
            ("grpc.max_connection_idle_ms", _IDLE_MS),
        ],
    )
    servicer = HeliosServicer(admission, clock, keys, telemetry, names)
    service_pb2_grpc.add_HeliosServicer_to_server(servicer, server)
    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    await health_servicer.set("helios.v1.Helios", health_pb2.HealthCheckResponse.SERVING)
    served = ["helios.v1.Helios", health.SERVICE_NAME, reflection.SERVICE_NAME]
    if receiver is not None:
        served += otlp.add(server, receiver, servicer.admitted)
    reflection.enable_server_reflection(served, server)
    try:
        if certificate is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, _credentials(certificate))
    except RuntimeError as error:  # what grpcio raises when it cannot bind
        raise OSError(f"the collector cannot listen on {address}: {error}") from error
    try:
        await server.start()
    except BaseException:  # also when cancelled: a server that was not stopped complains at exit
        await server.stop(None)
        raise
    return Server(server, servicer, port)


def _credentials(certificate: Certificate) -> grpc.ServerCredentials:
    """What each handshake is made with: the certificate as it is then."""
    given = certificate.pem

    def configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(pem.key, pem.certificate)], pem.client_ca)

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal given
        if certificate.pem is given:
            return None
        given = certificate.pem
        return configuration(given)

    return grpc.dynamic_ssl_server_credentials(configuration(given), renewed, given.client_ca is not None)


def _probe(address: str) -> None:
    """OSError, with the reason, when the address is taken: grpcio says so in its own log, and in many words."""
    host, port = split(address)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OSError(f"the collector cannot listen on {address}: {error.strerror}") from error
