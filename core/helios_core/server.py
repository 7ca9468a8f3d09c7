"""The HTTP server of a process: uvicorn, with a bound on connections and on the time that a request takes to begin.

A connection on which nothing comes costs memory and a descriptor; uvicorn waits on it for ever.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_HEADERS_S: Final = 10.0  # from the connection, or from a request's first byte, to the end of its headers
_MAX_CONNECTIONS: Final = 10_000
_MAX_FILES: Final = 65_536
_OFFER: Final = (b"connection", b"upgrade", b"http2-settings")


class Server(uvicorn.Server):
    """Signals are the command's: uvicorn would raise them again after it has stopped."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Connection(HttpToolsProtocol):
    """Closed when a request does not come in time, or when there are too many."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        if len(self.connections) > max_connections():
            transport.abort()
        else:
            self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """As in uvicorn, but for an offer of another protocol than WebSocket, such as HTTP/2 in the clear.

        The parser takes such a request to end after its headers, and its body for the next request. The offer may be
        ignored (RFC 9110, 7.8): the head is read again without it, and what follows is its body.
        """
        self._unset_keepalive_if_required()
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserError:
                self.send_400_response("Invalid HTTP request received.")
            except httptools.HttpParserUpgrade as upgrade:
                if self._should_upgrade():
                    self.handle_websocket_upgrade()
                elif self.parser.get_method() == b"CONNECT":
                    self.send_400_response("This is no proxy.")
                else:
                    data = self._head_without_offer() + data[upgrade.args[0] :]
                    self.parser = httptools.HttpRequestParser(self)
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as in uvicorn
                    continue
            return

    def _head_without_offer(self) -> bytes:
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [b"%s: %s" % header for header in self.headers if header[0] not in _OFFER]
        return b"\r\n".join([*lines, b"", b""])

    @property
    def _is_offered(self) -> bool:
        """Another protocol is, that is not spoken here."""
        return self.parser.should_upgrade() and not self._should_upgrade()

    def on_message_complete(self) -> None:
        if not self._is_offered:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Nothing more is read while requests wait that were read before: uvicorn would read on."""
        super().on_response_complete()
        if self.pipeline:
            self.flow.pause_reading()

    def on_message_begin(self) -> None:
        """Of a request."""
        self._expect()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """All of them are there; for the body whoever reads it has a deadline."""
        self._came()
        if not self._is_offered:
            super().on_headers_complete()

    def _expect(self) -> None:
        self._came()
        self._deadline = self.loop.call_later(_HEADERS_S, self.transport.close)

    def _came(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


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
