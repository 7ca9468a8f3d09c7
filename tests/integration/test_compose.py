"""What packaging/compose starts, in its order and with its settings, as processes on real engines: no containers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from tests.architecture.test_packaging import PARTS, SERVICES, SETTINGS, words_of
from tests.engines.kafka import broker
from tests.engines.postgres.server import Server, tools

from helios_core.keys import hash_of, new_key

pytestmark = [pytest.mark.engines, pytest.mark.slow]
BIN: Final = Path(sys.executable).parent
ONCE: Final = ("keys", "migrate", "topics")
PASSWORD: Final = "o/t h@e:r#%"
_UP_WITHIN_S: Final = 60
_GRACE_S: Final = 45


class Asking(Server):
    """A server that wants the password of `helios`, and has the database that the image makes."""

    def start(self) -> None:
        super().start()
        asyncio.run(self._prepare())

    def asked(self, query: str) -> Any:
        """The first value of what the database answers."""

        async def ask() -> Any:
            connection = await asyncpg.connect(self.dsn("helios"), password=PASSWORD)
            try:
                return await connection.fetchval(query)
            finally:
                await connection.close()

        return asyncio.run(ask())

    async def _prepare(self) -> None:
        server = await asyncpg.connect(self.dsn())
        await server.execute(f"ALTER ROLE helios PASSWORD '{PASSWORD}'")
        await server.execute("CREATE DATABASE helios")
        if await server.fetchval("SELECT count(*) FROM pg_available_extensions WHERE name = 'timescaledb'"):
            database = await asyncpg.connect(self.dsn("helios"))
            await database.execute("CREATE EXTENSION timescaledb")
            await database.close()
        (self._folder / "data" / "pg_hba.conf").write_text("host all all 127.0.0.1/32 scram-sha-256\n")
        await server.execute("SELECT pg_reload_conf()")
        await server.close()


class Composition:
    """The services of compose.yaml, each with addresses and folders of this machine in place of a container's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = new_key()
        self.server = Asking()
        self.kafka = broker.free_port(), broker.free_port()
        self.ports = {name: broker.free_port() for name in PARTS}
        self.grpc, self.otlp = broker.free_port(), broker.free_port()
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start_kafka(self) -> None:
        """A broker with the environment of the service: the image makes a property of each variable."""
        given = SERVICES["kafka"]["environment"]
        properties = {
            key.removeprefix("KAFKA_").replace("_", ".").lower(): self._here(str(value))
            for key, value in given.items()
            if key.startswith("KAFKA_") and key != "KAFKA_HEAP_OPTS"
        }
        file = self.folder / "kafka.properties"
        file.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
        storage = ("kafka.tools.StorageTool", "format", "-t", given["CLUSTER_ID"], "-c", str(file))
        subprocess.run(self._java(*storage), check=True, capture_output=True, timeout=_UP_WITHIN_S)
        self._spawn("kafka", self._java("kafka.Kafka", str(file), heap=given["KAFKA_HEAP_OPTS"]), {})
        command = str(SERVICES["kafka"]["healthcheck"]["test"][1])
        heap, tool, words = re.fullmatch(r"KAFKA_HEAP_OPTS=(\S+) (\S+) (.*)", command).groups()  # type: ignore[union-attr]  # it fits
        assert tool == "/opt/kafka/bin/kafka-topics.sh"
        asking = self._java("org.apache.kafka.tools.TopicCommand", *self._here(words).split(), heap=heap)
        self._until("kafka", lambda: subprocess.run(asking, capture_output=True, check=False).returncode == 0)

    def run_once(self, name: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A service that ends by itself; other words than its own after its entrypoint."""
        command = [*SERVICES[name].get("entrypoint", ()), *words] if words else words_of(name)
        return subprocess.run(
            self._command(name, command),
            env=self._environment(name) | environment,
            capture_output=True,
            text=True,
            timeout=_UP_WITHIN_S,
            check=False,
        )

    def start(self, name: str) -> None:
        """A part; its own health check says when it is up."""
        self._spawn(name, self._command(name, words_of(name)), self._environment(name))
        kind, program, *words = SERVICES[name]["healthcheck"]["test"]
        assert (kind, program) == ("CMD", "python")
        asking = [sys.executable, *(self._here(word, name) for word in words)]
        self._until(name, lambda: subprocess.run(asking, capture_output=True, check=False).returncode == 0)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.out").read_text(errors="replace")

    def end(self, name: str) -> int:
        """As `docker compose stop` does."""
        process = self.running.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(_GRACE_S)

    def close(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait(10)
        self.server.stop()

    def _command(self, name: str, words: list[str]) -> list[str]:
        """Its words, and its configuration in a file beside its data."""
        own = self.folder / name
        own.mkdir(exist_ok=True)
        (own / "helios.yaml").write_text(self._here(SETTINGS, name))
        return [str(BIN / words[0]), *(self._here(word, name) for word in words[1:])]

    def _environment(self, name: str) -> dict[str, str]:
        filled = {"HELIOS_ADMIN_KEY_SHA256": hash_of(self.key), "POSTGRES_PASSWORD": PASSWORD}
        given = {
            key: re.sub(r"\$\{(\w+):\?[^}]+\}", lambda match: filled[match[1]], str(value))
            for key, value in SERVICES[name]["environment"].items()
        }
        return {"PATH": os.environ["PATH"]} | {key: self._here(value, name) for key, value in given.items()}

    def _here(self, text: str, name: str = "") -> str:
        """Names, ports and folders of containers, as they are on this machine."""
        taken = {
            "/etc/helios": self.folder / name,
            "/var/lib/helios/data": self.folder / name / "data",
            "/var/lib/helios/keys": self.folder / "keys-volume",
            "/var/lib/kafka/data": self.folder / "kafka-volume",
            "@postgres:5432": f"@127.0.0.1:{self.server.port}",
            "kafka:9092": f"127.0.0.1:{self.kafka[0]}",
            "localhost:9092": f"127.0.0.1:{self.kafka[0]}",
            "://:9092": f"://127.0.0.1:{self.kafka[0]}",
            "localhost:9093": f"127.0.0.1:{self.kafka[1]}",
            # In its container each has all ports to itself.
            ":4317": f":{self.grpc if name == 'collector' else broker.free_port()}",
            ":4318": f":{self.otlp if name == 'collector' else broker.free_port()}",
            ":8080": f":{self.ports['collector']}",
            ":8000": f":{self.ports['detector']}",
            ":8001": f":{self.ports['reporter']}",
        }
        for known, here in taken.items():
            text = text.replace(known, str(here))
        return text

    def _spawn(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self.running[name] = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, env=environment or None, cwd=self.folder
            )

    def _until(self, name: str, is_so: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + _UP_WITHIN_S
        while not is_so():
            assert self.running[name].poll() is None, self.said(name)[-2_000:]
            assert time.monotonic() < deadline_s, self.said(name)[-2_000:]
            time.sleep(0.2)

    @staticmethod
    def _java(*words: str, heap: str = "-Xmx256m") -> list[str]:
        return ["java", heap, "-XX:+UseSerialGC", "-cp", f"{broker.JARS}/*", *words]


@pytest.fixture
def composition(tmp_path: Path) -> Iterator[Composition]:
    """Its engines run, as soon as their own health checks say so."""
    if broker.missing():
        pytest.fail(f"no Kafka: {broker.missing()}")
    if tools() is None or shutil.which("pg_isready") is None:
        pytest.fail("no PostgreSQL: apt-get install postgresql")
    made = Composition(tmp_path)
    try:
        made.server.start()
        kind, *asking = SERVICES["postgres"]["healthcheck"]["test"]
        assert kind == "CMD"
        subprocess.run([*asking, f"--port={made.server.port}"], check=True, timeout=10)
        made.start_kafka()
        yield made
    finally:
        made.close()


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def eventually(look: Callable[[], Any], within_s: float = 30) -> Any:
    """What it gives once that is something."""
    deadline_s = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < deadline_s, "it did not come to be in time"
        time.sleep(0.2)
    return found


def test_what_compose_starts_comes_up_and_takes_only_what_has_a_key(composition: Composition) -> None:
    refused = composition.run_once("migrate", PGPASSWORD="wrong")
    assert refused.returncode == 1
    assert len(refused.stderr.strip().splitlines()) == 1, refused.stderr
    for name in ONCE * 2:  # at every `up`
        done = composition.run_once(name)
        assert done.returncode == 0, done.stderr
        assert PASSWORD not in done.stdout + done.stderr
    for name in PARTS:
        composition.start(name)

    made = composition.run_once("keys", "create", "--name", "shop")
    assert made.returncode == 0, made.stderr
    shop = made.stdout.strip()
    scraping = composition.run_once("keys", "create", "--scope", "metrics").stdout.strip()
    assert composition.run_once("keys", "list").stdout.count("\n") == 3

    events = f"{composition.url('collector')}/api/v1/events"
    event = {"service": "shop", "level": "ERROR", "message": "no stock"}
    assert httpx.post(events, json=event).status_code == 401
    assert eventually(lambda: httpx.post(events, json=event, headers=bearer(shop)).status_code == 202)
    assert httpx.post(events, json=event, headers=bearer(composition.key)).status_code == 202
    otlp = f"http://127.0.0.1:{composition.otlp}/v1/logs"
    kind = {"content-type": "application/x-protobuf"}
    empty = ExportLogsServiceRequest().SerializeToString()
    assert httpx.post(otlp, content=empty, headers=kind).status_code == 401
    assert httpx.post(otlp, content=empty, headers=kind | bearer(shop)).status_code == 200
    for name in PARTS:
        metrics = f"{composition.url(name)}/metrics"
        assert httpx.get(metrics).status_code == 401
        assert httpx.get(metrics, headers=bearer(shop)).status_code == 403
        assert httpx.get(metrics, headers=bearer(scraping)).status_code == 200

    eventually(lambda: composition.server.asked("SELECT sum(events) FROM windows WHERE service = 'shop'") == 2)
    console = composition.url("reporter")
    assert httpx.get(console).status_code == 200
    assert httpx.get(f"{console}/api/v1/services").status_code == 401
    with httpx.Client(base_url=console) as browser:
        assert browser.post("/api/v1/session", json={"key": composition.key}).is_success
        assert json.dumps(browser.get("/api/v1/services").json()).count('"shop"') == 1

    for name in reversed(PARTS):
        assert composition.end(name) == 0, composition.said(name)[-2_000:]
        assert PASSWORD not in composition.said(name)


def test_a_part_that_starts_before_the_topics_are_there_says_what_to_do(composition: Composition) -> None:
    assert composition.run_once("migrate").returncode == 0
    done = composition.run_once("collector")
    assert done.returncode == 1
    assert "`helios topics apply`" in done.stderr
