"""What comes in at once is bounded, and what is refused is told when to come again: by the module itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios_collector import admission as module
from helios_collector.admission import Admission, Breaker, Busy, Rates
from helios_collector.telemetry import Telemetry
from helios_core.bus.base import Record, Topic
from helios_core.bus.memory import MemoryBus
from helios_core.errors import BusUnavailable
from helios_core.settings import Limits

AWAY = BusUnavailable("the bus is away")
FULL = "requests of .* bytes are under way"


class Bus(MemoryBus):
    """A bus that can be away, that can be waited for, and that counts how often it is called."""

    fault: Exception | None = None

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.go = asyncio.Event()
        self.go.set()

    async def publish(self, records: Sequence[Record]) -> None:
        self.calls += 1
        await self.go.wait()
        if self.fault is not None:
            raise self.fault
        await super().publish(records)


class Site:
    """Admission to a bus, at a time that only the test moves."""

    def __init__(self, **limits: Any) -> None:
        self.bus = Bus()
        self.telemetry = Telemetry()
        self.now_s = 0.0
        self.admission = Admission(self.bus, Limits(**limits), self.telemetry, now_s=lambda: self.now_s)

    def metric(self, name: str) -> float | None:
        return self.telemetry.registry.get_sample_value(name)

    @property
    def pending(self) -> float | None:
        return self.metric("helios_ingest_pending_bytes")

    def refused(self, reason: str) -> float:
        return self.telemetry.registry.get_sample_value("helios_ingest_refusals_total", {"reason": reason}) or 0

    async def publish(self, error: Exception | None = None) -> None:
        self.bus.fault = error
        await self.admission.publish([Record(Topic.EVENTS, "k", b"v")])


# --- the budget ------------------------------------------------------------------------------------


def test_one_alone_is_taken_and_another_is_not_while_it_is_under_way() -> None:
    site = Site(pending_bytes=1_024)
    with site.admission.entered("a") as alone:
        alone.hold(5_000)
        alone.hold(5_000)
        assert site.pending == 10_000
        with pytest.raises(Busy, match=FULL) as refused, site.admission.entered("b"):
            pytest.fail("there is no room")
        assert refused.value.retry_after_s > 0
        assert (site.pending, site.refused("memory")) == (10_000, 1)
    assert site.pending == 0
    with site.admission.entered("b") as other:
        other.hold(5_000)
    assert (site.pending, site.refused("memory")) == (0, 1)


@given(st.data())
def test_what_is_under_way_is_what_is_held_and_all_of_it_is_given_back(data: st.DataObject) -> None:
    site = Site(pending_bytes=1_024)
    held: dict[int, tuple[ExitStack, Any, int]] = {}
    for number in range(data.draw(st.integers(1, 30))):
        do = data.draw(st.sampled_from(["enter", "hold", "end", "fail"]))
        if do == "enter" or not held:
            stack, others = ExitStack(), sum(size for _, _, size in held.values())
            try:
                held[number] = stack, stack.enter_context(site.admission.entered("c")), 0
            except Busy:
                assert others >= 1_024
            else:
                assert others < 1_024
            continue
        which = data.draw(st.sampled_from(sorted(held)))
        stack, visit, size = held.pop(which)
        others = sum(size for _, _, size in held.values())
        more = data.draw(st.sampled_from([0, 1, 500, 1_024, 4_000]))
        try:
            with stack:
                if do == "fail":
                    raise ZeroDivisionError  # noqa: TRY301 - as if from within the request
                if do == "hold":
                    visit.hold(more)
                    held[which] = stack.pop_all(), visit, size + more
        except ZeroDivisionError:
            assert do == "fail"
        except Busy:
            assert others >= 1_024
        else:
            assert do != "hold" or others < 1_024
        assert site.pending == sum(size for _, _, size in held.values())
    for stack, _, _ in held.values():
        stack.close()
    assert site.pending == 0


async def test_no_memory_is_the_reason_also_while_the_bus_is_away() -> None:
    """`helios_ingest_refusals_total` by reason: here the pause is over, and it is the room that is missing."""
    site = Site(pending_bytes=1_024)
    with site.admission.entered("a") as large:
        large.hold(5_000)
        with pytest.raises(BusUnavailable):
            await site.publish(AWAY)
        by_bus = site.refused("bus")
        site.now_s += 60
        with pytest.raises(Busy, match=FULL), site.admission.entered("b"):
            pytest.fail("there is no room")
    assert (site.refused("memory"), site.refused("bus")) == (1, by_bus)


# --- the breaker -----------------------------------------------------------------------------------


class Clocked:
    """A breaker, and its time."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.breaker = Breaker(lambda: self.now_s)

    def under_way(self) -> ExitStack:
        """Something that tries until it is closed, or `failed`."""
        stack = ExitStack()
        stack.enter_context(self.breaker.trying())
        return stack

    def is_refused(self) -> bool:
        try:
            self.breaker.check()
        except Busy as error:
            return 1 <= error.retry_after_s <= 15
        return False


def failed(stack: ExitStack, error: BaseException = AWAY) -> None:
    with pytest.raises(type(error)), stack:
        raise error


def test_each_try_that_fails_doubles_the_pause_up_to_ten_seconds_and_success_ends_it() -> None:
    site = Clocked()
    for pause_s in (1, 2, 4, 8, 10, 10):
        assert not site.is_refused()
        failed(site.under_way())
        assert site.breaker.is_open
        site.now_s += pause_s - 0.001
        assert site.is_refused()
        site.now_s += 0.001
    with site.under_way():
        assert site.is_refused()  # one tries
    assert not site.breaker.is_open
    failed(site.under_way())
    site.now_s += 1  # it begins anew
    assert not site.is_refused()


def test_what_was_under_way_when_it_opened_does_not_lengthen_the_pause() -> None:
    site = Clocked()
    before = [site.under_way() for _ in range(5)]
    failed(before.pop())
    site.now_s = 0.9
    for one in before[:2]:
        failed(one)
    site.now_s = 1
    assert not site.is_refused()
    probe = site.under_way()
    failed(before[2])
    assert site.is_refused()
    failed(probe)
    site.now_s = 2.999
    failed(before[3])
    assert site.is_refused()
    site.now_s = 3
    assert not site.is_refused()


@pytest.mark.parametrize("error", [asyncio.CancelledError(), ZeroDivisionError("a bug")], ids=repr)
def test_a_probe_that_says_nothing_of_the_bus_lets_the_next_try(error: BaseException) -> None:
    site = Clocked()
    failed(site.under_way())
    site.now_s = 1
    failed(site.under_way(), error)
    assert site.breaker.is_open
    with site.under_way():
        assert site.is_refused()
    assert not site.breaker.is_open


@pytest.mark.parametrize("error", [asyncio.CancelledError(), AWAY], ids=repr)
def test_a_probe_of_an_outage_that_is_over_says_nothing_of_the_next(error: BaseException) -> None:
    """One that was under way from before succeeds, the bus fails again, and only then the first probe comes back."""
    site = Clocked()
    opener, slow = site.under_way(), site.under_way()
    failed(opener)
    site.now_s = 1
    old_probe = site.under_way()
    slow.close()
    assert not site.breaker.is_open
    failed(site.under_way())
    site.now_s = 2
    probe = site.under_way()
    failed(old_probe, error)
    assert site.is_refused()  # exactly one tries
    failed(probe, asyncio.CancelledError())
    assert not site.is_refused()  # and what was under way when it opened has not made the pause longer


async def test_while_the_bus_is_away_it_is_not_called_and_one_at_a_time_probes() -> None:
    site = Site()
    with pytest.raises(BusUnavailable, match="away"):
        await site.publish(AWAY)
    assert (site.bus.calls, site.metric("helios_ingest_breaker_open")) == (1, 1)
    with pytest.raises(Busy, match="away"), site.admission.entered("a"):
        pytest.fail("it is not read")
    with pytest.raises(Busy):
        await site.publish()
    assert site.bus.calls == 1
    site.now_s = 1
    site.bus.go.clear()
    probe = asyncio.create_task(site.publish())
    await asyncio.sleep(0)
    for _ in range(5):
        with pytest.raises(Busy):
            await site.publish()
    assert site.bus.calls == 2
    site.bus.go.set()
    await probe
    assert site.metric("helios_ingest_breaker_open") == 0
    assert site.refused("bus") >= 7


async def test_a_cancelled_probe_lets_the_next_publish() -> None:
    site = Site()
    with pytest.raises(BusUnavailable):
        await site.publish(AWAY)
    site.now_s = 1
    site.bus.go.clear()
    probe = asyncio.create_task(site.publish())
    await asyncio.sleep(0)
    probe.cancel()
    await asyncio.wait([probe])
    site.bus.go.set()
    await site.publish()
    assert (site.bus.calls, site.metric("helios_ingest_breaker_open")) == (3, 0)


async def test_what_publishes_nothing_says_nothing_of_the_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    """No events, or only spans that are passed over: a bus has no need to answer that, and Kafka's does not."""
    site = Site()
    for _ in range(2):
        with pytest.raises(BusUnavailable):
            await site.publish(AWAY)
        site.now_s += 1
    publish = site.bus.publish

    async def as_kafka(records: Sequence[Record]) -> None:
        if records:
            await publish(records)

    monkeypatch.setattr(site.bus, "publish", as_kafka)
    site.now_s += 60
    await site.admission.publish([])
    assert site.metric("helios_ingest_breaker_open") == 1


async def test_what_the_bus_did_not_take_counts_as_to_be_sent_again() -> None:
    """`helios_ingest_refusals_total`: requests to be sent again; `bus`: the bus is away."""
    site = Site()
    with pytest.raises(BusUnavailable):
        await site.publish(AWAY)
    assert site.refused("bus") == 1


# --- rates -----------------------------------------------------------------------------------------


def test_a_debt_is_paid_by_time_and_by_its_client_alone() -> None:
    now = [0.0]
    rates = Rates(Limits(events_per_second=10), lambda: now[0])
    rates.spend("a", 19, 10**9)
    assert rates.wait_s("a") == 0  # two seconds' worth, and bytes are not limited
    rates.spend("a", 51, 0)  # larger than the bucket: taken, and owed
    assert rates.wait_s("a") == pytest.approx(5.1)
    assert rates.wait_s("b") == 0
    now[0] = 3
    assert rates.wait_s("a") == pytest.approx(2.1)
    now[0] = 1_000
    rates.spend("a", 20, 0)  # however long it was quiet: no more than two seconds' worth
    assert rates.wait_s("a") > 0


@given(st.floats(0.1, 1e6), st.integers(0, 10**7), st.integers(0, 10**7))
def test_after_the_wait_one_is_taken(rate: float, n_events: int, n_bytes: int) -> None:
    now = [0.0]
    rates = Rates(Limits(events_per_second=rate, bytes_per_second=rate), lambda: now[0])
    rates.spend("a", n_events, n_bytes)
    now[0] = rates.wait_s("a")
    assert rates.wait_s("a") == 0


def test_without_limits_nothing_is_remembered_and_with_them_a_bounded_number_of_clients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_MAX_CLIENTS", 10)
    free, bounded = Rates(Limits(), lambda: 0.0), Rates(Limits(events_per_second=1), lambda: 0.0)
    for rates in (free, bounded):
        for client in range(100):
            rates.spend(str(client), 10**6, 10**9)
            rates.wait_s("0")
    assert free.wait_s("5") == 0
    assert len(free._buckets) == 0
    assert len(bounded._buckets) == 10
    assert bounded.wait_s("0") > 0  # it was not quiet
    assert bounded.wait_s("5") == 0  # forgotten
