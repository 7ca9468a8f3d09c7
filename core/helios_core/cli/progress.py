"""A progress bar on a terminal, for what reads files."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import click

from helios_core.clock import rfc3339
from helios_core.service import Progress

_T = TypeVar("_T")
_BAR_EVERY_S: Final = 0.2


async def shown(progress: Progress, work: Coroutine[Any, Any, _T]) -> _T:
    """Does the work, and shows how far it is when somebody looks."""
    task = asyncio.create_task(work)
    if sys.stderr.isatty():
        await _show(progress, task)
    return await task


async def _show(progress: Progress, task: asyncio.Task[_T]) -> None:
    """A progress bar of the bytes read, with the event time, until the work ends."""
    with click.progressbar(length=100, label="reading", file=sys.stderr, show_pos=False) as bar:
        filled = 0
        while not task.done():
            await asyncio.wait({task}, timeout=_BAR_EVERY_S)
            percent = 100 * progress.bytes_read // max(progress.bytes_total, 1)
            if progress.event_time_us:
                bar.label = rfc3339(progress.event_time_us, digits=0)
            if percent >= 100:
                bar.label = "finishing"
            bar.update(max(0, min(percent, 100) - filled))
            filled = max(filled, min(percent, 100))
