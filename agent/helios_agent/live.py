"""The agent, live: files followed and stdin read, windows cut on time, everything spooled before it is sent.

One thread looks at the sources four times a second, reads, parses, counts and spools; the event loop
ships. They share nothing but the spool.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from helios_agent import connection
from helios_agent.cut import Cutter
from helios_agent.followed import FollowedFile
from helios_agent.parsers.base import ParserContext
from helios_agent.pipeline import ParserChoice, Pipeline
from helios_agent.polling import Poller
from helios_agent.reader import Chunk
from helios_agent.reduction import Reduction
from helios_agent.replay import service_of
from helios_agent.settings import FileSettings, Settings, StdinSettings
from helios_agent.shipper import Shipper
from helios_agent.spool import Position, Spool
from helios_agent.state import StateDir
from helios_agent.status import FileStatus, Status, write_status
from helios_agent.stdin import Stdin
from helios_agent.tail import Tail
from helios_agent.tracking import Checkpoint
from helios_core.batches import SourceRange
from helios_core.clock import US_PER_S, Clock, SteadyClock, SystemClock, rfc3339
from helios_core.model import agent_service
from helios_core.windows import DEFAULT_DURATION_MS

_LOOK_EVERY_S: Final = 0.25
_FULL_DISK_PAUSE_S: Final = 2.0
_DISCOVER_EVERY_S: Final = 1.0
_STATUS_EVERY_S: Final = 2.0
_BLOCKS_A_TURN: Final = 8  # of one file, before the others have their turn
_DRAIN_S: Final = 20.0
_AFTER_WINDOW_US: Final = 500_000
_HURRY_EVERY_S: Final = 1.0
_MAX_AGE_US: Final = 30 * 86_400 * US_PER_S
Say = Callable[[], dict[str, Any]]
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Reading:
    """A followed file with its parser, and how far its event time has got."""

    choice: ParserChoice
    cut_offset: int
    watermark_us: int = 0


class Live:
    """Reads all sources of a configuration into a spool. Runs on a thread of its own; see `run`."""

    def __init__(
        self, settings: Settings, spool: Spool, cutter: Cutter, clock: Clock, *, window_ms: int, stdin: int = 0
    ) -> None:
        self._spool = spool
        self._clock = clock
        self._width_us = window_ms * 1_000
        host = settings.agent.host or socket.gethostname()
        self.reduction = Reduction(
            host, clock, earliest_us=clock.now_us() - _MAX_AGE_US, latest=clock, window_ms=window_ms
        )
        self._pipeline = Pipeline(self.reduction, cutter)
        self.poller = Poller(
            settings.metric_sources(), host=host, interval_s=settings.agent.collection_interval, clock=clock
        )
        self._own = [agent_service(host)]
        self._batch_size = settings.agent.batch_size
        known = {id_: at for id_, at in spool.offsets.items() if isinstance(at, Checkpoint)}
        self.tails: list[tuple[FileSettings, Tail]] = []
        self._stdin: list[tuple[Stdin, ParserChoice]] = []
        for source in settings.opened():
            if isinstance(source, StdinSettings):
                self._stdin.append((Stdin(source, stdin), self._choice(source, source.service, "stdin")))
            else:
                tail = Tail(
                    source.paths,
                    checkpoints=known,
                    clock=SteadyClock(),
                    exclude=source.exclude,
                    from_end=source.start_at == "end" and not known,
                )
                self.tails.append((source, tail))
        self._readings: dict[str, _Reading] = {}
        self._stopping = threading.Event()
        self._to_read: list[tuple[FileSettings, Tail, FollowedFile]] = []  # in this turn
        self._last_cut_us = self._turn_us = self._looked_us = clock.now_us()
        self._last_cut_s = 0.0
        self._gave_up = False  # a cut could not be spooled
        self.paused = False

    def stop(self) -> None:
        """Makes `run` cut what it has, and return."""
        self._stopping.set()

    def run(self, *, once: bool = False) -> None:
        """Reads until it is stopped, or all there is has ended; with `once` until what is there is read.

        What it raises comes before the last cut: that would make durable what was read and not counted.
        """
        self.poller.start(once=once)
        try:
            self._follow(once=once)
        finally:
            self.poller.stop()
        self._cut(closing=True)

    def close(self) -> None:
        """Lets go of the files; `run` has returned."""
        for _, tail in self.tails:
            tail.close()

    def files(self) -> list[FileStatus]:
        """The followed files; for another thread, so that one may be just closed."""
        return [
            FileStatus(tracked.name, tracked.offset, tracked.backlog_bytes())
            for _, tail in self.tails
            for tracked in list(tail.files.values())
        ]

    def _follow(self, *, once: bool) -> None:
        discovered_s = 0.0
        ends = once or not (self.tails or len(self.poller))  # standard input alone ends by itself
        while True:
            now_s = time.monotonic()
            if now_s - discovered_s >= _DISCOVER_EVERY_S or once:
                discovered_s = now_s
                for _, tail in self.tails:
                    tail.discover()
            read = self._turn()
            if not self.paused and self._cut_is_due():
                self._cut()
            if read:
                if self._stopping.is_set():
                    return
            elif (ends and self._all_ended(once)) or self._stopping.wait(_LOOK_EVERY_S):
                return

    def _all_ended(self, once: bool) -> bool:
        if once and (self.poller.is_collecting() or any(tail.is_waiting for _, tail in self.tails)):
            return False
        return all(stdin.ended for stdin, _ in self._stdin)

    def _turn(self) -> bool:
        """Every source once; whether anything was read. Nothing is read, nor cut, while the spool is full.

        When it becomes full on the way, the next call goes on with the sources that have not had their turn.
        """
        self.paused = not self._spool.wait_for_room(0)
        if self.paused:
            return False
        if not self._to_read:
            self._turn_us = self._clock.now_us()
            self._to_read = [(*source, tracked) for source in self.tails for tracked in source[1].files.values()]
        read = False
        while self._to_read:
            settings, tail, tracked = self._to_read.pop()
            for _ in range(_BLOCKS_A_TURN):
                if not self._read(settings, tail, tracked):
                    break
                read = True
                if not self._has_room():
                    return True
        for stdin, choice in self._stdin:
            chunk = stdin.read()
            if chunk is None:
                continue
            read = True
            self._drop(chunk)
            if chunk.data:
                self.reduction.add(choice.parser(chunk.data), chunk.data, stdin.settings.service)
        self._looked_us = self._turn_us
        return read

    def _has_room(self) -> bool:
        """For another block. When much is open, a cut is made first, however many sources are to be read."""
        if not self._pipeline.is_full:
            return True
        self._cut()
        return self._spool.wait_for_room(0)

    def _read(self, settings: FileSettings, tail: Tail, tracked: FollowedFile) -> bool:
        chunk = tail.read(tracked)
        if chunk is None:
            return False
        service = settings.service or service_of(Path(tracked.name))
        reading = self._readings.get(tracked.id)
        if reading is None:
            choice = self._choice(settings, service, tracked.name)
            reading = self._readings[tracked.id] = _Reading(choice, chunk.from_offset)
        self._drop(chunk)
        if chunk.data:
            seen_us = self.reduction.add(reading.choice.parser(chunk.data), chunk.data, service)
            reading.watermark_us = max(reading.watermark_us, seen_us)
        return True

    def _drop(self, chunk: Chunk) -> None:
        if chunk.too_long or chunk.too_long_bytes:
            self.reduction.drop("line_too_long", chunk.too_long, chunk.too_long_bytes)

    def _choice(self, settings: FileSettings | StdinSettings, service: str, source: str) -> ParserChoice:
        return ParserChoice(settings.parser, ParserContext(service, self._clock.now_us()), source)

    def _cut_is_due(self) -> bool:
        """At the end of each window and half a second, soon for a new error or files left out, and when much waits."""
        if self._pipeline.is_full or self.poller.waiting >= self._batch_size:
            return True
        hurries = self.reduction.has_new_error or any(tail.left_out for _, tail in self.tails)
        if hurries and time.monotonic() - self._last_cut_s >= _HURRY_EVERY_S:
            return True
        now_us = self._clock.now_us() - _AFTER_WINDOW_US
        return now_us // self._width_us != (self._last_cut_us - _AFTER_WINDOW_US) // self._width_us

    def _watermark_us(self) -> int:
        """A source that is read to its end follows the clock, as of the last look at all of them; one that is behind
        holds it back."""
        behind = [
            reading.watermark_us
            for _, tail in self.tails
            for tracked in tail.files.values()
            if not (tracked.at_end or tracked.failed)
            and (reading := self._readings.get(tracked.id))
            and reading.watermark_us
        ]
        return min([self._looked_us, *behind])

    def _cut(self, *, closing: bool = False) -> None:
        if self._gave_up:
            return
        now_us = self._clock.now_us()
        watermark_us = self._watermark_us()
        positions: dict[str, Position] = {}
        ranges: list[SourceRange] = []
        for _, tail in self.tails:
            for id_, tracked in tail.files.items():
                positions[id_] = tail.checkpoint(tracked)
                reading = self._readings.get(id_)
                if reading is not None and tracked.offset > reading.cut_offset:
                    ranges.append(
                        SourceRange(
                            id_,
                            tracked.name,
                            reading.cut_offset,
                            tracked.offset,
                            reading.watermark_us,
                            tracked.backlog_bytes(),
                        )
                    )
                    reading.cut_offset = tracked.offset
        batches = self._pipeline.cut(
            now_us=now_us,
            watermark_us=watermark_us,
            sources=ranges,
            metrics=self.poller.take(),
            own=self._own,
            closing=closing,
        )
        while True:
            try:
                self._spool.append(batches, positions)
                break
            except OSError as error:  # a full disk: what was read stays in memory until it can be written
                if self._stopping.is_set():  # it is read again at the next start, so that no other cut may follow
                    self._gave_up = True
                    _log.error("last_cut_not_spooled", error=str(error))
                    return
                _log.error("spool_cannot_be_written", error=str(error), pause_s=_FULL_DISK_PAUSE_S)
                self._stopping.wait(_FULL_DISK_PAUSE_S)
        for _, tail in self.tails:
            tail.release()
            self._spool.forget(tail.forgotten)
            for id_ in tail.forgotten:
                self._readings.pop(id_, None)
            tail.forgotten.clear()
        self._last_cut_us, self._last_cut_s = now_us, time.monotonic()


async def run(
    settings: Settings,
    stop: asyncio.Event,
    *,
    once: bool = False,
    parts: dict[str, Say] | None = None,
    window_ms: int = DEFAULT_DURATION_MS,
) -> Status:
    """The agent until `stop`, or with `once` until everything that is there is acknowledged.

    Args:
        parts: where it says how it is, as `agent`.
        window_ms: the duration of a window; whoever decides by them must have the same.

    Raises:
        DataDirError: the state directory cannot be used, or belongs to a running agent.
        Denied: the collector refuses; nothing is lost.
    """
    state = StateDir(Path(settings.agent.state_dir))
    try:
        spool = Spool(state.folder / "spool", max_bytes=settings.agent.spool_max_bytes)
        for found in spool.damaged:
            _log.warning("spool_mended", found=found)
        cutter = Cutter(state.agent_id(), settings.agent.host or socket.gethostname())
        live = Live(settings, spool, cutter, SystemClock(), window_ms=window_ms, stdin=_stdin(settings))
        endpoint = settings.helios.parsed()
        shipper = Shipper(
            spool,
            endpoint.target,
            metadata=connection.metadata(settings.secret),
            credentials=connection.credentials(endpoint),
        )
        if parts is not None:
            parts["agent"] = lambda: msgspec.to_builtins(_status(live, spool, shipper))
        return await _flow(live, spool, shipper, state.folder, stop, once=once)
    finally:
        state.close()


def _stdin(settings: Settings) -> int:
    """The descriptor of standard input, when one of the sources is; a daemon may have none."""
    reads = any(isinstance(source, StdinSettings) for source in settings.opened())
    return sys.stdin.fileno() if reads else -1


async def _flow(live: Live, spool: Spool, shipper: Shipper, folder: Path, stop: asyncio.Event, *, once: bool) -> Status:
    """Reads, ships and tells, and ends in this order: reading, what the collector takes in time, the status."""
    read_all = asyncio.Event()
    shipping = asyncio.create_task(shipper.run(read_all))
    reading = asyncio.create_task(asyncio.to_thread(live.run, once=once))
    stopping = asyncio.create_task(stop.wait())
    try:
        while True:
            done, _ = await asyncio.wait(
                {reading, shipping, stopping}, timeout=_STATUS_EVERY_S, return_when=asyncio.FIRST_COMPLETED
            )
            write_status(folder, _status(live, spool, shipper))
            if shipping in done:
                shipping.result()  # raises why it ended
            if done:
                break
        live.stop()
        await reading
        read_all.set()
        if once:
            await asyncio.wait({shipping, stopping}, return_when=asyncio.FIRST_COMPLETED)
        # What is not acknowledged by then stays in the spool, and is sent at the next start.
        await asyncio.wait({shipping}, timeout=_DRAIN_S)
        if shipping.done():
            shipping.result()
    finally:
        live.stop()
        for task in (shipping, stopping):
            task.cancel()
        await asyncio.gather(reading, shipping, stopping, return_exceptions=True)
        status = _status(live, spool, shipper)
        write_status(folder, status)
        live.close()
        spool.close()
    return status


def _status(live: Live, spool: Spool, shipper: Shipper) -> Status:
    counts = live.reduction.counts
    return Status(
        at=rfc3339(SystemClock().now_us()),
        process=os.getpid(),
        lines=counts.lines,
        bytes=counts.bytes,
        events=counts.events,
        continued=counts.continued,
        unparsed=counts.unparsed,
        dropped=dict(counts.dropped),
        mended=dict(counts.mended),
        overflowed=list(live.reduction.overflowed),
        files=live.files(),
        metrics=live.poller.status(),
        metrics_dropped=dict(+live.poller.dropped),
        files_left_out=sum(len(tail.left_out) for _, tail in live.tails),
        truncated_without_copy=sum(tail.lost for _, tail in live.tails),
        spool_batches=len(spool),
        spool_bytes=spool.size_bytes,
        sent_batches=shipper.counts.sent,
        sent_bytes=shipper.counts.sent_bytes,
        acknowledged_batches=shipper.counts.acknowledged,
        rejected_items=shipper.counts.rejected_items,
        paused=live.paused,
    )
