"""Services that run together: started in the order in which things flow, and drained in it.

When the agent is done the detector finishes what is on the bus, then the store writer, which also
stores what the detector has said, and the reporter last: its reports find their windows in the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Final

import structlog

from helios_core.errors import HeliosError
from helios_core.service import Context, Run, services

DRAIN_S: Final = 25.0  # all services together, after a stop
_AGAIN_S: Final = 0.5
NOT_DRAINED: Final = object()
_log = structlog.get_logger(__name__)
_START: Final = ("collector", "detector", "reporter", "agent")
_DRAIN: Final = ("agent", "detector", "collector", "reporter")


def installed(names: Collection[str]) -> dict[str, Run]:
    """The named services; HeliosError when one of them is not installed."""
    found = services()
    missing = [name for name in names if name not in found]
    if missing:
        raise HeliosError(f"{', '.join(missing)} is not installed: pip install 'helios-observability[all]'")
    return {name: found[name] for name in names}


async def run(
    found: Mapping[str, Run], context: Context, *, stop: asyncio.Event | None = None, last: str = ""
) -> dict[str, Any]:
    """What each service returns, when all have ended. The failure of one ends all, and is raised.

    Args:
        found: the services to run.
        context: of all of them; each gets a `drain` of its own.
        stop: when it is set they are drained. Without it they are when the agent has ended by itself.
        last: a service that is started when all before it in the order are drained.
    """
    contexts = {name: replace(context, drain=asyncio.Event()) for name in found}
    results: dict[str, Any] = {}
    try:
        async with asyncio.TaskGroup() as group:
            tasks = {
                name: group.create_task(found[name](contexts[name]))
                for name in _START
                if name in found and name != last
            }
            deadline_s = None
            if stop is not None:
                await stop.wait()
                deadline_s = asyncio.get_running_loop().time() + DRAIN_S
            for name in _DRAIN:
                if name not in found:
                    continue
                if stop is not None or name != "agent":
                    contexts[name].drain.set()
                if name not in tasks:
                    tasks[name] = group.create_task(found[name](contexts[name]))
                results[name] = await _drained(name, tasks[name], deadline_s)
    except BaseExceptionGroup as failures:
        raise _first(failures) from None
    return results


async def _drained(name: str, task: asyncio.Task[Any], deadline_s: float | None) -> Any:
    """What the service returns; NOT_DRAINED when it cannot end in time: the rest is done at the next start."""
    if deadline_s is not None:
        await asyncio.wait({task}, timeout=max(0.1, deadline_s - asyncio.get_running_loop().time()))
        if not task.done():
            _log.error("not_drained", service=name, seconds=DRAIN_S)
            # Again and again: what waits for an engine that hangs may take a cancellation for its failure.
            while not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=_AGAIN_S)
            return NOT_DRAINED
    return await task


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that began it."""
    error: BaseException = failures
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
