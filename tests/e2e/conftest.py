"""What the end-to-end tests share: the command in a process of its own, and logs to give it."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.agent.conftest import corpus as corpus

COMMAND = [sys.executable, "-c", "from helios_core.main import main; main()"]
Helios = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def helios(tmp_path: Path) -> Helios:
    """Runs the command; the environment has nothing of ours."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HELIOS_")}

    def run(*words: str | Path, timeout_s: float = 100) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *map(str, words)],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=environment,
            cwd=tmp_path,
            check=False,
        )

    return run


def stored(data_dir: Path, query: str) -> int:
    """One number from the store."""
    connection = sqlite3.connect(data_dir / "store.db")
    try:
        (number,) = connection.execute(query).fetchone()
    finally:
        connection.close()
    return int(number or 0)


def access_log(path: Path, lines: int) -> Path:
    """An access log of so many lines, one every 200 ms."""
    with path.open("w", encoding="utf-8") as file:
        for i in range(lines):
            minute, second = divmod(i // 5, 60)
            hour, minute = divmod(minute, 60)
            status = 500 if i % 97 == 0 else 200
            file.write(
                f"10.0.0.{i % 250} - - [0{2 + hour // 24}/Mar/2026:{hour % 24:02d}:{minute:02d}:{second:02d} +0000] "
                f'"GET /items/{i % 1000}?q={i} HTTP/1.1" {status} {i % 9000} "-" "probe/1.0" 0.0{i % 90 + 10}\n'
            )
    return path
