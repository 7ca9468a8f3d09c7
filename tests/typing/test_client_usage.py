"""How an application uses the client: this file must type-check under mypy strict, and run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import assert_type

import pytest

import helios
from helios import (
    AsyncClient,
    Batching,
    Client,
    ClientStats,
    Endpoint,
    Event,
    HeliosClientError,
    Level,
    RejectedItem,
    RetryPolicy,
    SendResult,
    Signal,
    Status,
    Transport,
)
from helios.testing import MemoryCollector
from helios.v1.service_pb2 import ANSWER_RETRY, SendBatchRequest, SendBatchResponse


def events() -> list[Event]:
    return [
        Event("checkout"),
        Event("checkout", "payment declined", level="error", latency_ms=812),
        Event(
            service="checkout",
            message="GET /pay",
            level=Level.INFO,
            time=datetime(2026, 3, 2, tzinfo=UTC),
            latency_ms=1.5,
            endpoint="/pay",
            trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
            span_id="00f067aa0ba902b7",
            host="web-1",
            signal=Signal.SPAN,
            attributes={"order": 17, "items": ["a", "b"]},
            id="order-17",
        ),
        Event("checkout", time=1_772_452_800_000_000),
    ]


def test_client() -> None:
    collector = MemoryCollector()
    with Client(
        "http://localhost:4317",
        api_key="key",
        timeout_s=10,
        retry=RetryPolicy(initial_delay_s=0.01, max_delay_s=1, max_attempts=5),
        batching=Batching(flush_interval_s=0.5, max_batch_events=100),
        transport=collector,
    ) as client:
        assert_type(client, Client)
        assert_type(client.send_event(Event("checkout")), None)
        result = client.send_events(events(), timeout_s=5)
        assert_type(result, SendResult)
        assert_type(result.accepted, int)
        assert_type(result.rejected, tuple[RejectedItem, ...])
        assert_type(client.send_batch(SendBatchRequest()), SendBatchResponse)
        assert_type(client.log(Event("checkout")), bool)
        client.flush(timeout_s=1)
        assert_type(client.stats, ClientStats)
        assert_type(client.stats.dropped.get("overflow"), int | None)
    assert_type(collector.events, list[Event])
    assert len(collector.events) == 6


async def test_async_client() -> None:
    collector = MemoryCollector()
    collector.fail(Status.UNAVAILABLE, times=2, retry_after_s=0.01)
    collector.reject(lambda event: "too long" if len(event.message) > 1_000 else None)
    transport: Transport = collector
    async with AsyncClient(Endpoint.parse("https://collector:4317"), transport=transport) as client:
        assert_type(client, AsyncClient)
        await client.send_event(Event("checkout"))
        assert_type(await client.send_events(iter(events())), SendResult)
        assert_type(client.log(Event("checkout")), bool)
        await client.flush()


async def test_a_stream() -> None:
    async def batches() -> AsyncIterator[SendBatchRequest]:
        yield SendBatchRequest()

    collector = MemoryCollector()
    collector.answer(ANSWER_RETRY, retry_after_ms=10)
    async with AsyncClient(transport=collector) as client, aclosing(client.stream(batches())) as answers:
        async for answer in answers:
            assert_type(answer, SendBatchResponse)


def test_errors() -> None:
    collector = MemoryCollector()
    collector.fail(Status.UNAUTHENTICATED)
    with Client(transport=collector) as client:
        try:
            client.send_event(Event("checkout"))
        except helios.Denied as error:
            assert_type(error.retryable, bool)
            assert_type(error.retry_after_s, float | None)
    with pytest.raises(HeliosClientError) as caught:
        Event("")
    assert_type(caught.value, HeliosClientError)


def test_what_does_not_type_check() -> None:
    """An ignore that is not needed is an error: each of these lines must be one to mypy."""
    collector = MemoryCollector()
    wrong: list[object] = [
        lambda: Event("checkout", "message", "error"),  # type: ignore[call-arg]
        lambda: Event("checkout", latency="12"),  # type: ignore[call-arg]
        lambda: Event(17),  # type: ignore[arg-type]
        lambda: AsyncClient(timeout_s="10"),  # type: ignore[arg-type]
        lambda: Client(transport=object()),  # type: ignore[arg-type]
        lambda: collector.fail("UNAVAILABLE"),  # type: ignore[arg-type]
        lambda: helios.Cleint,  # type: ignore[attr-defined]
    ]
    assert len(wrong) == 7
