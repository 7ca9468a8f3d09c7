"""The agent's metrics with real processes: a source of one's own and the host's, up to the store; and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import stored
from tests.e2e.test_agent import AGENT, lines
from tests.e2e.test_collector import free_port, running

PLUGIN = """
from helios_agent.sources import CollectionResult, MetricSample, MetricsSource, register_source

@register_source("queue")
class Queue(MetricsSource):
    def collect(self):
        return CollectionResult(samples=[MetricSample("queue.length", 17, {"queue": "mail"})])
"""
# It does not wait long for a collector that is away.
HASTY = [sys.executable, "-c", "from helios_agent import cli, live; live._DRAIN_S = 0.2; cli.cli()"]


def configured(folder: Path, port: int, sources: str, agent: str = "") -> Path:
    path = folder / "agent.yaml"
    path.write_text(
        f"agent: {{state_dir: '{folder}/state', log_level: error{agent}}}\nsources: [{sources}]\n"
        f"helios: {{endpoint: 'http://127.0.0.1:{port}'}}\n"
    )
    return path


def until(is_so: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


@pytest.mark.slow
def test_metrics_reach_the_store(tmp_path: Path) -> None:
    (tmp_path / "own_sources.py").write_text(PLUGIN)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with running(tmp_path) as collector:
        more = ", collection_interval: 0.2, batch_size: 1, plugins: [own_sources]"
        config = configured(tmp_path, collector.grpc, "{type: system}, {type: queue}", more)
        checked = subprocess.run(
            [*AGENT, "validate", "--config", str(config)], env=environment, capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stdout
        process = subprocess.Popen([*AGENT, "run", "--config", str(config)], env=environment)
        try:
            of_queue = "SELECT count(*) FROM metrics WHERE name = 'queue.length' AND value = 17"
            until(lambda: stored(tmp_path / "data", of_queue) >= 2)
            until(lambda: stored(tmp_path / "data", "SELECT count(DISTINCT name) FROM metrics") >= 5)
        finally:
            process.terminate()
            assert process.wait(timeout=30) == 0
        status = json.loads((tmp_path / "state" / "status.json").read_bytes())
        made = sum(source["samples"] for source in status["metrics"])
        assert status["metrics_dropped"] == {}
        until(lambda: stored(tmp_path / "data", "SELECT count(*) FROM metrics") >= made)
        assert stored(tmp_path / "data", "SELECT count(*) FROM metrics") == made


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_once_ends_when_told_though_the_collector_is_away(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "a.log").write_text(lines(0, 20))
    config = configured(tmp_path, free_port(), f"{{type: file, config: {{paths: ['{tmp_path}/a.log']}}}}")
    command = [*HASTY, "run", "--once", "--config", str(config)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: any(path.stat().st_size for path in tmp_path.glob("state/spool/*.spool")))
        process.send_signal(number)
        _, said = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert said.strip() == "20 lines, 20 events, 0 unparsed; 0 batches acknowledged, 1 in the spool"
