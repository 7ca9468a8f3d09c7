"""The HTTP side of the collector: events, over a bare ASGI application; small requests without a task of their own."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from typing import Any, Final

import msgspec
import structlog

from helios_collector.admission import Admission, Visit
from helios_collector.body import BodyError, Gate, plain, read
from helios_collector.events import MAX_KEY_BYTES, Reader, items
from helios_collector.faults import explained, http_answer
from helios_collector.ingest import ServiceNames, client_of
from helios_collector.refusals import MAX_LISTED, Refusals
from helios_collector.telemetry import Telemetry
from helios_core import wire
from helios_core.clock import Clock
from helios_core.errors import BusUnavailable, WireError
from helios_core.exposed import Answer, headers_of, refusal
from helios_core.keys import Keys, Scope
from helios_core.routes import Answering, HttpScope, Receive, Request, Send, respond

EVENTS_PATHS: Final = ("/api/v1/events", "/api/v1/events/ingest")
_EVENTS_A_TURN: Final = 500  # a large body must not hold up everybody else
_SHOWN: Final = 80
_DIRECT_BYTES: Final = 64 * 1024  # nor one that is answered in one go
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Taken:
    """What a request has brought, as far as it was read.

    Attributes:
        now_us: when it came.
        by_service: its events as `wire.event_field` makes them.
        refused: what is no event.
    """

    now_us: int
    by_service: defaultdict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    refused: Refusals = field(default_factory=lambda: Refusals("event"))
    warnings: list[dict[str, Any]] = field(default_factory=list)
    count: int = 0  # of events and of what is none

    def warn(self, index: int, reason: str) -> None:
        """What was done with an event that its sender should know; of the first ones."""
        if len(self.warnings) < MAX_LISTED:
            self.warnings.append({"index": index, "reason": reason})

    @property
    def accepted(self) -> int:
        return self.count - self.refused.count

    def answer(self) -> Answer:
        """When it is safe on the bus."""
        refused = self.refused
        errors = [{"index": index, "reason": reason} for index, reason in refused.listed]
        status = 202 if self.accepted or not refused.count else 400
        said: dict[str, Any] = {"accepted": self.accepted, "rejected": refused.count, "errors": errors}
        return status, said | ({"warnings": self.warnings} if self.warnings else {}), []


class HttpIngest:
    """`POST /api/v1/events`.

    Args:
        admission: on the way to the bus, where events are safe before they are acknowledged.
        clock: stamps what comes without a time.
        keys: who may do what.
        telemetry: what it counts.
        names: of services; shared with whatever else takes raw events.
        gate: closed when the collector stops; shared with whatever else answers over HTTP.
    """

    def __init__(
        self,
        admission: Admission,
        clock: Clock,
        keys: Keys,
        telemetry: Telemetry | None = None,
        names: ServiceNames | None = None,
        gate: Gate | None = None,
    ) -> None:
        self._admission = admission
        self._clock = clock
        self._keys = keys
        self._telemetry = telemetry or Telemetry()
        self._reader = Reader()
        self._names = names or ServiceNames()
        self._gate = gate or Gate()
        self._accepted = self._telemetry.events_accepted.labels("http")
        self._rejected = self._telemetry.events_rejected.labels("http")
        self._requests = cache(self._telemetry.requests.labels)  # to look one up anew costs as much as to read an event

    async def __call__(self, scope: HttpScope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] != "http":
            return
        try:
            answer = await self._answer(scope, receive)
        except asyncio.CancelledError:  # the server has waited long enough, and would say 500: senders give up then
            answer = self._failed(BusUnavailable("the collector is stopping"))
        except Exception as error:  # noqa: BLE001 -- the edge of the process: for any other answer senders give up
            answer = self._failed(error)
        path = scope["path"].rstrip("/")
        status, body, headers = answer
        self._requests(path if path in EVENTS_PATHS else "other", str(status)).inc()
        await respond(send, status, body, headers)

    def direct(self, path: str, request: Request, answer: Answering) -> bool:
        """See `routes.Direct`: the same for a request to one of EVENTS_PATHS that is small and came whole."""
        headers = headers_of(request.headers)
        if len(request.body) > _DIRECT_BYTES or "content-encoding" in headers:
            return False

        def end(found: Answer) -> None:
            status, body, extra = found
            self._requests(path, str(status)).inc()
            answer(status, msgspec.json.encode(body), extra)

        try:
            refused = refusal(self._keys, headers, Scope.INGEST)
            if refused is None:
                return self._begin(headers, request, end)
            end(refused)
        except Exception as error:  # noqa: BLE001 -- the edge of the process
            end(self._failed(error))
        return True

    def _begin(self, headers: dict[str, str], request: Request, end: Callable[[Answer], None]) -> bool:
        """Reads it, and ends it when it is safe on the bus; False when it has more events than go in one turn."""
        client = self._client(headers, request.peer)
        visit = self._admission.entered(client)

        def done(error: Exception | None) -> None:
            self._gate.leave()
            visit.leave()
            end(self._spent(taken, visit) if error is None else self._failed(error))

        try:
            visit.receive(len(request.body))
            self._gate.check()
            taken = _Taken(self._clock.now_us())
            coming = enumerate(items(request.body))
            self._read(islice(coming, _EVENTS_A_TURN), taken, _key(headers), client)
            if next(coming, None) is not None:
                visit.leave()
                return False
            self._admission.join(taken.now_us, taken.by_service, taken.refused.records(), done)
        except BaseException:
            visit.leave()
            raise
        self._gate.enter()
        return True

    async def _answer(self, scope: HttpScope, receive: Receive) -> Answer:
        method, path, headers = scope["method"], scope["path"].rstrip("/"), headers_of(scope["headers"])
        if path not in EVENTS_PATHS:
            return 404, {"error": f"there is no {scope['path']}; events go to POST {EVENTS_PATHS[0]}"}, []
        if method != "POST":
            return 405, {"error": f"{method} {path}: use POST"}, [(b"allow", b"POST")]
        refused = refusal(self._keys, headers, Scope.INGEST)
        if refused is not None:
            return refused
        client = self._client(headers, (scope.get("client") or ("",))[0])
        with self._admission.entered(client) as visit:
            body = await read(headers, receive, self._gate, visit)
            self._gate.check()
            data = plain(body, headers.get("content-encoding", "").strip().lower())
            if data is not body:
                visit.hold(len(data))
            taken = _Taken(self._clock.now_us())
            coming = enumerate(items(data))
            key = _key(headers)
            while self._read(islice(coming, _EVENTS_A_TURN), taken, key, client):  # noqa: ASYNC110 - others' turn
                await asyncio.sleep(0)
            self._gate.check()
            with self._gate.passing():
                await self._admission.publish_events(visit, taken.now_us, taken.by_service, taken.refused.records())
            return self._spent(taken, visit)

    def _client(self, headers: dict[str, str], peer: str) -> str:
        return client_of(self._keys, headers.get("authorization", ""), headers.get("x-api-key", ""), peer)

    def _read(self, coming: Iterable[tuple[int, bytes]], taken: _Taken, key: str, client: str) -> int:
        """Takes what comes, and says how many that were."""
        before = taken.count
        for index, raw in coming:
            taken.count += 1
            try:
                event, replaced = self._reader.event(raw, now_us=taken.now_us, key=f"{key}/{index}" if key else "")
                written = event.service
                event.service = name = self._names.under(written, client)
                made = wire.event_field(event)
                wire.check_event_size(len(made))  # it may be larger than its JSON
            except WireError as error:
                taken.refused.add(index, str(error), raw)
                continue
            except Exception as error:  # noqa: BLE001 -- the edge of an event: the others are not sent again for it
                taken.refused.add(index, explained(error, self._telemetry), raw)
                continue
            taken.by_service[name].append(made)
            if name != written:
                taken.warn(index, f"too many services: {written[:_SHOWN]} counts as {name}")
            if replaced:
                shown = replaced[:_SHOWN]
                taken.warn(
                    index, f"timestamp {shown} is not within the last 30 days and 10 minutes ahead: counted as of now"
                )
        return taken.count - before

    def _spent(self, taken: _Taken, visit: Visit) -> Answer:
        """The answer when all is safe on the bus."""
        visit.spend(taken.count)
        self._accepted.inc(taken.accepted)
        if taken.refused.count:
            self._rejected.inc(taken.refused.count)
        return taken.answer()

    def _failed(self, error: Exception) -> Answer:
        if isinstance(error, BodyError):
            return error.status, {"error": str(error)}, []
        status, message, headers = http_answer(error, self._telemetry)
        return status, {"error": message}, headers


def _key(headers: Mapping[str, str]) -> str:
    """What makes a repeat of the request harmless; empty for none."""
    key = headers.get("idempotency-key", "")
    if len(key) > MAX_KEY_BYTES:
        raise BodyError(f"an Idempotency-Key of {len(key)} bytes: at most {MAX_KEY_BYTES}")
    return key
