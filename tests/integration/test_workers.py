"""Collectors with roles, and with several workers on one port, on a real Kafka."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from helios import Client, Event
from helios_core.bus.base import Topic
from helios_core.bus.kafka import topics
from helios_core.bus.kafka.bus import KafkaBus
from helios_core.bus.kafka.settings import KafkaSettings
from helios_core.wire import record_from_bytes

pytestmark = [pytest.mark.engines, pytest.mark.slow]
BIN = Path(sys.executable).parent


class Collector:
    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self._log = folder / "log"
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump({"data_dir": str(folder / "data"), **settings}))
        with self._log.open("wb") as log:
            command = [BIN / "helios-collector", "run", "--config", config, "--log-json"]
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def said(self, event: str) -> list[dict[str, Any]]:
        lines = self._log.read_text(errors="replace").splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return [one for one in found if one["event"] == event]

    def until(self, look: Callable[[], Any], within_s: float = 60) -> Any:
        deadline_s = time.monotonic() + within_s
        while not (found := look()):
            assert self.process.poll() is None, self._log.read_text()[-2_000:]
            assert time.monotonic() < deadline_s, self._log.read_text()[-2_000:]
            time.sleep(0.1)
        return found


@contextmanager
def running(folder: Path, **settings: Any) -> Iterator[Collector]:
    folder.mkdir()
    collector = Collector(folder, {"http": "127.0.0.1:0", "grpc": "127.0.0.1:0", **settings})
    try:
        yield collector
    finally:
        collector.process.terminate()
        try:
            collector.process.wait(45)
        finally:
            collector.process.kill()


@pytest.fixture
async def cluster(kafka: str) -> dict[str, str]:
    """The `kafka:` of a configuration, with topics of its own."""
    prefix = f"{uuid.uuid4()}."
    await topics.apply(KafkaSettings(kafka, prefix=prefix), topics.Plan(partitions=4))
    return {"bootstrap": kafka, "prefix": prefix}


async def ids_of(cluster: dict[str, str]) -> list[str]:
    """What stands on the topic `events`."""
    bus = KafkaBus(KafkaSettings(**cluster))
    consumer = await bus.subscribe(f"{uuid.uuid4()}", (Topic.EVENTS,))
    found: list[str] = []
    while received := await consumer.poll(max_records=1_000, timeout_s=3):
        found += [event.id for record in received for event in record_from_bytes(record.value).events]
    await consumer.close()
    await bus.close()
    return found


def sent(client: httpx.Client, url: str, count: int) -> list[str]:
    """Events, each over a connection of its own, sent until it is accepted."""
    ids = [str(uuid.uuid4()) for _ in range(count)]
    for id_ in ids:
        event = {"service": f"s{count % 5}", "message": "x", "id": id_, "time": time.time()}
        while True:
            try:
                answer = client.post(f"{url}/api/v1/events", json=event, headers={"connection": "close"})
            except httpx.TransportError:
                continue
            if answer.status_code == 202:
                break
    return ids


async def test_workers_share_the_ports_and_one_that_dies_is_replaced(cluster: dict[str, str], tmp_path: Path) -> None:
    with running(tmp_path / "c", kafka=cluster, roles=["ingest"], workers=3) as collector:
        (listening,) = collector.until(lambda: collector.said("workers_listening"))
        url = f"http://{listening['http']}"
        with httpx.Client(timeout=20) as client, Client(f"http://{listening['grpc']}") as helios:
            ids = sent(client, url, 40)
            helios.send_events([Event("grpc", str(n)) for n in range(20)])
            shares = accepted(client, url)
            assert sum(shares.values()) == 60
            assert len([count for count in shares.values() if count]) > 1, "one worker took everything"
            collector.until(lambda: workers_of(collector.process.pid))
            os.kill(workers_of(collector.process.pid)[0], signal.SIGKILL)
            ids += sent(client, url, 40)
            collector.until(lambda: len(collector.said("listening")) == 4)
            ids += sent(client, url, 10)
        found = await ids_of(cluster)
        assert set(ids) <= set(found)
    assert collector.process.returncode == 0
    assert len(collector.said("worker_ended")) == 1


async def test_a_collector_that_only_takes_in_needs_no_store(cluster: dict[str, str], tmp_path: Path) -> None:
    nowhere = {"dsn": "postgresql://helios@127.0.0.1:9/none"}
    with running(tmp_path / "c", kafka=cluster, roles=["ingest"], postgres=nowhere) as collector:
        (listening,) = collector.until(lambda: collector.said("listening"))
        with httpx.Client(timeout=20) as client:
            ids = sent(client, f"http://{listening['http']}", 3)
        assert sorted(await ids_of(cluster)) == sorted(ids)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"workers": 2}, "`kafka:`"), ({"roles": ["ingest"]}, "`kafka:`"), ({"roles": []}, "a collector without one")],
)
def test_what_one_machine_alone_cannot_do_is_said(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"data_dir": str(tmp_path / "data"), **settings}))
    done = subprocess.run(
        [BIN / "helios-collector", "run", "--config", config], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (1, 1)
    assert said in done.stderr


def accepted(client: httpx.Client, url: str) -> dict[str, float]:
    """Events that each worker has taken."""
    metrics = client.get(f"{url}/metrics").text
    found: dict[str, float] = {}
    for worker, count in re.findall(r'^helios_events_accepted_total{.*worker="(\d+)"} (\S+)$', metrics, re.MULTILINE):
        found[worker] = found.get(worker, 0) + float(count)
    return found


def workers_of(pid: int) -> list[int]:
    """The processes that do the work."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            words = stat.with_name("cmdline").read_bytes()
        except OSError:
            continue
        if parent == pid and b"spawn_main" in words:
            found.append(int(stat.parent.name))
    return found
