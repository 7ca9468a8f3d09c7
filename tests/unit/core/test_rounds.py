"""Rounds of work that many bring: nothing is done twice or left, and an error is told to whoever has joined."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from helios_core.rounds import Rounds


class Work:
    """What the rounds were, held up while `go` is not set."""

    def __init__(self) -> None:
        self.rounds: list[list[int]] = []
        self.under_way = 0
        self.go = asyncio.Event()

    async def run(self, items: Sequence[int]) -> None:
        self.rounds.append(list(items))
        self.under_way += 1
        try:
            await self.go.wait()
            if -1 in items:
                raise ValueError("no work")
        finally:
            self.under_way -= 1


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_comes_in_one_turn_is_one_round_in_order() -> None:
    work = Work()
    work.go.set()
    rounds = Rounds(work.run)
    await asyncio.gather(*(rounds.join(number) for number in range(5)))
    assert work.rounds == [[0, 1, 2, 3, 4]]


async def test_two_are_under_way_and_the_rest_goes_in_the_third() -> None:
    work = Work()
    rounds = Rounds(work.run)
    joined = []
    for number in range(6):
        joined.append(rounds.join(number))
        await turns()
    assert (work.rounds, work.under_way) == ([[0], [1]], 2)
    work.go.set()
    await asyncio.gather(*joined)
    assert work.rounds == [[0], [1], [2, 3, 4, 5]]


async def test_an_error_is_that_of_its_round_alone() -> None:
    work = Work()
    rounds = Rounds(work.run)
    bad = [rounds.join(-1), rounds.join(1)]
    await turns()
    good = rounds.join(2)
    work.go.set()
    await asyncio.wait([*bad, good])
    assert good.exception() is None
    for future in bad:
        with pytest.raises(ValueError, match="no work"):
            future.result()
    await rounds.join(3)  # and others follow
