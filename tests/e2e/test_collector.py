"""The collector as a process of its own: killed under load, every event is stored once."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from helios import Client, Denied, Event
from tests.e2e.conftest import stored

HELIOS = [sys.executable, "-c", "from helios_core.cli import cli; cli()"]
COLLECTOR = [sys.executable, "-c", "from helios_collector.cli import cli; cli()"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Collector:
    """A collector on ports of its own, that can be killed and started again."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.folder = folder
        self.grpc, self.http = free_port(), free_port()
        self.words = words
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                *COLLECTOR, "run", "--data-dir", str(self.folder / "data"),
                "--grpc", f"127.0.0.1:{self.grpc}", "--http", f"127.0.0.1:{self.http}", *self.words,
            ],
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"http://127.0.0.1:{self.http}/health").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError("the collector did not come up")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.communicate(timeout=30)
        return self.process.returncode


@contextmanager
def running(folder: Path, *words: str) -> Iterator[Collector]:
    collector = Collector(folder, *words)
    collector.start()
    try:
        yield collector
    finally:
        if collector.process is not None and collector.process.poll() is None:
            collector.stop(signal.SIGKILL)


@pytest.mark.slow
def test_killed_under_load_every_event_is_stored_once(tmp_path: Path) -> None:
    total = 3_000
    with running(tmp_path) as collector:
        done = threading.Event()

        def send() -> None:
            with Client(f"http://127.0.0.1:{collector.grpc}", timeout_s=60) as client:
                for start in range(0, total, 50):
                    result = client.send_events([Event("shop", f"n {start + i}", level="info") for i in range(50)])
                    assert result.accepted == 50
            done.set()

        sender = threading.Thread(target=send)
        sender.start()
        for _ in range(3):
            time.sleep(0.4)
            collector.stop(signal.SIGKILL)
            collector.start()
        sender.join(timeout=60)
        assert done.is_set()
        assert collector.stop() == 0
    assert stored(tmp_path / "data", "SELECT count(*) FROM events") == total
    assert stored(tmp_path / "data", "SELECT count(DISTINCT message) FROM events") == total
    assert stored(tmp_path / "data", "SELECT sum(events) FROM windows") == total


@pytest.mark.slow
def test_a_stop_loses_nothing_that_was_accepted(tmp_path: Path) -> None:
    with running(tmp_path) as collector:
        accepted = 0
        for i in range(20):
            body = json.dumps([{"service": "shop", "level": "info", "message": f"{i}-{j}"} for j in range(100)])
            accepted += httpx.post(f"http://127.0.0.1:{collector.http}/api/v1/events", content=body).json()["accepted"]
        assert collector.stop() == 0
    assert accepted == 2_000
    assert stored(tmp_path / "data", "SELECT sum(events) FROM windows") == accepted


@pytest.mark.slow
def test_a_key_is_needed_where_there_are_keys(tmp_path: Path) -> None:
    made = subprocess.run(
        [*HELIOS, "keys", "create", "--print-only"], capture_output=True, text=True, check=True
    ).stdout
    key = re.search(r"helios_\S+", made)
    assert key is not None
    config = tmp_path / "collector.yaml"
    config.write_text(made)
    with running(tmp_path, "--config", str(config)) as collector:
        endpoint = f"http://127.0.0.1:{collector.grpc}"
        with Client(endpoint, timeout_s=5) as client, pytest.raises(Denied):
            client.send_event(Event("shop", "hello"))
        with Client(endpoint, api_key=key[0], timeout_s=5) as client:
            client.send_event(Event("shop", "hello"))


def test_otlp_may_have_a_port_of_its_own(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "collector.yaml").write_text(f"otlp_http: 127.0.0.1:{port}\n")
    body = {"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": {"stringValue": "hello"}}]}]}]}
    with running(tmp_path, "--config", str(tmp_path / "collector.yaml")) as collector:
        for at in (port, collector.http):
            assert httpx.post(f"http://127.0.0.1:{at}/v1/logs", json=body).status_code == 200
        assert httpx.post(f"http://127.0.0.1:{port}/api/v1/events", json={"service": "a"}).status_code == 404
        assert collector.stop() == 0
    assert stored(tmp_path / "data", "SELECT count(*) FROM events") == 2


def test_health_and_reflection(tmp_path: Path) -> None:
    with running(tmp_path) as collector, grpc.insecure_channel(f"127.0.0.1:{collector.grpc}") as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="helios.v1.Helios"))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grcp: 127.0.0.1:4317", "did you mean 'grpc'?"),
        ("grpc: 0.0.0.0:4317", "can be reached from elsewhere, and there are no API keys"),
        ("http: nowhere", "is no address"),
        ("api_keys: [{sha256: abc}]", "is no SHA-256"),
    ],
)
def test_a_bad_configuration_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    config = tmp_path / "collector.yaml"
    config.write_text(text)
    ran = subprocess.run(
        [*COLLECTOR, "run", "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=tmp_path,
        check=False,
    )
    assert ran.returncode == 1
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.slow
def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with running(tmp_path) as collector:
        for option, port in (("--http", collector.http), ("--grpc", collector.grpc)):
            other = "--grpc" if option == "--http" else "--http"
            ran = subprocess.run(
                [*COLLECTOR, "run", "--data-dir", "other", option, f"127.0.0.1:{port}", other, "127.0.0.1:0"],
                capture_output=True,
                text=True,
                timeout=30,
                cwd=tmp_path,
                check=False,
            )
            assert ran.returncode == 1
            assert str(port) in ran.stderr
            assert "Traceback" not in ran.stderr
