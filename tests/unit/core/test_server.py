"""Connections on which nothing comes are closed, and are bounded in number; good ones go on."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from helios_core import server
from helios_core.http import serving
from helios_core.routes import Answering, Request, Routes, respond

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


# --- requests that are answered without a task ------------------------------------------------------

HOST = b"Host: localhost\r\n"


class Site:
    """A server whose path `/direct` is answered directly as long as it is not told otherwise, and by `echo` else."""

    def __init__(self) -> None:
        self.directly: list[Request] = []
        self.waiting: list[tuple[Request, Answering]] = []
        self.holds = False  # answers are given by hand
        self.takes = True

    def direct(self, request: Request, answer: Answering) -> bool:
        if not self.takes:
            return False
        self.directly.append(request)
        if self.holds:
            self.waiting.append((request, answer))
        else:
            answer(202, b"direct " + request.body, [(b"x-extra", b"1")])
        return True

    def answer(self, number: int = 0) -> None:
        request, answer = self.waiting.pop(number)
        answer(202, b"direct " + request.body, [])

    @asynccontextmanager
    async def served(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection to it."""
        routes = Routes()
        routes.mount("/direct", echo, self.direct)
        async with serving(routes, "127.0.0.1:0") as address:
            reader, writer = await opened(address)
            try:
                yield reader, writer
            finally:
                writer.close()


def post(body: bytes = b"abc", *, more: bytes = b"", path: bytes = b"/direct", version: bytes = b"1.1") -> bytes:
    head = b"POST %s HTTP/%s\r\n%sContent-Length: %d\r\n%s\r\n" % (path, version, HOST, len(body), more)
    return head + body


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    async with asyncio.timeout(5):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        return int(head[0].split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


async def test_a_request_that_comes_whole_is_answered_directly() -> None:
    site = Site()
    async with site.served() as (reader, writer):
        for number in range(3):
            writer.write(post(b"%d" % number, more=b"X-Name: V\r\n"))
            status, headers, body = await answer_of(reader)
            assert (status, body, headers["x-extra"]) == (202, b"direct %d" % number, "1")
            assert headers["content-type"] == "application/json"
            assert "date" in headers
    assert [(b"x-name", b"V") in request.headers for request in site.directly] == [True] * 3
    assert {request.peer for request in site.directly} == {"127.0.0.1"}


@pytest.mark.parametrize(
    "sent",
    [
        [post()[:-3], b"abc"],
        [post()[:-1], b"c"],
        [post()[:30], post()[30:-2], b"bc"],
        [post(path=b"/direct?x=1")],
        [post(more=b"X-Forwarded-For: 10.0.0.1\r\n")],
    ],
)
async def test_every_other_goes_to_the_application(sent: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_HEADERS_S", 60)
    site = Site()
    async with site.served() as (reader, writer):
        for _ in range(2):
            for part in sent:
                writer.write(part)
                await asyncio.sleep(0.05)
            assert (await answer_of(reader))[::2] == (200, b"abc")
        assert site.directly == []
        writer.write(post(b"and then"))
        assert (await answer_of(reader))[2] == b"direct and then"


@pytest.mark.parametrize("sent", [[post()[:-3], b"abc"], [post()[:-1], b"c"], [post()[:30], post()[30:-2], b"b", b"c"]])
async def test_a_body_that_follows_its_head_soon_is_waited_for(
    sent: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many clients send it."""
    monkeypatch.setattr(server, "_SOON_S", 5)
    monkeypatch.setattr(server, "_HEADERS_S", 5)
    site = Site()
    async with site.served() as (reader, writer):
        await _impatient_about_idleness()
        for _ in range(2):
            for part in sent:
                writer.write(part)
                await asyncio.sleep(0.05)
            assert (await answer_of(reader))[2] == b"direct abc"
        writer.write(post(b"next"))
        assert (await answer_of(reader))[2] == b"direct next"
        assert await is_closed(reader)


async def test_a_large_body_or_a_client_that_goes_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_SOON_S", 0.1)
    site = Site()
    async with site.served() as (reader, writer):
        body = b"x" * 400_000
        sent = post(body)
        writer.write(sent[:200_000])
        await asyncio.sleep(0.05)
        writer.write(sent[200_000:])
        assert (await answer_of(reader))[::2] == (200, body)
        writer.write(post()[:-1])
        await asyncio.sleep(0.02)
        writer.transport.abort()
        await asyncio.sleep(0.2)
        assert site.directly == []


async def test_one_that_offers_another_protocol_is_answered_directly_in_this_one() -> None:
    site = Site()
    async with site.served() as (reader, writer):
        for _ in range(2):
            writer.write(post(more=b"Connection: Upgrade\r\nUpgrade: h2c\r\n"))
            assert (await answer_of(reader))[2] == b"direct abc"


async def test_the_application_is_asked_when_it_is_not_for_the_direct_way() -> None:
    site = Site()
    site.takes = False
    async with site.served() as (reader, writer):
        for body in (b"abc", b"", b"x" * 100_000):
            writer.write(post(body))
            assert (await answer_of(reader))[::2] == (200, body)


async def test_who_waits_to_be_told_to_go_on_is_told() -> None:
    site = Site()
    async with site.served() as (reader, writer):
        writer.write(post(more=b"Expect: 100-continue\r\n")[:-3])
        async with asyncio.timeout(5):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        writer.write(b"abc")
        assert (await answer_of(reader))[::2] == (200, b"abc")


@pytest.mark.parametrize("splits", [[], [10], [100], [5, 60, 130, 200]])
async def test_requests_that_follow_each_other_are_answered_in_their_order(
    splits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the first is answered after the others could have been, and whichever way each goes."""
    monkeypatch.setattr(server, "_HEADERS_S", 60)
    site = Site()
    site.holds = True
    sent = post(b"one") + post(b"two", path=b"/direct?x=1") + post(b"three") + post(b"four")
    async with site.served() as (reader, writer):
        for first, last in zip([0, *splits], [*splits, len(sent)], strict=True):
            writer.write(sent[first:last])
            await asyncio.sleep(0.05)
        site.holds = False
        assert len(site.waiting) <= 1, "of a connection one is under way at a time"
        for _ in range(len(site.waiting)):
            site.answer()
        bodies = [(await answer_of(reader))[2].removeprefix(b"direct ") for _ in range(4)]
    assert bodies == [b"one", b"two", b"three", b"four"]


@pytest.mark.parametrize("sent", [post(version=b"1.0"), post(more=b"Connection: close\r\n")])
@pytest.mark.parametrize("holds", [False, True])
async def test_a_connection_is_closed_when_its_client_wants_that(sent: bytes, *, holds: bool) -> None:
    site = Site()
    site.holds = holds
    async with site.served() as (reader, writer):
        writer.write(sent)
        if holds:
            while not site.waiting:  # noqa: ASYNC110 - the test's own end of it
                await asyncio.sleep(0.01)
            site.answer()
        _, headers, body = await answer_of(reader)
        assert (headers["connection"], body) == ("close", b"direct abc")
        assert await is_closed(reader)


async def test_a_client_that_has_gone_is_not_answered_and_no_harm_is_done() -> None:
    site = Site()
    site.holds = True
    async with site.served() as (_, writer):
        writer.write(post(b"one") + post(b"two"))
        while not site.waiting:  # noqa: ASYNC110 - the test's own end of it
            await asyncio.sleep(0.01)
        writer.transport.abort()
        await asyncio.sleep(0.1)
        site.answer()
        await asyncio.sleep(0.1)
        assert len(site.directly) == 1


async def test_a_connection_that_is_idle_is_closed_and_one_whose_answer_is_awaited_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "_HEADERS_S", 60)
    site = Site()
    async with site.served() as (reader, writer):
        await _impatient_about_idleness()
        site.holds = True
        writer.write(post(b"again"))
        await asyncio.sleep(0.5)
        site.answer()
        assert (await answer_of(reader))[2] == b"direct again"
        site.holds = False
        for _ in range(4):
            await asyncio.sleep(0.1)
            writer.write(post())
            await answer_of(reader)
        began_s = asyncio.get_running_loop().time()
        assert await is_closed(reader)
        assert asyncio.get_running_loop().time() - began_s < 1.5


async def test_a_request_that_does_not_come_in_time_after_one_that_did() -> None:
    site = Site()
    async with site.served() as (reader, writer):
        writer.write(post())
        await answer_of(reader)
        writer.write(post()[:20])
        assert await is_closed(reader)


async def test_a_stop_waits_for_an_answer_and_closes_the_connection_then() -> None:
    site = Site()
    site.holds = True
    routes = Routes()
    routes.mount("/direct", echo, site.direct)
    async with serving(routes, "127.0.0.1:0") as address:
        reader, writer = await opened(address)
        writer.write(post())
        while not site.waiting:  # noqa: ASYNC110 - the test's own end of it
            await asyncio.sleep(0.01)
        asyncio.get_running_loop().call_later(0.5, site.answer)
    _, headers, body = await answer_of(reader)
    assert (headers["connection"], body) == ("close", b"direct abc")
    writer.close()


async def test_what_is_no_request_is_answered_400_amid_others() -> None:
    site = Site()
    async with site.served() as (reader, writer):
        writer.write(post() + b"POST /direct HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nnot hex\r\n")
        assert (await answer_of(reader))[2] == b"direct abc"
        assert (await answer_of(reader))[0] == 400
        assert await is_closed(reader)


async def test_a_body_in_chunks_that_comes_whole() -> None:
    site = Site()
    async with site.served() as (reader, writer):
        head = b"POST /direct HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
        writer.write(head + b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
        assert (await answer_of(reader))[2] == b"direct abc"


async def test_requests_that_wait_hold_reading_up_and_too_many_end_the_connection() -> None:
    """However the application asks for its own body."""
    asked, go = 0, asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        nonlocal asked
        await receive()
        asked += 1
        await go.wait()
        await respond(send, 200, b"slow")

    routes = Routes()
    routes.mount("/slow", slow)
    async with serving(routes, "127.0.0.1:0") as address:
        reader, writer = await opened(address)
        body = b"x" * 5_000
        writer.write(post(body, path=b"/slow") * 200)  # a megabyte
        await asyncio.sleep(0.3)
        (connection,) = _connections()
        assert len(connection.pipeline) < 110, "it reads on"
        assert asked == 1
        go.set()
        for _ in range(200):
            assert (await answer_of(reader))[2] == b"slow"
        go.clear()
        writer.write(post(b"", path=b"/slow") * 2_000)
        assert await is_closed(reader)
        other_reader, other = await opened(address)
        go.set()
        other.write(post(path=b"/slow"))
        assert (await answer_of(other_reader))[2] == b"slow"
        other.close()
        writer.close()


@pytest.mark.parametrize("path", [b"/direct", b"/direct?x=1"])
async def test_an_empty_line_after_an_answer_keeps_no_connection_open(path: bytes) -> None:
    site = Site()
    async with site.served() as (reader, writer):
        await _impatient_about_idleness()
        writer.write(post(path=path))
        await answer_of(reader)
        writer.write(b"\r\n")
        assert await is_closed(reader)


async def test_a_websocket_stays_open_after_a_request_that_was_answered_directly() -> None:
    async def socket(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await asyncio.sleep(1)
            await send({"type": "websocket.send", "text": "still here"})
            await send({"type": "websocket.close"})

    site = Site()
    routes = Routes()
    routes.mount("/direct", echo, site.direct)
    routes.mount("/socket", socket)
    async with serving(routes, "127.0.0.1:0") as address:
        reader, writer = await opened(address)
        await _impatient_about_idleness()
        writer.write(post())
        await answer_of(reader)
        writer.write(
            b"GET /socket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        async with asyncio.timeout(5):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
            assert b"still here" in await reader.readuntil(b"still here")
        writer.close()


async def test_who_offers_another_protocol_and_wants_the_end_gets_it() -> None:
    site = Site()
    async with site.served() as (reader, writer):
        writer.write(post(more=b"Connection: close, Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"))
        _, headers, body = await answer_of(reader)
        assert (headers["connection"], body) == ("close", b"direct abc")
        assert (b"connection", b"close") in site.directly[0].headers
        assert await is_closed(reader)


async def test_time_for_a_head_does_not_run_while_it_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a request that has come in part behind one that waits for its answer."""
    site = Site()
    site.holds = True
    async with site.served() as (reader, writer):
        writer.write(post(b"one") + post(b"two") + post(b"three")[:20])
        await asyncio.sleep(0.5)
        monkeypatch.setattr(server, "_HEADERS_S", 60)  # from now on it may take its time
        site.holds = False
        site.answer()
        assert (await answer_of(reader))[2] == b"direct one"
        assert (await answer_of(reader))[2] == b"two"
        writer.write(post(b"three")[20:])
        assert (await answer_of(reader))[2] == b"direct three"


async def _impatient_about_idleness() -> None:
    while not _connections():  # noqa: ASYNC110 - the server's end of it
        await asyncio.sleep(0.01)
    for connection in _connections():
        connection.timeout_keep_alive = 0.3  # type: ignore[assignment]  # seconds, as uvicorn's own


def _connections() -> list[server.Connection]:
    found = [found for found in gc.get_objects() if isinstance(found, server.Connection)]
    return [one for one in found if one.transport is not None and not one.transport.is_closing()]


async def test_a_deadline_is_put_off_without_another_timer() -> None:
    loop = asyncio.get_running_loop()
    called: list[float] = []
    deadline = server.Deadline(loop, lambda: called.append(loop.time()))
    began_s = loop.time()
    deadline.set(0.1)
    for _ in range(5):
        await asyncio.sleep(0.04)
        deadline.set(0.1)
    put_off_s = loop.time()
    assert deadline.is_set
    assert called == []
    await asyncio.sleep(0.25)
    assert not deadline.is_set
    assert len(called) == 1
    assert put_off_s + 0.09 < called[0]
    assert began_s + 0.2 < called[0]


async def test_a_deadline_that_is_given_up_and_set_again() -> None:
    called: list[int] = []
    deadline = server.Deadline(asyncio.get_running_loop(), lambda: called.append(1))
    deadline.set(0.02)
    deadline.clear()
    await asyncio.sleep(0.06)
    assert called == []
    deadline.set(0.02)
    await asyncio.sleep(0.06)
    assert called == [1]
    deadline.set(0.02)
    deadline.close()
    await asyncio.sleep(0.06)
    assert called == [1]


async def is_ended(reader: asyncio.StreamReader) -> bool:
    """By an answer that says so, or by a reset where the rest of the request was still coming."""
    try:
        async with asyncio.timeout(5):
            return (await reader.read()).startswith(b"HTTP/1.1 400")
    except ConnectionError:
        return True


@pytest.mark.parametrize("line", [b"x: " + b"y" * 1_000 + b"\r\n", b"x" * 1_000], ids=["many", "one"])
async def test_a_head_without_end_is_refused(line: bytes) -> None:
    async with served() as address:
        reader, writer = await opened(address)
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(5_000):
                writer.write(line)
                await writer.drain()
        assert await is_ended(reader)
        writer.close()
        reader, writer = await opened(address)  # a large one that ends is none of these
        writer.write(
            b"POST / HTTP/1.1\r\nHost: localhost\r\n" + b"x: " + b"y" * 50_000 + b"\r\nContent-Length: 3\r\n\r\nabc"
        )
        async with asyncio.timeout(5):
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_trailers_are_not_kept() -> None:
    kept: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await echo(scope, receive, send)
        kept.append(len(scope["headers"]))

    routes = Routes()
    routes.mount("/", app)
    async with serving(routes, "127.0.0.1:0") as address:
        reader, writer = await opened(address)
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n")
        for number in range(200):
            writer.write(b"t%d: %s\r\n" % (number, b"x" * 500))
        writer.write(b"\r\n")
        async with asyncio.timeout(5):
            assert (await reader.readuntil(b"abc")).startswith(b"HTTP/1.1 200")
        writer.close()
    assert kept == [2]


async def test_who_does_not_read_the_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_FLUSH_S", 0.2)
    connections: set[Any] = set()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(20_000_000)})

    made = server.Connection.connection_made

    def remembered(self: Any, transport: Any) -> None:
        made(self, transport)
        self.timeout_keep_alive = 0.2
        connections.add(transport)

    monkeypatch.setattr(server.Connection, "connection_made", remembered)
    routes = Routes()
    routes.mount("/", app)
    async with serving(routes, "127.0.0.1:0") as address:
        _, writer = await opened(address)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(1)
        (transport,) = connections
        assert transport.get_write_buffer_size() == 0
        assert transport.is_closing()
        writer.close()


async def test_who_is_answered_at_once_does_not_hurry_the_next() -> None:
    """One that is refused, and one that waits for its answer, in one packet."""
    waiting: list[Answering] = []

    def direct(request: Request, answer: Answering) -> bool:
        if request.body == b"no ":
            answer(403, b"{}", [])
        else:
            waiting.append(answer)
        return True

    routes = Routes()
    routes.mount("/", echo, direct)
    made = server.Connection.connection_made

    def hurried(self: Any, transport: Any) -> None:
        made(self, transport)
        self.timeout_keep_alive = 0.2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server.Connection, "connection_made", hurried)
        async with serving(routes, "127.0.0.1:0") as address:
            reader, writer = await opened(address)
            writer.write(REQUEST + b"\r\nno " + REQUEST + b"\r\nyes")
            await asyncio.sleep(0.6)
            waiting[0](202, b"{}", [])
            async with asyncio.timeout(5):
                assert (await reader.readuntil(b"{}")).startswith(b"HTTP/1.1 403")
                assert (await reader.readuntil(b"{}")).startswith(b"HTTP/1.1 202")
            writer.close()
