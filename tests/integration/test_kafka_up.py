"""`helios up` on Kafka, as a process: what it says, what it stores, and what becomes of it when either is killed."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from tests.e2e.conftest import stored
from tests.e2e.test_agent import AGENT
from tests.e2e.test_up import ANY, ENVIRONMENT, Posting, Up, event, refused, until
from tests.engines.kafka.broker import Brokers, free_port
from tests.integration.kafka_support import eventually, prefixed

from helios_core.bus.kafka import topics
from helios_core.bus.kafka.settings import KafkaSettings
from helios_core.model import agent_service

pytestmark = pytest.mark.engines
OF_WEB = "SELECT count(*) FROM events WHERE service = 'web'"
DISTINCT = "SELECT count(DISTINCT message) FROM events WHERE service = 'web'"


@pytest.fixture
def settings(broker: Brokers, tmp_path: Path) -> KafkaSettings:
    """Written to `up.yaml` in the test's folder."""
    made = prefixed(broker.bootstrap)
    (tmp_path / "up.yaml").write_text(f"kafka: {{bootstrap: '{made.bootstrap}', prefix: '{made.prefix}'}}\n")
    return made


def apply(settings: KafkaSettings) -> None:
    asyncio.run(eventually(lambda: topics.apply(settings, topics.Plan(partitions=3))))


@pytest.fixture
def instance(settings: KafkaSettings, tmp_path: Path) -> Iterator[Up]:
    """On addresses that stay its own; the topics are there."""
    apply(settings)
    made = Up(tmp_path, "--config", "up.yaml", http=f"127.0.0.1:{free_port()}", grpc=f"127.0.0.1:{free_port()}")
    try:
        yield made
    finally:
        made.close()


def settled(count: Callable[[], int], expected: int) -> int:
    """The count, once it is as large as expected; and when what would come twice has come."""
    until(lambda: count() >= expected, 60, lambda: f"{count()} of {expected}")
    time.sleep(1)
    return count()


def access_log(path: Path, lines: int) -> None:
    """Of the last minutes, five lines a second."""
    began = datetime.now(UTC) - timedelta(seconds=lines / 5)
    with path.open("w", encoding="utf-8") as file:
        for i in range(lines):
            at = (began + timedelta(seconds=i / 5)).strftime("%d/%b/%Y:%H:%M:%S +0000")
            file.write(f'10.0.0.{i % 250} - - [{at}] "GET /items/{i % 40}?q={i} HTTP/1.1" 200 {i} "-" "probe/1.0"\n')


def ship(folder: Path, grpc: str) -> subprocess.CompletedProcess[str]:
    """`helios-agent run --once` over `logs/access.log`."""
    (folder / "agent.yaml").write_text(
        f"agent: {{state_dir: '{folder}/state', log_level: warning}}\n"
        f"sources: [{{type: file, config: {{paths: ['{folder}/logs/access.log'], service: shop}}}}]\n"
        f"helios: {{endpoint: 'http://{grpc}'}}\n"
    )
    return subprocess.run(
        [*AGENT, "run", "--once", "--config", str(folder / "agent.yaml")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=ENVIRONMENT,
    )


def kcat(settings: KafkaSettings, topic: str) -> list[dict[str, object]]:
    """The records of a topic, as kcat sees them from the beginning to the end."""
    words = ["kcat", "-b", settings.bootstrap, "-C", "-t", settings.prefix + topic, "-o", "beginning", "-e", "-q"]
    ran = subprocess.run([*words, "-f", "%p\t%k\t%h\t%S\n"], capture_output=True, timeout=60, check=True)
    rows = [line.split("\t") for line in ran.stdout.decode().splitlines()]
    return [
        {
            "partition": int(partition),
            "key": key,
            "headers": dict(header.split("=", 1) for header in headers.split(",") if header),
            "bytes": int(size),
        }
        for partition, key, headers, size in rows
    ]


def test_without_its_topics_it_is_one_sentence(settings: KafkaSettings, tmp_path: Path) -> None:
    words = ("--config", "up.yaml", "--data-dir", "data", "--http", ANY, "--grpc", ANY)
    said = refused(tmp_path, *words)
    assert f"{settings.prefix}windows" in said
    assert "helios topics apply" in said
    apply(settings)
    (tmp_path / "up.yaml").write_text("kafka: {bootstrap: 'localhost:9092', topic: x}\n")
    assert "unknown key 'topic' in kafka" in refused(tmp_path, *words)


def test_what_comes_in_is_stored_exactly_and_others_can_read_it(
    settings: KafkaSettings, instance: Up, tmp_path: Path
) -> None:
    (tmp_path / "logs").mkdir()
    access_log(tmp_path / "logs" / "access.log", 5_000)
    instance.start()
    ran = ship(tmp_path, instance.grpc)
    assert ran.returncode == 0, ran.stderr
    made = [event(i) for i in range(500)]
    for i in range(0, 500, 100):
        assert instance.post(*made[i : i + 100]).json()["accepted"] == 100
    assert instance.post(*made[:100]).status_code == 202  # sent again
    assert settled(lambda: instance.events_of("shop"), 5_000) == 5_000
    assert settled(lambda: stored(instance.data, OF_WEB), 500) == 500
    assert instance.events_of("web") == 500
    assert instance.end(signal.SIGINT) == 0, instance.complained
    assert instance.complained == ""
    instance.start()  # nothing comes again
    time.sleep(2)
    assert instance.events_of("shop") == 5_000
    assert stored(instance.data, OF_WEB) == instance.events_of("web") == 500
    assert not (instance.data / "bus.db").exists()
    if shutil.which("kcat") is None:
        pytest.skip("what others read was not looked at: apt-get install kcat")
    slices = kcat(settings, "windows")
    assert slices
    assert {row["key"] for row in slices} == {"shop", agent_service(socket.gethostname())}
    assert len({row["partition"] for row in slices if row["key"] == "shop"}) == 1
    for row in slices:
        headers = row["headers"]
        assert isinstance(headers, dict)
        assert {"agent", "incarnation", "sequence", "hash"} <= headers.keys()
        assert len(bytes.fromhex(headers["agent"])) == 16
        assert len(bytes.fromhex(headers["hash"])) == 16
        assert headers["sequence"].isdigit()
    assert {row["key"] for row in kcat(settings, "events")} == {"web"}


def test_a_broker_that_never_answers_is_to_be_sent_again(
    settings: KafkaSettings, instance: Up, broker: Brokers
) -> None:
    instance.start()
    made = [event(i) for i in range(3)]
    assert instance.post(made[0]).status_code == 202
    url = f"http://{instance.http}/api/v1/events"
    broker.freeze()
    try:
        for _ in range(2):
            began_s = time.monotonic()
            answer = httpx.post(url, content=json.dumps([made[1]]), timeout=30)
            assert time.monotonic() - began_s < 12
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["error"]
        assert instance.get("/health").status_code == 200
    finally:
        broker.thaw()

    def accepted() -> bool:
        return httpx.post(url, content=json.dumps([made[1]]), timeout=30).status_code == 202

    until(accepted, 60)
    assert instance.post(made[2]).status_code == 202
    assert settled(lambda: stored(instance.data, OF_WEB), 3) == 3
    assert stored(instance.data, DISTINCT) == instance.events_of("web") == 3
    assert instance.end(signal.SIGTERM) == 0, instance.complained


def test_it_ends_in_time_while_the_broker_is_away(settings: KafkaSettings, instance: Up, broker: Brokers) -> None:
    instance.start()
    for i in range(20):
        assert instance.post(event(i)).status_code == 202
    broker.freeze()
    try:
        began_s = time.monotonic()
        instance.end(signal.SIGTERM, timeout_s=60)
        assert time.monotonic() - began_s < 45
        assert "Traceback" not in instance.complained, instance.complained
    finally:
        broker.thaw()
    instance.start()
    assert settled(lambda: stored(instance.data, OF_WEB), 20) == 20
    assert instance.end(signal.SIGTERM) == 0, instance.complained


def test_killed_under_load_everything_counts_once(settings: KafkaSettings, instance: Up, broker: Brokers) -> None:
    """The process and the broker, by turns."""
    moments = random.Random(3)
    postings: list[Posting] = []
    try:
        instance.start()
        postings = [Numbered(instance, task) for task in range(3)]
        for posting in postings:
            posting.start()
        for turn in range(5):
            time.sleep(moments.uniform(0.5, 2.5))
            if turn == 2:
                broker.kill()
                time.sleep(1)
                broker.restart()
            else:
                assert instance.end(signal.SIGKILL) == -signal.SIGKILL
                instance.start()
        for posting in postings:
            posting.end()
    finally:
        for posting in postings:
            posting.end(give_up=True)
    accepted = {text for posting in postings for text in posting.accepted}
    assert len(accepted) > 100
    assert settled(lambda: stored(instance.data, OF_WEB), len(accepted)) == len(accepted)
    assert stored(instance.data, DISTINCT) == len(accepted)
    assert settled(lambda: instance.events_of("web"), len(accepted)) == len(accepted)
    assert {status for posting in postings for status in posting.statuses} <= {202, 503}
    assert instance.end(signal.SIGTERM) == 0, instance.complained


class Numbered(Posting):
    """One of several, whose events are its own."""

    def __init__(self, instance: Up, task: int) -> None:
        super().__init__(instance, every_s=0.02)
        self._task = task

    def _post(self, client: httpx.Client, made: dict[str, object]) -> bool:
        number = str(made["message"]).rpartition(" ")[2]
        own = {**made, "message": f"n {self._task}/{number}", "id": f"e{self._task}/{number}"}
        return super()._post(client, own)
