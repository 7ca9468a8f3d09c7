"""The client for asyncio, against the collector in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from helios import (
    AsyncClient,
    ClientClosed,
    CollectorFailed,
    ConfigError,
    ConnectionFailed,
    DeadlineExceeded,
    Denied,
    Event,
    EventRejected,
    HeliosClientError,
    InvalidRequest,
    RetryPolicy,
    SendResult,
    Status,
    Unavailable,
)
from helios.endpoint import Endpoint
from helios.testing import MemoryCollector
from helios.v1.batch_pb2 import BatchId
from helios.v1.service_pb2 import (
    ANSWER_ACCEPTED,
    ANSWER_DENIED,
    ANSWER_RETRY,
    ANSWER_UNSPECIFIED,
    SendBatchRequest,
    SendBatchResponse,
)

QUICK = RetryPolicy(initial_delay_s=0.001, max_delay_s=0.002)


def batch(sequence: int) -> SendBatchRequest:
    return SendBatchRequest(id=BatchId(agent_id=b"a" * 16, incarnation=7, sequence=sequence), contract_version=1)


@pytest.fixture
def collector() -> MemoryCollector:
    return MemoryCollector()


@pytest.fixture
async def client(collector: MemoryCollector) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(transport=collector, retry=QUICK) as client:
        yield client


async def test_events_arrive_as_they_were_made(client: AsyncClient, collector: MemoryCollector) -> None:
    events = [Event("checkout", str(i), level="error", latency_ms=i, attributes={"i": i}) for i in range(3)]
    await client.send_event(events[0])
    assert await client.send_events(iter(events[1:])) == SendResult(2)
    assert collector.events == events


async def test_nothing_to_send_is_not_sent(client: AsyncClient, collector: MemoryCollector) -> None:
    assert await client.send_events([]) == SendResult(0)
    assert collector.requests == []


async def test_a_retry_sends_the_same_ids(client: AsyncClient, collector: MemoryCollector) -> None:
    collector.fail(Status.UNAVAILABLE, times=2)
    await client.send_event(Event("checkout"))
    assert len(collector.requests) == 3
    assert len({request.SerializeToString() for request in collector.requests}) == 1
    assert len(collector.events) == 1


async def test_repeating_a_call_counts_nothing_twice(client: AsyncClient, collector: MemoryCollector) -> None:
    events = [Event("checkout"), Event("checkout")]
    await client.send_events(events)
    await client.send_events(events)
    assert collector.events == events


async def test_rejections_name_the_event(client: AsyncClient, collector: MemoryCollector) -> None:
    collector.reject(lambda event: "too loud" if event.message == "b" else None)
    events = [Event("checkout", message) for message in "abc"]
    result = await client.send_events(events)
    assert result.accepted == 2
    assert [(item.index, item.event_id, item.reason) for item in result.rejected] == [(1, events[1].id, "too loud")]
    with pytest.raises(EventRejected, match=f"{events[1].id}: too loud"):
        await client.send_event(events[1])


async def test_many_events_go_in_several_requests_and_keep_their_positions(
    client: AsyncClient, collector: MemoryCollector
) -> None:
    events = [Event("checkout", "x" * 200_000, id=str(i)) for i in range(45)]
    collector.reject(lambda event: "no" if event.id == "44" else None)
    result = await client.send_events(events)
    assert len(collector.requests) == 3
    assert (result.accepted, result.rejected[0].index) == (44, 44)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (Status.UNAUTHENTICATED, Denied),
        (Status.INVALID_ARGUMENT, InvalidRequest),
        (Status.RESOURCE_EXHAUSTED, InvalidRequest),
        (Status.INTERNAL, CollectorFailed),
    ],
)
async def test_what_is_not_retryable_is_tried_once(
    client: AsyncClient, collector: MemoryCollector, status: Status, kind: type[HeliosClientError]
) -> None:
    collector.fail(status, times=9)
    with pytest.raises(kind, match=status.name):
        await client.send_event(Event("checkout"))
    assert len(collector.requests) == 1


async def test_resource_exhausted_is_retried_when_a_wait_is_given(
    client: AsyncClient, collector: MemoryCollector
) -> None:
    collector.fail(Status.RESOURCE_EXHAUSTED, retry_after_s=0.001)
    await client.send_event(Event("checkout"))
    assert len(collector.requests) == 2


async def test_a_batch_is_answered_when_it_is_accepted(client: AsyncClient, collector: MemoryCollector) -> None:
    collector.fail(Status.UNAVAILABLE)
    collector.answer(ANSWER_RETRY, times=2, retry_after_ms=1)
    answer = await client.send_batch(batch(5))
    assert (answer.answer, answer.id.sequence) == (ANSWER_ACCEPTED, 5)
    assert collector.batches == [batch(5)] * 4


async def test_a_batch_that_is_never_accepted(client: AsyncClient, collector: MemoryCollector) -> None:
    collector.answer(ANSWER_RETRY, retry_after_ms=60_000, detail="the bus is full")
    with pytest.raises(Unavailable, match="the bus is full") as caught:
        await client.send_batch(batch(1), timeout_s=0.5)
    assert caught.value.retry_after_s == 60.0
    collector.answer(ANSWER_DENIED, detail="version 9")
    with pytest.raises(Denied, match="version 9"):
        await client.send_batch(batch(1))
    collector.answer(ANSWER_UNSPECIFIED)
    with pytest.raises(CollectorFailed, match="the answer 0"):
        await client.send_batch(batch(1))


async def test_an_answer_for_another_batch_frees_nothing() -> None:
    class Confused(MemoryCollector):
        async def send_batch(self, request: SendBatchRequest, *, timeout_s: float) -> SendBatchResponse:
            return SendBatchResponse(id=batch(8).id, answer=ANSWER_ACCEPTED)

    async with AsyncClient(transport=Confused()) as client:
        with pytest.raises(CollectorFailed, match="accepted batch 8, not 1"):
            await client.send_batch(batch(1))


async def test_a_stream_gives_each_answer(client: AsyncClient, collector: MemoryCollector) -> None:
    async def batches() -> AsyncIterator[SendBatchRequest]:
        for sequence in (1, 2, 3):
            yield batch(sequence)

    collector.answer(ANSWER_RETRY)
    async with aclosing(client.stream(batches())) as answers:
        got = [(answer.id.sequence, answer.answer) async for answer in answers]
    assert got == [(1, ANSWER_RETRY), (2, ANSWER_ACCEPTED), (3, ANSWER_ACCEPTED)]


async def test_logged_events_are_sent_by_flush_and_by_close(collector: MemoryCollector) -> None:
    events = [Event("checkout", str(i)) for i in range(3)]
    async with AsyncClient(transport=collector) as client:
        assert client.log(events[0])
        await client.flush()
        assert collector.events == events[:1]
        client.log(events[1])
        client.log(events[2])
        assert client.stats.buffered == 2
    assert collector.events == events
    assert collector.closed
    assert (client.stats.logged, client.stats.accepted, client.stats.dropped) == (3, 3, {})


async def test_a_closed_client_says_so(client: AsyncClient) -> None:
    await client.close()
    await client.close()
    for call in (client.send_events([]), client.flush(), client.send_batch(batch(1)), client.__aenter__()):
        with pytest.raises(ClientClosed):
            await call
    with pytest.raises(ClientClosed):
        client.log(Event("checkout"))


def test_settings_are_checked_when_the_client_is_made() -> None:
    with pytest.raises(ConfigError, match="4317"):
        AsyncClient("http://localhost:8080")
    with pytest.raises(ConfigError, match="timeout_s is 0"):
        AsyncClient(timeout_s=0)
    for key in ("", "two words", "s3cret\n", "schlüssel"):
        with pytest.raises(ConfigError) as caught:
            AsyncClient(api_key=key)
        assert not key.strip() or key.strip() not in str(caught.value)


async def test_the_key_is_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    client = AsyncClient("http://127.0.0.1:1", api_key="s3cret", timeout_s=0.2)
    with pytest.raises((ConnectionFailed, DeadlineExceeded)) as caught:
        await client.send_event(Event("checkout"))
    shown = [repr(client), repr(client._transport), repr(vars(client._transport)), str(caught.value)]
    shown += [repr(caught.value.__cause__), *(record.getMessage() for record in caplog.records)]
    await client.close()
    assert "s3cret" not in "".join(shown)
    assert repr(client) == "AsyncClient('http://127.0.0.1:1')"


async def test_a_certificate_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "ca.pem"
    client = AsyncClient(Endpoint.parse("https://localhost", ca_file=str(missing)))
    with pytest.raises(ConfigError, match=r"ca_file '.*ca\.pem' cannot be read: No such file"):
        await client.send_event(Event("checkout"))
    await client.close()
