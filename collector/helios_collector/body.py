"""The body of a request: read within its limits, unpacked within its limits, and not waited for when stopping."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager
from gzip import GzipFile
from io import BytesIO
from typing import Final, TypeVar

from helios_collector.admission import Busy, Visit
from helios_core.errors import BusUnavailable, WireError
from helios_core.routes import Receive

MAX_BODY_BYTES: Final = 10 * 1024 * 1024  # as sent
_BODY_S: Final = 30.0
_STALL_S: Final = 5.0  # who stalls holds room that others would have
MAX_PLAIN_BYTES: Final = 40 * 1024 * 1024  # after gunzip
_T = TypeVar("_T")


class BodyError(WireError):
    """A body of which nothing can be used.

    Attributes:
        status: the HTTP status that says so.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Gate:
    """Lets requests in until the collector stops, and then waits for those that are on their way to the bus."""

    def __init__(self) -> None:
        self._closed = asyncio.Event()
        self._passing = 0
        self._passed = asyncio.Event()

    def check(self) -> None:
        """BusUnavailable when the collector stops."""
        if self._closed.is_set():
            raise BusUnavailable("the collector is stopping")

    @contextmanager
    def passing(self) -> Iterator[None]:
        """While a request publishes."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def enter(self) -> None:
        """A request publishes."""
        self._passing += 1

    def leave(self) -> None:
        """It is on the bus, or will not be."""
        self._passing -= 1
        self._passed.set()

    def shut(self) -> None:
        """Nobody is let in any more."""
        self._closed.set()

    async def close(self) -> None:
        """Returns when those under way are on the bus."""
        self.shut()
        while self._passing:
            self._passed.clear()
            await self._passed.wait()

    async def unless_closed(self, coming: Awaitable[_T]) -> _T | None:
        """What comes, or None when the gate is closed sooner."""
        tasks = asyncio.ensure_future(coming), asyncio.ensure_future(self._closed.wait())
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return tasks[0].result() if tasks[0].done() else None
        finally:
            for task in tasks:
                task.cancel()


def plain(body: bytes, encoding: str) -> bytes:
    """The body without its compression; BodyError for one that is too large or damaged."""
    if encoding in ("", "identity"):
        return body
    if encoding != "gzip":
        raise BodyError(f"Content-Encoding {encoding!r}: gzip or none", 415)
    if not body:
        raise BodyError("the gzip body is empty")
    try:
        with GzipFile(fileobj=BytesIO(body)) as unzip:  # it may have several parts, one after the other
            data = unzip.read(MAX_PLAIN_BYTES + 1)
    except EOFError as error:
        raise BodyError("the gzip body ends too early") from error
    except (OSError, zlib.error) as error:
        raise BodyError(f"the gzip body is damaged: {error}") from error
    if len(data) > MAX_PLAIN_BYTES:
        raise BodyError(f"the body unpacks to more than {MAX_PLAIN_BYTES} bytes: send less at once", 413)
    return data


async def read(headers: Mapping[str, str], receive: Receive, gate: Gate, visit: Visit) -> bytes:
    """The body; one that goes on is not waited for when stopping.

    Args:
        visit: holds what has come of it.

    Raises:
        BodyError: it is too large, or its client has gone.
        Busy: there is no room for it, or it does not come in time.
    """
    try:
        async with asyncio.timeout(_STALL_S) as deadline:
            return await _read(headers, receive, gate, visit, deadline)
    except TimeoutError as error:
        said = f"the body did not come within {_BODY_S:g} s, or nothing of it for {_STALL_S:g} s"
        raise Busy(said, 1.0, "slow") from error


async def _read(
    headers: Mapping[str, str], receive: Receive, gate: Gate, visit: Visit, deadline: asyncio.Timeout
) -> bytes:
    announced = headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > MAX_BODY_BYTES:
        raise BodyError(f"a body of {announced} bytes: at most {MAX_BODY_BYTES}; send less at once", 413)
    parts: list[bytes] = []
    size = 0
    now_s = asyncio.get_running_loop().time
    last_s = now_s() + _BODY_S
    while True:
        message = await receive() if not parts else await gate.unless_closed(receive())
        if message is None:
            return b"".join(parts)
        if message["type"] == "http.disconnect":
            raise BodyError("the client went away before the body was complete")
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise BodyError(f"a body of more than {MAX_BODY_BYTES} bytes: send less at once", 413)
        visit.receive(len(part))
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)
        deadline.reschedule(min(now_s() + _STALL_S, last_s))
