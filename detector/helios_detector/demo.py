"""The command `helios demo`: a simulated week is learned, then an incident happens in live traffic.

Everything that it shows goes the real way: log files, agent, collector, bus, detector, reporter, console.
Only the services that write the logs are simulated.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import threading
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click

from helios_core import flow
from helios_core.clock import US_PER_S, EventClock, rfc3339, to_us
from helios_core.errors import HeliosError
from helios_core.service import Context, Run
from helios_core.settings import Settings
from helios_core.up import process, stopping_on_signals
from helios_detector.simulate.live import write_live
from helios_detector.simulate.placement import Injection
from helios_detector.simulate.scenario import Scenario, Simulation

_SERVICES: Final = ("collector", "detector", "reporter", "agent")
_SERVICES_SIMULATED: Final = 3
_DAYS: Final = 7
_LIVE_DAYS: Final = 0.5
_RATE_SCALE: Final = 0.25
_LIVE_FROM: Final = timedelta(minutes=12)  # before now: the live agent reads whole horizons by itself
_INCIDENT_AFTER_S: Final = 10
_INCIDENT_LASTS_S: Final = 900
_KIND: Final = "total_outage"
_FAILS: Final = "gateway"  # the busiest: it takes ten failed requests to be sure
_HISTORY_WINDOW_MS: Final = 60_000
_LOOK_S: Final = 0.25
_GIVE_UP_S: Final = 600.0


@click.command("demo")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Keep everything here.  [default: a temporary one]")
@click.option("--http", default="127.0.0.1:8080", show_default=True, help="host:port of the console.")
@click.option("--grpc", default="127.0.0.1:4317", show_default=True, help="host:port of the collector.")
@click.option("--browser/--no-browser", default=None, help="Open the console in a browser.  [default: on a terminal]")
@click.option("--exit", "ends", is_flag=True, help="End after the report, also on a terminal.")
def demo(data_dir: Path | None, http: str, grpc: str, browser: bool | None, ends: bool) -> None:
    """Show an incident from its first line to its report, in about a minute.

    Learns a simulated week of three services, follows their live log with a real agent, lets one of them
    fail, and prints the report as soon as it is written. The console stays open until Ctrl-C.
    """
    interactive = sys.stdout.isatty()
    try:
        with _folder(data_dir) as folder:
            made = _Demo(Settings(data_dir=str(folder / "data"), http=http, grpc=grpc), folder)
            opens = interactive if browser is None else browser
            asyncio.run(made.run(opens=opens, stays=interactive and not ends))
    except HeliosError as error:
        click.echo(f"helios: {error}", err=True)
        sys.exit(1)
    except asyncio.CancelledError:
        sys.exit(130)


class _Demo:
    """One run: a simulation whose past is learned and whose present is watched."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._history, self._live = folder / "history.jsonl", folder / "live.jsonl"
        if self._history.exists():
            raise HeliosError(f"{folder} holds another demo: name an empty folder")
        self._began_s = time.monotonic()
        now = datetime.now(UTC).replace(second=0, microsecond=0)
        incident = _DAYS * 86_400 + datetime.now(UTC).second + _INCIDENT_AFTER_S
        self._live_from = now - _LIVE_FROM
        self._incident_us = to_us(now) + (incident - _DAYS * 86_400) * US_PER_S
        self._simulation = Simulation(
            Scenario(
                start=now - timedelta(days=_DAYS),
                days=_DAYS + _LIVE_DAYS,
                services=_SERVICES_SIMULATED,
                rate_scale=_RATE_SCALE,
                anomalies=0,
                injections=(Injection(_KIND, incident, _INCIDENT_LASTS_S, _FAILS),),
            )
        )
        self._chunks = self._simulation.chunks()
        self._ended = threading.Event()

    async def run(self, *, opens: bool, stays: bool) -> None:
        """Learns, watches, prints the report; with `stays` goes on until it is told to stop."""
        stop = asyncio.Event()
        found = flow.installed(_SERVICES)
        with stopping_on_signals(stop):
            async with process(self._settings) as (context, http):
                self._say(f"console at http://{http}/")
                agent = found["agent"]
                running = asyncio.create_task(
                    flow.run({**found, "agent": lambda own: self._agent(agent, own)}, context, stop=stop)
                )
                telling = asyncio.create_task(self._tell(context, http, opens=opens))
                try:
                    await asyncio.wait({running, telling}, return_when=asyncio.FIRST_COMPLETED)
                    if telling.done():
                        telling.result()
                        if not stays:
                            self._say("the demo ends; on a terminal the console stays until Ctrl-C")
                        elif not stop.is_set():
                            self._say("the incident goes on; Ctrl-C ends the demo")
                            await asyncio.wait({running})
                        stop.set()
                    await running
                finally:
                    self._ended.set()
                    telling.cancel()

    async def _agent(self, agent: Run, context: Context) -> Any:
        """The agent's two runs: it sends the past to be learned, then follows the live log."""
        lines = await asyncio.to_thread(self._write_history, context.drain)
        if context.drain.is_set():
            return None
        self._say(f"simulated {_DAYS} days of {', '.join(self._simulation.services)}: {lines:,} lines")
        writing = threading.Thread(target=self._write_live, name="live-log", daemon=True)
        writing.start()
        past = replace(context, clock=EventClock(), files=(self._history,), history=True, window_ms=_HISTORY_WINDOW_MS)
        await agent(past)
        if context.drain.is_set():
            return None
        self._say("the week is read; following the live log")
        return await agent(replace(context, watch=(str(self._live),)))

    def _write_history(self, drain: asyncio.Event) -> int:
        lines = 0
        until_ms = to_us(self._live_from) // 1_000
        with self._history.open("wb") as file:
            for chunk in self._chunks:
                file.write(chunk.data)
                lines += len(chunk)
                if chunk.end_ms >= until_ms or drain.is_set():
                    break
        return lines

    def _write_live(self) -> None:
        """Lines whose time has come, until the demo ends."""
        with self._live.open("ab", buffering=0) as file:
            write_live(self._chunks, file.write, sleep=self._ended.wait, ended=self._ended.is_set)

    async def _tell(self, context: Context, http: str, *, opens: bool) -> None:
        """What happens, as it happens; returns when the report is printed."""
        learned = False
        deadline_s = self._began_s + _GIVE_UP_S
        while True:
            await asyncio.sleep(_LOOK_S)
            if time.monotonic() > deadline_s:
                raise HeliosError(f"no incident within {_GIVE_UP_S:.0f} s: is the machine very busy? Try again")
            detector = context.status().get("detector", {})
            if not learned and len(detector.get("models", ())) == _SERVICES_SIMULATED:
                learned = True
                self._say(f"learned: a forest each for {', '.join(self._simulation.services)}")
                began = rfc3339(self._incident_us, digits=0)
                self._say(f"{_FAILS} fails since {began}: every request")
                if opens:
                    webbrowser.open(f"http://{http}/")
            rows = await context.store.query("incidents_latest", limit=1)
            reports = await context.store.query("report", incident_id=rows[0]["id"]) if rows else []
            if reports:
                alerted_s = (rows[0]["opened_us"] - self._incident_us) / US_PER_S
                self._say(f"incident {rows[0]['id']}, {alerted_s:.0f} s after the first failing request")
                click.echo()
                click.echo(reports[0]["markdown"])
                self._say(f"the same in the console: http://{http}/#/incidents/{rows[0]['id']}")
                return

    def _say(self, text: str) -> None:
        click.echo(f"{time.monotonic() - self._began_s:5.1f} s  {text}")


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    """The given folder, which is kept, or a temporary one."""
    if given is not None:
        try:
            given.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HeliosError(f"{given} cannot be used: {error.strerror}; choose another folder") from error
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="helios-demo-") as made:
        yield Path(made)
