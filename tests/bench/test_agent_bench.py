"""The agent as a process: lines a second from the file to the store, and what it costs at a steady rate."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from tests.e2e.conftest import stored
from tests.e2e.test_agent import EVENTS
from tests.e2e.test_agent import PLAIN as AGENT
from tests.e2e.test_collector import Collector, running

LINES = 1_000_000
FILES = 10
RATE = 10_000
SECONDS = 30
ROTATE_EVERY_S = 10
MAX_RESIDENT_MB = 80


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    with running(tmp_path / "central") as started:
        yield started


def line(rng: random.Random, when: datetime) -> str:
    """About 240 bytes of JSON."""
    return json.dumps(
        {
            "timestamp": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "service": "checkout",
            "level": rng.choice(["INFO"] * 49 + ["ERROR"]),
            "message": f"POST /api/orders/{rng.randrange(9_999)} 200 43ms",
            "latency_ms": round(rng.lognormvariate(3, 0.6), 2),
            "endpoint": f"/api/orders/{rng.randrange(500)}",
            "status": 200,
            "host": "checkout-1",
            "trace_id": f"{rng.getrandbits(128):032x}",
        },
        separators=(",", ":"),
    )


def configured(folder: Path, collector: Collector) -> Path:
    (folder / "logs").mkdir(parents=True)
    path = folder / "agent.yaml"
    path.write_text(
        f"agent: {{state_dir: '{folder}/state', log_level: warning}}\n"
        f"sources:\n  - type: file\n    config: {{paths: ['{folder}/logs/*.log*'], service: checkout}}\n"
        f"helios: {{endpoint: 'http://127.0.0.1:{collector.grpc}'}}\n"
    )
    return path


def test_from_the_file_to_the_store(benchmark: BenchmarkFixture, tmp_path: Path, collector: Collector) -> None:
    """Start and end of the agent's process included; the agent on one core, the collector on what is left."""
    rng = random.Random(1)
    now = datetime.now(UTC)
    config = configured(tmp_path / "host", collector)
    for number in range(FILES):
        with (tmp_path / f"host/logs/{number}.log").open("w", encoding="utf-8") as file:
            for i in range(LINES // FILES):
                file.write(line(rng, now - timedelta(seconds=300 - i * 0.003)) + "\n")
    size = sum(path.stat().st_size for path in (tmp_path / "host/logs").iterdir())
    expected = 0

    def fresh() -> None:
        nonlocal expected
        shutil.rmtree(tmp_path / "host/state", ignore_errors=True)
        expected += LINES

    def run() -> None:
        subprocess.run(
            [*AGENT, "run", "--once", "--config", str(config)],
            check=True,
            timeout=120,
            preexec_fn=lambda: os.sched_setaffinity(0, {max(os.sched_getaffinity(0))}),
        )
        while stored(collector.folder / "data", EVENTS) < expected:
            time.sleep(0.01)

    benchmark.pedantic(run, setup=fresh, rounds=3)
    assert stored(collector.folder / "data", EVENTS) == expected
    benchmark.extra_info["lines_per_second"] = round(LINES / benchmark.stats.stats.min)
    benchmark.extra_info["bytes_per_line"] = round(size / LINES)


def test_at_ten_thousand_lines_a_second(benchmark: BenchmarkFixture, tmp_path: Path, collector: Collector) -> None:
    """Cores and resident memory while the file is renamed every ten seconds; nothing is lost."""
    folder = tmp_path / "host"
    config = configured(folder, collector)
    process = subprocess.Popen([*AGENT, "run", "--config", str(config)])
    written = 0

    def write() -> None:
        nonlocal written
        rng = random.Random(2)
        lines = [line(rng, datetime.now(UTC)) for _ in range(1_000)]
        began = time.monotonic()
        path = folder / "logs/app.log"
        for turn in range(SECONDS * 10):
            now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            with path.open("a", encoding="utf-8") as file:
                file.write("".join(f'{{"timestamp":"{now}"{text[39:]}\n' for text in lines))
            written += len(lines)
            if turn % (ROTATE_EVERY_S * 10) == ROTATE_EVERY_S * 10 - 1:
                path.rename(folder / f"logs/app.log.{turn}")
            time.sleep(max(0.0, began + (turn + 1) * len(lines) / RATE - time.monotonic()))

    try:
        writing = threading.Thread(target=write)
        benchmark.pedantic(lambda: (writing.start(), writing.join()), rounds=1)
        time.sleep(1.0)  # an agent that is told to stop leaves what it has not read to its next start
        used = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        cpu_s = (int(used[11]) + int(used[12])) / os.sysconf("SC_CLK_TCK")
        status = Path(f"/proc/{process.pid}/status").read_text()
        resident_mb = int(status.partition("VmHWM:")[2].split()[0]) / 1_000
    finally:
        process.terminate()
        process.wait(timeout=30)
    deadline = time.monotonic() + 20
    while stored(collector.folder / "data", EVENTS) < written and time.monotonic() < deadline:
        time.sleep(0.1)
    assert stored(collector.folder / "data", EVENTS) == written
    benchmark.extra_info["cores"] = round(cpu_s / SECONDS, 4)
    benchmark.extra_info["resident_mb"] = round(resident_mb, 1)
    assert resident_mb < MAX_RESIDENT_MB
