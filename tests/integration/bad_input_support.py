"""What the tests of bad engines, full disks and bad clients share. Not a test."""

from __future__ import annotations

import http.server
import os
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import pytest
import yaml
from tests.e2e.test_collector import COLLECTOR
from tests.e2e.test_up import ENVIRONMENT, Posting, Up, event
from tests.engines.postgres.server import Server, tools

MIB: Final = 1024 * 1024
SECRET: Final = "hunter2-secret"
DETECTOR: Final = [sys.executable, "-c", "from helios_detector.cli import cli; cli()"]
REPORTER: Final = [sys.executable, "-c", "from helios_reporter.cli import cli; cli()"]
PARTS: Final = {"collector": COLLECTOR, "detector": DETECTOR, "reporter": REPORTER}


# ---- disks


class SmallDisk:
    """A file system of its own, that can be filled to the last byte and given room again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, but: int = 0) -> None:
        """Takes all the room there is, but for so many bytes."""
        with self._ballast.open("ab", buffering=0) as file:
            step = MIB
            while step:
                try:
                    file.write(bytes(step))
                except OSError:
                    step //= 2
            if but:
                file.truncate(max(file.tell() - but, 0))

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[SmallDisk]:
    """A tmpfs on the folder, which is made."""
    if os.geteuid() != 0:
        pytest.skip("a disk that can be filled is mounted by root alone: run the tests as root")
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode(errors='replace').strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)
        with suppress(OSError):  # what was under it before is left there
            folder.rmdir()


# ---- engines


class OwnServer(Server):
    """A PostgreSQL that may be stopped, starved and stood by."""

    @property
    def data(self) -> Path:
        return self._folder / "data"

    def pids(self) -> list[int]:
        """All of its processes."""
        assert self._process is not None
        return family(self._process.pid)

    def start_if_it_has_ended(self, within_s: float = 60) -> None:
        """Until it answers."""
        deadline_s = time.monotonic() + within_s
        ready = [str(self._bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while self._process is None or subprocess.run(ready, check=False).returncode != 0:
            assert time.monotonic() < deadline_s
            if self._process is None or self._process.poll() is not None:
                with suppress(RuntimeError):  # the children of the one before still hold its memory
                    self.start()
            time.sleep(0.1)

    def as_standby(self) -> None:
        """Ends it in good order, and starts it as a standby: it answers, and takes nothing."""
        self.end()
        (self.data / "standby.signal").touch()
        self.start()

    def as_primary(self) -> None:
        """What `as_standby` has made of it is over."""
        promoted = subprocess.run(
            [self._bin / "pg_ctl", "promote", "-D", self.data], capture_output=True, user=self._user, check=False
        )
        assert promoted.returncode == 0, promoted.stderr

    def end(self) -> None:
        """At once, and with a checkpoint."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)
        self._process = None


@contextmanager
def postgres_server(folder: Path | None = None) -> Iterator[OwnServer]:
    """One of our own, in the folder or where temporary files are."""
    if tools() is None:
        pytest.fail("no PostgreSQL: apt-get install postgresql")
    before = tempfile.tempdir
    tempfile.tempdir = str(folder) if folder is not None else before
    try:
        made = OwnServer()
    finally:
        tempfile.tempdir = before
    try:
        made.start()
        yield made
    finally:
        made.stop()


# ---- processes


def sentence(folder: Path, command: list[str], *words: str | Path, within_s: float = 60) -> str:
    """The one sentence of a command that cannot start; nothing of it is a traceback or a password."""
    began_s = time.monotonic()
    ran = subprocess.run(
        [*command, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=within_s,
        env=ENVIRONMENT,
        cwd=folder,
        check=False,
    )
    assert ran.returncode == 1, (ran.returncode, ran.stdout, ran.stderr)
    said = [line for line in ran.stderr.splitlines() if line.startswith("helios")]
    assert len(said) == 1, ran.stderr
    assert "Traceback" not in ran.stderr
    assert SECRET not in ran.stderr + ran.stdout
    assert time.monotonic() - began_s < within_s
    return said[0]


def warned(folder: Path, command: list[str], *words: str | Path, of: str, within_s: float = 60) -> None:
    """A command that starts while an engine is away: it says so in a warning, and goes on until it is told to stop."""
    log = folder / "warned.err"
    with log.open("wb") as err:
        process = subprocess.Popen(
            [*command, *map(str, words)], stdout=subprocess.DEVNULL, stderr=err, env=ENVIRONMENT, cwd=folder
        )
    try:
        deadline_s = time.monotonic() + within_s
        while of not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.05)
        assert "[warning" in next(line for line in log.read_text().splitlines() if of in line)
        process.send_signal(signal.SIGTERM)
        process.wait(45)
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text()
    assert SECRET not in log.read_text()


class Memory(threading.Thread):
    """The most resident memory that a process has while the context is open, beyond what it had, in bytes."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._process = psutil.Process(pid)
        self._done = threading.Event()
        self.before = self.most = self._process.memory_info().rss

    @property
    def grown_mib(self) -> float:
        return (self.most - self.before) / MIB

    def run(self) -> None:
        while not self._done.wait(0.01):
            self.look()

    def look(self) -> None:
        with suppress(psutil.NoSuchProcess):
            self.most = max(self.most, self._process.memory_info().rss)

    def __enter__(self) -> Memory:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.look()
        self._done.set()
        self.join()


class Numbered(Posting):
    """Posts until it is ended, and remembers what it was told beside the statuses."""

    def __init__(self, instance: Up, name: str = "n", every_s: float = 0.01) -> None:
        super().__init__(instance, every_s=every_s)
        self.name_ = name
        self.refusals: list[httpx.Response] = []
        self.longest_s = 0.0
        self.sent: set[str] = set()

    def _post(self, client: httpx.Client, made: dict[str, Any]) -> bool:
        number = str(made["message"]).rpartition(" ")[2]
        own = {**made, "message": f"{self.name_} {number}", "id": f"{self.name_}{number}"}
        self.sent.add(str(own["message"]))
        began_s = time.monotonic()
        try:
            answer = client.post(f"http://{self._instance.http}/api/v1/events", json=own, timeout=30)
        except httpx.TransportError:
            self.unanswered.add(str(own["message"]))
            return False
        finally:
            self.longest_s = max(self.longest_s, time.monotonic() - began_s)
        self.statuses.add(answer.status_code)
        if answer.status_code != 202:
            self.refusals.append(answer)
            return False
        assert answer.json()["accepted"] == 1
        self.accepted.append(str(own["message"]))
        return True


@contextmanager
def posting(instance: Up, name: str = "n", every_s: float = 0.01) -> Iterator[Numbered]:
    made = Numbered(instance, name, every_s)
    made.start()
    try:
        yield made
    finally:
        made.end(give_up=True)


def one_more(instance: Up, number: int = 0) -> bool:
    """Whether an event is accepted now; it is of the service `probe`."""
    made = event(number, service="probe", id=f"probe-{uuid.uuid4()}")
    try:
        answer = httpx.post(f"http://{instance.http}/api/v1/events", json=made, timeout=30)
    except httpx.TransportError:
        return False
    return answer.status_code == 202


def configured(path: Path, **settings: Any) -> Path:
    path.write_text(yaml.safe_dump(settings))
    return path


# ---- those who do not answer


@contextmanager
def stopped(pids: Callable[[], list[int]]) -> Iterator[None]:
    """SIGSTOP, and SIGCONT in the end."""
    found = pids()
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def family(pid: int) -> list[int]:
    """A process and those that it has started."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


@contextmanager
def silent() -> Iterator[int]:
    """A port that accepts and says nothing."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=128))
        listener.settimeout(0.1)
        done = threading.Event()

        def accept() -> None:
            while not done.is_set():
                with suppress(TimeoutError):
                    stack.enter_context(listener.accept()[0])

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            done.set()
            thread.join()


class _Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello\n")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def web_server() -> Iterator[int]:
    """A port where somebody speaks HTTP."""

    class Serving(socketserver.ThreadingMixIn, http.server.HTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Whoever speaks something else to it is no news."""

    server = Serving(("127.0.0.1", 0), _Page)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
