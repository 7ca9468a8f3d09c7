"""The buffer keeps its bounds and its count; the flusher sends in order, keeps what can be sent later, and ends."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.examples import examples

from helios import (
    Batching,
    ClientClosed,
    CollectorFailed,
    ConfigError,
    DeadlineExceeded,
    Denied,
    Event,
    HeliosClientError,
    InvalidRequest,
    RejectedItem,
    RetryPolicy,
    SendResult,
    Unavailable,
)
from helios.batching import EventBuffer, Flusher
from helios.results import request_bytes
from helios.retry import Deadline

LEAST_BATCH_BYTES = 256 * 1024 + 16
SMALL = Batching(max_batch_events=3, max_batch_bytes=LEAST_BATCH_BYTES, max_buffer_events=8, max_buffer_bytes=600_000)


class BufferMachine(RuleBasedStateMachine):
    """Whatever is done to a buffer, its bounds and the law of counting hold, and order is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = EventBuffer(SMALL)
        self.waiting: list[Event] = []
        self.under_way: list[Event] = []

    @rule(size=st.sampled_from([0, 10, 200_000, 260_000]))
    def offer(self, size: int) -> None:
        event = Event("a", "x" * size)
        held = [*self.waiting, *self.under_way, event]
        fits = len(held) <= SMALL.max_buffer_events and sum(map(request_bytes, held)) <= SMALL.max_buffer_bytes
        taken, _ = self.buffer.offer(event)
        assert taken == fits
        if taken:
            self.waiting.append(event)

    @precondition(lambda self: not self.under_way)
    @rule()
    def take(self) -> None:
        self.under_way = self.buffer.take()
        assert self.under_way == self.waiting[: len(self.under_way)]
        assert bool(self.under_way) == bool(self.waiting)
        assert len(self.under_way) <= SMALL.max_batch_events
        assert sum(map(request_bytes, self.under_way)) <= SMALL.max_batch_bytes
        self.waiting = self.waiting[len(self.under_way) :]

    @precondition(lambda self: self.under_way)
    @rule(end=st.sampled_from(["restore", "settle", "drop"]))
    def end(self, end: str) -> None:
        if end == "restore":
            self.buffer.restore(self.under_way)
            self.waiting = self.under_way + self.waiting
        elif end == "settle":
            self.buffer.settle(self.under_way, rejected=1)
        else:
            self.buffer.drop(self.under_way, "refused")
        self.under_way = []

    @invariant()
    def counts(self) -> None:
        stats = self.buffer.stats()
        assert stats.logged == stats.accepted + stats.rejected + stats.buffered + sum(stats.dropped.values())
        assert stats.buffered == len(self.waiting) + len(self.under_way) <= SMALL.max_buffer_events
        assert stats.buffered_bytes == sum(map(request_bytes, self.waiting + self.under_way)) <= SMALL.max_buffer_bytes
        assert self.buffer.done == self.buffer.taken_in - stats.buffered


BufferMachine.TestCase.settings = settings(max_examples=examples(40), stateful_step_count=30, deadline=None)
TestBuffer = BufferMachine.TestCase


def test_a_full_batch_is_announced_once() -> None:
    buffer = EventBuffer(SMALL)
    assert [buffer.offer(Event("a"))[1] for _ in range(5)] == [False, False, True, False, False]
    buffer.take()
    assert [buffer.offer(Event("a"))[1] for _ in range(2)] == [True, False]


def test_threads_do_not_lose_count() -> None:
    buffer = EventBuffer(Batching(max_buffer_events=3_000))
    threads = [threading.Thread(target=lambda: [buffer.offer(Event("a")) for _ in range(1_000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = buffer.stats()
    assert (stats.logged, stats.buffered, stats.dropped) == (4_000, 3_000, {"overflow": 1_000})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"flush_interval_s": 0.0}, "flush_interval_s is 0.0"),
        ({"max_batch_events": 0}, "max_batch_events is 0: 1 to 10000"),
        ({"max_buffer_events": 100}, "max_batch_events is 500: 1 to 100"),
        ({"max_batch_bytes": 1_000}, "max_batch_bytes is 1000: 262160 to 4128768"),
        ({"max_batch_bytes": 4 * 1024 * 1024}, "max_batch_bytes is 4194304"),
        ({"max_buffer_bytes": 1_000}, "max_buffer_bytes is 1000: at least 1048576"),
    ],
    ids=str,
)
def test_limits_that_cannot_work_are_refused(fields: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Batching(**fields)  # type: ignore[arg-type]  # some of them are wrong on purpose
    assert said in str(caught.value)


class Sink:
    """Takes batches, and fails with the errors that it was given first."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.errors: list[Exception] = []
        self.rejects: list[str] = []
        self._arrived = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    async def send(self, events: Sequence[Event], deadline: Deadline) -> SendResult:
        await self.open.wait()
        if self.errors:
            raise self.errors.pop(0)
        self.batches.append([event.message for event in events])
        self._arrived.set()
        rejected = [
            RejectedItem(index, event.id, "no") for index, event in enumerate(events) if event.message in self.rejects
        ]
        return SendResult(len(events) - len(rejected), tuple(rejected))

    async def has(self, count: int) -> None:
        """Returns when so many events have arrived."""
        async with asyncio.timeout(5):
            while len(self.messages) < count:
                self._arrived.clear()
                await self._arrived.wait()

    @property
    def messages(self) -> list[str]:
        return [message for batch in self.batches for message in batch]


QUICK = RetryPolicy(initial_delay_s=0.001, max_delay_s=0.002)


def flusher_of(sink: Sink, *, interval_s: float = 60.0, timeout_s: float = 5.0) -> Flusher:
    batching = Batching(
        flush_interval_s=interval_s,
        max_batch_events=3,
        max_batch_bytes=LEAST_BATCH_BYTES,
        max_buffer_events=8,
        max_buffer_bytes=600_000,
    )
    return Flusher(sink.send, batching, QUICK, timeout_s)


@pytest.fixture
async def sink() -> Sink:
    return Sink()


@pytest.fixture
async def flusher(sink: Sink) -> AsyncIterator[Flusher]:
    """One that sends on its own only when a batch is full."""
    flusher = flusher_of(sink)
    flusher.start()
    yield flusher
    sink.open.set()
    await flusher.close(Deadline(1.0))


def log(flusher: Flusher, *messages: str) -> list[bool]:
    return [flusher.log(Event("a", message)) for message in messages]


async def test_a_full_batch_is_sent_without_waiting_for_the_interval(sink: Sink, flusher: Flusher) -> None:
    assert all(log(flusher, "1", "2"))
    await asyncio.sleep(0.02)
    assert sink.batches == []
    log(flusher, "3", "4")
    await sink.has(3)
    assert sink.messages[:3] == ["1", "2", "3"]


async def test_the_interval_sends_what_there_is(sink: Sink) -> None:
    flusher = flusher_of(sink, interval_s=0.01)
    flusher.start()
    log(flusher, "1")
    await sink.has(1)
    await flusher.close(Deadline(1.0))


async def test_drain_sends_all_in_order_and_counts_rejections(sink: Sink, flusher: Flusher) -> None:
    sink.rejects = ["2"]
    log(flusher, "1", "2")
    await flusher.drain(Deadline(1.0))
    stats = flusher.buffer.stats()
    assert (sink.batches, stats.accepted, stats.rejected, stats.buffered) == ([["1", "2"]], 1, 1, 0)
    await flusher.drain(Deadline(1.0))
    assert len(sink.batches) == 1


async def test_overflow_refuses_the_newest_and_counts_it(
    sink: Sink, flusher: Flusher, caplog: pytest.LogCaptureFixture
) -> None:
    sink.open.clear()
    assert log(flusher, *"123456789") == [True] * 8 + [False]
    sink.open.set()
    await flusher.drain(Deadline(1.0))
    assert sink.messages == list("12345678")
    assert flusher.buffer.stats().dropped == {"overflow": 1}


@pytest.mark.parametrize("error", [Unavailable("busy"), DeadlineExceeded("late"), Denied("key")])
async def test_what_may_yet_be_taken_is_kept(sink: Sink, flusher: Flusher, error: HeliosClientError) -> None:
    sink.errors = [error]
    log(flusher, "1", "2")
    with pytest.raises(type(error)):
        await flusher.drain(Deadline(1.0))
    assert flusher.buffer.stats().buffered == 2
    await flusher.drain(Deadline(1.0))
    assert sink.messages == ["1", "2"]


@pytest.mark.parametrize("error", [InvalidRequest("bad"), CollectorFailed("broken")])
async def test_what_is_refused_is_dropped_and_does_not_stop_the_rest(
    sink: Sink, error: HeliosClientError, caplog: pytest.LogCaptureFixture
) -> None:
    flusher = flusher_of(sink)
    flusher._loop = asyncio.get_running_loop()  # without its task, so that only drain() sends
    sink.errors = [error]
    log(flusher, "1", "2", "3", "4")
    with pytest.raises(type(error)):
        await flusher.drain(Deadline(1.0))
    stats = flusher.buffer.stats()
    assert (sink.messages, stats.dropped, stats.accepted) == (["4"], {"refused": 3}, 1)
    assert [record.message for record in caplog.records] == ["helios_client_events_dropped"]


async def test_the_background_goes_on_after_failures_and_says_so_once(
    sink: Sink, flusher: Flusher, caplog: pytest.LogCaptureFixture
) -> None:
    sink.errors = [Unavailable("busy"), RuntimeError("a fault"), Denied("key"), Unavailable("busy")]
    with caplog.at_level(logging.WARNING, "helios.client"):
        log(flusher, "1", "2", "3")
        await sink.has(3)
        await flusher.drain(Deadline(1.0))
        await asyncio.sleep(0)
    names = [record.message for record in caplog.records]
    assert names == ["helios_client_send_failed", "helios_client_fault", "helios_client_recovered"]


async def test_close_sends_the_rest_and_takes_no_more(sink: Sink) -> None:
    flusher = flusher_of(sink)
    flusher.start()
    log(flusher, "1", "2")
    await flusher.close(Deadline(1.0))
    assert sink.messages == ["1", "2"]
    with pytest.raises(ClientClosed):
        log(flusher, "3")


async def test_close_ends_at_its_deadline_and_counts_what_is_lost(sink: Sink, caplog: pytest.LogCaptureFixture) -> None:
    flusher = flusher_of(sink)
    flusher.start()
    sink.errors = [Unavailable("busy")] * 100
    log(flusher, *"12345")
    await flusher.close(Deadline(0.05))
    stats = flusher.buffer.stats()
    assert (stats.buffered, stats.dropped, sink.messages) == (0, {"closed": 5}, [])
    assert caplog.records[-1].message == "helios_client_events_dropped"
    assert caplog.records[-1].levelno == logging.ERROR


async def test_close_sends_again_what_was_under_way(sink: Sink) -> None:
    flusher = flusher_of(sink)
    flusher.start()
    sink.open.clear()
    log(flusher, "1", "2", "3")
    await asyncio.sleep(0.01)  # the background holds the batch
    closing = asyncio.create_task(flusher.close(Deadline(5.0)))
    await asyncio.sleep(0.01)
    sink.open.set()
    await closing
    assert sink.messages == ["1", "2", "3"]
    assert flusher.buffer.stats().accepted == 3


async def test_drain_waits_no_longer_than_its_deadline_for_a_batch_under_way(sink: Sink, flusher: Flusher) -> None:
    sink.open.clear()
    log(flusher, "1", "2", "3")
    await asyncio.sleep(0.01)
    with pytest.raises(DeadlineExceeded, match=r"0\.02 s were over"):
        await flusher.drain(Deadline(0.02))


async def test_log_needs_a_started_flusher(sink: Sink) -> None:
    with pytest.raises(ClientClosed, match="inside `with`"):
        flusher_of(sink).log(Event("a"))
