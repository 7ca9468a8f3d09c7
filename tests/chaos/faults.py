"""What goes wrong: each fault strikes one target, lasts a while, and heals."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from tests.chaos.estate import Estate
from tests.chaos.link import Mood
from tests.chaos.part import faketime

_CLOCKS: Final = ("agent", "collector", "detector")
_CLOCK_S: Final = 75  # longer than an agent may be away
_MAX_SHIFT_S: Final = 300  # what is further off is counted under the time of receipt, and not under its own


@dataclass(frozen=True)
class Fault:
    """One that can strike.

    Attributes:
        kind: for the account: kill, network, disk, clock.
        target: two faults never strike the same at a time.
        how: in words.
        longest_s: how long it lasts at most.
        lasting: strikes when it is entered, heals when it is left.
    """

    kind: str
    target: str
    how: str
    longest_s: float
    lasting: Callable[[random.Random], AbstractAsyncContextManager[None]]


def faults(estate: Estate) -> list[Fault]:
    """All that can strike this estate; how often each is drawn is in how often it is listed."""
    found: list[Fault] = []
    for name, part in estate.parts.items():
        found += [Fault("kill", name, "kill -9", 5, _killed(part.kill))] * 2
        if faketime() is not None and name.startswith(_CLOCKS):
            found.append(Fault("clock", name, "clock shifted by up to 5 min", _CLOCK_S, _shifted(part.shift_clock)))
    for name, link in estate.links.items():
        for mood, longest_s in ((Mood.CUT, 6), (Mood.FROZEN, 12), (Mood.DEAF, 8), (Mood.SLOW, 10)):
            found.append(Fault("network", name, mood.value, longest_s, _spoiled(link.become, mood)))
    broker, database = estate.links["everybody to the broker"], estate.disks["database"]
    for mood in (Mood.CUT, Mood.FROZEN, Mood.DEAF, Mood.SLOW):
        found += [Fault("network", "everybody to the broker", mood.value, 10, _spoiled(broker.become, mood))] * 2
    found += [Fault("kill", "broker", "kill -9", 6, _broker_killed(estate))] * 4
    found += [Fault("kill", "broker", "stopped (SIGSTOP)", 12, _broker_frozen(estate))] * 2
    found += [Fault("kill", "database", "kill -9", 6, _database_killed(estate))] * 5
    if database.can_be_filled:
        for name, disk in estate.disks.items():
            found += [Fault("disk", f"disk of {name}", "full", 8, _filled(disk.fill, disk.free))] * 2
    return found


def _killed(kill: Callable[[float], None]) -> Callable[[random.Random], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lasting(rng: random.Random) -> AsyncIterator[None]:
        kill(rng.uniform(0, 5))
        yield

    return lasting


def _shifted(shift: Callable[[float], None]) -> Callable[[random.Random], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lasting(rng: random.Random) -> AsyncIterator[None]:
        shift(rng.uniform(-_MAX_SHIFT_S, _MAX_SHIFT_S))
        try:
            yield
        finally:
            shift(0)

    return lasting


def _spoiled(
    become: Callable[[Mood], None], mood: Mood
) -> Callable[[random.Random], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lasting(_: random.Random) -> AsyncIterator[None]:
        become(mood)
        try:
            yield
        finally:
            become(Mood.OPEN)

    return lasting


def _filled(
    fill: Callable[[], None], free: Callable[[], None]
) -> Callable[[random.Random], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lasting(_: random.Random) -> AsyncIterator[None]:
        await asyncio.to_thread(fill)
        try:
            yield
        finally:
            free()

    return lasting


def _broker_killed(estate: Estate) -> Callable[[random.Random], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lasting(_: random.Random) -> AsyncIterator[None]:
        async with estate.broker_down:  # whoever revives it waits
            await asyncio.to_thread(estate.brokers.kill)
            yield

    return lasting


def _broker_frozen(estate: Estate) -> Callable[[random.Random], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lasting(_: random.Random) -> AsyncIterator[None]:
        estate.brokers.freeze()
        try:
            yield
        finally:
            estate.brokers.thaw()

    return lasting


def _database_killed(estate: Estate) -> Callable[[random.Random], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lasting(_: random.Random) -> AsyncIterator[None]:
        async with estate.database_down:
            await asyncio.to_thread(estate.server.kill)
            yield

    return lasting
