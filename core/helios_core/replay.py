"""The whole chain on old logs, in one process and as fast as it goes: the same services as live."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from helios_core import flow
from helios_core.clock import EventClock
from helios_core.embedded import opened
from helios_core.service import REPLAY_LATENESS_US, Context, Progress

_SERVICES: Final = ("agent", "collector", "detector", "reporter")


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
    found = flow.installed(_SERVICES)
    began = time.monotonic()
    async with opened(data_dir) as engines:
        context = Context(
            data_dir=data_dir,
            clock=EventClock(),
            bus=engines.bus,
            store=engines.store,
            collector=asyncio.get_running_loop().create_future(),
            allowed_lateness_us=REPLAY_LATENESS_US,
            files=files,
            parser=parser,
            service=service,
            labels=labels,
            progress=progress or Progress(),
        )
        done = await flow.run(found, context, last="reporter")
        (totals,) = await engines.store.query("totals")
    seconds = time.monotonic() - began
    return Replayed(done["agent"], done["detector"], done["reporter"], dict(totals), seconds)
