"""Several processes of one service on the same ports: started, started again when one ends, and stopped together.

The system deals connections out among them (SO_REUSEPORT). What they count is scraped from any of them.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from helios_core.errors import ConfigError
from helios_core.settings import split

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

_AGAIN_S: Final = 1.0
_STOP_S: Final = 40.0  # more than a service takes to drain
_ASK_S: Final = 2.0
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Worker:
    """Which of several processes one is.

    Attributes:
        number: from 0.
        count: of all of them.
        folder: where each has a socket on which it tells the others what it counts.
    """

    number: int
    count: int
    folder: Path

    def socket_of(self, number: int) -> Path:
        return self.folder / f"{number}.sock"


Work = Callable[[Worker, Callable[[], None]], int]


def supervise(work: Work, count: int, *, said: Callable[[], object] = lambda: None) -> int:
    """Runs that many processes until SIGINT or SIGTERM; returns the exit code.

    Args:
        work: what each does, with what it calls as soon as it listens; its result is its exit code. It is
            made anew in each process, so that it has to be picklable.
        said: is called when all listen.
    """
    stop = False

    def on_signal(*_: object) -> None:
        nonlocal stop
        stop = True

    before = [(number, signal.signal(number, on_signal)) for number in (signal.SIGINT, signal.SIGTERM)]
    folder = Path(tempfile.mkdtemp(prefix="helios-workers-"))
    crew = [_Place(work, Worker(number, count, folder)) for number in range(count)]
    try:
        for place in crew:
            place.start()
        has_said = False
        while not stop:
            wait([thing for place in crew for thing in place.news()], timeout=_AGAIN_S / 2)
            for place in crew:
                code = place.look()
                if code is not None and not has_said:  # it cannot begin: so it is with the others
                    return code or 1
            if not has_said and all(place.is_ready for place in crew):
                has_said = True
                said()
        return 0
    finally:
        _stopped(crew)
        shutil.rmtree(folder, ignore_errors=True)
        for number, handler in before:
            signal.signal(number, handler)


class _Place:
    """One of the processes, and whoever takes its place."""

    def __init__(self, work: Work, worker: Worker) -> None:
        self._work = work
        self._worker = worker
        self._context = multiprocessing.get_context("spawn")  # nothing of a loop or of gRPC survives a fork
        self._process: SpawnProcess | None = None
        self._ready: Connection | None = None
        self._again_s = 0.0
        self.is_ready = False

    def start(self) -> None:
        self._ready, theirs = self._context.Pipe(duplex=False)
        self._process = self._context.Process(target=_run, args=(self._work, self._worker, theirs))
        self._process.start()
        theirs.close()

    def news(self) -> Iterable[Connection | int]:
        """What to wait for."""
        if self._process is not None:
            yield self._process.sentinel
        if self._ready is not None:
            yield self._ready

    def look(self) -> int | None:
        """Notes what has happened, and starts another when it is time; the exit code when it has just ended."""
        if self._ready is not None and self._ready.poll():
            with suppress(EOFError):
                self.is_ready = self._ready.recv()
            self._ready.close()
            self._ready = None
        if self._process is None:
            if time.monotonic() >= self._again_s:
                self.start()
            return None
        code = self._process.exitcode
        if code is not None:
            _log.error("worker_ended", worker=self._worker.number, code=code, again_in_s=_AGAIN_S)
            self._process = None
            self._again_s = time.monotonic() + _AGAIN_S
        return code

    def tell(self) -> None:
        """SIGTERM."""
        if self._process is not None:
            self._process.terminate()

    def end(self, within_s: float) -> None:
        if self._process is not None:
            self._process.join(within_s)
            if self._process.exitcode is None:
                _log.error("worker_does_not_end", worker=self._worker.number)
                self._process.kill()
                self._process.join()


def _stopped(crew: Sequence[_Place]) -> None:
    deadline_s = time.monotonic() + _STOP_S
    for place in crew:
        place.tell()
    for place in crew:
        place.end(max(deadline_s - time.monotonic(), 0.1))


def _run(work: Work, worker: Worker, ready: Connection) -> None:
    """In the new process."""

    def say() -> None:
        ready.send(True)
        ready.close()

    raise SystemExit(work(worker, say))


class Reserved:
    """Addresses that several processes of this user can listen on, and nobody else: held while it is open.

    What is bound and does not listen is given no connection.
    """

    def __init__(self) -> None:
        self._held = ExitStack()

    def take(self, address: str) -> str:
        """The address, with a port of its own where it says 0.

        Raises:
            ConfigError: it cannot be used.
        """
        host, port = split(address)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        held = self._held.enter_context(socket.socket(family, socket.SOCK_STREAM))
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:  # SO_REUSEPORT would share it with another
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
                port = probe.getsockname()[1]
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            held.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"nothing can listen on {address}: {error.strerror}; choose another, or end what listens there"
            ) from error
        return f"{f'[{host}]' if ':' in host else host}:{port}"

    def close(self) -> None:
        self._held.close()


class Siblings:
    """What all workers count, for a scrape of one: each sample has the label `worker`.

    Args:
        worker: which this is.
        registry: its own.
    """

    def __init__(self, worker: Worker, registry: CollectorRegistry) -> None:
        self._worker = worker
        self._registry = registry
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Tells the others from now on."""
        path = self._worker.socket_of(self._worker.number)
        path.unlink(missing_ok=True)  # of whoever was here before
        self._server = await asyncio.start_unix_server(self._tell, path)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def metrics(self) -> bytes:
        """As `generate_latest`; a worker that does not answer is missing but for `helios_worker_up`."""
        texts = await asyncio.gather(*map(self._asked, range(self._worker.count)))
        return generate_latest(_Merged(texts))

    async def _tell(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(generate_latest(self._registry))
        with suppress(OSError):
            await writer.drain()
        writer.close()

    async def _asked(self, number: int) -> str | None:
        if number == self._worker.number:
            return generate_latest(self._registry).decode()
        try:
            async with asyncio.timeout(_ASK_S):
                reader, writer = await asyncio.open_unix_connection(self._worker.socket_of(number))
                try:
                    return (await reader.read()).decode()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return None


class _Merged:
    """In the place of a registry."""

    def __init__(self, texts: Sequence[str | None]) -> None:
        self._texts = texts

    def collect(self) -> Iterable[Metric]:
        found: dict[str, Metric] = {}
        up = Metric("helios_worker_up", "1 for each worker that answers.", "gauge")
        for number, text in enumerate(self._texts):
            label = {"worker": str(number)}
            up.add_sample(up.name, label, float(text is not None))
            for family in text_string_to_metric_families(text or ""):
                merged = found.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    merged.add_sample(sample.name, {**sample.labels, **label}, sample.value)
        return [up, *found.values()]
