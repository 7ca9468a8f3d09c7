"""`helios up` as a process of its own: exact when it is stopped and when it is killed, from a line to its report."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import parser

from tests.e2e.conftest import COMMAND, stored
from tests.e2e.test_agent import AGENT, PLAIN, lines
from tests.e2e.test_collector import HELIOS

ANY = "127.0.0.1:0"
SEND_AGAIN = {429, 502, 503, 504}  # docs/contract.md
OF_SERVICE = "SELECT coalesce(sum(events), 0) FROM windows WHERE service = '{}'"
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("HELIOS_")}

# Its services begin a second after it listens, as on a machine that is busy.
SLOW = """
import asyncio
from helios_core import flow
from helios_core.main import main

begin = flow.run

async def later(*words, **named):
    await asyncio.sleep(1)
    return await begin(*words, **named)

flow.run = later
main()
"""

# What it needs is loaded while it can be read: root's interpreter is not for everyone.
AS_NOBODY = """
import encodings.idna, os
from helios_core.service import services
from helios_core.main import main
import helios_core.cli
services()
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
main()
"""


class Up:
    """A running `helios up`, that can be ended in any way and started again on the same addresses."""

    def __init__(self, folder: Path, *words: str | Path, http: str = ANY, grpc: str = ANY) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.http, self.grpc = http, grpc
        self.process: subprocess.Popen[bytes] | None = None
        self._words = words
        self._said, self._complained = folder / "up.out", folder / "up.err"

    def spawn(self, command: list[str] = COMMAND) -> None:
        """Starts it, and waits for nothing."""
        words = ["up", "--data-dir", self.data, "--http", self.http, "--grpc", self.grpc, *self._words]
        with self._said.open("wb") as out, self._complained.open("wb") as err:
            self.process = subprocess.Popen(
                [*command, *map(str, words)], stdout=out, stderr=err, env=ENVIRONMENT, cwd=self.folder
            )

    def start(self) -> Up:
        """Starts it; it says where it listens."""
        self.spawn()
        until(lambda: "Ctrl-C stops." in self.said or self._ended, 30, lambda: self.complained)
        assert not self._ended, self.complained
        self.http = _found(r"console   http://(\S+)/", self.said)
        self.grpc = _found(r"agents    (\S+) ", self.said)
        return self

    def end(self, number: signal.Signals, timeout_s: float = 30) -> int:
        """Sends a signal, and waits for the end; the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout_s)

    @property
    def said(self) -> str:
        return self._said.read_text()

    @property
    def complained(self) -> str:
        return self._complained.read_text()

    @property
    def _ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def close(self) -> None:
        if not self._ended:
            self.end(signal.SIGKILL)

    def post(self, *events: dict[str, Any], key: str = "") -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.post(f"http://{self.http}/api/v1/events", content=json.dumps(events), headers=headers)

    def get(self, path: str, key: str = "") -> httpx.Response:
        return httpx.get(f"http://{self.http}{path}", headers={"authorization": f"Bearer {key}"} if key else {})

    def part(self, name: str) -> dict[str, Any]:
        """What a part of the process says of itself."""
        parts: dict[str, dict[str, Any]] = self.get("/api/v1/health/detailed").json()["parts"]
        return parts.get(name, {})

    def events_of(self, service: str) -> int:
        return stored(self.data, OF_SERVICE.format(service))


@contextmanager
def up(folder: Path, *words: str | Path) -> Iterator[Up]:
    made = Up(folder, *words)
    try:
        yield made.start()
    finally:
        made.close()


@contextmanager
def agent(folder: Path, grpc: str, command: list[str] = AGENT) -> Iterator[Path]:
    """A `helios-agent` that ships `logs/*.log*`; yields the folder of the logs."""
    config = folder / "agent.yaml"
    config.write_text(
        f"agent: {{state_dir: '{folder}/state', log_level: warning}}\n"
        f"sources: [{{type: file, config: {{paths: ['{folder}/logs/*.log*'], service: shop}}}}]\n"
        f"helios: {{endpoint: 'http://{grpc}'}}\n"
    )
    (folder / "logs").mkdir(exist_ok=True)
    process = subprocess.Popen([*command, "run", "--config", str(config)], env=ENVIRONMENT)
    try:
        yield folder / "logs"
    finally:
        process.kill()
        process.wait()


def until(is_so: Callable[[], object], timeout_s: float, why: Callable[[], object] = lambda: "") -> None:
    """Waits until it is so."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, why()
        time.sleep(0.05)


def event(number: int, **more: Any) -> dict[str, Any]:
    """An event that may be sent again."""
    now = datetime.now(UTC).isoformat()
    return {"service": "web", "level": "info", "message": f"n {number}", "id": f"e{number}", "timestamp": now, **more}


def refused(folder: Path, *words: str | Path, command: list[str] = COMMAND) -> str:
    """The one sentence of a `helios up` that cannot start."""
    ran = subprocess.run(
        [*command, "up", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=30,
        env=ENVIRONMENT,
        cwd=folder,
        check=False,
    )
    assert ran.returncode == 1, ran.stderr
    assert ran.stdout == ""
    assert len(ran.stderr.strip().splitlines()) == 1, ran.stderr
    assert ran.stderr.startswith("helios: ")
    return ran.stderr


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match is not None, text
    return match[1]


def _quiet_ports() -> list[int]:
    """Two free ports that the system gives to nobody else: they have to be free again after each kill."""
    found: list[int] = []
    numbers = random.Random(os.getpid())
    while len(found) < 2:
        port = numbers.randrange(20_000, 30_000)
        with socket.socket() as probe:
            if port not in found and probe.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
    return found


class Posting(threading.Thread):
    """Posts one event after the other, each again until it is accepted."""

    def __init__(self, instance: Up, every_s: float) -> None:
        super().__init__(daemon=True)
        self.accepted: list[str] = []
        self.unanswered: set[str] = set()
        self.statuses: set[int] = set()
        self._instance, self._every_s = instance, every_s
        self._ending, self._giving_up = threading.Event(), threading.Event()

    def run(self) -> None:
        with httpx.Client(timeout=5) as client:
            number = 0
            while not self._ending.is_set():
                made = event(number)
                number += 1
                while not self._giving_up.is_set() and not self._post(client, made):
                    time.sleep(0.02)
                time.sleep(self._every_s)

    def _post(self, client: httpx.Client, made: dict[str, Any]) -> bool:
        try:
            answer = client.post(f"http://{self._instance.http}/api/v1/events", content=json.dumps(made))
        except httpx.TransportError:
            self.unanswered.add(made["message"])
            return False
        self.statuses.add(answer.status_code)
        if answer.status_code != 202:
            return False
        assert answer.json()["accepted"] == 1
        self.accepted.append(made["message"])
        return True

    def end(self, *, give_up: bool = False) -> None:
        """No new events; with `give_up` the last one need not be accepted."""
        self._ending.set()
        if give_up:
            self._giving_up.set()
        self.join(60)
        assert not self.is_alive()


@pytest.mark.slow
def test_what_was_accepted_is_stored_when_it_stops(tmp_path: Path) -> None:
    with up(tmp_path) as running, agent(tmp_path, running.grpc) as logs:
        assert "open to everyone on this machine" in running.said
        assert running.post({"service": "cart", "message": "hello"}, {"message": "of nobody"}).json() == {
            "accepted": 1,
            "rejected": 1,
            "errors": [{"index": 1, "reason": "service is missing: the name of what the event comes from"}],
        }
        (logs / "shop.log").write_text(lines(0, 3_000))
        posting = Posting(running, every_s=0.002)
        posting.start()
        until(lambda: running.events_of("shop") >= 3_000 and len(posting.accepted) > 100, 20)
        began = time.monotonic()
        assert running.end(signal.SIGINT) == 0, running.complained
        assert time.monotonic() - began < 30
        posting.end(give_up=True)
    assert running.said.splitlines()[-1].startswith("stopped")
    assert running.complained == ""
    assert running.events_of("shop") == 3_000
    assert running.events_of("cart") == 1
    assert posting.statuses <= {202} | SEND_AGAIN
    with sqlite3.connect(running.data / "store.db") as connection:
        found = [text for (text,) in connection.execute("SELECT message FROM events WHERE service = 'web'")]
    connection.close()
    assert len(set(found)) == len(found) == running.events_of("web")
    assert set(posting.accepted) <= set(found)
    assert set(found) - set(posting.accepted) <= posting.unanswered


@pytest.mark.slow
def test_requests_under_way_when_it_stops(tmp_path: Path) -> None:
    """One whose body ends late is stored when it is accepted; one whose body never ends holds nothing up."""
    body = json.dumps({"service": "web", "message": "late"}).encode()
    head = f"POST /api/v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with up(tmp_path) as running:
        host, _, port = running.http.rpartition(":")
        with socket.create_connection((host, int(port)), 20) as late, socket.create_connection((host, int(port))) as no:
            for connection in (late, no):
                connection.sendall(head + body[:5])
            time.sleep(0.5)
            assert running.process is not None
            running.process.send_signal(signal.SIGINT)
            time.sleep(3)
            try:
                late.sendall(body[5:])
                answer = late.recv(1_000)
            except OSError:
                answer = b""
            assert running.process.wait(20) == 0, running.complained
    assert running.complained == ""
    assert running.events_of("web") == answer.startswith(b"HTTP/1.1 202")


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with up(tmp_path) as running, agent(tmp_path, running.grpc) as logs:
        (logs / "shop.log").write_text(lines(0, 100))
        until(lambda: running.events_of("shop") == 100, 20)
        assert running.process is not None
        running.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        began = time.monotonic()
        code = running.end(signal.SIGINT)
        assert time.monotonic() - began < 5
    assert (code, running.complained.strip()) in (
        (0, ""),  # it was done by then
        (130, "helios: ended at once; what was not done is done at the next start"),
    )


@pytest.mark.slow
def test_watched_files_are_followed_through_renames(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    written = 0

    def write(count: int) -> None:
        nonlocal written
        with (logs / "shop.log").open("a") as file:
            file.write(lines(written, count))
        written += count

    write(500)
    with up(tmp_path, "--watch", f"{logs}/*.log*") as running:
        for turn in range(3):
            write(211)
            time.sleep(0.4)
            (logs / "shop.log").rename(logs / f"shop.log.{turn}")
            write(97)
            time.sleep(0.4)
        until(lambda: running.part("agent").get("lines") == written, 20, lambda: running.part("agent"))
        assert running.end(signal.SIGINT) == 0, running.complained
        assert running.events_of("shop") == written
        write(59)  # while it is away
        running.start()
        until(lambda: running.part("agent").get("lines") == 59, 20, lambda: running.part("agent"))
        assert running.end(signal.SIGTERM) == 0, running.complained
        assert running.events_of("shop") == written


@pytest.mark.slow
def test_killed_under_load_everything_counts_once(tmp_path: Path) -> None:
    moments = random.Random(11)
    http, grpc = (f"127.0.0.1:{port}" for port in _quiet_ports())
    running = Up(tmp_path, http=http, grpc=grpc)
    posting = Posting(running, every_s=0.02)
    written, ended = 0, threading.Event()

    def write() -> None:
        nonlocal written
        with (tmp_path / "logs" / "shop.log").open("a") as file:
            while not ended.wait(0.05):
                file.write(lines(written, 20))
                file.flush()
                written += 20

    writing = threading.Thread(target=write, daemon=True)
    try:
        with agent(tmp_path, grpc):
            writing.start()
            posting.start()
            for turn in range(8):
                if turn % 4 == 3:  # while it starts, too
                    running.spawn()
                    time.sleep(moments.uniform(0.5, 2.0))
                else:
                    running.start()
                    until(lambda: running.part("collector").get("batches"), 30)  # the agent is back
                    time.sleep(moments.uniform(0.0, 0.8))
                assert running.end(signal.SIGKILL) == -signal.SIGKILL
            running.start()
            ended.set()
            writing.join()
            posting.end()
            until(lambda: running.events_of("shop") >= written, 40, lambda: running.events_of("shop"))
        assert running.end(signal.SIGINT) == 0, running.complained
    finally:
        ended.set()
        running.close()
    assert written > 1_000
    assert running.events_of("shop") == written
    assert len(posting.accepted) > 50
    assert running.events_of("web") == len(posting.accepted)
    assert stored(running.data, "SELECT count(*) FROM events WHERE service = 'web'") == len(posting.accepted)
    assert stored(running.data, "SELECT count(DISTINCT message) FROM events") == len(posting.accepted)


@pytest.mark.slow
def test_while_it_starts_what_comes_is_to_be_sent_again(tmp_path: Path) -> None:
    http, grpc = (f"127.0.0.1:{port}" for port in _quiet_ports())
    running = Up(tmp_path, http=http, grpc=grpc)
    posting = Posting(running, every_s=0.01)
    try:
        running.spawn([sys.executable, "-c", SLOW])
        posting.start()
        until(lambda: posting.accepted, 30, lambda: running.complained)
        posting.end()
    finally:
        posting.end(give_up=True)
        running.close()
    assert posting.statuses <= {202} | SEND_AGAIN


def test_from_a_line_to_its_report(tmp_path: Path) -> None:
    """Two minutes in which 60 % fail, after four in which all was well; nothing has been learned yet."""
    with up(tmp_path) as running:
        (tmp_path / "logs").mkdir()
        now = datetime.now(UTC)
        with (tmp_path / "logs" / "shop.log").open("w") as file:
            for i in range(-360 * 20, 0):
                failed = i >= -120 * 20 and i % 5 < 3
                line = {
                    "timestamp": (now + timedelta(seconds=i / 20)).isoformat(),
                    "service": "checkout",
                    "level": "ERROR" if failed else "INFO",
                    "message": "the payment was not taken" if failed else "order placed",
                }
                file.write(json.dumps(line) + "\n")
        began = time.monotonic()
        with agent(tmp_path, running.grpc, PLAIN):
            found: list[dict[str, Any]] = []

            def reported() -> bool:
                found[:] = running.get("/api/v1/incidents").json()["incidents"]
                return bool(found) and stored(running.data, "SELECT count(*) FROM anomalies") > 0

            until(reported, 90)
        assert time.monotonic() - began < 90
        assert len(found) == 1
        assert "checkout" in json.dumps(found[0])
        reports = list((running.data / "reports").glob("*.md"))
        assert [path.stem for path in reports] == [found[0]["id"]]
        text = reports[0].read_text()
        assert "checkout" in text
        assert "error rate" in text.lower()
        assert running.get(f"/api/v1/incidents/{found[0]['id']}/report.md").text == text
        assert running.get(f"/api/v1/incidents/{found[0]['id']}").json()["id"] == found[0]["id"]
        assert stored(running.data, "SELECT count(*) FROM incidents WHERE state = 'triggered'") == 1
        assert stored(running.data, "SELECT count(*) FROM reports") == 1
        assert stored(running.data, "SELECT count(*) FROM anomalies WHERE service <> 'checkout'") == 0
        assert running.events_of("checkout") == 7_200


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--http", "--grpc"])
def test_a_port_that_is_taken_is_named(tmp_path: Path, option: str) -> None:
    other = "--grpc" if option == "--http" else "--http"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = refused(tmp_path, "--data-dir", "data", option, address, other, ANY)
    assert address in said
    assert f"choose another with {option}" in said


@pytest.mark.slow
def test_a_data_dir_in_use_is_refused_by_name(tmp_path: Path) -> None:
    with up(tmp_path) as running:
        assert running.process is not None
        said = refused(tmp_path, "--data-dir", running.data, "--http", ANY, "--grpc", ANY)
        assert f"{running.data} belongs to a running instance (process {running.process.pid})" in said
        assert running.get("/health").json() == {"status": "ok"}


@pytest.mark.slow
def test_a_data_dir_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    folder.mkdir(mode=0o500)
    words = ("--data-dir", folder / "data", "--http", ANY, "--grpc", ANY)
    said = refused(tmp_path, *words, command=[sys.executable, "-c", AS_NOBODY])
    assert f"{folder / 'data'}/api-keys.json cannot be read: Permission denied; choose another directory" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("datadir: x", "did you mean 'data_dir'?"),
        ("api_keys: [{sha265: x}]", "did you mean 'sha256'?"),
        ("http: 0.0.0.0:8080", "can be reached from elsewhere, and there are no API keys"),
        ("grpc: '[::]:4317'", "can be reached from elsewhere, and there are no API keys"),
        ("http: '8080'", "'8080' is no address: host:port"),
    ],
)
def test_a_bad_configuration_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "up.yaml").write_text(text)
    assert message in refused(tmp_path, "--config", "up.yaml")
    assert not (tmp_path / "helios-data").exists()


@pytest.mark.slow
def test_a_key_is_needed_where_there_are_keys(tmp_path: Path) -> None:
    made = subprocess.run(
        [*HELIOS, "keys", "create", "--print-only"], capture_output=True, text=True, check=True
    ).stdout
    key = _found(r"(helios_\S+)", made)
    (tmp_path / "up.yaml").write_text(made)
    (tmp_path / "own.log").write_text(lines(0, 40, "ERROR"))  # the first error is shipped at once
    with up(tmp_path, "--config", "up.yaml", "--watch", "own.log") as running:
        assert "access    by API key" in running.said
        assert running.post(event(0)).status_code == 401
        assert running.post(event(0), key="helios_other").status_code == 401
        assert running.post(event(0), key=key).status_code == 202
        assert running.get("/health").status_code == 200
        assert running.get("/metrics").status_code == 401
        assert running.get("/metrics", key).status_code == 403
        assert running.get("/api/v1/incidents").status_code == 401
        assert running.get("/api/v1/incidents", key).status_code == 403
        # The agent of the same process needs none of the file's.
        until(lambda: running.events_of("shop") == 40, 30)
        assert running.events_of("web") == 1


@pytest.mark.slow
def test_a_key_that_is_made_or_revoked_counts_while_it_runs(tmp_path: Path) -> None:
    def keys(*words: str) -> dict[str, Any]:
        done = subprocess.run(
            [*HELIOS, "keys", *words, "--data-dir", "data"], capture_output=True, cwd=tmp_path, check=True
        )
        return json.loads(done.stdout) if "--json" in words else {}

    with up(tmp_path, "--data-dir", "data") as running:
        assert running.post(event(0)).status_code == 202
        one, other = (keys("create", "--json") for _ in range(2))
        until(lambda: running.post(event(1)).status_code == 401, 10)
        assert running.post(event(2), key=one["key"]).status_code == 202
        keys("revoke", one["id"])
        until(lambda: running.post(event(3), key=one["key"]).status_code == 401, 10)
        assert running.post(event(4), key=other["key"]).status_code == 202
        keys("revoke", other["id"])  # the last: it does not become open again
        until(lambda: running.post(event(5), key=other["key"]).status_code == 401, 10)
        assert running.post(event(6)).status_code == 401
    assert other["key"] not in (tmp_path / "data" / "api-keys.json").read_text()


@pytest.mark.slow
def test_metrics_of_all_parts_have_names_and_help(tmp_path: Path) -> None:
    with up(tmp_path) as running:
        assert running.post(*map(event, range(7))).status_code == 202
        until(lambda: running.events_of("web") == 7, 20)
        text = running.get("/metrics").text
    families = {family.name: family for family in parser.text_string_to_metric_families(text)}
    assert [name for name in families if not name.startswith("helios_")] == []
    assert [name for name, family in families.items() if not family.documentation] == []
    of_the_parts = {"helios_events_accepted", "helios_store_lag_records", "helios_detection_latency_seconds"}
    assert of_the_parts | {"helios_anomalies_detected", "helios_incidents_opened", "helios_reports_written"} <= set(
        families
    )
    accepted = {tuple(s.labels.values()): s.value for s in families["helios_events_accepted"].samples}
    assert accepted["http",] == 7
