"""`helios demo` as a process of its own: from nothing to a report, and ended in the middle."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import COMMAND, Helios, stored

WORDS = ("demo", "--exit", "--no-browser", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")


@pytest.mark.slow
def test_it_ends_with_the_report_of_its_incident(helios: Helios, tmp_path: Path) -> None:
    ran = helios(*WORDS, "--data-dir", tmp_path / "demo", timeout_s=170)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    report = ran.stdout[ran.stdout.index("\n# [") + 1 :].split("\n\n", 1)[0]
    assert "gateway" in report
    assert "On gateway the error rate rose from " in ran.stdout
    data = tmp_path / "demo" / "data"
    assert stored(data, "SELECT count(*) FROM incidents") == 1
    assert stored(data, "SELECT count(*) FROM reports") == 1
    assert stored(data, "SELECT count(*) FROM anomalies WHERE service = 'gateway' AND state = 'fired'") >= 1
    assert stored(data, "SELECT count(*) FROM anomalies WHERE service <> 'gateway'") == 0
    (written,) = (data / "reports").glob("*.md")
    assert f"incident {written.stem}, " in ran.stdout
    assert f"/#/incidents/{written.stem}" in ran.stdout

    status = json.loads((data / "agent" / "status.json").read_text())
    assert status["spool_batches"] == 0

    again = helios(*WORDS, "--data-dir", tmp_path / "demo", timeout_s=30)
    assert again.returncode == 1
    assert again.stderr == f"helios: {tmp_path / 'demo'} holds another demo: name an empty folder\n"


@pytest.mark.slow
@pytest.mark.parametrize("said", ["console at", "lines"], ids=["while it simulates", "while it learns"])
def test_ended_in_the_middle(tmp_path: Path, said: str) -> None:
    out, err = tmp_path / "out", tmp_path / "err"
    with out.open("wb") as to_out, err.open("wb") as to_err:
        process = subprocess.Popen(
            [*COMMAND, *WORDS, "--data-dir", str(tmp_path / "demo")], stdout=to_out, stderr=to_err, cwd=tmp_path
        )
    try:
        deadline = time.monotonic() + 60
        while said not in out.read_text():
            assert process.poll() is None, err.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        process.wait(15)
    finally:
        process.kill()
        process.wait()
    assert process.returncode in (0, 130)
    assert "Traceback" not in out.read_text() + err.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("text", ["0.0.0.0:0", "nowhere"])
def test_an_address_that_cannot_be_is_one_sentence(helios: Helios, tmp_path: Path, text: str) -> None:
    ran = helios("demo", "--exit", "--no-browser", "--data-dir", tmp_path / "demo", "--http", text, timeout_s=30)
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"helios: {text}") or ran.stderr.startswith(f"helios: {text!r}")
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_folder_that_cannot_be_is_one_sentence(helios: Helios, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = helios(*WORDS, "--data-dir", tmp_path / "file", timeout_s=30)
    assert ran.returncode == 1
    assert str(tmp_path / "file") in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
