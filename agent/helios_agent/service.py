"""The agent as a service of one process: it replays the files of its context, or follows those that it watches."""

from __future__ import annotations

from typing import Any

from helios_agent import live, replay
from helios_agent.settings import AgentSettings, HeliosSettings, Settings, SourceSettings
from helios_core.service import Context


async def run(context: Context) -> Any:
    """Replays `context.files` to their ends, or follows `context.watch` until it is told to drain.

    Returns:
        the counts of a replay, the last status when live.

    Raises:
        InputError: one of the files cannot be read at all.
        DataDirError: the state directory is in use.
        Denied: the collector refuses.
    """
    if context.files:
        return await replay.run(context)
    source = {"paths": list(context.watch), "parser": context.parser, "service": context.service}
    settings = Settings(
        agent=AgentSettings(state_dir=str(context.data_dir / "agent")),
        sources=(SourceSettings(type="file", config=source),),
        helios=HeliosSettings(endpoint=f"http://{await context.collector}", api_key=context.keys.own()),
    )
    return await live.run(settings, context.drain, parts=context.parts, window_ms=context.window_ms)
