"""Events that an application logs without waiting: a bounded buffer, and the task that empties it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from helios.errors import ClientClosed, ConfigError, DeadlineExceeded, Denied, HeliosClientError
from helios.event import MAX_EVENT_BYTES, Event
from helios.results import MAX_REQUEST_BYTES, SendResult, request_bytes
from helios.retry import Deadline, RetryPolicy, check_seconds

_LOG = logging.getLogger("helios.client")
_MIN_BATCH_BYTES: Final = MAX_EVENT_BYTES + 16  # the largest event, with its tag and length, fits


@dataclass(frozen=True, slots=True)
class Batching:
    """When logged events are sent, and how many may wait.

    Attributes:
        flush_interval_s: how long an event waits at most for others.
        max_batch_events: a batch is sent as soon as it has so many events,
        max_batch_bytes: or so many bytes.
        max_buffer_events: how many events may wait, those under way included; more are refused and counted.
        max_buffer_bytes: how many bytes may wait.
    """

    flush_interval_s: float = 1.0
    max_batch_events: int = 500
    max_batch_bytes: int = 1024 * 1024
    max_buffer_events: int = 10_000
    max_buffer_bytes: int = 16 * 1024 * 1024

    def __post_init__(self) -> None:
        check_seconds("flush_interval_s", self.flush_interval_s)
        _check("max_batch_events", self.max_batch_events, 1, self.max_buffer_events)
        _check("max_batch_bytes", self.max_batch_bytes, _MIN_BATCH_BYTES, MAX_REQUEST_BYTES)
        _check("max_buffer_bytes", self.max_buffer_bytes, self.max_batch_bytes, None)


def _check(name: str, value: int, least: int, most: int | None) -> None:
    if value < least or (most is not None and value > most):
        raise ConfigError(f"{name} is {value}: {least} to {most}" if most else f"{name} is {value}: at least {least}")


@dataclass(frozen=True, slots=True)
class ClientStats:
    """What became of the events that were logged, since the client was made.

    It always holds that logged = accepted + rejected + buffered + all that were dropped.

    Attributes:
        buffered: waiting or under way.
        accepted: safe with the collector.
        rejected: refused by the collector, which keeps them in its dead letter.
        dropped: lost, by reason: `overflow` (the buffer was full), `refused` (the collector took
            none of a batch and will not), `closed` (still waiting when the client had to close).
    """

    logged: int
    buffered: int
    buffered_bytes: int
    accepted: int
    rejected: int
    dropped: Mapping[str, int]


class EventBuffer:
    """A queue of events with a limit in events and bytes; any thread may use it."""

    def __init__(self, limits: Batching) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._waiting: deque[Event] = deque()
        self._waiting_bytes = 0
        self._held = self._held_bytes = 0  # waiting or under way
        self._logged = self._taken_in = self._accepted = self._rejected = 0
        self._dropped: Counter[str] = Counter()
        self._announced = self._closed = False

    def offer(self, event: Event) -> tuple[bool, bool]:
        """(whether it was taken, whether a batch has just become full)."""
        size = request_bytes(event)
        limits = self._limits
        with self._lock:
            if self._closed:
                raise ClientClosed("an event was logged after close()")
            self._logged += 1
            if self._held >= limits.max_buffer_events or self._held_bytes + size > limits.max_buffer_bytes:
                self._dropped["overflow"] += 1
                return False, False
            self._waiting.append(event)
            self._waiting_bytes += size
            self._held += 1
            self._held_bytes += size
            self._taken_in += 1
            full = len(self._waiting) >= limits.max_batch_events or self._waiting_bytes >= limits.max_batch_bytes
            news = full and not self._announced
            self._announced = full
            return True, news

    def take(self) -> list[Event]:
        """The oldest events that make one batch. They stay counted until they are settled, dropped or restored."""
        batch: list[Event] = []
        size = 0
        with self._lock:
            while self._waiting and len(batch) < self._limits.max_batch_events:
                added = request_bytes(self._waiting[0])
                if size + added > self._limits.max_batch_bytes:
                    break
                size += added
                batch.append(self._waiting.popleft())
            self._waiting_bytes -= size
            self._announced = False
        return batch

    def restore(self, batch: Sequence[Event]) -> None:
        """Puts a batch back to the front."""
        with self._lock:
            self._waiting.extendleft(reversed(batch))
            self._waiting_bytes += sum(map(request_bytes, batch))

    def settle(self, batch: Sequence[Event], rejected: int) -> None:
        """The batch is safe with the collector, `rejected` of it in the dead letter."""
        with self._lock:
            self._let_go(batch)
            self._accepted += len(batch) - rejected
            self._rejected += rejected

    def drop(self, batch: Sequence[Event], reason: str) -> None:
        """The batch is lost."""
        with self._lock:
            self._let_go(batch)
            self._dropped[reason] += len(batch)

    def _let_go(self, batch: Sequence[Event]) -> None:
        self._held -= len(batch)
        self._held_bytes -= sum(map(request_bytes, batch))

    def close(self) -> None:
        """No event is taken any more."""
        with self._lock:
            self._closed = True

    @property
    def taken_in(self) -> int:
        """How many events it has ever taken."""
        return self._taken_in

    @property
    def done(self) -> int:
        """How many of those it holds no longer; they leave in the order in which they came."""
        with self._lock:
            return self._taken_in - self._held

    def stats(self) -> ClientStats:
        with self._lock:
            return ClientStats(
                self._logged, self._held, self._held_bytes, self._accepted, self._rejected, dict(self._dropped)
            )


class Flusher:
    """Sends what the buffer holds, batch by batch, never two at once.

    Args:
        send: sends one batch within the deadline, with its retries; raises HeliosClientError.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Event], Deadline], Awaitable[SendResult]],
        batching: Batching,
        policy: RetryPolicy,
        timeout_s: float,
    ) -> None:
        self.buffer = EventBuffer(batching)
        self._send = send
        self._batching = batching
        self._policy = policy
        self._timeout_s = timeout_s
        self._wake = asyncio.Event()
        self._sending = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._overflow_reported = 0

    def start(self) -> None:
        """Begins to send in the background of the running event loop. May be called twice."""
        if self._task is None:
            self._loop = asyncio.get_running_loop()
            self._task = self._loop.create_task(self._run(), name="helios-client-flusher")

    def log(self, event: Event) -> bool:
        """Takes the event, or says False when the buffer is full. Any thread may call it."""
        if self._loop is None:
            raise ClientClosed("log() needs an open client: use it inside `with` or `async with`")
        taken, full = self.buffer.offer(event)
        if full:
            with suppress(RuntimeError):  # the loop has just ended: close() has seen to the event
                self._loop.call_soon_threadsafe(self._wake.set)
        return taken

    async def drain(self, deadline: Deadline) -> None:
        """Sends what has been logged up to now.

        Raises:
            HeliosClientError: why it could not be sent; what was not refused is kept.
        """
        target = self.buffer.taken_in
        refusal: HeliosClientError | None = None
        while self.buffer.done < target:
            try:
                await self._send_batch(deadline)
            except HeliosClientError as error:
                if _is_kept(error):
                    raise
                refusal = error
        if refusal is not None:
            raise refusal

    async def close(self, deadline: Deadline) -> None:
        """Sends what it can within the deadline and counts the rest as dropped; it raises no client error."""
        self.buffer.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        try:
            await self.drain(deadline)
        except HeliosClientError as error:
            _LOG.warning("helios_client_close_failed", extra={"error": str(error)})
        finally:
            lost = 0
            while batch := self.buffer.take():
                self.buffer.drop(batch, "closed")
                lost += len(batch)
            if lost:
                _LOG.error("helios_client_events_dropped", extra={"reason": "closed", "events": lost})

    async def _send_batch(self, deadline: Deadline) -> None:
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                await self._sending.acquire()
        except TimeoutError:
            raise DeadlineExceeded(f"{deadline.timeout_s:g} s were over before the buffer was empty") from None
        try:
            if batch := self.buffer.take():
                await self._deliver(batch, deadline)
        finally:
            self._sending.release()

    async def _deliver(self, batch: Sequence[Event], deadline: Deadline) -> None:
        try:
            result = await self._send(batch, deadline)
        except HeliosClientError as error:
            if _is_kept(error):
                self.buffer.restore(batch)
            else:
                self.buffer.drop(batch, "refused")
                fields = {"reason": "refused", "events": len(batch), "error": str(error)}
                _LOG.error("helios_client_events_dropped", extra=fields)
            raise
        except BaseException:  # cancelled, or a fault of the transport: nothing is lost by it
            self.buffer.restore(batch)
            raise
        self.buffer.settle(batch, len(result.rejected))
        if result.rejected:
            fields = {"events": len(result.rejected), "reason": result.rejected[0].reason}
            _LOG.warning("helios_client_events_rejected", extra=fields)

    async def _run(self) -> None:
        failures = 0
        pause_s = 0.0
        while True:
            await self._pause(pause_s)
            pause_s = 0.0
            try:
                while self.buffer.done < self.buffer.taken_in:
                    await self._send_batch(Deadline(self._timeout_s))
                    if failures:
                        failures = 0
                        _LOG.warning("helios_client_recovered")
            except HeliosClientError as error:
                if _is_kept(error):
                    failures += 1
                    pause_s = self._policy.delay_s(failures, error.retry_after_s)
                    if failures == 1:  # said once, until it is over
                        _LOG.warning("helios_client_send_failed", extra={"error": str(error)})
            except Exception:  # noqa: BLE001 - the edge of the task: a faulty transport must not end it
                failures += 1
                pause_s = self._policy.delay_s(failures)
                _LOG.exception("helios_client_fault")
            self._report_overflow()

    async def _pause(self, at_least_s: float) -> None:
        """Until a batch is full or the interval is over; after a failure for a time that nothing shortens."""
        if at_least_s > 0:
            await asyncio.sleep(at_least_s)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self._batching.flush_interval_s):
                await self._wake.wait()
        self._wake.clear()

    def _report_overflow(self) -> None:
        dropped = self.buffer.stats().dropped.get("overflow", 0)
        if dropped >= 2 * self._overflow_reported + 1:  # at the first, then at each doubling
            fields = {"reason": "overflow", "events": dropped - self._overflow_reported}
            self._overflow_reported = dropped
            _LOG.error("helios_client_events_dropped", extra=fields)


def _is_kept(error: HeliosClientError) -> bool:
    """Whether events outlive the error: it passes, or a person can mend it (a key), and they are not at fault."""
    return error.retryable or isinstance(error, Denied)
