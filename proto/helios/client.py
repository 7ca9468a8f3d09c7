"""The client for asyncio: events and batches to a collector, with retries within one deadline."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Final, Self

from helios.batching import Batching, ClientStats, Flusher
from helios.endpoint import DEFAULT_ENDPOINT, Endpoint
from helios.errors import ClientClosed, CollectorFailed, Denied, EventRejected, Unavailable
from helios.event import Event
from helios.grpc_transport import GrpcTransport
from helios.results import RejectedItem, SendResult, result_of, split
from helios.retry import Deadline, RetryPolicy, call_with_retry, check_seconds
from helios.retry_info import MAX_RETRY_AFTER_S
from helios.transport import Transport
from helios.v1.service_pb2 import (
    ANSWER_ACCEPTED,
    ANSWER_DENIED,
    ANSWER_RETRY,
    SendBatchRequest,
    SendBatchResponse,
    SendEventsRequest,
)

DEFAULT_TIMEOUT_S: Final = 10.0


class AsyncClient:
    """Sends events to a collector; a call returns when they are safe there.

    All of its methods but `log` belong to the event loop that it was first used on. What a call
    raises is a `HeliosClientError`; one that is `retryable` can be repeated with the same events,
    which carry their ids, without counting any of them twice.

    Args:
        endpoint: `host:port`, or a URL whose scheme sets TLS; an `Endpoint` for certificate files.
        api_key: sent as `authorization: Bearer <key>`; over http:// it travels unencrypted.
        timeout_s: how long a call may take with all of its retries, unless it is given another.
        retry: how retries are spaced within that time.
        batching: when events that were logged are sent, and how many may wait.
        transport: what to use in place of gRPC, such as `helios.testing.MemoryCollector`; the
            endpoint and the key are not used then.

    Raises:
        ConfigError: one of these cannot work.
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
        self._endpoint = endpoint if isinstance(endpoint, Endpoint) else Endpoint.parse(endpoint)
        self._timeout_s = check_seconds("timeout_s", timeout_s)
        self._retry = retry or RetryPolicy()
        self._transport: Transport = transport or GrpcTransport(self._endpoint, api_key=api_key)
        self._flusher = Flusher(self._send, batching or Batching(), self._retry, self._timeout_s)
        self._closed = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._endpoint)!r})"

    async def __aenter__(self) -> Self:
        self._check_open()
        self._flusher.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def send_event(self, event: Event, *, timeout_s: float | None = None) -> None:
        """Returns when the event is safe with the collector.

        Raises:
            EventRejected: the collector refused it and keeps it in its dead letter.
            HeliosClientError: it is not known to be safe.
        """
        result = await self.send_events((event,), timeout_s=timeout_s)
        for item in result.rejected:
            raise EventRejected(f"the collector rejected the event {item.event_id}: {item.reason}")

    async def send_events(self, events: Iterable[Event], *, timeout_s: float | None = None) -> SendResult:
        """Returns when each event is safe with the collector: accepted, or kept in its dead letter.

        Events that do not fit into one message are sent in several, one after the other.

        Raises:
            HeliosClientError: not all of them are known to be safe, though some may be. Repeat the
                call with the same events when the error is `retryable`.
        """
        deadline = self._deadline(timeout_s)
        return await self._send(list(events), deadline)

    async def send_batch(self, request: SendBatchRequest, *, timeout_s: float | None = None) -> SendBatchResponse:
        """The answer ACCEPTED to a raw batch; the answer RETRY is obeyed within the deadline.

        Raises:
            Denied: the answer DENIED: keep the batch, and let a person know.
            HeliosClientError: the batch is not known to be safe: keep it.
        """

        async def attempt(remaining_s: float) -> SendBatchResponse:
            answer = await self._transport.send_batch(request, timeout_s=remaining_s)
            _check_answer(request, answer)
            return answer

        return await call_with_retry(attempt, self._deadline(timeout_s), self._retry)

    def stream(self, requests: AsyncIterator[SendBatchRequest]) -> AsyncGenerator[SendBatchResponse, None]:
        """Batches up, answers down in their order, each for the caller to judge.

        Nothing is retried: when the stream breaks, whoever holds the batches opens another and sends
        those without an answer again. Close it with `contextlib.aclosing`.

        Raises:
            HeliosClientError: the stream broke.
        """
        self._check_open()
        return self._transport.stream(requests)

    def log(self, event: Event) -> bool:
        """Takes an event to be sent soon, and does not wait. Any thread may call it.

        Returns:
            False when the buffer is full: the event is dropped and counted in `stats`.
        """
        return self._flusher.log(event)

    @property
    def stats(self) -> ClientStats:
        """What became of the events that were logged."""
        return self._flusher.buffer.stats()

    async def flush(self, *, timeout_s: float | None = None) -> None:
        """Returns when the events that were logged before the call have left the buffer.

        Raises:
            HeliosClientError: why they have not, or that some were refused.
        """
        await self._flusher.drain(self._deadline(timeout_s))

    async def close(self, *, timeout_s: float | None = None) -> None:
        """Sends what is buffered, within the time, and lets go of the connection. May be called twice.

        It raises no client error: events that could not be sent are logged and counted in `stats`.
        """
        if self._closed:
            return
        deadline = self._deadline(timeout_s)
        self._closed = True
        try:
            await self._flusher.close(deadline)
        finally:
            await self._transport.close()

    async def _send(self, events: Sequence[Event], deadline: Deadline) -> SendResult:
        accepted = 0
        rejected: list[RejectedItem] = []
        for first, part in split(events):
            result = await self._send_part(part, first, deadline)
            accepted += result.accepted
            rejected += result.rejected
        return SendResult(accepted, tuple(rejected))

    async def _send_part(self, events: Sequence[Event], first: int, deadline: Deadline) -> SendResult:
        request = SendEventsRequest(events=[event.to_proto() for event in events])

        async def attempt(remaining_s: float) -> SendResult:
            answer = await self._transport.send_events(request, timeout_s=remaining_s)
            return result_of(answer, events, first)

        return await call_with_retry(attempt, deadline, self._retry)

    def _deadline(self, timeout_s: float | None) -> Deadline:
        self._check_open()
        return Deadline(self._timeout_s if timeout_s is None else timeout_s)

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed("the client is closed: make another one")


def _check_answer(request: SendBatchRequest, answer: SendBatchResponse) -> None:
    """Returns for ACCEPTED of this very batch, and raises for everything else."""
    if answer.answer == ANSWER_RETRY:
        message = f"the collector cannot take the batch now: {answer.detail or 'it gave no reason'}"
        raise Unavailable(message, retry_after_s=min(answer.retry_after_ms / 1_000, MAX_RETRY_AFTER_S))
    if answer.answer == ANSWER_DENIED:
        raise Denied(f"the collector does not take this sender's batches: {answer.detail or 'it gave no reason'}")
    if answer.answer != ANSWER_ACCEPTED:
        raise CollectorFailed(f"the collector gave the answer {answer.answer}, which this version does not know")
    if answer.id != request.id:
        raise CollectorFailed(f"the collector accepted batch {answer.id.sequence}, not {request.id.sequence}")
