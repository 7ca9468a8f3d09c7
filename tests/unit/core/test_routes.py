"""Routes: the longest path answers, and what nothing answers is refused in the form in which it was asked."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import warnings
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from helios_core.errors import ConfigError
from helios_core.http import serving
from helios_core.routes import App, HttpScope, Message, Receive, Routes, Send, respond


def app(name: str) -> App:
    async def answer(scope: HttpScope, receive: Receive, send: Send) -> None:
        await respond(send, 200, {"app": name, "path": scope["path"]})

    return answer


def mounted(*paths: str) -> Routes:
    """All services have started."""
    routes = Routes()
    for path in paths:
        routes.mount(path, app(path))
    routes.settle()
    return routes


async def got(routes: Routes, path: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(routes), base_url="http://helios") as client:
        return await client.get(path)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api", "/api"),
        ("/api/", "/api"),
        ("/api/v1", "/api/v1"),
        ("/api/v1/events", "/api/v1"),
        ("/api/v2/events", "/api"),
        ("/apis", "/"),
        ("/metrics", "/metrics"),
        ("/metrics/x/y", "/metrics"),
        ("/", "/"),
        ("/index.html", "/"),
        ("/other/api/v1", "/"),
    ],
)
async def test_the_longest_path_answers(path: str, expected: str) -> None:
    answer = await got(mounted("/api", "/", "/api/v1", "/metrics"), path)
    assert (answer.status_code, answer.json()["app"]) == (200, expected)


async def test_the_order_of_mounting_changes_nothing_and_an_app_sees_the_whole_path() -> None:
    for routes in (mounted("/api/v1", "/api"), mounted("/api", "/api/v1/")):
        answer = await got(routes, "/api/v1/events")
        assert answer.json()["app"].rstrip("/") == "/api/v1"
        assert answer.json()["path"] == "/api/v1/events"


@pytest.mark.parametrize("path", ["/", "/nothing", "/nothing/here?x=1"])
async def test_what_nothing_answers_is_404_in_json(path: str) -> None:
    answer = await got(mounted("/api"), path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/json"
    assert path.partition("?")[0] in answer.json()["error"]


async def test_while_services_start_what_is_not_there_may_only_be_late() -> None:
    """The server listens before the services have mounted what they answer."""
    routes = Routes()
    early = await got(routes, "/api")
    assert (early.status_code, early.headers["retry-after"]) == (503, "1")
    assert "starting" in early.json()["error"]
    routes.mount("/api", app("api"))
    assert (await got(routes, "/api")).status_code == 200
    assert (await got(routes, "/else")).status_code == 503
    routes.settle()
    assert (await got(routes, "/api")).status_code == 200
    assert (await got(routes, "/else")).status_code == 404


async def test_a_path_without_a_slash_is_no_loop() -> None:
    """`OPTIONS *`."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "OPTIONS", "path": "*"}
    await asyncio.wait_for(mounted("/api")(scope, _silent, send), 1)
    assert sent[0]["status"] == 404


async def _silent() -> Message:
    return {"type": "http.request"}


async def test_a_websocket_that_nothing_answers_is_refused() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    await mounted("/api")({"type": "websocket", "path": "/live"}, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]


async def test_a_websocket_goes_to_the_app_of_its_path() -> None:
    seen: list[str] = []

    async def live(scope: HttpScope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    routes = Routes()
    routes.mount("/live", live)

    async def send(message: Message) -> None:
        raise AssertionError(message)

    await routes({"type": "websocket", "path": "/live/x"}, _silent, send)
    assert seen == ["websocket"]


async def test_startup_and_shutdown_are_answered_and_reach_no_app() -> None:
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    sent: list[str] = []

    async def receive() -> Message:
        return next(messages)

    async def send(message: Message) -> None:
        sent.append(message["type"])

    async def never(scope: HttpScope, receive: Receive, send: Send) -> None:
        raise AssertionError(scope["type"])

    routes = Routes()
    routes.mount("/", never)
    await asyncio.wait_for(routes({"type": "lifespan"}, receive, send), 1)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


# --- the listener ----------------------------------------------------------------------------------


@pytest.fixture
async def served() -> AsyncIterator[str]:
    async with serving(mounted("/api"), "127.0.0.1:0") as address:
        yield address


async def test_port_0_takes_a_free_one_and_says_which(served: str) -> None:
    host, _, port = served.rpartition(":")
    assert host == "127.0.0.1"
    assert int(port) > 0
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"http://{served}/api")).json()["app"] == "/api"
        assert (await client.get(f"http://{served}/else")).status_code == 404


async def test_an_address_of_ip_6_is_written_in_brackets() -> None:
    try:
        async with serving(mounted("/api"), "[::1]:0") as address:
            assert address.startswith("[::1]:")
            async with httpx.AsyncClient() as client:
                assert (await client.get(f"http://{address}/api")).status_code == 200
    except ConfigError as error:
        pytest.skip(f"no IPv6 here: {error}")


async def test_a_port_that_is_taken_says_what_to_do(served: str) -> None:
    with pytest.raises(ConfigError) as raised:
        async with serving(Routes(), served):
            raise AssertionError("it listens twice")
    assert served in str(raised.value)
    assert "--http" in str(raised.value)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.0.0.1:http",
        ":8080",
        "127.0.0.1:99999",
        "no.such.host.invalid:8080",
        "192.0.2.1:8080",
    ],
)
async def test_an_address_that_cannot_be_used_is_a_configuration_error(address: str) -> None:
    with pytest.raises(ConfigError):
        async with serving(Routes(), address):
            raise AssertionError("it listens")


async def test_a_host_that_cannot_be_a_name_is_a_configuration_error_too() -> None:
    said = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # of this test, and not of the next one
        try:
            async with serving(Routes(), "ü" * 70 + ":8080"):
                said = "it listens"
        except Exception as error:  # noqa: BLE001 - any other is what the test is about
            said = type(error).__name__
        gc.collect()
    assert said == "ConfigError"


async def test_it_ends_while_a_connection_is_kept_alive_and_its_port_is_free_again() -> None:
    async with asyncio.timeout(4):
        async with serving(mounted("/api"), "127.0.0.1:0") as address:
            port = int(address.rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /api HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
        await reader.read()
        assert reader.at_eof()
        writer.close()


async def test_it_ends_also_when_what_it_serves_fails() -> None:
    async with asyncio.timeout(4):
        with pytest.raises(LookupError):
            async with serving(mounted("/api"), "127.0.0.1:0") as address:
                raise LookupError
        async with serving(mounted("/api"), address):
            pass


async def test_a_websocket_to_nothing_is_refused_over_http(served: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(served.rpartition(":")[2]))
    writer.write(
        b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert b" 403 " in await asyncio.wait_for(reader.readline(), 2)
    writer.close()


async def test_the_answer_says_its_length(served: str) -> None:
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"http://{served}/api/ü")
    body: dict[str, Any] = json.loads(answer.content)
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert body["path"] == "/api/ü"
