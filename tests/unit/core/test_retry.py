"""Waiting for an engine at a start."""

from __future__ import annotations

import asyncio

import pytest

from helios_core import retry
from helios_core.errors import BusUnavailable, BusUnreachable
from helios_core.retry import until_reached


async def test_who_is_away_is_asked_again_until_they_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_PAUSE_S", 0.0)
    answers: list[BusUnreachable | str] = [BusUnreachable("away"), BusUnreachable("away"), "here"]

    async def ask() -> str:
        answer = answers.pop(0)
        if isinstance(answer, BusUnreachable):
            raise answer
        return answer

    assert await until_reached(ask, asyncio.Event()) == "here"
    assert answers == []


async def test_who_answers_and_refuses_is_not_asked_again() -> None:
    asked = 0

    async def ask() -> None:
        nonlocal asked
        asked += 1
        raise BusUnavailable("a wrong password")

    with pytest.raises(BusUnavailable, match="a wrong password"):
        await until_reached(ask, asyncio.Event())
    assert asked == 1


async def test_it_stops_in_the_pause_with_the_last_error() -> None:
    stop = asyncio.Event()

    async def ask() -> None:
        asyncio.get_running_loop().call_later(0.05, stop.set)
        raise BusUnreachable("nobody there")

    with pytest.raises(BusUnreachable, match="nobody there"):
        await until_reached(ask, stop)


async def test_it_stops_while_it_asks() -> None:
    stop = asyncio.Event()
    ended = asyncio.Event()

    async def ask() -> None:
        stop.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    with pytest.raises(BusUnreachable, match="stopped before"):
        await asyncio.wait_for(until_reached(ask, stop), 5)
    await asyncio.wait_for(ended.wait(), 5)
