"""What the collector does with a batch: check it, put its slices on the bus, and only then say so."""

from __future__ import annotations

from collections import Counter
from typing import Final
from urllib.parse import unquote

import structlog

from helios.v1 import service_pb2
from helios_collector.admission import Admission, RateLimited
from helios_collector.faults import retry_after_s
from helios_collector.refusals import MAX_LISTED, Refusals
from helios_collector.telemetry import Telemetry
from helios_core import wire
from helios_core.bus.base import Record
from helios_core.clock import Clock, SystemClock
from helios_core.errors import BusUnavailable, WireError
from helios_core.keys import Keys, hash_of
from helios_core.model import MAX_SERVICES_PER_CLIENT, OVERFLOW_SERVICE
from helios_core.records import dead_letter, slice_record

_MAX_HOST_CHARS: Final = 255
MAX_SERVICES: Final = 10_000
_MAX_NAMES_LISTED: Final = 100
_log = structlog.get_logger(__name__)


class Ingest:
    """Takes batches for any servicer. Nothing is kept here: what is accepted is on the bus.

    A slice keeps its name, however many services there are: the name is part of its identity, and after
    a restart the same batch would meet other names that are known. Who reads it bounds what it follows.

    Args:
        admission: on the way to the bus, where slices are safe before they are acknowledged.
        telemetry: what it counts.
        clock: what the clocks of agents are held against.
    """

    def __init__(self, admission: Admission, telemetry: Telemetry | None = None, clock: Clock | None = None) -> None:
        self._admission = admission
        self._telemetry = telemetry or Telemetry()
        self._clock = clock or SystemClock()

    async def take_batch(self, request: service_pb2.SendBatchRequest, client: str) -> service_pb2.SendBatchResponse:
        """ACCEPTED when all its slices are safe on the bus, in one publish.

        Slices that can never be taken go to the dead letter, and are named in the answer: bad input
        never blocks the good behind it.
        """
        response = service_pb2.SendBatchResponse(id=request.id)
        if request.contract_version != wire.CONTRACT_VERSION:
            self._telemetry.batches.labels("denied").inc()
            response.answer = service_pb2.ANSWER_DENIED
            response.detail = (
                f"this collector speaks version {wire.CONTRACT_VERSION} of the contract, "
                f"the agent {request.contract_version}: upgrade the older one"
            )
            return response
        try:
            with self._admission.entered(client) as visit:
                visit.receive(len(request.batch))
                await self._admission.publish(self._records(request, response))
                visit.spend(0)
        except (BusUnavailable, RateLimited) as error:
            del response.rejected[:]
            self._telemetry.batches.labels("retry").inc()
            response.answer = service_pb2.ANSWER_RETRY
            response.retry_after_ms = round(retry_after_s(error) * 1_000)
            response.detail = str(error)
            return response
        self._telemetry.batches.labels("accepted").inc()
        self._telemetry.batch_bytes.inc(len(request.batch))
        self._telemetry.dead.labels("ingest").inc(len(response.rejected))
        response.answer = service_pb2.ANSWER_ACCEPTED
        return response

    def _records(self, request: service_pb2.SendBatchRequest, response: service_pb2.SendBatchResponse) -> list[Record]:
        """What is to be published; rejections are noted in the response."""
        try:
            id_, batch = wire.open_request(request)
        except WireError as error:
            response.rejected.add(reason=str(error), whole=True)
            _log.error("batch_dead_lettered", reason=str(error))
            return [dead_letter("batch", str(error), request.SerializeToString())]
        services: set[str] = set()
        records = []
        refused = Refusals("slice")
        is_live = True
        host = batch.host[:_MAX_HOST_CHARS]
        for index, data in enumerate(batch.slices):
            try:
                view = wire.view_slice(data)
                if view.service in services:  # it would have the identity of the other
                    raise WireError(f"a second slice of the service {view.service!r} in one batch")  # noqa: TRY301
            except WireError as error:
                refused.add(index, str(error), data)
                response.rejected.add(index=index, reason=str(error) if refused.count <= MAX_LISTED else "")
                continue
            services.add(view.service)
            is_live = is_live and not view.history
            records.append(slice_record(id_, view.service, data, host))
        if refused.count:
            _log.error("slices_dead_lettered", batch=str(id_), slices=refused.count, reason=refused.listed[0][1])
        if batch.cut_us and is_live:
            self._telemetry.skew.saw(id_.agent_id, host, batch.cut_us, self._clock.now_us())
        return records + refused.records()


class ServiceNames:
    """The services whose raw events are told apart; those beyond the bounds are counted as one.

    To a client counts what it was the first to bring: so no client takes the room of the others, and no
    more clients need remembering than there are services.

    Args:
        limit: of all services.
        client_limit: of those that one client brings.

    Attributes:
        overflowed: the beginnings of the first names that were counted under OVERFLOW_SERVICE.
    """

    def __init__(self, limit: int = MAX_SERVICES, client_limit: int = MAX_SERVICES_PER_CLIENT) -> None:
        self._limit = limit
        self._client_limit = client_limit
        self._known: set[str] = {OVERFLOW_SERVICE}
        self._brought: Counter[str] = Counter()
        self.overflowed: list[str] = []

    def under(self, service: str, client: str = "") -> str:
        """The name under which it is counted.

        Args:
            client: who brings it, see `client_of`.
        """
        if service in self._known:
            return service
        if len(self._known) <= self._limit and self._brought[client] < self._client_limit:
            self._known.add(service)
            self._brought[client] += 1
            return service
        shown = service[:80]
        if len(self.overflowed) < _MAX_NAMES_LISTED and shown not in self.overflowed:
            if not self.overflowed:
                _log.warning("services_overflowed", service=shown, client=client, counted_as=OVERFLOW_SERVICE)
            self.overflowed.append(shown)
        return OVERFLOW_SERVICE


def client_of(keys: Keys, authorization: str, api_key: str, peer: str) -> str:
    """Who sends, for what is counted by client: the hash of its key, and its address where no keys are asked for.

    Args:
        authorization, api_key: as in `Keys.fault`, which has found no fault.
        peer: its address without the port.
    """
    if keys.are_open:
        return peer
    kind, _, token = authorization.partition(" ")
    return hash_of(token.strip() if kind.lower() == "bearer" else api_key)


def peer_address(peer: str) -> str:
    """The address in what gRPC calls a peer, `ipv4:10.0.0.1:4711` or `ipv6:%5B::1%5D:4711`, without the port."""
    kind, _, address = unquote(peer).partition(":")
    return address.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else peer
