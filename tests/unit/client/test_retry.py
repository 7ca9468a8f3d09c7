"""The retry table is complete, a status becomes the right error, and retries stay within the deadline."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helios.errors import (
    CollectorFailed,
    ConfigError,
    ConnectionFailed,
    DeadlineExceeded,
    Denied,
    HeliosClientError,
    InvalidRequest,
    Unavailable,
)
from helios.retry import (
    RETRY_TABLE,
    Deadline,
    Retry,
    RetryPolicy,
    Status,
    call_with_retry,
    error_from_status,
    is_retryable,
)

# What OTLP says (opentelemetry-proto, docs/specification.md), written down once more.
OTLP_RETRYABLE = {"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"}
ERRORS = {
    "OK": CollectorFailed,
    "CANCELLED": Unavailable,
    "UNKNOWN": CollectorFailed,
    "INVALID_ARGUMENT": InvalidRequest,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "NOT_FOUND": CollectorFailed,
    "ALREADY_EXISTS": CollectorFailed,
    "PERMISSION_DENIED": Denied,
    "RESOURCE_EXHAUSTED": InvalidRequest,
    "FAILED_PRECONDITION": Denied,
    "ABORTED": Unavailable,
    "OUT_OF_RANGE": Unavailable,
    "UNIMPLEMENTED": Denied,
    "INTERNAL": CollectorFailed,
    "UNAVAILABLE": Unavailable,
    "DATA_LOSS": Unavailable,
    "UNAUTHENTICATED": Denied,
}


def test_the_statuses_are_those_of_grpc_and_each_is_in_the_table() -> None:
    assert {status.name: status.value for status in Status} == {code.name: code.value[0] for code in grpc.StatusCode}
    assert set(RETRY_TABLE) == set(Status)
    assert set(ERRORS) == {status.name for status in Status}


@pytest.mark.parametrize("status", Status, ids=lambda status: status.name)
def test_the_table_is_that_of_otlp(status: Status) -> None:
    assert (RETRY_TABLE[status] is Retry.YES) == (status.name in OTLP_RETRYABLE)
    assert (RETRY_TABLE[status] is Retry.IF_TOLD) == (status.name == "RESOURCE_EXHAUSTED")


@pytest.mark.parametrize("retry_after_s", [None, 0.0, 2.5])
@pytest.mark.parametrize("status", Status, ids=lambda status: status.name)
def test_each_status_becomes_an_error_that_knows_what_the_table_says(
    status: Status, retry_after_s: float | None
) -> None:
    error = error_from_status(status, "why", retry_after_s=retry_after_s)
    assert error.retryable == is_retryable(status, retry_after_s)
    assert str(error) == "why"
    if status is Status.RESOURCE_EXHAUSTED and retry_after_s is not None:
        assert type(error) is Unavailable
        assert error.retry_after_s == retry_after_s
    else:
        assert type(error) is ERRORS[status.name]


def test_unavailable_without_a_connection_is_connection_failed() -> None:
    assert type(error_from_status(Status.UNAVAILABLE, "", connected=False)) is ConnectionFailed
    assert type(error_from_status(Status.ABORTED, "", connected=False)) is Unavailable


class FakeTime:
    """A clock that only sleeping and working move, and a random source that is told its numbers."""

    def __init__(self, *, random: float = 1.0) -> None:
        self.now_s = 1_000.0
        self.slept: list[float] = []
        self.attempts: list[float] = []
        self._random = random

    def clock(self) -> float:
        return self.now_s

    def random(self) -> float:
        return self._random

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds

    def attempt(self, *outcomes: HeliosClientError | str, takes_s: float = 0.0) -> Callable[[float], Awaitable[str]]:
        """Each call gives the next outcome; the last one again and again."""
        left = list(outcomes)

        async def attempt(remaining_s: float) -> str:
            self.attempts.append(remaining_s)
            self.now_s += takes_s
            outcome = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(outcome, str):
                return outcome
            raise outcome

        return attempt

    async def call(
        self, attempt: Callable[[float], Awaitable[str]], timeout_s: float, policy: RetryPolicy | None = None
    ) -> str:
        deadline = Deadline(timeout_s, self.clock)
        return await call_with_retry(attempt, deadline, policy or RetryPolicy(), sleep=self.sleep, random=self.random)


async def test_backoff_doubles_up_to_its_most_and_the_deadline_is_passed_on() -> None:
    time = FakeTime()
    attempt = time.attempt(*[Unavailable("busy")] * 4, "done", takes_s=0.5)
    policy = RetryPolicy(initial_delay_s=0.1, max_delay_s=0.4)
    assert await time.call(attempt, 10.0, policy) == "done"
    assert time.slept == pytest.approx([0.1, 0.2, 0.4, 0.4])
    assert time.attempts == pytest.approx([10.0, 9.4, 8.7, 7.8, 6.9])


async def test_jitter_is_full() -> None:
    time = FakeTime(random=0.0)
    assert await time.call(time.attempt(Unavailable("busy"), "done"), 1.0) == "done"
    assert time.slept == [0.0]


async def test_it_waits_as_long_as_the_collector_asks_and_jitter_beside() -> None:
    time = FakeTime(random=0.5)
    assert await time.call(time.attempt(Unavailable("busy", retry_after_s=3.0), "done"), 10.0) == "done"
    assert time.slept == pytest.approx([3.05])


async def test_a_wait_beyond_the_deadline_is_not_begun() -> None:
    time = FakeTime()
    with pytest.raises(Unavailable, match="busy"):
        await time.call(time.attempt(Unavailable("busy", retry_after_s=10.0)), 10.0)
    assert time.slept == []


async def test_what_is_not_retryable_is_raised_at_once() -> None:
    time = FakeTime()
    with pytest.raises(Denied):
        await time.call(time.attempt(Denied("no key")), 10.0)
    assert len(time.attempts) == 1


async def test_the_number_of_attempts_can_be_limited_and_is_told() -> None:
    time = FakeTime()
    with pytest.raises(Unavailable) as caught:
        await time.call(time.attempt(Unavailable("busy")), 100.0, RetryPolicy(max_attempts=3))
    assert len(time.attempts) == 3
    assert caught.value.__notes__ == ["It was sent 3 times; the time before: busy"]


async def test_nothing_is_attempted_when_the_time_is_over() -> None:
    time = FakeTime()
    deadline = Deadline(1.0, time.clock)
    time.now_s += 1.0
    with pytest.raises(DeadlineExceeded, match="1 s were over"):
        await call_with_retry(time.attempt("done"), deadline, RetryPolicy(), sleep=time.sleep)
    assert time.attempts == []


@settings(deadline=None)
@given(
    random=st.floats(0, 1, exclude_max=True),
    takes_s=st.floats(0.001, 3),
    timeout_s=st.floats(0.01, 60),
    retry_after_s=st.none() | st.floats(0, 20),
)
async def test_no_attempt_begins_after_the_deadline(
    random: float, takes_s: float, timeout_s: float, retry_after_s: float | None
) -> None:
    time = FakeTime(random=random)
    start_s = time.now_s
    with pytest.raises(HeliosClientError):
        await time.call(time.attempt(Unavailable("busy", retry_after_s=retry_after_s), takes_s=takes_s), timeout_s)
    assert all(0 < remaining_s <= timeout_s + 1e-9 for remaining_s in time.attempts)
    assert all(remaining_s > 0.049 * timeout_s for remaining_s in time.attempts)  # each has time enough
    assert time.now_s <= start_s + timeout_s + takes_s + 1e-6


@pytest.mark.parametrize("failures", [1, 10, 5_000])
def test_the_delay_stays_within_its_bounds(failures: int) -> None:
    policy = RetryPolicy()
    assert policy.delay_s(failures, random=lambda: 1.0) <= policy.max_delay_s
    assert policy.delay_s(failures, 7.0, random=lambda: 0.0) == 7.0
    assert 0 <= policy.delay_s(failures) <= policy.max_delay_s


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), True])
def test_times_are_positive_numbers(value: float) -> None:
    with pytest.raises(ConfigError, match="positive number of seconds"):
        Deadline(value)
    with pytest.raises(ConfigError, match="initial_delay_s"):
        RetryPolicy(initial_delay_s=value)


def test_a_request_is_sent_at_least_once() -> None:
    with pytest.raises(ConfigError, match="max_attempts is 0"):
        RetryPolicy(max_attempts=0)
