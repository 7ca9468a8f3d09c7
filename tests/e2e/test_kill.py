"""Killed at any instant and started again, every line is counted once."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import COMMAND, Helios, access_log, stored

EVENTS = "SELECT sum(events) FROM windows"
LINES = 40_000

# Where a process dies: the first time that a step has been reached, by SIGKILL, as if the power had gone.
DYING = """
import os, signal, sys
from helios_core.main import main

def dies(owner, name, after):
    original = getattr(owner, name)
    def kill():
        os.kill(os.getpid(), signal.SIGKILL)
    if after == "async":
        async def wrapped(*words, **named):
            result = await original(*words, **named)
            kill()
            return result
    else:
        def wrapped(*words, **named):
            if after == "before":
                kill()
            result = original(*words, **named)
            if after == "after":
                kill()
            return result
    setattr(owner, name, wrapped)

{imports}
dies({owner}, "{name}", "{after}")
sys.argv = ["helios", *sys.argv[1:]]
main()
"""

STEPS = {
    "before a cut is spooled": ("from helios_agent.spool import Spool", "Spool", "append", "before"),
    "between fsync and send": ("from helios_agent.spool import Spool", "Spool", "append", "after"),
    "between publish and acknowledgement": (
        "from helios_core.bus.embedded import EmbeddedBus", "EmbeddedBus", "publish", "async",
    ),
    "between acknowledgement and freeing": ("from helios_agent.spool import Spool", "Spool", "acknowledge", "before"),
    "between write and commit": ("from helios_core.store.sqlite import SqliteStore", "SqliteStore", "apply", "async"),
    "after a commit": ("from helios_core.bus.embedded import EmbeddedConsumer", "EmbeddedConsumer", "commit", "async"),
}  # fmt: skip


@pytest.mark.parametrize(
    "step", [pytest.param(step, marks=() if step == "between fsync and send" else pytest.mark.slow) for step in STEPS]
)
def test_killed_at_a_step(helios: Helios, tmp_path: Path, step: str) -> None:
    imports, owner, name, after = STEPS[step]
    log = access_log(tmp_path / "access.log", LINES)
    script = DYING.format(imports=imports, owner=owner, name=name, after=after)
    for _ in range(2):
        died = subprocess.run(
            [sys.executable, "-c", script, "replay", str(log), "--data-dir", str(tmp_path / "data")],
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert died.returncode == -signal.SIGKILL, died.stderr
    assert helios("replay", log, "--data-dir", tmp_path / "data").returncode == 0
    assert stored(tmp_path / "data", EVENTS) == LINES


@pytest.mark.slow
def test_killed_at_random_moments(helios: Helios, tmp_path: Path) -> None:
    log = access_log(tmp_path / "access.log", LINES)
    moments = random.Random(7)
    killed = 0
    for _ in range(6):
        process = subprocess.Popen(
            [*COMMAND, "replay", str(log), "--data-dir", str(tmp_path / "data")], stderr=subprocess.DEVNULL
        )
        time.sleep(moments.uniform(0.4, 1.6))
        killed += process.poll() is None
        process.kill()
        process.wait()
    assert killed > 0
    assert helios("replay", log, "--data-dir", tmp_path / "data").returncode == 0
    assert stored(tmp_path / "data", EVENTS) == LINES


@pytest.mark.slow
def test_a_directory_in_use_is_refused_by_name(helios: Helios, tmp_path: Path) -> None:
    log = access_log(tmp_path / "access.log", 10 * LINES)
    process = subprocess.Popen([*COMMAND, "replay", str(log), "--data-dir", str(tmp_path / "data")])
    try:
        deadline = time.monotonic() + 20
        while not (tmp_path / "data" / "agent" / "lock").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        ran = helios("replay", log, "--data-dir", tmp_path / "data")
    finally:
        process.kill()
        process.wait()
    assert ran.returncode == 1
    assert f"belongs to a running instance (process {process.pid})" in ran.stderr
