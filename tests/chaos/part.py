"""One part of Helios as a process of its own, started again when it ends, with a clock that can be spoiled."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

BIN: Final = Path(sys.executable).parent
_LOOK_S: Final = 0.1
_AGAIN_S: Final = 0.5
_STOP_S: Final = 45
_YOUNG_S: Final = 15


def faketime() -> Path | None:
    """The library that gives a process another clock (Debian's package `faketime`)."""
    return next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)


@dataclass
class Part:
    """A process that is kept running.

    Attributes:
        name: what it is called in the account.
        command: without the folder of the programs.
        folder: of its configuration, its log and its clock.
        ends: when it ended by itself, with its exit code.
        peak_bytes: of resident memory, over all its lives.
    """

    name: str
    command: list[str]
    folder: Path
    ends: list[tuple[float, int]] = field(default_factory=list)
    starts: int = 0
    peak_bytes: int = 0
    _process: subprocess.Popen[bytes] | None = None
    _down_until_s: float = 0.0
    _started_s: float = 0.0
    _is_wanted: bool = True

    @property
    def log(self) -> Path:
        return self.folder / "log"

    async def keep(self) -> None:
        """Starts it, and starts it again whenever it has ended, until it is cancelled."""
        while self._is_wanted:
            if self._process is None:
                if time.monotonic() >= self._down_until_s:
                    self._start()
            elif (code := self._process.poll()) is not None:
                self._process = None
                if code != -signal.SIGKILL:
                    self.ends.append((time.time(), code))
                self._down_until_s = max(self._down_until_s, time.monotonic() + _AGAIN_S)
            else:
                self._measure(self._process.pid)
            await asyncio.sleep(_LOOK_S)

    def kill(self, down_s: float) -> None:
        """kill -9; it stays away for so long."""
        self._down_until_s = time.monotonic() + down_s
        if self._process is not None:
            self._process.kill()

    def revive(self) -> None:
        """It is wanted again after `stop` or `kill`: whoever keeps it starts it."""
        self._is_wanted, self._down_until_s = True, 0.0

    def shift_clock(self, by_s: float) -> None:
        """Its clock is so far ahead from now on; that by which it waits is not."""
        clock = self.folder / "clock.new"
        clock.write_text(f"{by_s:+.1f}\n")
        clock.rename(self.folder / "clock")

    async def stop(self) -> int:
        """SIGTERM; its exit code. Who has only just begun cannot hear it yet, and may be ended by it."""
        self._is_wanted = False
        if self._process is None:
            return 0
        is_young = time.monotonic() - self._started_s < _YOUNG_S
        self._process.terminate()
        try:
            code = await asyncio.to_thread(self._process.wait, _STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = await asyncio.to_thread(self._process.wait, _STOP_S)
        return 0 if is_young and code == -signal.SIGTERM else code

    def end(self) -> None:
        """At once, for good."""
        self._is_wanted = False
        if self._process is not None:
            self._process.kill()
            self._process.wait(_STOP_S)

    def _start(self) -> None:
        environment = dict(os.environ, PYTHONUNBUFFERED="1")
        library = faketime()
        if library is not None:
            if not (self.folder / "clock").exists():
                self.shift_clock(0)
            environment |= {
                "LD_PRELOAD": str(library),
                "FAKETIME_TIMESTAMP_FILE": str(self.folder / "clock"),
                "FAKETIME_CACHE_DURATION": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
        program, *words = self.command
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [BIN / program, *words], stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=self.folder
            )
        self.starts += 1
        self._started_s = time.monotonic()

    def _measure(self, pid: int) -> None:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return  # it has just ended
        for line in status.splitlines():
            if line.startswith("VmRSS:"):
                self.peak_bytes = max(self.peak_bytes, int(line.split()[1]) * 1_024)
