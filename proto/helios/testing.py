"""A collector in memory, for the tests of applications that send events; it needs no network."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from helios.errors import ClientClosed, InvalidEvent
from helios.event import Event
from helios.retry import Status, error_from_status
from helios.v1 import events_pb2
from helios.v1.service_pb2 import (
    ANSWER_ACCEPTED,
    Answer,
    Rejection,
    SendBatchRequest,
    SendBatchResponse,
    SendEventsRequest,
    SendEventsResponse,
)

_MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024  # what gRPC takes


@dataclass(frozen=True, slots=True)
class _Failure:
    status: Status
    detail: str
    retry_after_s: float | None


class MemoryCollector:
    """Takes what a client sends, and fails when it is told to: `AsyncClient(transport=MemoryCollector())`.

    It promises what a collector promises: an event with an id that it has is not taken twice.

    Attributes:
        requests: every SendEventsRequest that came, those that failed too.
        batches: every SendBatchRequest that came, on a stream or alone.
        closed: whether the client has let go of it.
    """

    def __init__(self) -> None:
        self.requests: list[SendEventsRequest] = []
        self.batches: list[SendBatchRequest] = []
        self.closed = False
        self._events: dict[str, Event] = {}
        self._failures: deque[_Failure] = deque()
        self._answers: deque[SendBatchResponse] = deque()
        self._reason: Callable[[Event], str | None] = lambda event: None

    @property
    def events(self) -> list[Event]:
        """The events that were accepted, each once, in the order of their arrival."""
        return list(self._events.values())

    def fail(
        self, status: Status, *, times: int = 1, retry_after_s: float | None = None, detail: str = "told to fail"
    ) -> None:
        """The next `times` calls fail with `status`, and with google.rpc.RetryInfo when a wait is given."""
        self._failures.extend([_Failure(status, detail, retry_after_s)] * times)

    def reject(self, reason: Callable[[Event], str | None]) -> None:
        """From now on, an event for which `reason` gives a text is rejected with it."""
        self._reason = reason

    def answer(
        self, answer: Answer.ValueType, *, times: int = 1, retry_after_ms: int = 0, detail: str = "told to answer so"
    ) -> None:
        """The next `times` batches get this answer; without it they are accepted."""
        response = SendBatchResponse(answer=answer, retry_after_ms=retry_after_ms, detail=detail)
        self._answers.extend([response] * times)

    async def send_events(self, request: SendEventsRequest, *, timeout_s: float) -> SendEventsResponse:
        copy = SendEventsRequest()
        copy.CopyFrom(request)
        self.requests.append(copy)
        self._check(request.ByteSize())
        rejected: list[Rejection] = []
        for index, message in enumerate(request.events):
            reason = self._take(message)
            if reason is not None:
                rejected.append(Rejection(index=index, reason=reason))
        return SendEventsResponse(accepted=len(request.events) - len(rejected), rejected=rejected)

    async def send_batch(self, request: SendBatchRequest, *, timeout_s: float) -> SendBatchResponse:
        return self._answer_to(request)

    async def stream(self, requests: AsyncIterator[SendBatchRequest]) -> AsyncGenerator[SendBatchResponse, None]:
        async for request in requests:
            yield self._answer_to(request)

    async def close(self) -> None:
        self.closed = True

    def _answer_to(self, request: SendBatchRequest) -> SendBatchResponse:
        copy = SendBatchRequest()
        copy.CopyFrom(request)
        self.batches.append(copy)
        self._check(request.ByteSize())
        answer = SendBatchResponse(answer=ANSWER_ACCEPTED)
        if self._answers:
            answer.CopyFrom(self._answers.popleft())
        answer.id.CopyFrom(request.id)
        return answer

    def _take(self, message: events_pb2.Event) -> str | None:
        """The reason to reject the event, or None once it is kept."""
        try:
            event = Event.from_proto(message)
        except InvalidEvent as error:
            return str(error)
        reason = self._reason(event)
        if reason is None:
            self._events.setdefault(event.id, event)
        return reason

    def _check(self, size_bytes: int) -> None:
        if self.closed:
            raise ClientClosed("the collector in memory is closed")
        if self._failures:
            failure = self._failures.popleft()
            message = f"the collector in memory answered {failure.status.name}: {failure.detail}"
            raise error_from_status(failure.status, message, retry_after_s=failure.retry_after_s)
        if size_bytes > _MAX_MESSAGE_BYTES:
            message = f"the collector in memory answered RESOURCE_EXHAUSTED: {size_bytes} bytes"
            raise error_from_status(Status.RESOURCE_EXHAUSTED, message)
