"""The console's HTTP API under /api/v1: what is stored, as JSON. It changes nothing but sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from helios_core.clock import US_PER_S, Clock, rfc3339, to_us
from helios_core.errors import InputError, StoreUnavailable
from helios_core.keys import Keys, Scope
from helios_core.store.base import Row, Store
from helios_reporter.console.charts import MAX_SPAN_US, service_windows
from helios_reporter.console.documents import incident_detail, incident_summary, members_of, time_of
from helios_reporter.console.feed import Feed
from helios_reporter.console.guard import headers_of, session_of
from helios_reporter.console.sessions import COOKIE, LIFETIME_S, Sessions

_MAX_INCIDENTS: Final = 500
_MAX_SERVICES: Final = 10_000
_MAX_OPEN: Final = 1_000
_FIVE_MINUTES_US: Final = 300 * US_PER_S
_HOUR_US: Final = 3_600 * US_PER_S
_END_US: Final = 1 << 62
_MAX_KEY_BYTES: Final = 4_096
_CHARTS_AT_ONCE: Final = 2

Parts = Callable[[], dict[str, Any]]
Limit = Annotated[int, Query(ge=1, le=_MAX_INCIDENTS)]
Step = Annotated[int, Query(ge=0, le=86_400)]
State = Literal["", "open", "triggered", "acknowledged", "resolved"]


class _SignIn(msgspec.Struct):
    key: str


def answer(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON that no cache keeps."""
    return Response(
        msgspec.json.encode(document), status, {"cache-control": "no-store", **(headers or {})}, "application/json"
    )


def refuse(status: int, message: str) -> Response:
    return answer({"error": message}, status)


class Api:
    """The endpoints.

    Args:
        store: what is read.
        clock: what "the last five minutes" is counted from.
        keys, sessions: who may sign in, and who has.
        feed: the live stream, for its statistics.
        parts: what the services of this process say of themselves.
    """

    def __init__(self, store: Store, clock: Clock, keys: Keys, sessions: Sessions, feed: Feed, parts: Parts) -> None:
        self._store = store
        self._clock = clock
        self._keys = keys
        self._sessions = sessions
        self._feed = feed
        self._parts = parts
        self._drawing = asyncio.Semaphore(_CHARTS_AT_ONCE)

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api/v1")
        for path, endpoint in (
            ("/health", self.health),
            ("/health/detailed", self.detailed_health),
            ("/stats", self.stats),
            ("/incidents", self.incidents),
            ("/incidents/{incident_id}", self.incident),
            ("/incidents/{incident_id}/report.md", self.markdown),
            ("/services", self.services),
            ("/services/{name:path}/windows", self.windows),
            ("/session", self.session),
        ):
            router.add_api_route(path, endpoint, methods=["GET"], response_class=Response)
        router.add_api_route("/session", self.sign_in, methods=["POST"], response_class=Response)
        router.add_api_route("/session", self.sign_out, methods=["DELETE"], response_class=Response)
        return router

    async def health(self) -> Response:
        """The process answers."""
        return answer({"status": "ok"})

    async def detailed_health(self) -> Response:
        """Whether the store can be asked, and what each part of the process says of itself."""
        store: dict[str, Any] = {"reachable": True}
        try:
            await self._store.query("incident_states")
        except StoreUnavailable as error:
            store = {"reachable": False, "error": str(error)}
        is_well = store["reachable"]
        document = {
            "status": "ok" if is_well else "degraded",
            "now": time_of(self._clock.now_us()),
            "store": store,
            "live": self._feed.stats,
            "parts": self._parts(),
        }
        return answer(document, 200 if is_well else 503, None if is_well else {"retry-after": "2"})

    async def stats(self) -> Response:
        """What was counted in the last hour, and how many incidents are in each state."""
        now_us = self._clock.now_us()
        (hour,) = await self._store.query("totals_in_range", from_us=now_us - _HOUR_US, to_us=now_us)
        states = await self._store.query("incident_states")
        return answer(
            {
                "now": time_of(now_us),
                "last_hour": dict(hour),
                "incidents": {row["state"]: row["incidents"] for row in states},
                "live": self._feed.stats,
            }
        )

    async def incidents(self, state: State = "", service: str = "", limit: Limit = 100, before: str = "") -> Response:
        """Incidents, the latest first. `before` is the id of the last one of the page before."""
        before_us, before_id = _END_US, ""
        if before:
            row = await self._incident(before)
            if row is None:
                return refuse(400, f"before={before!r} is no incident: take `next` of the page before")
            before_us, before_id = row["opened_us"], row["id"]
        rows = await self._store.query(
            "incidents_page", state=state, service=service, before_us=before_us, before_id=before_id, limit=limit + 1
        )
        return answer(
            {
                "incidents": [incident_summary(row) for row in rows[:limit]],
                "next": rows[limit - 1]["id"] if len(rows) > limit else None,
            }
        )

    async def incident(self, incident_id: str) -> Response:
        """One incident with its members, its newest report and the evidence."""
        row = await self._incident(incident_id)
        if row is None:
            return refuse(404, f"there is no incident {incident_id!r}")
        reports = await self._store.query("report", incident_id=incident_id)
        return answer(incident_detail(row, reports[0] if reports else None))

    async def markdown(self, incident_id: str) -> Response:
        """The newest report as Markdown."""
        reports = await self._store.query("report", incident_id=incident_id)
        if not reports:
            return refuse(404, f"there is no report of an incident {incident_id!r}")
        return Response(reports[0]["markdown"], 200, {"cache-control": "no-store"}, "text/markdown; charset=utf-8")

    async def services(self) -> Response:
        """Every service with what it does now; `learning` is [windows seen, windows needed]."""
        now_us = self._clock.now_us()
        known = await self._store.query("services_known", limit=_MAX_SERVICES)
        rows = await self._store.query("services_in_range", from_us=now_us - _FIVE_MINUTES_US, to_us=now_us)
        recent = {row["service"]: row for row in rows}
        open_alerts: dict[str, int] = {}
        for row in await self._store.query("incidents_open", limit=_MAX_OPEN):
            for member in members_of(row["document"]):
                if member.resolved_us is None:
                    open_alerts[member.service] = open_alerts.get(member.service, 0) + 1
        learning = self._learning()
        services = []
        for row in known:
            name = row["service"]
            counts = recent.get(name, {"events": 0, "errors": 0})
            services.append(
                {
                    "name": name,
                    "events_5m": counts["events"],
                    "errors_5m": counts["errors"],
                    "first_window": time_of(row["first_start_us"]),
                    "last_window": time_of(row["last_start_us"] + row["last_duration_ms"] * 1_000),
                    "open_alerts": open_alerts.get(name, 0),
                    "learning": learning.get(name),
                }
            )
        return answer({"now": time_of(now_us), "services": services})

    def _learning(self) -> dict[str, Any]:
        detector = self._parts().get("detector")
        found = detector.get("learning") if isinstance(detector, dict) else None
        return found if isinstance(found, dict) else {}

    async def windows(
        self, name: str, from_: Annotated[str, Query(alias="from")] = "", to: str = "", step: Step = 0
    ) -> Response:
        """The charts of a service: the last hour unless told otherwise; at most 720 points."""
        now_us = self._clock.now_us()
        to_us = time_in(to, "to") if to else now_us
        from_us = time_in(from_, "from") if from_ else to_us - _HOUR_US
        if not 0 < to_us - from_us <= MAX_SPAN_US:
            return refuse(400, f"from={rfc3339(from_us)} to={rfc3339(to_us)}: from is before to, by 31 days at most")
        async with self._drawing:
            found = await service_windows(
                self._store, name, from_us=from_us, to_us=to_us, now_us=now_us, step_us=step * US_PER_S
            )
        return answer(found)

    async def session(self, request: Request) -> Response:
        """Whether one has to sign in here, and whether one has."""
        token = session_of(headers_of(request.scope))
        return answer({"needed": not self._keys.are_open, "signed_in": self._sessions.is_known(token)})

    async def sign_in(self, request: Request) -> Response:
        """Takes `{"key": …}` with the scope `read`, and sets the session's cookie."""
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _MAX_KEY_BYTES:
                return refuse(413, 'more than an API key: send {"key": "…"}')
        try:
            key = msgspec.json.decode(body, type=_SignIn).key
        except msgspec.DecodeError as error:
            return refuse(400, f'{error}: send {{"key": "…"}}')
        if self._keys.are_open:
            return answer({"needed": False, "signed_in": False})
        fault = self._keys.fault(f"Bearer {key}", "", Scope.READ)
        if fault is not None:
            return refuse(403 if fault.known else 401, fault.message)
        made = answer({"needed": True, "signed_in": True})
        made.set_cookie(
            COOKIE,
            self._sessions.begin(key),
            max_age=LIFETIME_S,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return made

    async def sign_out(self, request: Request) -> Response:
        """Ends the session."""
        self._sessions.end(session_of(headers_of(request.scope)))
        made = answer({"needed": not self._keys.are_open, "signed_in": False})
        made.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return made

    async def _incident(self, incident_id: str) -> Row | None:
        rows = await self._store.query("incident", id=incident_id)
        return rows[0] if rows else None


def time_in(text: str, name: str) -> int:
    """A time of a parameter: RFC 3339, or seconds since the epoch.

    Raises:
        InputError: it is neither; the message says what it may be.
    """
    try:
        if text.replace(".", "", 1).isdecimal():
            us = round(float(text) * US_PER_S)
            rfc3339(us)
            return us
        return to_us(datetime.fromisoformat(text.replace(" ", "+")))  # a + that was not escaped
    except (ValueError, OverflowError) as error:
        raise InputError(f"{name}={text[:100]!r}: a time such as 2026-03-02T10:15:03Z, or epoch seconds") from error
