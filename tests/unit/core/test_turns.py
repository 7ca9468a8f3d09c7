"""Long work lets others have their turn."""

from __future__ import annotations

import asyncio
import time

from helios_core.turns import Turns


async def test_others_wait_for_one_piece_of_the_work_and_not_for_all() -> None:
    longest_s, last_s = 0.0, time.monotonic()

    async def other() -> None:
        nonlocal longest_s, last_s
        while True:
            await asyncio.sleep(0)
            longest_s, last_s = max(longest_s, time.monotonic() - last_s), time.monotonic()

    beside = asyncio.create_task(other())
    await asyncio.sleep(0)
    turns = Turns()
    for _ in range(200):
        time.sleep(0.002)  # noqa: ASYNC251 - work that holds the loop up
        await turns.pause()
    beside.cancel()
    assert longest_s < 0.2  # of 0.4 s of work


async def test_short_work_is_not_interrupted() -> None:
    came = False

    def note() -> None:
        nonlocal came
        came = True

    asyncio.get_running_loop().call_soon(note)
    await Turns().pause()
    assert not came
