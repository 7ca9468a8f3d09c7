"""Replay: files from where they were left to their ends, merged by event time, at full speed.

The same way as live: blocks, windows, cuts, spool, stream. Only the clock is another: it follows the
event time up to which all files have been read.
"""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from helios_agent.cut import Cutter
from helios_agent.parsers.base import Block, ParserContext
from helios_agent.pipeline import ParserChoice, Pipeline
from helios_agent.reader import FileReader, source_id
from helios_agent.reduction import Counts, Reduction
from helios_agent.shipper import Shipper
from helios_agent.spool import Spool
from helios_agent.state import StateDir
from helios_core.batches import SourceRange
from helios_core.clock import US_PER_S, EventClock, SystemClock
from helios_core.errors import InputError
from helios_core.service import Context

# An event time before this is no time of a log: clocks that start at zero, fields that are empty.
EARLIEST_US: Final = 946_684_800 * US_PER_S  # the year 2000
_ROOM_TIMEOUT_S: Final = 1.0
_REPLAY_SPOOL_BYTES: Final = 32 * 1024 * 1024
# What log rotation adds to a name: endings, and dates with the time or the number that may follow.
_SUFFIXES: Final = re.compile(
    r"""(?x)
    (?: \.(?:log|txt|json|jsonl|ndjson|out|csv|gz|xz|bz2|\d+)
      | [-_.] (?:199\d|20\d\d) [-_.]? (?:0[1-9]|1[0-2]) [-_.]? (?:0[1-9]|[12]\d|3[01])
        (?: [-_.T]?(?:[01]\d|2[0-3]) (?:[-_.:]?[0-5]\d){0,2} Z? | [-_]\d{1,3} )?
    )+ $"""
)
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Source:
    """One file that is being read."""

    id: str
    reader: FileReader
    service: str
    cut_offset: int
    choice: ParserChoice | None = None
    watermark_us: int = 0


def service_of(path: Path) -> str:
    """The service of a file's lines that name none: its name without date, number and ending."""
    return _SUFFIXES.sub("", path.name) or path.name


class Replay:
    """Reads files into a spool. Runs on a thread of its own; see `run`.

    Raises:
        InputError: one of the files cannot be read.
    """

    def __init__(self, context: Context, spool: Spool, cutter: Cutter, clock: EventClock) -> None:
        self._context = context
        self._spool = spool
        self._clock = clock
        self._reduction = Reduction(
            socket.gethostname(), clock, earliest_us=EARLIEST_US, latest=SystemClock(), window_ms=context.window_ms
        )
        self._pipeline = Pipeline(self._reduction, cutter)
        self._sources: list[_Source] = []
        self._finished: list[_Source] = []
        self._last_us = 0
        self._stopped = threading.Event()
        for path in context.files:
            id_ = source_id(path)
            known = spool.offsets.get(id_, 0)
            reader = FileReader(path, known if isinstance(known, int) else known.offset)
            self._sources.append(_Source(id_, reader, context.service or service_of(path), reader.offset))
        context.progress.bytes_total = sum(source.reader.size_bytes for source in self._sources)
        self._started = {source.id: source.reader.offset for source in self._sources}

    @property
    def counts(self) -> Counts:
        return self._reduction.counts

    def stop(self) -> None:
        """Makes `run` return after the block at hand; what is not in the spool is read again next time."""
        self._stopped.set()

    def run(self) -> None:
        """Reads everything; returns when the last cut is in the spool."""
        open_sources = list(self._sources)
        while open_sources and not self._stopped.is_set():
            source = min(open_sources, key=lambda one: one.watermark_us)
            if not self._read(source):
                open_sources.remove(source)
            if open_sources:
                self._clock.advance_to(min(one.watermark_us for one in open_sources))
            if self._pipeline.is_full:
                self._cut(self._clock.now_us())
            self._tell()
        if not self._stopped.is_set() and any(
            source.reader.offset > self._started[source.id] for source in self._sources
        ):
            # A source that is read to its end follows the clock: past the last window by the lateness
            # that is allowed, so that every horizon that ends in it is decided, and none behind it.
            width_us = self._context.window_ms * 1_000
            end_us = -(-(self._last_us + 1) // width_us) * width_us + self._context.allowed_lateness_us
            self._clock.advance_to(end_us)
            self._cut(end_us, closing=True)
        for source in self._sources:
            source.reader.close()

    def _read(self, source: _Source) -> bool:
        """Reads one block; False at the end of the source."""
        reader = source.reader
        try:
            chunk = reader.read()
        except InputError as error:
            _log.error("source_damaged", path=str(reader.path), error=str(error))
            self._reduction.counts.mended["damaged_file"] += 1
            chunk = None
        if chunk is None:
            return False
        if chunk.too_long:
            self._reduction.drop("line_too_long", chunk.too_long, chunk.too_long_bytes)
        if chunk.data:
            # Lines that carry no time were written by the time that the file was last changed.
            receipt_us = self._clock.now_us() or int(reader.path.stat().st_mtime * US_PER_S)
            source.choice = source.choice or self._choice(source)
            parsed = source.choice.parser(chunk.data).parse(Block(chunk.data, receipt_us))
            if parsed.unparsed and not chunk.data.endswith(b"\n") and not reader.compressed:
                reader.give_back(chunk)  # its other half may come: the next replay reads it whole
                _log.info("unfinished_line_left", path=str(reader.path), bytes=len(chunk.data))
                return False
            seen_us = self._reduction.count(parsed, len(chunk.data), source.service, receipt_us)
            source.watermark_us = max(source.watermark_us, seen_us)
            self._last_us = max(self._last_us, seen_us)
        return True

    def _choice(self, source: _Source) -> ParserChoice:
        """The parser of a source; of one that was read before it is chosen by its first lines all the same."""
        path = source.reader.path
        context = ParserContext(source.service, int(path.stat().st_mtime * US_PER_S))
        choice = ParserChoice(self._context.parser, context, str(path))
        began = self._started[source.id]
        if began and (known := _head(path, began)):
            choice.parser(known)
        return choice

    def _cut(self, watermark_us: int, *, closing: bool = False) -> None:
        while not self._spool.wait_for_room(_ROOM_TIMEOUT_S):
            if self._stopped.is_set():
                return
        ranges = [
            SourceRange(
                source.id, str(source.reader.path), source.cut_offset, source.reader.offset, source.watermark_us, 0
            )
            for source in self._sources
            if source.reader.offset > source.cut_offset
        ]
        batches = self._pipeline.cut(
            now_us=self._clock.now_us(), watermark_us=watermark_us, sources=ranges, closing=closing
        )
        for source in self._sources:
            source.cut_offset = source.reader.offset
        self._spool.append(batches, {source.id: source.reader.offset for source in self._sources})

    def _tell(self) -> None:
        progress = self._context.progress
        progress.bytes_read = sum(
            source.reader.size_bytes if source.reader.finished else source.reader.position_bytes()
            for source in self._sources
        )
        progress.event_time_us = self._clock.now_us()


def _head(path: Path, max_bytes: int) -> bytes:
    """The first lines of a file; none when they are too long, or the file is gone."""
    chunk = None
    with suppress(InputError), closing(FileReader(path)) as reader:
        chunk = reader.read()
    return b"" if chunk is None else chunk.data[:max_bytes]


async def run(context: Context) -> Counts:
    """Replays `context.files`; returns when the collector has acknowledged everything.

    Raises:
        InputError: one of the files cannot be read at all.
        DataDirError: the state directory is in use.
        Denied: the collector refuses.
    """
    if not isinstance(context.clock, EventClock):
        raise TypeError("a replay needs a clock that follows event time")
    state = StateDir(context.data_dir / "agent")
    try:
        spool = Spool(state.folder / "spool", max_bytes=_REPLAY_SPOOL_BYTES)
        for found in spool.damaged:
            _log.warning("spool_mended", found=found)
        replay = Replay(
            context, spool, Cutter(state.agent_id(), socket.gethostname(), history=context.history), context.clock
        )
        read_all = asyncio.Event()
        shipping = asyncio.create_task(Shipper(spool, await context.collector).run(read_all))
        reading = asyncio.create_task(asyncio.to_thread(replay.run))
        draining = asyncio.create_task(context.drain.wait())
        try:
            await asyncio.wait({reading, shipping, draining}, return_when=asyncio.FIRST_COMPLETED)
            if shipping.done():
                shipping.result()
            if not reading.done():
                replay.stop()  # what is not in the spool is read again next time
            await reading
            read_all.set()
            await shipping
        finally:
            replay.stop()
            draining.cancel()
            shipping.cancel()
            await asyncio.gather(reading, shipping, return_exceptions=True)
            spool.close()
        return replay.counts
    finally:
        state.close()
