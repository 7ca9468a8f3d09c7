"""Connections on which nothing comes are closed, and are bounded in number; good ones go on."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from helios_core import server
from helios_core.http import serving
from helios_core.routes import Routes, respond

REQUEST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_HEADERS_S", 0.2)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    await respond(send, 200, body)


@asynccontextmanager
async def served() -> AsyncIterator[str]:
    routes = Routes()
    routes.mount("/", echo)
    async with serving(routes, "127.0.0.1:0") as address:
        yield address


async def opened(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = address.split(":")
    return await asyncio.open_connection(host, int(port))


async def is_closed(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(3):
            return await reader.read(1) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize("sent", [b"", b"POST", REQUEST])
async def test_a_request_that_does_not_come_in_time_is_not_waited_for(sent: bytes) -> None:
    async with served() as address:
        reader, writer = await opened(address)
        writer.write(sent)
        assert await is_closed(reader)
        writer.close()


async def test_a_trickle_of_headers_is_not_enough() -> None:
    async with served() as address:
        reader, writer = await opened(address)

        async def trickle() -> None:
            writer.write(REQUEST)
            for number in range(1_000):
                writer.write(b"x-%d: y\r\n" % number)
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        assert await is_closed(reader)
        trickling.cancel()
        writer.close()


async def test_a_body_may_take_longer_and_the_next_request_has_its_own_time() -> None:
    async with served() as address:
        reader, writer = await opened(address)
        writer.write(REQUEST + b"\r\na")
        await asyncio.sleep(0.4)
        writer.write(b"bc")
        answer = await reader.readuntil(b"abc")
        assert answer.startswith(b"HTTP/1.1 200")
        writer.write(REQUEST)  # and no more
        assert await is_closed(reader)
        writer.close()


async def test_too_many_are_closed_at_once_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_HEADERS_S", 60)
    monkeypatch.setattr(server, "_MAX_CONNECTIONS", 5)
    async with served() as address, httpx.AsyncClient() as client:
        assert (await client.post(f"http://{address}/", content=b"first")).text == "first"
        pairs = [await opened(address) for _ in range(6)]
        assert await is_closed(pairs[-1][0])
        assert (await client.post(f"http://{address}/", content=b"again")).text == "again"
        for _, writer in pairs:
            writer.close()


def test_files_and_engines_have_room_beside_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1_024, 4_096))
    assert server.max_connections() == 512
    made: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: made.append(pair))
    server.raise_limit_of_files()
    assert made == [(4_096, 4_096)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1_024, resource.RLIM_INFINITY))
    server.raise_limit_of_files()
    assert made[1:] == [(65_536, resource.RLIM_INFINITY)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100_000, 100_000))
    server.raise_limit_of_files()
    assert len(made) == 2
    assert server.max_connections() == 10_000


OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
BODY = b"GET /inner HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST = b"POST /last HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nConnection: close\r\n\r\nlast"


def offering(framed: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: localhost\r\n" + OFFER + framed


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
@pytest.mark.parametrize(
    "sent",
    [
        offering(b"Content-Length: %d\r\n\r\n" % len(BODY)) + BODY,
        offering(b"Transfer-Encoding: chunked\r\n\r\n") + b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY),
        b"POST /first HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nfirst"
        + offering(b"Content-Length: %d\r\n\r\n" % len(BODY))
        + BODY,
    ],
    ids=["length", "chunked", "after another"],
)
async def test_an_offer_of_another_protocol_is_ignored_and_the_body_stays_the_body(sent: bytes, size: int) -> None:
    """However it is cut on its way. A proxy takes those bytes for a body: they must not be a request here."""
    async with served() as address:
        reader, writer = await opened(address)
        whole = sent + LAST
        for at in range(0, len(whole), size):
            writer.write(whole[at : at + size])
            await asyncio.sleep(0)
        async with asyncio.timeout(10):
            answer = await reader.read()
        bodies = [part.partition(b"\r\n\r\n")[2] for part in answer.split(b"HTTP/1.1 200 OK")[1:]]
        assert bodies == [*([b"first"] if b"/first" in sent else []), BODY, b"last"]
        writer.close()


async def test_an_offer_without_a_body_is_a_request_like_another() -> None:
    async with served() as address:
        reader, writer = await opened(address)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + OFFER + b"\r\n" + LAST)
        async with asyncio.timeout(10):
            assert (await reader.read()).count(b"HTTP/1.1 200 OK") == 2
        writer.close()


async def test_who_takes_it_for_a_proxy_is_told_that_it_is_none() -> None:
    async with served() as address:
        reader, writer = await opened(address)
        writer.write(b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n")
        async with asyncio.timeout(10):
            assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()
