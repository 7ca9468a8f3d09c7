"""One run: faults at random moments under steady load, then peace, then the account."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.chaos import verdict
from tests.chaos.estate import CLIENT, LINES, RAW, Estate, running
from tests.chaos.faults import Fault, faults
from tests.chaos.load import Load, by_client, into_file, over_http

_WARM_S: Final = 15


@dataclass(frozen=True)
class Plan:
    """What to do.

    Attributes:
        count: how many faults strike.
        seed: of which ones, where, when and for how long.
        gap_s: the mean time from one to the next; several may last at once.
        per_second: events of each service.
        rollups: wait for them, which takes a minute more, and judge them.
    """

    count: int = 100
    seed: int = 0
    gap_s: float = 5.0
    per_second: float = 30.0
    rollups: bool = True


@dataclass
class Account:
    """What happened.

    Attributes:
        struck: (seconds since the beginning, kind, target, how, seconds that it lasted).
        wrong: what does not hold; nothing when all does.
        numbers: that the page shows.
    """

    struck: list[tuple[float, str, str, str, float]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """For people."""
        found = [
            f"{at:7.1f} s  {kind:8} {target:28} {how}, {lasts:.1f} s" for at, kind, target, how, lasts in self.struck
        ]
        found += [f"{name}: {value}" for name, value in self.numbers.items()]
        return [*found, *(f"WRONG: {fault}" for fault in self.wrong), "all held" if not self.wrong else "NOT all held"]


async def run(plan: Plan, folder: Path) -> Account:
    """Runs it in an empty folder that everybody may enter."""
    rng = random.Random(plan.seed)
    account = Account()
    async with running(folder) as estate:
        load = Load(plan.per_second, (*LINES, *RAW, CLIENT), random.Random(plan.seed + 1))
        loading = asyncio.gather(
            over_http(load, estate.url(0), RAW),
            by_client(load, estate.endpoint(1), CLIENT),
            *(into_file(load, estate.log_of(0, service), service) for service in ("orders", "web-0")),
            *(into_file(load, estate.log_of(1, service), service) for service in ("orders", "web-1")),
        )
        try:
            await asyncio.sleep(_WARM_S)
            began_s = time.monotonic()
            await _strike(plan, rng, estate, account, began_s)
            account.numbers["faults"] = dict(sorted(Counter(kind for _, kind, *_ in account.struck).items()))
            account.numbers["lasted"] = f"{time.monotonic() - began_s:.0f} s"
            load.stopped.set()
            await loading
        finally:
            loading.cancel()
        await _judge(plan, estate, load, account)
    return account


async def _strike(plan: Plan, rng: random.Random, estate: Estate, account: Account, began_s: float) -> None:
    struck: set[str] = set()
    possible = faults(estate)

    async def last(fault: Fault, lasts_s: float) -> None:
        try:
            async with fault.lasting(rng):
                await asyncio.sleep(lasts_s)
        finally:
            struck.discard(fault.target)

    async with asyncio.TaskGroup() as group:
        while len(account.struck) < plan.count:
            fault = rng.choice(possible)
            if fault.target not in struck:
                struck.add(fault.target)
                lasts_s = rng.uniform(0.3, fault.longest_s)
                at_s = time.monotonic() - began_s
                account.struck.append((at_s, fault.kind, fault.target, fault.how, lasts_s))
                _say(f"{len(account.struck)}/{plan.count}  {fault.target}: {fault.how}, {lasts_s:.1f} s")
                group.create_task(last(fault, lasts_s))
            await asyncio.sleep(rng.expovariate(1 / plan.gap_s))


async def _judge(plan: Plan, estate: Estate, load: Load, account: Account) -> None:
    sent = load.sent
    _say("peace: waiting until all is stored")
    numbers = account.numbers
    numbers["settled after"] = f"{await verdict.settled(estate.dsn, sent):.0f} s"
    account.wrong += await verdict.of_store(estate.dsn, estate.brokers.bootstrap, sent)
    if plan.rollups:
        account.wrong += await verdict.of_rollups(estate.dsn, sent)
    said = await verdict.alerts_of(estate.brokers.bootstrap)
    account.wrong += await verdict.of_alerts(estate.dsn, said)
    numbers["events sent by id"] = len(sent.ids)
    numbers["events sent as lines"] = sum(sent.events.values()) - len(sent.ids)
    numbers["windows compared"] = len(sent.events)
    numbers["refused or failed, and sent again"] = dict(sorted(sent.refused.items()))
    numbers["alerts said, ids"] = f"{len(said)}, {len({alert.id for alert in said})}"
    numbers["ends of what nobody had said"] = verdict.ended_unsaid(said)
    for name, part in estate.parts.items():
        ends = Counter(code for _, code in part.ends)
        numbers[name] = f"{part.starts} starts, {part.peak_bytes >> 20} MB at most" + (
            f", ended by itself {dict(ends)}" if ends else ""
        )
    codes = await asyncio.gather(*(part.stop() for part in estate.parts.values()))
    for name, code in zip(estate.parts, codes, strict=True):
        if code != 0:
            account.wrong.append(f"{name} ended with {code} when it was told to stop")
    estate.is_evidence = bool(account.wrong)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
