"""The HTTP side of the collector: events, over a bare ASGI application; small requests without a task of their own."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from typing import Any, Final

import msgspec
import structlog

from helios_collector.admission import Admission, Visit
from helios_collector.body import BodyError, Gate, plain, read
from helios_collector.events import Reader, items
from helios_collector.faults import http_answer
from helios_collector.ingest import ServiceNames, client_of
from helios_collector.telemetry import Telemetry
from helios_core import wire
from helios_core.bus.base import Record
from helios_core.clock import Clock
from helios_core.errors import WireError
from helios_core.exposed import Answer, headers_of, refusal
from helios_core.keys import Keys, Scope
from helios_core.records import dead_letter
from helios_core.routes import Answering, HttpScope, Receive, Request, Send, respond

EVENTS_PATHS: Final = ("/api/v1/events", "/api/v1/events/ingest")
_EVENTS_A_TURN: Final = 500  # a large body must not hold up everybody else
_DIRECT_BYTES: Final = 64 * 1024  # nor one that is answered in one go
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Taken:
    """What a request has brought, as far as it was read.

    Attributes:
        now_us: when it came.
        by_service: its events as `wire.event_field` makes them.
        dead: what is no event, for the dead letter.
    """

    now_us: int
    by_service: defaultdict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    dead: list[Record] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[dict[str, Any]] = field(default_factory=list)
    count: int = 0  # of events and of what is none

    @property
    def accepted(self) -> int:
        return self.count - len(self.errors)

    def answer(self) -> Answer:
        """When it is safe on the bus."""
        status = 202 if self.accepted or not self.errors else 400
        said: dict[str, Any] = {"accepted": self.accepted, "rejected": len(self.errors), "errors": self.errors}
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
            self._read(islice(coming, _EVENTS_A_TURN), taken, headers.get("idempotency-key", ""), client)
            if next(coming, None) is not None:
                visit.leave()
                return False
            self._admission.join(taken.now_us, taken.by_service, taken.dead, done)
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
            key = headers.get("idempotency-key", "")
            while self._read(islice(coming, _EVENTS_A_TURN), taken, key, client):  # noqa: ASYNC110 - others' turn
                await asyncio.sleep(0)
            self._gate.check()
            with self._gate.passing():
                await self._admission.publish_events(taken.now_us, taken.by_service, taken.dead)
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
            except WireError as error:
                taken.errors.append({"index": index, "reason": str(error)})
                taken.dead.append(dead_letter("event", str(error), raw))
                continue
            name = self._names.under(event.service, client)
            if name != event.service:
                reason = f"too many services: {event.service} counts as {name}"
                taken.warnings.append({"index": index, "reason": reason})
                event.service = name
            taken.by_service[name].append(wire.event_field(event))
            if replaced:
                reason = f"timestamp {replaced} is not within the last 30 days and 10 minutes ahead: counted as of now"
                taken.warnings.append({"index": index, "reason": reason})
        return taken.count - before

    def _spent(self, taken: _Taken, visit: Visit) -> Answer:
        """The answer when all is safe on the bus."""
        visit.spend(taken.count)
        self._accepted.inc(taken.accepted)
        if taken.errors:
            self._rejected.inc(len(taken.errors))
        return taken.answer()

    def _failed(self, error: Exception) -> Answer:
        if isinstance(error, BodyError):
            return error.status, {"error": str(error)}, []
        status, message, headers = http_answer(error, self._telemetry)
        return status, {"error": message}, headers
