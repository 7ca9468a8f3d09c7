"""How much comes in at once: bounded in bytes, at a rate for each client, and not at all while the bus is away.

What is refused here is to be sent again; each refusal says when.
"""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, Self

import structlog

from helios_collector.gathering import Done, Gathering
from helios_collector.telemetry import Telemetry
from helios_core.bus.base import Bus, Record
from helios_core.errors import BusUnavailable, HeliosError
from helios_core.settings import Limits

_FULL_S: Final = 1.0  # when to try again where there is no room: requests are under way for less
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 10.0
_MAX_CLIENTS: Final = 10_000
_log = structlog.get_logger(__name__)


class Busy(BusUnavailable):
    """There is no room, or the bus is away: nothing of the request was taken.

    Attributes:
        retry_after_s: when to try again.
        reason: of those that refusals are counted by.
    """

    def __init__(self, message: str, retry_after_s: float, reason: str) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.reason = reason


class RateLimited(HeliosError):
    """This client sends more than it may; others are taken.

    Attributes:
        retry_after_s: when to try again.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Breaker:
    """Open while the bus fails: then requests are refused at once instead of waiting for it in turn.

    A failure opens it for a second. After that one request may try; the others are refused until it has come
    back. Each try that fails doubles the pause, up to ten seconds.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._pause_s = 0.0
        self._until_s = 0.0
        self._is_trying = False
        self._turns = 0  # how often it has opened or closed
        self._why = ""

    @property
    def is_open(self) -> bool:
        return self._pause_s > 0

    def check(self) -> None:
        """Busy when nobody may try now."""
        if self.is_open and (self._until_s > self._now_s() or self._is_trying):
            raise self._busy(f"nothing is taken now: {self._why}")

    @contextmanager
    def trying(self) -> Iterator[None]:
        """Around a publish; learns from how it ends."""
        self.check()
        is_probe = self._is_trying = self.is_open
        turn = self._turns
        try:
            yield
        except BusUnavailable as error:
            self._why = str(error)
            if turn == self._turns:  # what began before it opened, or closed, says nothing new
                self._pause_s = min(max(self._pause_s * 2, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
                self._until_s = self._now_s() + self._pause_s
                self._turned()
                _log.warning("bus_unavailable", error=self._why, nothing_is_taken_for_s=self._pause_s)
            raise self._busy(self._why) from error
        else:
            if self.is_open:
                self._pause_s = 0.0
                self._turned()
                _log.info("bus_available_again")
        finally:
            if is_probe and turn == self._turns:
                self._is_trying = False

    def _turned(self) -> None:
        self._turns += 1
        self._is_trying = False

    def _busy(self, message: str) -> Busy:
        spread = random.uniform(1, 1.5)  # noqa: S311 - no secret: not all shall come back at once
        return Busy(message, max(self._until_s - self._now_s(), _FIRST_PAUSE_S) * spread, "bus")


class Rates:
    """Token buckets, of events and of bytes, for each client; they hold two seconds' worth.

    A request is taken while there is any token, and what it costs more is owed: so one larger than the bucket
    passes, and is paid for. Of very many clients those that were quiet the longest are forgotten.
    """

    def __init__(self, limits: Limits, now_s: Callable[[], float]) -> None:
        self._rates = (limits.events_per_second, limits.bytes_per_second)
        self._are_limited = any(self._rates)
        self._now_s = now_s
        self._buckets: OrderedDict[str, tuple[list[float], float]] = OrderedDict()

    def wait_s(self, client: str) -> float:
        """How long until the client may send; 0 when it may now."""
        if not self._are_limited:
            return 0.0
        owed = zip(self._filled(client), self._rates, strict=True)
        return max(((1 - tokens) / rate for tokens, rate in owed if rate and tokens <= 0), default=0.0)

    def spend(self, client: str, events: int, n_bytes: int) -> None:
        """What the client has sent."""
        if self._are_limited:
            tokens = self._filled(client)
            tokens[0] -= events
            tokens[1] -= n_bytes

    def _filled(self, client: str) -> list[float]:
        now_s = self._now_s()
        most = [2 * rate for rate in self._rates]
        tokens, at_s = self._buckets.pop(client, (most, now_s))
        for index, rate in enumerate(self._rates):
            tokens[index] = min(tokens[index] + (now_s - at_s) * rate, most[index])
        self._buckets[client] = tokens, now_s
        if len(self._buckets) > _MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return tokens


class Visit:
    """One request that is under way; what it holds is free again when it is left."""

    __slots__ = ("_admission", "_came", "_client", "held")

    def __init__(self, admission: Admission, client: str) -> None:
        self._admission = admission
        self._client = client
        self.held = 0
        self._came = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        """It is over."""
        self._admission.let_go(self)

    def receive(self, n_bytes: int) -> None:
        """So much of it has come.

        Raises:
            Busy: see `hold`.
        """
        self._admission.hold(self, n_bytes)
        self._came += n_bytes

    def hold(self, n_bytes: int) -> None:
        """It takes so much more memory, until it is over.

        Raises:
            Busy: the others leave no room for it. Alone it always has.
        """
        self._admission.hold(self, n_bytes)

    def spend(self, events: int) -> None:
        """What it was, beside the bytes that came, for the rate of its client."""
        self._admission.rates.spend(self._client, events, self._came)


class Admission:
    """What every request passes on its way to the bus.

    Args:
        bus: where what is taken is safe before that is said.
        limits: how much is taken.
        now_s: seconds that only go forward.
    """

    def __init__(
        self,
        bus: Bus,
        limits: Limits | None = None,
        telemetry: Telemetry | None = None,
        *,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        limits = limits or Limits()
        self._bus = bus
        self._max_bytes = limits.pending_bytes
        self._telemetry = telemetry or Telemetry()
        self._held = 0
        self._breaker = Breaker(now_s)
        self._gathering = Gathering(self.publish)
        self.rates = Rates(limits, now_s)
        self._telemetry.pending.set_function(lambda: self._held)
        self._telemetry.breaker.set_function(lambda: self._breaker.is_open)

    def entered(self, client: str) -> Visit:
        """A request of a client, before anything of it is read: a context that lasts as long as it does.

        Raises:
            Busy: there is no room, or the bus is away.
            RateLimited: the client has sent too much.
        """
        wait_s = self.rates.wait_s(client)
        if wait_s > 0:
            self._refused("rate")
            raise RateLimited("this client sends more than its rate allows", wait_s)
        try:
            self._breaker.check()
        except Busy as error:
            self._refused(error.reason)
            raise
        visit = Visit(self, client)
        self.hold(visit, 0)
        return visit

    def hold(self, visit: Visit, n_bytes: int) -> None:
        """See `Visit.hold`."""
        if self._held - visit.held >= self._max_bytes:
            self._refused("memory")
            raise Busy(
                f"requests of {self._held} bytes are under way, and there is no room for more", _FULL_S, "memory"
            )
        visit.held += n_bytes
        self._held += n_bytes

    def let_go(self, visit: Visit) -> None:
        """The request is over."""
        self._held -= visit.held

    def join(
        self, received_us: int, events: Mapping[str, Sequence[bytes]], others: Sequence[Record], done: Done
    ) -> None:
        """Raw events, in records that requests share: see `Gathering.join`; Busy while the bus is away."""
        self._gathering.join(received_us, events, others, done)

    async def publish_events(
        self, visit: Visit, received_us: int, events: Mapping[str, Sequence[bytes]], others: Sequence[Record] = ()
    ) -> None:
        """The same for who waits for it. What the visit holds is held until then, also when who waits goes sooner."""
        held, visit.held = visit.held, 0

        def ended() -> None:
            self._held -= held

        await self._gathering.publish(received_us, events, others, ended)

    async def publish(self, records: Sequence[Record], requests: int = 1) -> None:
        """As `Bus.publish`; Busy, at once, while the bus is away. Nothing is always published.

        Args:
            requests: that many wait for it.
        """
        if not records:
            return
        try:
            with self._breaker.trying():
                await self._bus.publish(records)
        except Busy as error:
            self._refused(error.reason, requests)
            raise

    def _refused(self, reason: str, requests: int = 1) -> None:
        self._telemetry.refused.labels(reason).inc(requests)
