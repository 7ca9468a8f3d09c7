"""Services that run together: drained in the order in which things flow, and the first failure ends all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from helios_core import flow
from helios_core.clock import EventClock
from helios_core.errors import HeliosError
from helios_core.service import Context, Run

ALL = ("collector", "detector", "reporter", "agent")


@pytest.fixture
async def context(tmp_path: Path) -> Context:
    return Context(
        data_dir=tmp_path,
        clock=EventClock(),
        bus=None,  # type: ignore[arg-type]
        store=None,  # type: ignore[arg-type]
        collector=asyncio.get_running_loop().create_future(),
    )


@dataclass
class Site:
    """Services that write down what happens to them."""

    log: list[str] = field(default_factory=list)
    contexts: dict[str, Context] = field(default_factory=dict)

    def service(self, name: str, *, work_s: float = 0.01) -> Run:
        """Runs until it is told to drain, and then a little longer."""

        async def run(context: Context) -> str:
            self.log.append(f"{name} starts")
            self.contexts[name] = context
            try:
                await context.drain.wait()
                self.log.append(f"{name} drains")
                await asyncio.sleep(work_s)
            except asyncio.CancelledError:
                self.log.append(f"{name} is ended")
                raise
            self.log.append(f"{name} ends")
            return f"{name} is done"

        return run

    def agent(self, *, reads_s: float = 0.02) -> Run:
        """Ends by itself when it has read everything."""

        async def run(context: Context) -> str:
            self.log.append("agent starts")
            self.contexts["agent"] = context
            await asyncio.sleep(reads_s)
            self.log.append("agent ends")
            return "agent is done"

        return run

    def failing(self, error: BaseException, *, after_s: float = 0.02) -> Run:
        async def run(context: Context) -> None:
            await asyncio.sleep(after_s)
            raise error

        return run

    def all(self, **others: Run) -> dict[str, Run]:
        return {name: others.get(name, self.service(name)) for name in ALL}


def after(log: list[str], first: str, second: str) -> bool:
    return log.index(first) < log.index(second)


async def test_when_the_agent_has_ended_the_others_are_drained_one_after_another(context: Context) -> None:
    site = Site()
    results = await asyncio.wait_for(flow.run(site.all(agent=site.agent()), context), 5)
    assert results == {name: f"{name} is done" for name in ALL}
    ends = [line for line in site.log if not line.endswith("starts")]
    assert ends == [
        "agent ends",
        "detector drains", "detector ends",
        "collector drains", "collector ends",
        "reporter drains", "reporter ends",
    ]  # fmt: skip
    assert all(after(site.log, f"{name} starts", "agent starts") for name in ("collector", "detector", "reporter"))


async def test_when_it_is_told_to_stop_the_agent_is_drained_first(context: Context) -> None:
    site, stop = Site(), asyncio.Event()
    running = asyncio.create_task(flow.run(site.all(), context, stop=stop))
    await asyncio.sleep(0.05)
    assert not any(line.endswith("drains") for line in site.log)
    stop.set()
    results = await asyncio.wait_for(running, 5)
    assert list(results) == ["agent", "detector", "collector", "reporter"]
    drains = [line for line in site.log if not line.endswith("starts")]
    assert drains == [f"{name} {what}" for name in results for what in ("drains", "ends")]


async def test_with_a_stop_the_end_of_the_agent_drains_nobody(context: Context) -> None:
    site, stop = Site(), asyncio.Event()
    running = asyncio.create_task(flow.run(site.all(agent=site.agent(reads_s=0)), context, stop=stop))
    await asyncio.sleep(0.05)
    assert "agent ends" in site.log
    assert not any(line.endswith("drains") for line in site.log)
    stop.set()
    assert (await asyncio.wait_for(running, 5))["agent"] == "agent is done"


async def test_without_an_agent_what_is_on_the_bus_is_finished(context: Context) -> None:
    site = Site()
    found = {name: site.service(name) for name in ("reporter", "detector")}
    assert list(await asyncio.wait_for(flow.run(found, context), 5)) == ["detector", "reporter"]


async def test_each_has_a_drain_of_its_own_and_shares_the_rest(context: Context) -> None:
    site = Site()
    await asyncio.wait_for(flow.run(site.all(agent=site.agent()), context), 5)
    drains = {id(own.drain) for own in site.contexts.values()}
    assert len(drains) == 4
    assert not context.drain.is_set()
    assert not site.contexts["agent"].drain.is_set()
    for own in site.contexts.values():
        assert own.parts is context.parts
        assert own.metrics is context.metrics
        assert own.collector is context.collector


@pytest.mark.parametrize("last", ["reporter", "collector"])
async def test_the_last_is_started_when_what_is_before_it_is_done(context: Context, last: str) -> None:
    site = Site()
    results = await asyncio.wait_for(flow.run(site.all(agent=site.agent()), context, last=last), 5)
    assert set(results) == set(ALL)
    assert after(site.log, "agent ends", f"{last} starts")
    assert after(site.log, "detector ends", f"{last} starts")
    assert f"{last} ends" in site.log


@pytest.mark.parametrize("failing", ALL)
@pytest.mark.parametrize("live", [False, True])
async def test_the_failure_of_one_ends_the_others_and_is_raised(context: Context, failing: str, live: bool) -> None:
    site = Site()
    error = HeliosError("the disk is gone")
    found = site.all(**{failing: site.failing(error)})
    stop = asyncio.Event() if live else None
    with pytest.raises(HeliosError) as raised:
        await asyncio.wait_for(flow.run(found, context, stop=stop), 5)
    assert raised.value is error
    others = [name for name in ALL if name != failing]
    assert all(f"{name} is ended" in site.log or f"{name} ends" in site.log for name in others)


async def test_a_failure_while_it_is_drained_is_raised(context: Context) -> None:
    site = Site()
    error = HeliosError("the store is gone")

    async def run(context: Context) -> None:
        await context.drain.wait()
        raise error

    with pytest.raises(HeliosError) as raised:
        await asyncio.wait_for(flow.run(site.all(agent=site.agent(), collector=run), context), 5)
    assert raised.value is error
    assert "detector ends" in site.log
    assert "reporter is ended" in site.log


async def test_the_first_error_is_raised_and_not_what_it_brings_about(context: Context) -> None:
    site = Site()
    first = HeliosError("the first")

    def trailing(text: str) -> Callable[[Context], Coroutine[Any, Any, None]]:
        async def run(context: Context) -> None:
            try:
                await context.drain.wait()
            finally:
                raise RuntimeError(text)

        return run

    found = {
        "collector": trailing("the collector cannot end"),
        "detector": site.failing(first),
        "reporter": trailing("the reporter cannot end"),
        "agent": site.service("agent"),
    }
    with pytest.raises(HeliosError) as raised:
        await asyncio.wait_for(flow.run(found, context), 5)
    assert raised.value is first


async def test_an_error_that_is_several_is_raised_as_the_first_of_them(context: Context) -> None:
    first = HeliosError("the first")
    group = ExceptionGroup("several", [ExceptionGroup("inner", [first]), ValueError("second")])
    with pytest.raises(HeliosError) as raised:
        await asyncio.wait_for(flow.run({"detector": Site().failing(group)}, context), 5)
    assert raised.value is first


async def test_it_can_be_cancelled(context: Context) -> None:
    site = Site()
    running = asyncio.create_task(flow.run(site.all(), context, stop=asyncio.Event()))
    await asyncio.sleep(0.02)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 5)
    assert {f"{name} is ended" for name in ALL} <= set(site.log)


async def test_nothing_to_run_is_nothing(context: Context) -> None:
    assert await flow.run({}, context) == {}


def test_what_is_not_installed_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()
    monkeypatch.setattr(flow, "services", lambda: {"agent": site.agent()})
    assert set(flow.installed(["agent"])) == {"agent"}
    with pytest.raises(HeliosError, match=r"detector, reporter is not installed: pip install"):
        flow.installed(["agent", "detector", "reporter"])


def test_all_four_are_installed() -> None:
    assert set(flow.installed(ALL)) == set(ALL)


async def test_what_cannot_end_is_left_for_the_next_start(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "DRAIN_S", 0.2)
    ended: list[str] = []

    async def stuck(context: Context) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("stuck")

    async def good(context: Context) -> str:
        await context.drain.wait()
        ended.append("good")
        return "done"

    stop = asyncio.Event()
    stop.set()
    async with asyncio.timeout(5):
        done: dict[str, object] = await flow.run({"detector": stuck, "reporter": good}, context, stop=stop)
    assert done == {"detector": flow.NOT_DRAINED, "reporter": "done"}
    assert ended == ["stuck", "good"]


async def test_a_task_that_takes_its_cancellation_for_a_failure_is_ended_nevertheless(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a library may that waits for an engine that hangs."""
    monkeypatch.setattr(flow, "DRAIN_S", 0.1)
    monkeypatch.setattr(flow, "_AGAIN_S", 0.01)
    swallowed = 0

    async def stubborn(context: Context) -> None:
        nonlocal swallowed
        while swallowed < 3:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
        await asyncio.Event().wait()

    stop = asyncio.Event()
    stop.set()
    async with asyncio.timeout(5):
        done = await flow.run({"detector": stubborn}, context, stop=stop)
    assert done == {"detector": flow.NOT_DRAINED}
