"""The HTTP server of a process: uvicorn, with a bound on connections and on the time that a request takes to begin.

A connection on which nothing comes costs memory and a descriptor; uvicorn waits on it for ever. A task, a cycle and a
scope for each request cost six times what reading and answering a small one does: those that come whole, or whose body
follows their head at once, and for which there is a `Direct`, have none.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from typing import Any, Final

import httptools
import uvicorn
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from helios_core.routes import Direct, Headers, Request, Routes

_HEADERS_S: Final = 10.0  # from the connection, or from a request's first byte, to the end of its headers
_FLUSH_S: Final = 10.0
_MAX_HEAD_BYTES: Final = 64 * 1024  # of what was read until all headers were there
_SOON_S: Final = 0.02  # many clients send head and body apart: then the one follows the other
_MAX_CONNECTIONS: Final = 10_000
_MAX_FILES: Final = 65_536
_MAX_PIPELINED: Final = 1_000  # requests of a connection that wait for one before them
_OFFER: Final = (b"upgrade", b"http2-settings")
_FORWARDED: Final = b"x-forwarded-for"


class Config(uvicorn.Config):
    """uvicorn's, which remembers the routes that it wraps.

    Args:
        routes: the application.
    """

    def __init__(self, routes: Routes, **settings: Any) -> None:
        super().__init__(routes, **settings)
        self.routes = routes
        self._said: list[tuple[bytes, bytes]] = []
        self._said_bytes = b""

    def said(self, state: ServerState) -> bytes:
        """The headers of every answer, which uvicorn makes anew each second."""
        if state.default_headers is not self._said:
            self._said = state.default_headers
            self._said_bytes = b"".join(b"%s: %s\r\n" % header for header in self._said)
        return self._said_bytes


class Server(uvicorn.Server):
    """Signals are the command's: uvicorn would raise them again after it has stopped."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Connection(HttpToolsProtocol):
    """Closed when a request does not come in time, or when there are too many."""

    config: Config
    _head: Deadline  # of the headers that are coming
    _idle: Deadline  # of the next request
    _is_coming = True  # a request: its headers are not complete
    _is_forwarded = False  # uvicorn looks who has sent it
    _direct: Direct | None = None  # who is asked first for the request whose body is coming
    _body = b""
    _head_bytes = 0  # of the one that is coming
    _soon: asyncio.TimerHandle | None = None  # until when the rest of it is to have come

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self.flow = _Flow(transport, self)
        self._head = Deadline(self.loop, self._give_up)
        self._idle = Deadline(self.loop, self._give_up)
        if len(self.connections) > max_connections():
            transport.abort()
        else:
            self._head.set(_HEADERS_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._head.close()
        self._idle.close()
        self._drop_direct()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """As in uvicorn, but for an offer of another protocol than WebSocket, such as HTTP/2 in the clear.

        The parser takes such a request to end after its headers, and its body for the next request. The offer may be
        ignored (RFC 9110, 7.8): the head is read again without it, and what follows is its body.
        """
        size = len(data)
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserError:
                self._drop_direct()
                self.send_400_response("Invalid HTTP request received.")
                return
            except httptools.HttpParserUpgrade as upgrade:
                if self._should_upgrade():
                    self.handle_websocket_upgrade()
                    return
                if self.parser.get_method() == b"CONNECT":
                    self.send_400_response("This is no proxy.")
                else:
                    data = self._head_without_offer() + data[upgrade.args[0] :]
                    self.parser = httptools.HttpRequestParser(self)
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as in uvicorn
                    continue
            break
        if self._is_coming:
            self._head_bytes += size
            if self._head_bytes > _MAX_HEAD_BYTES:
                self.send_400_response(f"The head of a request has at most {_MAX_HEAD_BYTES} bytes.")
                return
        if self._direct is not None and self._soon is None:
            self._soon = self.loop.call_later(_SOON_S, self._ask_application)  # which has a deadline of its own
        self._watch()

    def _watch(self) -> None:
        """Something is always waited for with a deadline: a request's head, the next one, or whoever answers it."""
        if self.flow.read_paused or self.transport.is_closing():
            return
        if self._is_coming:
            if not self._head.is_set:
                self._head.set(_HEADERS_S)
        elif self._direct is None and not self._idle.is_set and self._is_free():
            # It is over; or an empty line has come, or some of a body that nobody wants.
            self._idle.set(self.timeout_keep_alive)

    def _head_without_offer(self) -> bytes:
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                kept = b", ".join(token for token in map(bytes.strip, value.split(b",")) if token.lower() not in _OFFER)
                lines += [b"%s: %s" % (name, kept)] if kept else []
            elif name not in _OFFER:
                lines.append(b"%s: %s" % (name, value))
        return b"\r\n".join([*lines, b"", b""])

    @property
    def _is_offered(self) -> bool:
        """Another protocol is, that is not spoken here."""
        return self.parser.should_upgrade() and not self._should_upgrade()

    def on_message_begin(self) -> None:
        """Of a request: what uvicorn makes for each is made when its application is asked."""
        self._idle.clear()
        self._is_coming = True
        self._head_bytes = 0
        self._is_forwarded = False
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """One of a request. What follows its body, as trailers, nobody has asked for."""
        if not self._is_coming:
            return
        name = name.lower()
        if name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"
        elif name == _FORWARDED:
            self._is_forwarded = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """All of them are there; for the body whoever reads it has a deadline."""
        self._head.clear()
        self._is_coming = False
        if self.parser.should_upgrade():
            self._begin()
            if self._should_upgrade():
                super().on_headers_complete()
            return
        if self._may_be_direct():
            self._direct = self.config.routes.direct.get(self.url)
        if self._direct is None:
            self._begin()
            super().on_headers_complete()
            if len(self.pipeline) > _MAX_PIPELINED:
                self.transport.abort()

    def _may_be_direct(self) -> bool:
        """Nothing is before it, and nothing is to be said before it has come."""
        return (
            self._is_free()
            and not self.expect_100_continue
            and not self.flow.write_paused
            and self.parser.get_method() == b"POST"
            and not self._is_forwarded
        )

    def _is_free(self) -> bool:
        cycle: Any = self.cycle  # None before the first request, whatever its type says
        return cycle is None or cycle.response_complete

    def on_body(self, body: bytes) -> None:
        """Some of it."""
        if self._direct is None:
            super().on_body(body)
            return
        self._body += body
        if len(self._body) > HIGH_WATER_LIMIT:
            self._ask_application()

    def on_message_complete(self) -> None:
        """Of a request."""
        if self._direct is not None:
            request = Request(self.headers, self._body, self.client[0] if self.client else "")
            answer = _DirectAnswer(self)
            cycle, self.cycle = self.cycle, answer  # type: ignore[assignment]  # it has what is asked of it
            if self._direct(request, answer):
                self._drop_direct()
                return
            self.cycle = cycle
            self._ask_application()
        if not self._is_offered:
            super().on_message_complete()

    def _begin(self) -> None:
        """What uvicorn does when a request begins."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers  # the list that is in the scope

    def _ask_application(self) -> None:
        """In the place of whoever answers directly."""
        body = self._body
        self._drop_direct()
        self._begin()
        super().on_headers_complete()
        if body:
            super().on_body(body)

    def _drop_direct(self) -> None:
        self._direct, self._body = None, b""
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None

    def _give_up(self) -> None:
        """Closes it, soon also when nobody reads what is left to send."""
        self.transport.close()
        self.loop.call_later(_FLUSH_S, self.transport.abort)

    def on_response_complete(self) -> None:
        """The next one begins, if it has come. As in uvicorn, which makes a timer for each request."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        self._watch()


class Deadline:
    """A call at a time that may be put off or given up without a timer of its own: there is at most one under way.

    Timers of the loop cost as much as reading a small request, and nearly all of them are cancelled.
    """

    __slots__ = ("_at_s", "_call", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
        self._loop = loop
        self._call = call
        self._at_s = inf
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_set(self) -> bool:
        return self._at_s != inf

    def set(self, within_s: float) -> None:
        """From now on; not sooner than it was set to before."""
        self._at_s = self._loop.time() + within_s
        if self._timer is None:
            self._timer = self._loop.call_at(self._at_s, self._look)

    def clear(self) -> None:
        self._at_s = inf

    def close(self) -> None:
        """For good: it keeps nothing alive."""
        self.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._at_s <= self._loop.time():
            self.clear()
            self._call()
        elif self.is_set:
            self._timer = self._loop.call_at(self._at_s, self._look)


class _Flow(FlowControl):
    """Nothing more is read while requests wait that were read before: uvicorn would read on as soon as one is begun.

    The one before them has come whole.
    """

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        super().__init__(transport)
        self._connection = connection

    def resume_reading(self) -> None:
        if not self._connection.pipeline:
            super().resume_reading()


class _Unheard:
    """In the place of an event that nobody waits for."""

    def set(self) -> None:
        return


class _DirectAnswer:
    """In the place of uvicorn's cycle of a request and its answer, for one that is answered directly.

    Attributes: as of that.
    """

    __slots__ = ("_connection", "body", "disconnected", "keep_alive", "more_body", "response_complete")
    message_event = _Unheard()

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.body = b""
        self.more_body = False
        self.disconnected = False
        self.response_complete = False
        parser = connection.parser
        self.keep_alive = parser.get_http_version() != "1.0" and parser.should_keep_alive()

    def __call__(self, status: int, body: bytes, headers: Headers) -> None:
        """See `routes.Answering`."""
        self.response_complete = True
        connection = self._connection
        if connection.transport.is_closing():
            return
        extra = b"".join(b"%s: %s\r\n" % header for header in headers) if headers else b""
        if not self.keep_alive:
            extra += b"connection: close\r\n"
        connection.transport.write(
            b"%scontent-type: application/json\r\ncontent-length: %d\r\n%s%s\r\n%s"
            % (STATUS_LINE[status], len(body), connection.config.said(connection.server_state), extra, body)
        )
        if not self.keep_alive:
            connection.transport.close()
        connection.on_response_complete()


def max_connections() -> int:
    """Half of the descriptors, so that files and the connections to the engines have room; at most 10,000."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(_MAX_CONNECTIONS, soft // 2)


def raise_limit_of_files() -> None:
    """To what the system allows, as servers do: the usual limit of 1,024 is for programs that use select."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
