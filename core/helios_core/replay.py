"""Old logs in one process and as fast as it goes: the whole chain on them, or only counted to learn from.

The same services as live; only the clock follows event time.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from helios_core import flow
from helios_core.clock import EventClock
from helios_core.engines import Engines, opened
from helios_core.service import REPLAY_LATENESS_US, Context, Progress

_SERVICES: Final = ("agent", "collector", "detector", "reporter")
_LEARNING: Final = ("agent", "collector")  # the detector learns at its next start
_LEARNED_WINDOW_MS: Final = 60_000  # the past needs no finer windows to be learned from


@dataclass(frozen=True, slots=True)
class Files:
    """What is read, and how.

    Attributes:
        paths: merged by time; those that were read before go on where they ended.
        parser: by name; `auto` looks at their first lines.
        service: of lines that name none; None takes it from the file's name.
    """

    paths: tuple[Path, ...]
    parser: str = "auto"
    service: str | None = None


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


async def replay(files: Files, data_dir: Path, *, labels: Path | None = None, progress: Progress) -> Replayed:
    """Runs the whole chain on files.

    Raises:
        HeliosError: a file cannot be read, the directory is in use, or a part is not installed.
    """
    found = flow.installed(_SERVICES)
    began = time.monotonic()
    async with opened(data_dir) as engines:
        context = replace(
            _context(files, data_dir, engines, progress), allowed_lateness_us=REPLAY_LATENESS_US, labels=labels
        )
        done = await flow.run(found, context, last="reporter")
        (totals,) = await engines.store.query("totals")
    seconds = time.monotonic() - began
    return Replayed(done["agent"], done["detector"], done["reporter"], dict(totals), seconds)


async def learn(files: Files, data_dir: Path, *, progress: Progress) -> Any:
    """Counts files as history, for the next start to learn from; returns the agent's counts.

    Raises:
        HeliosError: as `replay`.
    """
    found = flow.installed(_LEARNING)
    async with opened(data_dir) as engines:
        context = replace(_context(files, data_dir, engines, progress), history=True, window_ms=_LEARNED_WINDOW_MS)
        return (await flow.run(found, context))["agent"]


def _context(files: Files, data_dir: Path, engines: Engines, progress: Progress) -> Context:
    return Context(
        data_dir=data_dir,
        clock=EventClock(),
        bus=engines.bus,
        store=engines.store,
        collector=asyncio.get_running_loop().create_future(),
        files=files.paths,
        parser=files.parser,
        service=files.service,
        progress=progress,
    )
