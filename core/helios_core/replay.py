"""The whole chain on old logs, in one process and as fast as it goes: the same services as live.

They are started in the order in which things flow, and drained in it: when the agent is done the
detector finishes what is on the bus, then the store writer, and the reporter last, so that every
report finds its windows in the store.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from helios_core.bus.embedded import EmbeddedBus
from helios_core.clock import EventClock
from helios_core.datadir import DataDir
from helios_core.errors import HeliosError
from helios_core.service import REPLAY_LATENESS_US, Context, Progress, Run, services
from helios_core.store.sqlite import SqliteStore

_NEEDED: Final = ("agent", "collector", "detector", "reporter")


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay came to: the outcomes of its services, and what is now in the store.

    Attributes:
        counts: of the agent: lines, bytes, events, unparsed, dropped, mended.
        detector: alerts, and the spans over which each service was watched.
        reporter: incidents and reports.
        totals: the row of the query `totals`.
    """

    counts: Any
    detector: Any
    reporter: Any
    totals: dict[str, int]
    seconds: float


async def replay(
    files: tuple[Path, ...],
    data_dir: Path,
    *,
    parser: str = "auto",
    service: str | None = None,
    labels: Path | None = None,
    progress: Progress | None = None,
) -> Replayed:
    """Replays files into a data directory; files that were replayed before go on where they ended.

    Raises:
        HeliosError: a file cannot be read, the directory is in use, or a part is not installed.
    """
    found = services()
    missing = [name for name in _NEEDED if name not in found]
    if missing:
        raise HeliosError(f"a replay needs {', '.join(missing)}: pip install 'helios-observability[all]'")
    began = time.monotonic()
    lock = DataDir(data_dir)
    bus = EmbeddedBus(data_dir / "bus.db")
    store = SqliteStore(data_dir / "store.db")
    try:
        context = Context(
            data_dir=data_dir,
            clock=EventClock(),
            bus=bus,
            store=store,
            collector=asyncio.get_running_loop().create_future(),
            allowed_lateness_us=REPLAY_LATENESS_US,
            files=files,
            parser=parser,
            service=service,
            labels=labels,
            progress=progress or Progress(),
        )
        counts, detected, reported = await _flow(found, context)
        (totals,) = await store.query("totals")
        return Replayed(counts, detected, reported, dict(totals), time.monotonic() - began)
    finally:
        await bus.close()
        await store.close()
        lock.close()


async def _flow(found: dict[str, Run], context: Context) -> tuple[Any, Any, Any]:
    """Runs the services; the failure of one ends all, and is raised."""

    def own() -> Context:
        return replace(context, drain=asyncio.Event())

    collector, detector, reporter = own(), own(), own()
    try:
        async with asyncio.TaskGroup() as group:
            collecting = group.create_task(found["collector"](collector))
            detecting = group.create_task(found["detector"](detector))
            counts = await group.create_task(found["agent"](own()))
            detector.drain.set()
            detected = await detecting
            collector.drain.set()
            await collecting
            reporter.drain.set()
            reported = await group.create_task(found["reporter"](reporter))
    except BaseExceptionGroup as failures:
        raise _first(failures) from None
    return counts, detected, reported


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that began it."""
    error: BaseException = failures
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
