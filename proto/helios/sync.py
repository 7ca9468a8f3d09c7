"""The client for code without asyncio: the asyncio client, run on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
import threading
from collections.abc import Coroutine, Iterable
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from helios.batching import Batching, ClientStats
from helios.client import DEFAULT_TIMEOUT_S, AsyncClient
from helios.endpoint import DEFAULT_ENDPOINT, Endpoint
from helios.errors import ClientClosed
from helios.event import Event
from helios.results import SendResult
from helios.retry import RetryPolicy
from helios.transport import Transport
from helios.v1.service_pb2 import SendBatchRequest, SendBatchResponse

_T = TypeVar("_T")
_JOIN_S: Final = 5.0


class Client:
    """Sends events to a collector; a call returns when they are safe there. Any thread may use it.

    It means the same as `AsyncClient` in everything, and takes the same arguments. Its thread starts
    at the first use: a process that forks makes its first use after the fork. What is buffered is
    sent when the process exits in order, should `close` have been forgotten.

    Raises:
        ConfigError: an argument cannot work.
    """

    def __init__(
        self,
        endpoint: str | Endpoint = DEFAULT_ENDPOINT,
        *,
        api_key: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retry: RetryPolicy | None = None,
        batching: Batching | None = None,
        transport: Transport | None = None,
    ) -> None:
        self._client = AsyncClient(
            endpoint, api_key=api_key, timeout_s=timeout_s, retry=retry, batching=batching, transport=transport
        )
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        self._closed = False

    def __repr__(self) -> str:
        return repr(self._client).removeprefix("Async")

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def send_event(self, event: Event, *, timeout_s: float | None = None) -> None:
        """See `AsyncClient.send_event`."""
        self._open().run(self._client.send_event(event, timeout_s=timeout_s))

    def send_events(self, events: Iterable[Event], *, timeout_s: float | None = None) -> SendResult:
        """See `AsyncClient.send_events`."""
        ready = list(events)  # the caller's iterator runs in the caller's thread
        return self._open().run(self._client.send_events(ready, timeout_s=timeout_s))

    def send_batch(self, request: SendBatchRequest, *, timeout_s: float | None = None) -> SendBatchResponse:
        """See `AsyncClient.send_batch`."""
        return self._open().run(self._client.send_batch(request, timeout_s=timeout_s))

    def log(self, event: Event) -> bool:
        """See `AsyncClient.log`."""
        self._open()
        return self._client.log(event)

    @property
    def stats(self) -> ClientStats:
        """See `AsyncClient.stats`."""
        return self._client.stats

    def flush(self, *, timeout_s: float | None = None) -> None:
        """See `AsyncClient.flush`."""
        self._open().run(self._client.flush(timeout_s=timeout_s))

    def close(self, *, timeout_s: float | None = None) -> None:
        """See `AsyncClient.close`."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            worker = self._worker
        atexit.unregister(self.close)
        if worker is not None and worker.is_alive:
            try:
                worker.run(self._client.close(timeout_s=timeout_s))
            finally:
                worker.stop()

    def _open(self) -> _Worker:
        with self._lock:
            if self._closed:
                raise ClientClosed("the client is closed: make another one")
            if self._worker is None:
                worker = _Worker()
                worker.run(self._client.__aenter__())
                self._worker = worker
                atexit.register(self.close)
            elif not self._worker.is_alive:
                raise ClientClosed("the client was used before the process forked: make one in each process")
            return self._worker


class _Worker:
    """A thread with a running event loop."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._stopping = False
        self._started = threading.Event()
        # A daemon, so that a client that is not closed does not hold up the end of the process.
        self._thread = threading.Thread(target=self._target, name="helios-client", daemon=True)
        self._thread.start()
        self._started.wait()

    @property
    def is_alive(self) -> bool:
        """False in a child of the process: threads do not survive a fork."""
        return self._pid == os.getpid()

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """The coroutine's result; it is cancelled when the wait for it is interrupted."""
        with self._lock:  # after stop() nothing would run it
            if self._stopping:
                coroutine.close()
                raise ClientClosed("the client was closed by another thread")
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise ClientClosed("the client was closed by another thread during the call") from None
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """Ends the loop with all that runs on it, and waits for the thread."""
        with self._lock:
            self._stopping = True
            self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(_JOIN_S)

    def _target(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(_handle)
        self._stopped = asyncio.Event()
        self._started.set()
        await self._stopped.wait()


def _handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Keeps quiet about what means nothing: before 1.80, gRPC wakes all event loops for one byte.

    The loops that do not get it raise BlockingIOError (grpc/grpc issue 25364).
    """
    if not (isinstance(context.get("exception"), BlockingIOError) and "PollerCompletionQueue" in context["message"]):
        loop.default_exception_handler(context)
