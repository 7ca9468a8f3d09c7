"""The agent as a process of its own, with a real collector: followed, rotated, killed, and still exact."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.e2e.conftest import stored
from tests.e2e.test_collector import Collector, running

PLAIN = [sys.executable, "-c", "from helios_agent.cli import cli; cli()"]
# With windows of a second, which no setting gives: the detector decides those of ten.
AGENT = [
    sys.executable,
    "-c",
    "from functools import partial; from helios_agent import cli; "
    "cli.run_live = partial(cli.run_live, window_ms=1_000); cli.cli()",
]
EVENTS = "SELECT coalesce(sum(events), 0) FROM windows"


def configured(folder: Path, collector: Collector, extra: str = "") -> Path:
    path = folder / "agent.yaml"
    path.write_text(
        f"agent: {{state_dir: '{folder}/state', log_level: warning}}\n"
        f"sources:\n  - type: file\n    config: {{paths: ['{folder}/logs/*.log*'], service: shop}}\n{extra}"
        f"helios: {{endpoint: 'http://127.0.0.1:{collector.grpc}'}}\n"
    )
    (folder / "logs").mkdir(exist_ok=True)
    return path


def lines(first: int, count: int, level: str = "INFO") -> str:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return "".join(
        json.dumps({"timestamp": now, "service": "shop", "level": level, "message": f"n {i}"}) + "\n"
        for i in range(first, first + count)
    )


def agent(*words: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*AGENT, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,  # type: ignore[call-overload]
    )


def settled(collector: Collector, expected: int, timeout_s: float = 20) -> int:
    """The stored events, once they are as many as expected or the time is over."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = stored(collector.folder / "data", EVENTS)
        if found >= expected:
            break
        time.sleep(0.1)
    time.sleep(0.3)  # what would come twice has come by now
    return stored(collector.folder / "data", EVENTS)


@pytest.mark.slow
def test_once_ships_what_is_there_and_nothing_again(tmp_path: Path) -> None:
    with running(tmp_path) as collector:
        config = configured(tmp_path, collector)
        (tmp_path / "logs" / "a.log").write_text(lines(0, 500))
        first = agent("run", "--once", "--config", config)
        assert first.returncode == 0, first.stderr
        assert settled(collector, 500) == 500
        assert agent("run", "--once", "--config", config).returncode == 0
        assert settled(collector, 500) == 500
        status = json.loads(agent("status", "--json", "--config", config).stdout)
        assert status["spool_batches"] == 0
        assert status["files"][0]["backlog_bytes"] == 0


@pytest.mark.slow
def test_killed_and_rotated_under_load_every_line_is_counted_once(tmp_path: Path) -> None:
    rng = random.Random(3)
    with running(tmp_path) as collector:
        config = configured(tmp_path, collector)
        log = tmp_path / "logs" / "shop.log"
        log.touch()
        written = 0
        process = subprocess.Popen([*AGENT, "run", "--config", str(config)])
        try:
            for turn in range(24):
                with log.open("a") as file:
                    count = rng.randrange(50, 400)
                    file.write(lines(written, count))
                    written += count
                time.sleep(rng.uniform(0.05, 0.35))
                if turn % 6 == 1:
                    log.rename(tmp_path / "logs" / f"shop.log.{turn}")
                    log.touch()
                if turn % 6 == 3:
                    process.kill()
                    process.wait()
                    process = subprocess.Popen([*AGENT, "run", "--config", str(config)])
                if turn % 6 == 5:
                    collector.stop(signal.SIGKILL)
                    collector.start()
            assert settled(collector, written, timeout_s=40) == written
        finally:
            process.terminate()
            assert process.wait(timeout=40) == 0
        assert stored(tmp_path / "data", EVENTS) == written


@pytest.mark.slow
def test_copytruncate_under_a_running_agent(tmp_path: Path) -> None:
    with running(tmp_path) as collector:
        config = configured(tmp_path, collector)
        log = tmp_path / "logs" / "shop.log"
        log.write_text(lines(0, 200))
        process = subprocess.Popen([*AGENT, "run", "--config", str(config)])
        try:
            assert settled(collector, 200) == 200
            with log.open("a") as file:
                file.write(lines(200, 50))
            shutil.copy(log, tmp_path / "logs" / "shop.log.1")
            os.truncate(log, 0)
            with log.open("a") as file:
                file.write(lines(250, 30))
            assert settled(collector, 280) == 280
        finally:
            process.terminate()
            process.wait(timeout=40)


@pytest.mark.slow
def test_offline_it_spools_and_catches_up(tmp_path: Path) -> None:
    with running(tmp_path) as collector:
        config = configured(tmp_path, collector)
        log = tmp_path / "logs" / "shop.log"
        collector.stop(signal.SIGKILL)
        process = subprocess.Popen([*AGENT, "run", "--config", str(config)])
        try:
            for turn in range(4):
                with log.open("a") as file:
                    file.write(lines(turn * 100, 100))
                time.sleep(0.7)
            status = json.loads(agent("status", "--json", "--config", config).stdout)
            assert status["spool_batches"] > 0
            collector.start()
            assert settled(collector, 400) == 400
        finally:
            process.terminate()
            process.wait(timeout=40)


@pytest.mark.slow
def test_stdin(tmp_path: Path) -> None:
    with running(tmp_path) as collector:
        config = configured(tmp_path, collector)
        config.write_text(
            f"agent: {{state_dir: '{tmp_path}/state'}}\nsources: [{{type: stdin, config: {{service: piped}}}}]\n"
            f"helios: {{endpoint: '127.0.0.1:{collector.grpc}'}}\n"
        )
        ran = agent("run", "--once", "--config", config, input=lines(0, 300) + "half a line")
        assert ran.returncode == 0, ran.stderr
        assert settled(collector, 300) == 300
        assert stored(tmp_path / "data", "SELECT sum(unparsed) FROM windows") == 1


@pytest.mark.slow
def test_a_new_user_finds_the_way(tmp_path: Path) -> None:
    """init, sources, test, validate, status: each says what to do next."""
    written = agent("init", cwd=tmp_path)
    assert "helios-agent.yaml is written" in written.stdout
    assert "exists" in agent("init", cwd=tmp_path).stderr
    with running(tmp_path) as collector:
        config = configured(tmp_path, collector)
        (tmp_path / "logs" / "a.log").write_text(lines(0, 20) + "no json at all\n")
        assert "a.log" in agent("sources", "--config", config).stdout
        tried = agent("test", "--config", config).stdout
        assert "json, service shop" in tried
        assert "21 lines: 20 events, 0 continued, 1 unparsed" in tried
        assert "are fine" in agent("validate", "--config", config).stdout
        assert "no agent has run" in agent("status", "--config", config).stderr
        assert agent("run", "--once", "--config", config).returncode == 0
        said = agent("status", "--config", config).stdout
        assert "not running" in said
        assert "21 lines = 20 events" in said
    refused = agent("validate", "--config", config)
    assert refused.returncode == 1
    assert "nothing answers at" in refused.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sorces: []", "did you mean 'sources'?"),
        ("sources: [{type: fiel}]", "did you mean 'file'?"),
        ("sources: [{type: file, config: {path: x}}]", "did you mean 'paths'?"),
        ("sources: [{type: file}]", "missing required field `paths`"),
        ("helios: {endpoint: 'http://localhost:8080'}", "4317"),
    ],
)
def test_a_bad_configuration_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text(text)
    ran = agent("run", "--config", config)
    assert ran.returncode == 1
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1
