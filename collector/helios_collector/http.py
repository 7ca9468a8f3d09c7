"""The HTTP side of the collector: a bare ASGI application for events."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from functools import cache
from typing import Any, Final

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
from helios_core.routes import HttpScope, Receive, Send, respond

EVENTS_PATHS: Final = ("/api/v1/events", "/api/v1/events/ingest")
_RETRY_AFTER_S: Final = b"1"
_EVENTS_A_TURN: Final = 500
_STOPPING: Final[Answer] = 503, {"error": "the collector is stopping"}, [(b"retry-after", _RETRY_AFTER_S)]
_log = structlog.get_logger(__name__)


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
            status, body, headers = await self._answer(scope, receive)
        except BodyError as error:
            status, body, headers = error.status, {"error": str(error)}, []
        except Exception as error:  # noqa: BLE001 -- the edge of the process: for any other answer senders give up
            status, message, headers = http_answer(error, self._telemetry)
            body = {"error": message}
        path = scope["path"].rstrip("/")
        self._requests(path if path in EVENTS_PATHS else "other", str(status)).inc()
        await respond(send, status, body, headers)

    async def _answer(self, scope: HttpScope, receive: Receive) -> Answer:
        method, path, headers = scope["method"], scope["path"].rstrip("/"), headers_of(scope)
        if path not in EVENTS_PATHS:
            return 404, {"error": f"there is no {scope['path']}; events go to POST {EVENTS_PATHS[0]}"}, []
        if method != "POST":
            return 405, {"error": f"{method} {path}: use POST"}, [(b"allow", b"POST")]
        refused = refusal(self._keys, headers, Scope.INGEST)
        if refused is not None:
            return refused
        peer = (scope.get("client") or ("",))[0]
        client = client_of(self._keys, headers.get("authorization", ""), headers.get("x-api-key", ""), peer)
        with self._admission.entered(client) as visit:
            body = await read(headers, receive, self._gate, visit)
            if self._gate.is_closed():
                return _STOPPING
            data = plain(body, headers.get("content-encoding", "").strip().lower())
            if data is not body:
                visit.hold(len(data))
            return await self._events(headers, data, client, visit)

    async def _events(self, headers: dict[str, str], data: bytes, client: str, visit: Visit) -> Answer:
        key = headers.get("idempotency-key", "")
        now_us = self._clock.now_us()
        by_service: defaultdict[str, list[bytes]] = defaultdict(list)
        errors: list[dict[str, Any]] = []
        warnings: list[dict[str, Any]] = []
        records: list[Record] = []
        for index, raw in enumerate(items(data)):
            if index % _EVENTS_A_TURN == _EVENTS_A_TURN - 1:
                await asyncio.sleep(0)  # a large body must not hold up everybody else
            try:
                event, replaced = self._reader.event(raw, now_us=now_us, key=f"{key}/{index}" if key else "")
            except WireError as error:
                errors.append({"index": index, "reason": str(error)})
                records.append(dead_letter("event", str(error), raw))
                continue
            name = self._names.under(event.service, client)
            if name != event.service:
                warnings.append({"index": index, "reason": f"too many services: {event.service} counts as {name}"})
                event.service = name
            by_service[name].append(wire.event_field(event))
            if replaced:
                reason = f"timestamp {replaced} is not within the last 30 days and 10 minutes ahead: counted as of now"
                warnings.append({"index": index, "reason": reason})
        if self._gate.is_closed():
            return _STOPPING
        with self._gate.passing():
            await self._admission.publish_events(now_us, by_service, records)
        accepted = sum(map(len, by_service.values()))
        visit.spend(accepted + len(errors))
        self._accepted.inc(accepted)
        self._rejected.inc(len(errors))
        status = 202 if accepted or not errors else 400
        answer: dict[str, Any] = {"accepted": accepted, "rejected": len(errors), "errors": errors}
        return status, answer | ({"warnings": warnings} if warnings else {}), []
