"""Long work lets others have their turn."""

from __future__ import annotations

import asyncio
import time

import pytest

from helios_core.turns import Turns


@pytest.mark.parametrize(("piece_s", "least"), [(0.001, 15), (0.003, 45), (0.1, 100), (0.0, 0)])
async def test_others_have_a_turn_every_few_milliseconds_of_the_work(
    monkeypatch: pytest.MonkeyPatch, piece_s: float, least: int
) -> None:
    now_s = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    turns_of_others = 0

    async def other() -> None:
        nonlocal turns_of_others
        while True:
            await asyncio.sleep(0)
            turns_of_others += 1

    beside = asyncio.create_task(other())
    await asyncio.sleep(0)
    turns = Turns()
    for _ in range(100):
        now_s += piece_s
        await turns.pause()
    beside.cancel()
    assert least <= turns_of_others <= 100
    assert (turns_of_others == 0) == (least == 0), "short work is not interrupted"
