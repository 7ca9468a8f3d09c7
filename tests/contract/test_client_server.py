"""The client against a server of the contract on a loopback port, and the collector in memory beside it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from helios import (
    AsyncClient,
    Client,
    ClientClosed,
    CollectorFailed,
    ConnectionFailed,
    DeadlineExceeded,
    Denied,
    Event,
    HeliosClientError,
    InvalidRequest,
    RetryPolicy,
    SendResult,
    Status,
    Unavailable,
)
from helios.retry_info import TRAILER, retry_details
from helios.testing import MemoryCollector
from helios.v1.batch_pb2 import BatchId
from helios.v1.service_pb2 import (
    ANSWER_ACCEPTED,
    ANSWER_DENIED,
    ANSWER_RETRY,
    Answer,
    Rejection,
    SendBatchRequest,
    SendBatchResponse,
    SendEventsRequest,
    SendEventsResponse,
)
from helios.v1.service_pb2_grpc import HeliosServicer, add_HeliosServicer_to_server

QUICK = RetryPolicy(initial_delay_s=0.01, max_delay_s=0.05)


class FakeCollector(HeliosServicer):
    """The service of the contract without a bus: it can be told what to answer, as the twin can."""

    def __init__(self) -> None:
        self.requests: list[SendEventsRequest] = []
        self.batches: list[SendBatchRequest] = []
        self.metadata: dict[str, str | bytes] = {}
        self.hangs = False
        self.hung = asyncio.Event()
        self._failures: deque[tuple[Status, str, float | None]] = deque()
        self._answers: deque[SendBatchResponse] = deque()
        self._reason: Callable[[Event], str | None] = lambda event: None

    def fail(
        self, status: Status, *, times: int = 1, retry_after_s: float | None = None, detail: str = "told to fail"
    ) -> None:
        self._failures.extend([(status, detail, retry_after_s)] * times)

    def answer(self, answer: Answer.ValueType, *, times: int = 1, retry_after_ms: int = 0, detail: str = "so") -> None:
        self._answers.extend([SendBatchResponse(answer=answer, retry_after_ms=retry_after_ms, detail=detail)] * times)

    def reject(self, reason: Callable[[Event], str | None]) -> None:
        self._reason = reason

    async def SendEvents(self, request: SendEventsRequest, context: Any) -> SendEventsResponse:
        self.requests.append(request)
        await self._admit(context)
        rejected = [
            Rejection(index=index, reason=reason)
            for index, message in enumerate(request.events)
            if (reason := self._reason(Event.from_proto(message))) is not None
        ]
        return SendEventsResponse(accepted=len(request.events) - len(rejected), rejected=rejected)

    async def SendBatch(self, request: SendBatchRequest, context: Any) -> SendBatchResponse:
        await self._admit(context)
        return self._answer(request)

    async def Stream(self, request_iterator: Any, context: Any) -> AsyncIterator[SendBatchResponse]:
        async for request in request_iterator:
            await self._admit(context)
            yield self._answer(request)

    def _answer(self, request: SendBatchRequest) -> SendBatchResponse:
        self.batches.append(request)
        answer = self._answers.popleft() if self._answers else SendBatchResponse(answer=ANSWER_ACCEPTED)
        return SendBatchResponse(
            id=request.id, answer=answer.answer, retry_after_ms=answer.retry_after_ms, detail=answer.detail
        )

    async def _admit(self, context: Any) -> None:
        self.metadata = dict(context.invocation_metadata())
        if self.hangs:
            self.hung.set()
            await asyncio.Event().wait()
        if self._failures:
            status, detail, wait_s = self._failures.popleft()
            code = next(code for code in grpc.StatusCode if code.value[0] == status)
            trailer = () if wait_s is None else ((TRAILER, retry_details(status, detail, wait_s)),)
            await context.abort(code, detail, trailing_metadata=trailer)


class FakeServer:
    """Where a FakeCollector listens; it can stop and start again on the same port."""

    def __init__(self, collector: FakeCollector) -> None:
        self._collector = collector
        self._server: Any = None
        self.port = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = grpc.aio.server()
        add_HeliosServicer_to_server(self._collector, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(grace=None)


@asynccontextmanager
async def serving(collector: FakeCollector) -> AsyncIterator[FakeServer]:
    server = FakeServer(collector)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@pytest.fixture
async def fake() -> FakeCollector:
    return FakeCollector()


@pytest.fixture
async def server(fake: FakeCollector) -> AsyncIterator[FakeServer]:
    async with serving(fake) as server:
        yield server


@pytest.fixture
async def client(server: FakeServer) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.endpoint, api_key="k3y", retry=QUICK, timeout_s=5) as client:
        yield client


Pair = tuple[AsyncClient, FakeCollector | MemoryCollector]


@pytest.fixture(params=["grpc", "memory"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    """A client and the collector that it reaches: whatever is tested with it holds for both transports."""
    if request.param == "memory":
        twin = MemoryCollector()
        async with AsyncClient(transport=twin, retry=QUICK, timeout_s=5) as client:
            yield client, twin
        return
    fake = FakeCollector()
    async with (
        serving(fake) as server,
        AsyncClient(server.endpoint, retry=QUICK, timeout_s=5) as client,
    ):
        yield client, fake


def batch(sequence: int) -> SendBatchRequest:
    return SendBatchRequest(id=BatchId(agent_id=b"a" * 16, incarnation=7, sequence=sequence), contract_version=1)


async def batches(*sequences: int) -> AsyncIterator[SendBatchRequest]:
    for sequence in sequences:
        yield batch(sequence)


async def answers_to(client: AsyncClient, requests: AsyncIterator[SendBatchRequest]) -> list[SendBatchResponse]:
    async with aclosing(client.stream(requests)) as answers:
        return [answer async for answer in answers]


async def test_events_arrive_as_they_were_made(pair: Pair) -> None:
    client, collector = pair
    events = [
        Event("checkout", "größer", level="error", latency_ms=812.5, attributes={"order": [1, None]}),
        Event("checkout"),
    ]
    assert await client.send_events(events) == SendResult(2)
    assert [Event.from_proto(message) for message in collector.requests[0].events] == events


async def test_a_partial_rejection_is_a_success_that_is_not_repeated(pair: Pair) -> None:
    client, collector = pair
    collector.reject(lambda event: "unknown type" if event.message == "b" else None)
    result = await client.send_events([Event("checkout", message, id=message) for message in "abc"])
    assert (result.accepted, len(collector.requests)) == (2, 1)
    assert [(item.index, item.event_id, item.reason) for item in result.rejected] == [(1, "b", "unknown type")]


async def test_unavailable_twice_then_success_with_the_same_ids(pair: Pair) -> None:
    client, collector = pair
    collector.fail(Status.UNAVAILABLE, times=2)
    assert await client.send_events([Event("checkout"), Event("checkout")]) == SendResult(2)
    assert len(collector.requests) == 3
    ids = [[event.id for event in request.events] for request in collector.requests]
    assert ids[0] == ids[1] == ids[2]
    assert all(ids[0])
    assert collector.requests[0] == collector.requests[2]


STATUSES: dict[Status, type[HeliosClientError]] = {
    Status.CANCELLED: Unavailable,
    Status.UNKNOWN: CollectorFailed,
    Status.INVALID_ARGUMENT: InvalidRequest,
    Status.DEADLINE_EXCEEDED: DeadlineExceeded,
    Status.NOT_FOUND: CollectorFailed,
    Status.ALREADY_EXISTS: CollectorFailed,
    Status.PERMISSION_DENIED: Denied,
    Status.RESOURCE_EXHAUSTED: InvalidRequest,
    Status.FAILED_PRECONDITION: Denied,
    Status.ABORTED: Unavailable,
    Status.OUT_OF_RANGE: Unavailable,
    Status.UNIMPLEMENTED: Denied,
    Status.INTERNAL: CollectorFailed,
    Status.UNAVAILABLE: Unavailable,
    Status.DATA_LOSS: Unavailable,
    Status.UNAUTHENTICATED: Denied,
}


async def test_each_status_reaches_the_caller_as_its_error_and_only_the_right_ones_are_retried(pair: Pair) -> None:
    client, collector = pair
    assert {*STATUSES, Status.OK} == {*Status}
    for status, kind in STATUSES.items():
        collector.requests.clear()
        collector.fail(status, detail="the reason")
        if kind.retryable:
            await client.send_event(Event("checkout"))
            assert len(collector.requests) == 2, status
            continue
        with pytest.raises(HeliosClientError, match=f"{status.name}: the reason") as caught:
            await client.send_event(Event("checkout"))
        assert type(caught.value) is kind
        assert len(collector.requests) == 1, status


async def test_resource_exhausted_is_retried_only_with_retry_info(pair: Pair) -> None:
    client, collector = pair
    collector.fail(Status.RESOURCE_EXHAUSTED, retry_after_s=0.02)
    begun = time.monotonic()
    await client.send_event(Event("checkout"))
    assert time.monotonic() - begun >= 0.02
    assert len(collector.requests) == 2


async def test_a_wait_that_is_longer_than_the_deadline_is_reported_at_once(pair: Pair) -> None:
    client, collector = pair
    collector.fail(Status.UNAVAILABLE, retry_after_s=30)
    begun = time.monotonic()
    with pytest.raises(Unavailable, match="told to fail") as caught:
        await client.send_event(Event("checkout"))
    assert caught.value.retry_after_s == 30
    assert time.monotonic() - begun < 2


async def test_the_three_answers_to_a_batch(pair: Pair) -> None:
    client, collector = pair
    collector.answer(ANSWER_RETRY, times=2, retry_after_ms=1)
    answer = await client.send_batch(batch(1))
    assert (answer.answer, answer.id) == (ANSWER_ACCEPTED, batch(1).id)
    assert collector.batches == [batch(1)] * 3
    collector.answer(ANSWER_DENIED, detail="contract version 9")
    with pytest.raises(Denied, match="contract version 9"):
        await client.send_batch(batch(2))


async def test_a_stream_answers_in_order(pair: Pair) -> None:
    client, collector = pair
    collector.answer(ANSWER_RETRY, retry_after_ms=5)
    answers = await answers_to(client, batches(1, 2, 3))
    assert [(answer.id.sequence, answer.answer) for answer in answers] == [
        (1, ANSWER_RETRY),
        (2, ANSWER_ACCEPTED),
        (3, ANSWER_ACCEPTED),
    ]


async def test_a_stream_that_breaks_says_why(pair: Pair) -> None:
    client, collector = pair
    collector.fail(Status.UNAUTHENTICATED)
    with pytest.raises(Denied):
        await answers_to(client, batches(1))


async def test_an_error_of_the_callers_own_iterator_comes_back_to_it(pair: Pair) -> None:
    async def failing() -> AsyncIterator[SendBatchRequest]:
        yield batch(1)
        raise LookupError("the spool is gone")

    client, _ = pair
    with pytest.raises(LookupError, match="the spool is gone"):
        await answers_to(client, failing())


async def test_a_stream_that_is_left_early_is_closed(client: AsyncClient) -> None:
    async def endless() -> AsyncIterator[SendBatchRequest]:
        sequence = 0
        while True:
            sequence += 1
            yield batch(sequence)
            await asyncio.sleep(0)

    async with aclosing(client.stream(endless())) as answers:
        async for answer in answers:
            if answer.id.sequence == 3:
                break
    await client.send_event(Event("checkout"))


async def test_the_key_travels_as_a_bearer_token(client: AsyncClient, fake: FakeCollector) -> None:
    await client.send_event(Event("checkout"))
    assert fake.metadata["authorization"] == "Bearer k3y"


async def test_a_key_that_is_refused_is_shown_nowhere(
    client: AsyncClient, fake: FakeCollector, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    fake.fail(Status.UNAUTHENTICATED, detail="unknown key")
    with pytest.raises(Denied, match="UNAUTHENTICATED: unknown key") as caught:
        await client.send_event(Event("checkout"))
    shown = [str(caught.value), repr(caught.value.__cause__), *(record.getMessage() for record in caplog.records)]
    assert "k3y" not in "".join(shown)
    assert isinstance(caught.value.__cause__, grpc.aio.AioRpcError)


async def test_a_server_that_never_answers_ends_at_the_deadline(client: AsyncClient, fake: FakeCollector) -> None:
    fake.hangs = True
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"no answer from the collector at http://127\.0\.0\.1:\d+ within 0\.2"):
        await client.send_event(Event("checkout"), timeout_s=0.2)
    assert 0.15 < time.monotonic() - begun < 2
    assert len(fake.requests) == 1


async def test_a_port_that_accepts_and_says_nothing_ends_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # the kernel accepts, and nobody reads
        async with AsyncClient(f"127.0.0.1:{listener.getsockname()[1]}", timeout_s=0.2) as client:
            with pytest.raises(DeadlineExceeded):
                await client.send_event(Event("checkout"))


async def test_a_port_that_speaks_http_1_is_no_connection() -> None:
    writers: list[asyncio.StreamWriter] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        async with AsyncClient(f"127.0.0.1:{port}", timeout_s=0.3) as client:
            with pytest.raises((ConnectionFailed, DeadlineExceeded)):
                await client.send_event(Event("checkout"))
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


async def test_no_server_at_all() -> None:
    async with AsyncClient("http://127.0.0.1:1", timeout_s=0.3, retry=QUICK) as client:
        with pytest.raises((ConnectionFailed, DeadlineExceeded)) as caught:  # the latter on a machine that is busy
            await client.send_event(Event("checkout"))
    said = "".join((str(caught.value), *caught.value.__notes__))
    assert "cannot reach the collector at http://127.0.0.1:1: " in said
    assert "It was sent " in said


async def test_a_server_without_the_service_is_denied() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with AsyncClient(f"127.0.0.1:{port}") as client:
        with pytest.raises(Denied, match="UNIMPLEMENTED"):
            await client.send_event(Event("checkout"))
    await server.stop(None)


async def test_a_server_that_restarts_between_calls_is_found_again(
    client: AsyncClient, fake: FakeCollector, server: FakeServer
) -> None:
    for _ in range(3):
        await client.send_event(Event("checkout"))
        await server.stop()
        await server.start()
    await client.send_event(Event("checkout"))
    assert len({event.id for request in fake.requests for event in request.events}) == 4


async def test_a_server_that_comes_back_during_a_call_gets_the_same_event(
    client: AsyncClient, fake: FakeCollector, server: FakeServer
) -> None:
    fake.hangs = True
    event = Event("checkout")
    sending = asyncio.create_task(client.send_event(event))
    await fake.hung.wait()
    await server.stop()
    await asyncio.sleep(0.1)
    fake.hangs = False
    await server.start()
    await sending
    assert {message.id for request in fake.requests for message in request.events} == {event.id}
    assert len(fake.requests) >= 2


async def test_closing_during_a_call_ends_it(client: AsyncClient, fake: FakeCollector) -> None:
    fake.hangs = True
    sending = asyncio.create_task(client.send_event(Event("checkout")))
    await fake.hung.wait()
    await client.close()
    with pytest.raises((HeliosClientError, asyncio.CancelledError)):
        await asyncio.wait_for(sending, 2)
    with pytest.raises(ClientClosed):
        await client.send_event(Event("checkout"))


async def test_a_cancelled_call_is_cancelled(client: AsyncClient, fake: FakeCollector) -> None:
    fake.hangs = True
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await client.send_event(Event("checkout"))


async def test_requests_up_to_the_limit_pass_and_what_is_above_says_so(
    client: AsyncClient, fake: FakeCollector
) -> None:
    events = [Event("checkout", "x" * 200_000) for _ in range(41)]
    assert await client.send_events(events) == SendResult(41)
    assert len(fake.requests) == 3
    too_large = SendBatchRequest(id=batch(1).id, batch=bytes(4 * 1024 * 1024))
    with pytest.raises(InvalidRequest, match="RESOURCE_EXHAUSTED"):
        await client.send_batch(too_large)


async def test_logged_events_outlive_a_restart(fake: FakeCollector, server: FakeServer) -> None:
    async with AsyncClient(server.endpoint, retry=QUICK, timeout_s=5) as client:
        for round_ in range(3):
            client.log(Event("checkout", str(round_)))
            await server.stop()
            await server.start()
            await client.flush()
        assert client.stats.accepted == 3
    assert [event.message for request in fake.requests for event in request.events] == ["0", "1", "2"]


async def test_the_client_without_asyncio_beside_a_running_loop(
    fake: FakeCollector, server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    def work() -> None:
        with Client(server.endpoint, api_key="k3y", retry=QUICK, timeout_s=5) as client:
            fake.fail(Status.UNAVAILABLE)
            for _ in range(50):
                client.send_event(Event("checkout"))
            client.log(Event("checkout"))

    await asyncio.gather(*(asyncio.to_thread(work) for _ in range(3)))
    assert len({event.id for request in fake.requests for event in request.events}) == 153
    # Before gRPC 1.80 this test's own loop, which serves, complains of a wake-up that means nothing.
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert [text for text in said if "PollerCompletionQueue" not in text] == []


async def test_what_is_buffered_when_the_process_ends_is_sent(fake: FakeCollector, server: FakeServer) -> None:
    code = (
        "import sys, helios; client = helios.Client(sys.argv[1], timeout_s=5); "
        "[client.log(helios.Event('checkout', str(i))) for i in range(10)]"
    )
    command = [sys.executable, "-c", code, server.endpoint]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=15)
    assert (done.returncode, done.stderr) == (0, "")
    assert [event.message for request in fake.requests for event in request.events] == [str(i) for i in range(10)]
