"""Who may ask: keys, sessions, Host and Origin; and the headers of every answer."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from typing import Any

import httpx
import pytest
from tests.unit.reporter.console.conftest import KEY, T0, Connect, MakeConsole, S, browser

from helios_core.bus.memory import MemoryBus
from helios_core.clock import EventClock
from helios_core.keys import Grant, Keys, Scope, hash_of
from helios_core.store.sqlite import SqliteStore
from helios_reporter.console import guard
from helios_reporter.console.app import Console
from helios_reporter.console.sessions import LIFETIME_S, Sessions

PATHS = ("/api/v1/incidents", "/api/v1/services", "/api/v1/stats", "/api/v1/health/detailed", "/api/v1/nothing")


async def test_every_answer_has_a_strict_policy(client: httpx.AsyncClient) -> None:
    for path in ("/", "/favicon.ico", "/api/v1/health", "/api/v1/nothing", "/nothing", "/openapi.json"):
        headers = (await client.get(path)).headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert re.fullmatch(r"'self' 'sha256-[\w+/=]+'", policy["script-src"])
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["object-src"] == "'none'"
        assert policy["img-src"] == "'self' data:"
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


async def test_the_policy_allows_the_import_map_and_nothing_else_inline(client: httpx.AsyncClient) -> None:
    answer = await client.get("/")
    assert answer.headers["cache-control"] == "no-cache"
    inline = re.findall(r"<script(?![^>]* src=)[^>]*>(.*?)</script>", answer.text, re.DOTALL)
    (import_map,) = inline
    hashed = base64.b64encode(hashlib.sha256(import_map.encode()).digest()).decode()
    assert f"'sha256-{hashed}'" in answer.headers["content-security-policy"]
    assert set(json.loads(import_map)["imports"]) == {"preact", "preact/hooks", "htm", "uplot"}
    assert " style=" not in answer.text
    assert not re.search(r"\son\w+=", answer.text)
    assert not re.search(r"https?://", answer.text)


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1:8080", "[::1]:8080", "LOCALHOST"])
async def test_an_open_console_answers_to_loopback_names(make_console: MakeConsole, browser: Any, host: str) -> None:
    async with browser(make_console()) as client:
        assert (await client.get("/api/v1/incidents", headers={"host": host})).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "10.0.0.1", "127.0.0.1.nip.io", "", "[::1"])
async def test_an_open_console_answers_to_no_other_name(make_console: MakeConsole, browser: Any, host: str) -> None:
    """A page of another site that resolves its name to loopback reads nothing."""
    async with browser(make_console()) as client:
        for path in ("/", "/api/v1/incidents", "/api/v1/health"):
            answer = await client.get(path, headers={"host": host})
            assert answer.status_code == 403
            assert "localhost only" in answer.json()["error"]


async def test_with_keys_only_the_page_and_health_are_open(make_console: MakeConsole, browser: Any) -> None:
    async with browser(make_console(keyed=True), "helios.example") as client:
        for path in PATHS:
            answer = await client.get(path)
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"
        page = await client.get("/")
        assert page.status_code == 200
        static = re.findall(r'"(/static/[^"]+)"', page.text)
        for path in [*static, "/api/v1/health"]:
            assert (await client.get(path)).status_code == 200, path
        assert (await client.get("/api/v1/session")).json() == {"needed": True, "signed_in": False}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": f"Bearer {KEY}"}, 200),
        ({"x-api-key": KEY}, 200),
        ({"authorization": "Bearer another"}, 401),
        ({"authorization": "Bearer ingest"}, 403),
        ({"x-api-key": ""}, 401),
        ({"cookie": "helios_session=made-up"}, 401),
        ({"cookie": 'helios_session="; broken'}, 401),
    ],
)
async def test_a_key_with_the_scope_read_reads(
    make_console: MakeConsole, browser: Any, headers: dict[str, str], status: int
) -> None:
    async with browser(make_console(keyed=True), "helios.example") as client:
        assert (await client.get("/api/v1/incidents", headers=headers)).status_code == status


async def test_a_session_begins_with_a_key_and_ends(make_console: MakeConsole, browser: Any, clock: EventClock) -> None:
    async with browser(make_console(keyed=True), "helios.example") as client:
        answer = await client.post("/api/v1/session", json={"key": KEY})
        assert answer.json() == {"needed": True, "signed_in": True}
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert "Secure" not in cookie  # this was plain http
        assert f"Max-Age={LIFETIME_S}" in cookie
        assert KEY not in cookie
        assert (await client.get("/api/v1/incidents")).status_code == 200
        assert (await client.get("/api/v1/session")).json()["signed_in"] is True
        clock.advance_to(clock.now_us() + LIFETIME_S * S)
        assert (await client.get("/api/v1/incidents")).status_code == 401
        await client.post("/api/v1/session", json={"key": KEY})
        token = client.cookies["helios_session"]
        assert (await client.delete("/api/v1/session")).json() == {"needed": True, "signed_in": False}
        old = {"cookie": f"helios_session={token}"}
        assert (await client.get("/api/v1/incidents", headers=old)).status_code == 401


async def test_behind_https_the_cookie_is_secure(make_console: MakeConsole) -> None:
    transport = httpx.ASGITransport(app=make_console(keyed=True))
    async with httpx.AsyncClient(transport=transport, base_url="https://helios.example") as client:
        assert "Secure" in (await client.post("/api/v1/session", json={"key": KEY})).headers["set-cookie"]


@pytest.mark.parametrize(
    ("body", "status"),
    [(b'{"key": "wrong"}', 401), (b'{"key": "ingest"}', 403), (b'{"key": 5}', 400), (b"[", 400), (b"x" * 5_000, 413)],
)
async def test_signing_in_wrongly_is_refused(make_console: MakeConsole, browser: Any, body: bytes, status: int) -> None:
    async with browser(make_console(keyed=True), "helios.example") as client:
        answer = await client.post("/api/v1/session", content=body)
        assert answer.status_code == status
        assert "set-cookie" not in answer.headers


async def test_without_keys_nobody_signs_in(client: httpx.AsyncClient) -> None:
    assert (await client.get("/api/v1/session")).json() == {"needed": False, "signed_in": False}
    answer = await client.post("/api/v1/session", json={"key": "any"})
    assert (answer.json()["needed"], "set-cookie" in answer.headers) == (False, False)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://helios.example", 200),
        ("https://helios.example", 403),  # port 443 against the port of the Host
        ("http://evil.example", 403),
        ("http://helios.example.evil.example", 403),
        ("http://helios.example:81", 403),
        ("null", 403),
        ("file://", 403),
        ("http://[broken", 403),
    ],
)
async def test_what_changes_state_comes_from_the_own_origin(
    make_console: MakeConsole, browser: Any, origin: str, status: int
) -> None:
    async with browser(make_console(keyed=True), "helios.example:80") as client:
        headers = {"origin": origin, "host": "helios.example:80"}
        answer = await client.post("/api/v1/session", json={"key": KEY}, headers=headers)
        assert answer.status_code == status
        assert (await client.get("/api/v1/health", headers=headers)).status_code == 200


async def test_behind_a_proxy_that_ends_tls_the_own_origin_is_known(make_console: MakeConsole, browser: Any) -> None:
    async with browser(make_console(keyed=True), "helios.example") as client:
        headers = {"origin": "https://helios.example"}
        assert (await client.post("/api/v1/session", json={"key": KEY}, headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("headers", "is_open"),
    [
        ({"host": "helios.example", "authorization": f"Bearer {KEY}"}, True),
        ({"host": "helios.example", "x-api-key": KEY, "origin": "http://helios.example"}, True),
        ({"host": "helios.example"}, False),
        ({"host": "helios.example", "x-api-key": "wrong"}, False),
        ({"host": "helios.example", "x-api-key": KEY, "origin": "http://evil.example"}, False),
    ],
)
async def test_a_socket_needs_a_key_and_its_own_origin(
    make_console: MakeConsole, connect: Connect, headers: dict[str, str], is_open: bool
) -> None:
    first = await connect(make_console(keyed=True), headers=headers).raw()
    assert first["type"] == ("websocket.accept" if is_open else "websocket.close")


async def test_a_socket_takes_the_session_of_a_page_only(
    make_console: MakeConsole, browser: Any, connect: Connect
) -> None:
    console = make_console(keyed=True)
    async with browser(console, "helios.example") as client:
        await client.post("/api/v1/session", json={"key": KEY})
        headers = {"host": "helios.example", "cookie": f"helios_session={client.cookies['helios_session']}"}
    own = await connect(console, headers=headers | {"origin": "http://helios.example"}).raw()
    foreign = await connect(console, headers=headers | {"origin": "http://evil.example"}).raw()
    none = await connect(console, headers=headers).raw()
    assert [own["type"], foreign["type"], none["type"]] == ["websocket.accept", "websocket.close", "websocket.close"]


async def test_an_open_socket_is_for_loopback_names(make_console: MakeConsole, connect: Connect) -> None:
    refused = await connect(make_console(), headers={"host": "evil.example", "origin": "http://evil.example"}).raw()
    assert refused["type"] == "websocket.close"
    assert refused["code"] == 1008


def test_sessions_are_bounded_and_kept_as_hashes() -> None:
    clock = EventClock(T0)
    sessions = Sessions(clock, Keys({hash_of("k"): Grant(frozenset({Scope.READ}))}))
    first = sessions.begin("k")
    others = [sessions.begin("k") for _ in range(1_000)]
    assert len(sessions) == 1_000
    assert not sessions.is_known(first)
    assert sessions.is_known(others[0])
    assert first not in str(vars(sessions)) and others[0] not in str(vars(sessions))  # noqa: PT018 -- one statement
    clock.advance_to(T0 + LIFETIME_S * S)
    sessions.begin("k")
    assert len(sessions) == 1
    sessions.end("none")
    assert not sessions.is_known("")


def test_a_session_ends_with_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helios_core.keys._LOOK_S", 0.0)
    there = {hash_of("k"): Grant(frozenset({Scope.READ}))}
    sessions = Sessions(EventClock(T0), Keys(None, lambda: there))
    token = sessions.begin("k")
    assert sessions.is_known(token)
    there = {hash_of("k"): Grant(frozenset({Scope.INGEST}))}
    assert not sessions.is_known(token)


async def test_a_socket_ends_with_its_key(
    make_console: MakeConsole, connect: Connect, fed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("helios_core.keys._LOOK_S", 0.0)
    monkeypatch.setattr(guard, "_LOOK_AGAIN_S", 0.02)
    console = make_console(keyed=True)
    keys = console._guard._keys
    async with fed(console):
        socket = connect(console, headers={"authorization": f"Bearer {KEY}"})
        assert (await socket.json())["type"] == "snapshot"
        await asyncio.sleep(0.1)
        console.feed.ring.push({"type": "alert"})
        assert (await socket.json())["type"] == "alert"
        keys._fixed.clear()
        closed = await socket.raw()
        assert (closed["type"], closed["code"]) == ("websocket.close", 1008)
        await socket.over()
    assert console.feed.stats["clients"] == 0


async def test_who_is_let_in_by_certificate_may_use_any_name(store: SqliteStore, bus: MemoryBus) -> None:
    keys = Keys(None, is_local=False)
    console = Console(bus=bus, store=store, clock=EventClock(T0), keys=keys, parts=dict)
    async with browser(console, "helios.example") as client:
        assert (await client.get("/api/v1/incidents")).status_code == 200
