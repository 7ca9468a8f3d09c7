"""The retry table of the contract, what a status becomes, and retrying within one deadline.

It knows the statuses of gRPC by their numbers and does not import gRPC. The table is that of OTLP
(opentelemetry-proto, docs/specification.md, "Failures"), because one server answers both.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from math import isfinite
from random import SystemRandom
from types import MappingProxyType
from typing import Final, TypeVar

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

_T = TypeVar("_T")
# An attempt gets at least this share of the deadline, lest the last one fail only for want of time
# and its error hide the one that matters.
_MIN_SHARE: Final = 0.05
_random = SystemRandom()  # no state that two processes could share after a fork


class Status(IntEnum):
    """The statuses of gRPC, by their numbers."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Retry(Enum):
    """Whether a status may be answered by sending the same again."""

    NO = "no"
    YES = "yes"
    IF_TOLD = "only with RetryInfo"


RETRY_TABLE: Final[Mapping[Status, Retry]] = MappingProxyType(
    {
        Status.OK: Retry.NO,
        Status.CANCELLED: Retry.YES,
        Status.UNKNOWN: Retry.NO,
        Status.INVALID_ARGUMENT: Retry.NO,
        Status.DEADLINE_EXCEEDED: Retry.YES,
        Status.NOT_FOUND: Retry.NO,
        Status.ALREADY_EXISTS: Retry.NO,
        Status.PERMISSION_DENIED: Retry.NO,
        Status.RESOURCE_EXHAUSTED: Retry.IF_TOLD,
        Status.FAILED_PRECONDITION: Retry.NO,
        Status.ABORTED: Retry.YES,
        Status.OUT_OF_RANGE: Retry.YES,
        Status.UNIMPLEMENTED: Retry.NO,
        Status.INTERNAL: Retry.NO,
        Status.UNAVAILABLE: Retry.YES,
        Status.DATA_LOSS: Retry.YES,
        Status.UNAUTHENTICATED: Retry.NO,
    }
)
# What the statuses that are not retried mean to a sender; those that are missing are failures.
_REFUSALS: Final[Mapping[Status, type[HeliosClientError]]] = MappingProxyType(
    {
        Status.INVALID_ARGUMENT: InvalidRequest,
        Status.RESOURCE_EXHAUSTED: InvalidRequest,  # without RetryInfo: a message over the size limit
        Status.UNAUTHENTICATED: Denied,
        Status.PERMISSION_DENIED: Denied,
        Status.FAILED_PRECONDITION: Denied,  # a version of the contract that is not spoken
        Status.UNIMPLEMENTED: Denied,  # no collector of this contract listens there
    }
)


def is_retryable(status: Status, retry_after_s: float | None = None) -> bool:
    """Whether the same may be sent again, given the wait that came with the status."""
    verdict = RETRY_TABLE[status]
    return verdict is Retry.YES or (verdict is Retry.IF_TOLD and retry_after_s is not None)


def error_from_status(
    status: Status, message: str, *, retry_after_s: float | None = None, connected: bool = True
) -> HeliosClientError:
    """The one place where a status becomes an error of the client; `retryable` follows the table."""
    if not is_retryable(status, retry_after_s):
        return _REFUSALS.get(status, CollectorFailed)(message)
    if status is Status.DEADLINE_EXCEEDED:
        return DeadlineExceeded(message)
    if status is Status.UNAVAILABLE and not connected:
        return ConnectionFailed(message, retry_after_s=retry_after_s)
    return Unavailable(message, retry_after_s=retry_after_s)


def check_seconds(name: str, value: object) -> float:
    """ConfigError unless `value` is a positive, finite number of seconds."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value <= 0:
        raise ConfigError(f"{name} is {value!r}: give a positive number of seconds")
    return float(value)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter, always within the deadline of the call.

    Attributes:
        initial_delay_s: the most that is waited after the first failure; it doubles with each one.
        max_delay_s: the most that is waited between two attempts, beside what the collector asks for.
        max_attempts: how often a request is sent at most; None for as often as the deadline allows.
    """

    initial_delay_s: float = 0.1
    max_delay_s: float = 2.0
    max_attempts: int | None = None

    def __post_init__(self) -> None:
        check_seconds("initial_delay_s", self.initial_delay_s)
        check_seconds("max_delay_s", self.max_delay_s)
        if self.max_attempts is not None and self.max_attempts < 1:
            raise ConfigError(f"max_attempts is {self.max_attempts}: 1 for no retry, None for no limit")

    def delay_s(
        self, failures: int, retry_after_s: float | None = None, *, random: Callable[[], float] = _random.random
    ) -> float:
        """The wait after the given number of failures (from 1): what the collector asks for, then jitter.

        Full jitter, uniform from 0, spreads the load best of the variants (AWS Architecture Blog,
        "Exponential Backoff And Jitter").
        """
        ceiling_s = min(self.max_delay_s, self.initial_delay_s * 2.0 ** min(failures - 1, 32))
        return (retry_after_s or 0.0) + random() * ceiling_s


class Deadline:
    """The point in time until which all of a call has to be done; it is passed on, never restarted."""

    __slots__ = ("_at_s", "_clock", "timeout_s")

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.timeout_s = check_seconds("timeout_s", timeout_s)
        self._clock = clock
        self._at_s = clock() + self.timeout_s

    def remaining_s(self) -> float:
        """Seconds that are left, never negative."""
        return max(0.0, self._at_s - self._clock())


async def call_with_retry(
    attempt: Callable[[float], Awaitable[_T]],
    deadline: Deadline,
    policy: RetryPolicy,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    random: Callable[[], float] = _random.random,
) -> _T:
    """The first success of `attempt(remaining_s)`, or its last error.

    A wait that would leave too little of the deadline for an attempt is not begun: the error is
    raised at once.
    """
    failures = 0
    before: HeliosClientError | None = None
    while (remaining_s := deadline.remaining_s()) > 0:
        try:
            return await attempt(remaining_s)
        except HeliosClientError as error:
            failures += 1
            delay_s = policy.delay_s(failures, error.retry_after_s, random=random)
            too_late = delay_s + _MIN_SHARE * deadline.timeout_s >= deadline.remaining_s()
            if not error.retryable or failures == policy.max_attempts or too_late:
                if before is not None:
                    error.add_note(f"It was sent {failures} times; the time before: {before}")
                raise
            before = error
        await sleep(delay_s)
    raise DeadlineExceeded(f"{deadline.timeout_s:g} s were over before it could be sent")
