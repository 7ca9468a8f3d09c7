"""Clients that others have made (OpenTelemetry, kcat, psql, Prometheus, grpcurl, curl, wrk), against real processes."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import asyncpg
import grpc
import httpx
import pytest
import yaml
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from tests.engines.fixtures import fresh_database
from tests.engines.kafka.broker import free_port
from tests.integration.kafka_support import eventually
from tests.integration.test_roles import BIN, Part, ended

from helios_core import wire
from helios_core.bus.base import Topic
from helios_core.bus.kafka import topics
from helios_core.bus.kafka.settings import KafkaSettings
from helios_core.keyfile import KeyFile
from helios_core.keys import Scope
from helios_core.store.postgres.migrate import migrate
from helios_core.store.postgres.settings import PostgresSettings

pytestmark = [pytest.mark.engines, pytest.mark.slow]
PARTS: Final = ("collector", "detector", "reporter")
APPLICATION: Final = Path(__file__).with_name("otel_application.py")
PACKAGES: Final = {"kcat": "kcat", "psql": "postgresql-client", "prometheus": "prometheus", "promtool": "prometheus"}
PACKAGES_OF_HTTP: Final = {"curl": "curl", "wrk": "wrk"}
EVENTS: Final = "/api/v1/events"
MAX_BODY_BYTES: Final = 10 * 1024 * 1024


@dataclass
class Site:
    """The three parts on Kafka and PostgreSQL, each a process.

    Attributes:
        http: their addresses, `host:port`.
        otlp: that of OTLP over HTTP alone.
    """

    kafka: str
    prefix: str
    dsn: str
    http: dict[str, str]
    grpc: str
    otlp: str
    keys: Path

    def stored(self, query: str) -> Any:
        """The first value of what the database answers."""

        async def ask() -> Any:
            connection = await asyncpg.connect(self.dsn)
            try:
                return await connection.fetchval(query)
            finally:
                await connection.close()

        return asyncio.run(ask())

    def events_of(self, service: str, what: str = "events", signal: int | None = None) -> int:
        """What the store has counted."""
        more = "" if signal is None else f" AND signal = {signal}"
        return int(self.stored(f"SELECT sum({what}) FROM windows WHERE service = '{service}'{more}") or 0)

    def metric(self, name: str, part: str = "collector") -> float:
        """The sum of a metric over its labels."""
        text = httpx.get(f"http://{self.http[part]}/metrics").text
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


@contextmanager
def running(kafka: str, postgres: str, folder: Path, **more: Any) -> Iterator[Site]:
    """A site of its own: its topics, its database, its processes."""
    prefix = f"{uuid.uuid4().hex[:10]}."
    with asyncio.Runner() as runner:
        runner.run(eventually(partial(topics.apply, KafkaSettings(kafka, prefix=prefix), topics.Plan(partitions=2))))
        database = fresh_database(postgres, timescale=False)
        dsn = runner.run(database.__aenter__())
        try:
            runner.run(migrate(PostgresSettings(dsn)))
            configuration = {"kafka": {"bootstrap": kafka, "prefix": prefix}, "postgres": {"dsn": dsn}, **more}
            otlp = f"127.0.0.1:{free_port()}"
            parts = [Part(folder, "collector", 1, configuration | {"otlp_http": otlp})]
            with ended(parts):
                parts += [Part(folder, name, 1, configuration) for name in PARTS[1:]]
                http = [runner.run(part.http()).removeprefix("http://") for part in parts]
                (address,) = {said["grpc"] for said in parts[0].said() if "grpc" in said}
                keys = Path(str(more.get("api_keys_file", folder / "none")))
                yield Site(kafka, prefix, dsn, dict(zip(PARTS, http, strict=True)), address, otlp, keys)
                for part in parts:
                    part.process.terminate()
                assert [part.process.wait(40) for part in parts] == [0, 0, 0], [part.text()[-1_000:] for part in parts]
                tracebacks = [part.text() for part in parts if "Traceback" in part.text()]
                assert not tracebacks, tracebacks[0][:3_000]
        finally:
            runner.run(database.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def site(kafka: str, postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Open, on loopback; one for all tests, each of which has services of its own."""
    with running(kafka, postgres, tmp_path_factory.mktemp("open")) as made:
        yield made


@pytest.fixture(scope="module")
def keyed(kafka: str, postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One where everybody needs a key."""
    folder = tmp_path_factory.mktemp("keyed")
    file = folder / "api-keys.json"
    file.write_text('{"api_keys": []}')
    with running(kafka, postgres, folder, api_keys_file=str(file)) as made:
        yield made


def program(name: str) -> str:
    """Where it is; skips, with the package that brings it, where it is not."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name}: apt-get install {(PACKAGES | PACKAGES_OF_HTTP)[name]}")
    return found


def grpcurl() -> str:
    """Where it is; `go install` puts it into a folder that need not be on the path."""
    folders = [os.environ.get("GOBIN", ""), str(Path(os.environ.get("GOPATH", Path.home() / "go")) / "bin")]
    found = shutil.which("grpcurl") or shutil.which("grpcurl", path=os.pathsep.join(filter(None, folders)))
    if found is None:
        pytest.skip("there is no grpcurl: go install github.com/fullstorydev/grpcurl/cmd/grpcurl@latest")
    return found


def run(*words: str | Path, given: bytes | None = None, timeout_s: float = 60, check: bool = True) -> bytes:
    """What a program says; it has to succeed unless it need not."""
    done = subprocess.run([*map(str, words)], input=given, capture_output=True, timeout=timeout_s, check=False)
    assert not check or done.returncode == 0, (words, done.stdout[-1_000:], done.stderr[-2_000:])
    return done.stdout


def until(is_so: Callable[[], object], within_s: float = 30, why: Callable[[], object] = lambda: "") -> None:
    deadline_s = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline_s, why()
        time.sleep(0.2)


def key_of(site: Site, *scopes: Scope) -> str:
    """A new key, made by the command; the processes know it within a second or two."""
    words = [word for scope in scopes for word in ("--scope", scope.value)]
    made = run(BIN / "helios", "keys", "create", "--data-dir", site.keys.parent, *words).decode().strip()
    assert KeyFile(site.keys).read()[-1].scopes == scopes
    return made


def ship(site: Site, folder: Path, service: str, lines: int, key: str = "") -> None:
    """An access log of the last minutes, by a real agent."""
    began = datetime.now(UTC) - timedelta(seconds=lines / 10)
    with (folder / "access.log").open("w") as file:
        for number in range(lines):
            at = (began + timedelta(seconds=number / 10)).strftime("%d/%b/%Y:%H:%M:%S +0000")
            file.write(f'10.0.0.1 - - [{at}] "GET /items/{number % 7} HTTP/1.1" 200 12 "-" "probe"\n')
    settings = {
        "agent": {"state_dir": str(folder / "state"), "log_level": "warning", "host": "host-1"},
        "sources": [{"type": "file", "config": {"paths": [str(folder / "access.log")], "service": service}}],
        "helios": {"endpoint": f"http://{site.grpc}", "api_key": key},
    }
    (folder / "agent.yaml").write_text(yaml.safe_dump(settings))
    run(BIN / "helios-agent", "run", "--once", "--config", folder / "agent.yaml")


# OpenTelemetry -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_keyed", [False, True], ids=["open", "keyed"])
@pytest.mark.parametrize("protocol", ["grpc", "http", "http-4318"])
def test_an_application_with_opentelemetry_is_stored_to_the_last_count(
    protocol: str, is_keyed: bool, site: Site, keyed: Site
) -> None:
    site = keyed if is_keyed else site
    service = f"otel-{protocol}"
    address = {"grpc": site.grpc, "http": site.http["collector"], "http-4318": site.otlp}[protocol]
    environment = {
        "PATH": os.environ["PATH"],
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{address}",
        "OTEL_SERVICE_NAME": service,
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
    }
    if is_keyed:
        key = key_of(site, Scope.INGEST)
        environment["OTEL_EXPORTER_OTLP_HEADERS"] = f"authorization=Bearer%20{key}"
        time.sleep(1.5)
    done = subprocess.run(
        [sys.executable, APPLICATION, protocol[:4]], env=environment, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    until(lambda: site.events_of(service) == 1_000 + 700, why=lambda: site.events_of(service))
    assert site.events_of(service, "errors") == 250
    assert site.events_of(service, "latency_count") == 700
    metrics = "SELECT string_agg(name || '=' || value, ' ' ORDER BY name) FROM metrics WHERE service = '{}'"
    until(lambda: site.stored(metrics.format(service)))
    expected = "order.size.count=700 order.size.max=699 order.size.min=0 order.size.sum=244650 orders=700"
    assert site.stored(metrics.format(service)) == expected


def test_an_exporter_without_a_key_says_so_and_gives_up(keyed: Site) -> None:
    environment = {"PATH": os.environ["PATH"], "OTEL_SERVICE_NAME": "no-key"}
    for protocol, address in (("grpc", keyed.grpc), ("http", keyed.otlp)):
        environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://{address}"
        done = subprocess.run(
            [sys.executable, APPLICATION, protocol], env=environment, capture_output=True, timeout=60, check=False
        )
        assert {"grpc": b"UNAUTHENTICATED", "http": b"401"}[protocol] in done.stderr, done.stderr
    assert keyed.events_of("no-key") == 0


# kcat ----------------------------------------------------------------------------------------------------------------


def read(site: Site, topic: Topic, layout: str) -> bytes:
    """All records of a topic by kcat, in its words for a layout."""
    words = ("-C", "-q", "-e", "-o", "beginning", "-t", site.prefix + topic.value, "-f", layout)
    return run(program("kcat"), "-b", site.kafka, *words)


@pytest.fixture(scope="module")
def sliced(site: Site, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A service of which an agent has sent slices."""
    ship(site, tmp_path_factory.mktemp("agent"), "sliced", 3_000)
    until(lambda: site.events_of("sliced") == 3_000)
    return "sliced"


def test_kcat_reads_slices_by_their_service_with_their_identity(site: Site, sliced: str) -> None:
    lines = read(site, Topic.WINDOWS, "%k\t%h\t%S\t%p\n").decode().splitlines()
    found = [line.split("\t") for line in lines if line.split("\t")[0] == sliced]
    assert found
    assert len({partition for *_, partition in found}) == 1, "records of one service are in one partition"
    sequences = []
    for _, headers, size, _ in found:
        identity = dict(pair.split("=", 1) for pair in headers.split(","))
        assert re.fullmatch("[0-9a-f]{32}", identity["agent"])
        assert re.fullmatch("[0-9a-f]{16}", identity["incarnation"])
        assert re.fullmatch("[0-9a-f]{32}", identity["hash"])
        assert identity["host"] == "host-1"
        assert int(size) <= 524_288
        sequences.append(int(identity["sequence"]))
    assert sequences == sorted(sequences)


def test_kcat_reads_what_can_be_decoded_and_has_the_hash_that_it_says(site: Site, sliced: str) -> None:
    """A mark before each value, which no value has, tells one from the next."""
    mark = uuid.uuid4().hex
    values = read(site, Topic.WINDOWS, f"{mark}%k\t%h\t%s").split(mark.encode())[1:]
    events = 0
    for value in values:
        key, headers, data = value.split(b"\t", 2)
        if key.decode() == sliced:
            identity = dict(pair.split("=", 1) for pair in headers.decode().split(","))
            assert hashlib.sha256(data).hexdigest()[:32] == identity["hash"]
            events += sum(sum(delta.levels) for delta in wire.slice_from_bytes(data).deltas)
    assert events == 3_000


@pytest.mark.parametrize("topic", [Topic.WINDOWS, Topic.EVENTS])
def test_kcat_sees_which_version_of_the_schema_a_record_has(site: Site, sliced: str, topic: Topic) -> None:
    sent = {"service": "versioned", "message": "a"}
    assert httpx.post(f"http://{site.http['collector']}{EVENTS}", json=sent).status_code == 202
    of = {Topic.WINDOWS: sliced, Topic.EVENTS: "versioned"}[topic]
    lines = [line.split("\t") for line in read(site, topic, "%k\t%h\n").decode().splitlines()]
    found = [headers for key, headers in lines if key == of]
    assert found
    assert all(re.search(r"(?:^|,)[\w-]*version=\d", headers) for headers in found)


def test_kcat_reads_events_by_their_service_and_dead_letters_with_their_reason(site: Site) -> None:
    sent = [{"service": "kcat-shop", "message": "a"}, 7, {}]
    answer = httpx.post(f"http://{site.http['collector']}{EVENTS}", json=sent).json()
    assert answer["accepted"] == 1
    assert answer["rejected"] == 2
    assert "kcat-shop" in read(site, Topic.EVENTS, "%k\n").decode().splitlines()
    dead = read(site, Topic.DEAD_LETTER, "%k\t%h\n").decode().splitlines()
    reasons = [error["reason"] for error in answer["errors"]]
    assert all(any(f"reason={reason}" in line for line in dead) for reason in reasons), dead
    assert all(line.startswith("event\tkind=event,") for line in dead)


def test_kcat_lists_the_topics_and_can_follow_as_a_group_of_its_own(site: Site, sliced: str) -> None:
    listed = json.loads(run(program("kcat"), "-b", site.kafka, "-L", "-J"))
    own = {one["topic"].removeprefix(site.prefix) for one in listed["topics"] if one["topic"].startswith(site.prefix)}
    assert own == {topic.value for topic in Topic}
    words = ("-b", site.kafka, "-q", "-e", "-X", "auto.offset.reset=earliest", "-G", f"{site.prefix}somebody")
    keys = run(program("kcat"), *words, "-f", "%k\n", f"{site.prefix}windows").decode().split()
    assert sliced in keys


# psql ----------------------------------------------------------------------------------------------------------------


def psql(site: Site, statement: str) -> list[str]:
    return run(program("psql"), site.dsn, "-X", "-A", "-t", "-F", " ", "-c", statement).decode().splitlines()


def test_psql_reads_the_tables_as_they_are_described(site: Site, sliced: str) -> None:
    assert psql(site, f"SELECT sum(events), min(host) FROM windows WHERE service = '{sliced}'") == ["3000 host-1"]
    times = f"SELECT bool_and(start_time > now() - interval '1 hour') FROM windows WHERE service = '{sliced}'"
    assert psql(site, times) == ["t"]
    sent = {"service": "psql-shop", "level": "ERROR", "message": "no stock", "metadata": {"item": 7, "latency_ms": 2.5}}
    assert httpx.post(f"http://{site.http['collector']}{EVENTS}", json=sent).status_code == 202
    until(lambda: site.events_of("psql-shop") == 1)
    found = "SELECT message, latency_us, attributes->>'item' FROM events WHERE service = 'psql-shop'"
    assert psql(site, found) == ["no stock 2500 7"]
    # A minute is added up when it is over; these were over before they came.
    of = f"service = '{sliced}' AND start_time < date_trunc('minute', now()) - interval '2 minutes'"
    minutes = f"(SELECT sum(events) FROM rollups WHERE step_s = 60 AND {of})"
    until(lambda: psql(site, f"SELECT {minutes} = (SELECT sum(events) FROM windows WHERE {of})") == ["t"])


def test_psql_follows_what_is_stored_while_it_is_written(site: Site) -> None:
    """A dump, as somebody makes a backup, is of one moment and holds nobody up."""
    dump = shutil.which("pg_dump")
    if dump is None:
        pytest.skip(f"there is no pg_dump: apt-get install {PACKAGES['psql']}")
    text = run(dump, "--dbname", site.dsn, "--schema=public").decode()
    assert "COPY public.helios_migrations" in text
    post = {"service": "dump-shop", "message": "after"}
    assert httpx.post(f"http://{site.http['collector']}{EVENTS}", json=post).status_code == 202
    until(lambda: site.events_of("dump-shop") == 1)


# Prometheus ----------------------------------------------------------------------------------------------------------


@contextmanager
def prometheus(folder: Path, *jobs: dict[str, Any]) -> Iterator[Callable[[str], Any]]:
    """A real Prometheus that scrapes each second; yields what asks its API."""
    configuration = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": list(jobs)}
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(configuration))
    run(program("promtool"), "check", "config", file)
    address = f"127.0.0.1:{free_port()}"
    words = ["--config.file", str(file), "--storage.tsdb.path", str(folder / "tsdb"), "--web.listen-address", address]
    with (folder / "prometheus.out").open("wb") as out:
        process = subprocess.Popen([program("prometheus"), *words], stdout=out, stderr=subprocess.STDOUT)

    def ask(path: str) -> Any:
        with suppress(httpx.TransportError):
            answer = httpx.get(f"http://{address}/api/v1/{path}")
            if answer.is_success:
                return answer.json()["data"]
        return None

    try:
        until(lambda: ask("status/runtimeinfo"), why=lambda: (folder / "prometheus.out").read_text()[-2_000:])
        yield ask
    finally:
        process.terminate()
        process.wait(30)


def targets(ask: Callable[[str], Any]) -> dict[tuple[str, str], tuple[str, str]]:
    """(health, last error) of each target by its job and its address, once all were scraped."""
    found = ask("targets?state=active")["activeTargets"]
    if any(one["health"] == "unknown" for one in found):
        return {}
    return {(one["labels"]["job"], one["labels"]["instance"]): (one["health"], one["lastError"]) for one in found}


@pytest.mark.slow
def test_prometheus_scrapes_every_part_on_loopback(site: Site, sliced: str, tmp_path: Path) -> None:
    jobs = [{"job_name": name, "static_configs": [{"targets": [address]}]} for name, address in site.http.items()]
    with prometheus(tmp_path, *jobs) as ask:
        until(lambda: targets(ask))
        assert set(targets(ask).values()) == {("up", "")}

        def value(query: str) -> float | None:
            found = (ask(f"query?query={query}") or {"result": []})["result"]
            return float(found[0]["value"][1]) if found else None

        before = site.metric("helios_events_accepted_total")
        until(lambda: value("sum(helios_events_accepted_total)") == before)
        event = {"service": "scraped", "message": "a"}
        assert httpx.post(f"http://{site.http['collector']}{EVENTS}", json=event).status_code == 202
        until(lambda: value("sum(helios_events_accepted_total)") == before + 1)
        until(lambda: (value("helios_detection_events_processed_total") or 0) >= 3_000)
        until(lambda: value("count({__name__=~'helios_report_seconds_bucket'})"))
        for part in PARTS:
            assert value(f"count({{job='{part}', __name__=~'helios_.*'}})"), part


@pytest.mark.slow
def test_prometheus_with_a_key_for_metrics_scrapes_and_without_it_is_told_why(keyed: Site, tmp_path: Path) -> None:
    for name, scope in (("metrics", Scope.METRICS), ("ingest", Scope.INGEST)):
        (tmp_path / name).write_text(key_of(keyed, scope) + "\n")
    addresses = [{"targets": list(keyed.http.values())}]
    jobs: list[dict[str, Any]] = [{"job_name": "none", "static_configs": addresses}]
    for name in ("metrics", "ingest"):
        credentials = {"type": "Bearer", "credentials_file": str(tmp_path / name)}
        jobs.append({"job_name": name, "static_configs": addresses, "authorization": credentials})
    with prometheus(tmp_path, *jobs) as ask:
        expected = {"metrics": "up", "none": "down", "ingest": "down"}
        until(lambda: targets(ask) and {job: health for (job, _), (health, _) in targets(ask).items()} == expected)
        for (job, _), (_, error) in targets(ask).items():
            said = {
                "metrics": "",
                "none": "server returned HTTP status 401",
                "ingest": "server returned HTTP status 403",
            }
            assert error.startswith(said[job]), (job, error)
            assert bool(error) == bool(said[job]), (job, error)


@pytest.mark.parametrize("part", PARTS)
def test_promtool_has_nothing_to_say_against_the_metrics(site: Site, sliced: str, part: str) -> None:
    text = httpx.get(f"http://{site.http[part]}/metrics").content
    assert b"helios_" in text
    done = subprocess.run([program("promtool"), "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


# gRPC ----------------------------------------------------------------------------------------------------------------

SERVED: Final = {
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
    "helios.v1.Helios",
    "opentelemetry.proto.collector.logs.v1.LogsService",
    "opentelemetry.proto.collector.metrics.v1.MetricsService",
    "opentelemetry.proto.collector.trace.v1.TraceService",
}


def message_of(service: str) -> dict[str, str]:
    """A `helios.v1.Event` in JSON."""
    now = str(time.time_ns() // 1_000)
    return {"service": service, "level": "LEVEL_INFO", "message": "a", "signal": "SIGNAL_LOG", "timeUs": now}


def test_grpcurl_lists_describes_and_calls(site: Site) -> None:
    def ask(*words: str, check: bool = True) -> str:
        return run(grpcurl(), "-plaintext", *words, check=check).decode()

    assert set(ask(site.grpc, "list").split()) == SERVED
    assert ask(site.grpc, "list", "helios.v1.Helios").split() == [
        f"helios.v1.Helios.{name}" for name in ("SendBatch", "SendEvents", "Stream")
    ]
    described = ask(site.grpc, "describe", "helios.v1.Helios")
    assert (
        "rpc Stream ( stream .helios.v1.SendBatchRequest ) returns ( stream .helios.v1.SendBatchResponse )" in described
    )
    for symbol in ("helios.v1.SendEventsRequest", "helios.v1.Event", *SERVED):
        assert "is a" in ask(site.grpc, "describe", symbol), symbol
    shown = ask("-msg-template", site.grpc, "describe", "helios.v1.Event").partition("Message template:")[2]
    assert {"service", "level", "message"} <= set(json.loads(shown))
    sent = {"events": [{**message_of("grpcurl"), "level": "LEVEL_ERROR", "id": uuid.uuid4().hex}, {}]}
    answer = json.loads(ask("-d", json.dumps(sent), site.grpc, "helios.v1.Helios/SendEvents"))
    assert answer["accepted"] == 1, answer
    assert [one.get("index", 0) for one in answer["rejected"]] == [1]
    until(lambda: site.events_of("grpcurl") == 1)
    logs = {"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": {"stringValue": "by grpcurl"}}]}]}]}
    method = "opentelemetry.proto.collector.logs.v1.LogsService/Export"
    assert json.loads(ask("-d", json.dumps(logs), site.grpc, method)) == {}


@pytest.mark.parametrize("service", ["", "helios.v1.Helios"])
def test_grpcurl_is_told_that_it_serves(site: Site, service: str) -> None:
    words = ("-plaintext", "-d", json.dumps({"service": service}), site.grpc, "grpc.health.v1.Health/Check")
    assert json.loads(run(grpcurl(), *words)) == {"status": "SERVING"}


def test_a_generic_client_builds_a_call_from_reflection_alone(site: Site) -> None:
    """As tools do that know no stub: the messages are made of what the server says of itself."""
    with grpc.insecure_channel(site.grpc) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert set(database.get_services()) == SERVED
        pool = DescriptorPool(database)
        method = pool.FindServiceByName("helios.v1.Helios").FindMethodByName("SendEvents")
        request = ParseDict({"events": [message_of("generic")]}, GetMessageClass(method.input_type)())
        call = channel.unary_unary(
            "/helios.v1.Helios/SendEvents",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        assert MessageToDict(call(request, timeout=10))["accepted"] == 1
    until(lambda: site.events_of("generic") == 1)


def test_grpcurl_without_a_key_is_not_told_what_is_served(keyed: Site) -> None:
    done = subprocess.run([grpcurl(), "-plaintext", keyed.grpc, "list"], capture_output=True, timeout=60, check=False)
    assert b"Unauthenticated" in done.stdout + done.stderr, done.stdout


def test_grpcurl_needs_a_key_where_there_are_keys(keyed: Site) -> None:
    key, other = key_of(keyed, Scope.INGEST), key_of(keyed, Scope.METRICS)
    time.sleep(1.5)
    sent = json.dumps({"events": [message_of("keyed")]})

    def call(*headers: str) -> str:
        words = ["-plaintext", *(word for header in headers for word in ("-rpc-header", header)), "-d", sent]
        done = subprocess.run(
            [grpcurl(), *words, keyed.grpc, "helios.v1.Helios/SendEvents"], capture_output=True, timeout=60, check=False
        )
        return (done.stdout + done.stderr).decode()

    assert "Unauthenticated" in call()
    assert "Unauthenticated" in call("authorization: Bearer helios_wrong")
    assert "PermissionDenied" in call(f"authorization: Bearer {other}")
    assert '"accepted": 1' in call(f"authorization: Bearer {key}")
    assert '"accepted": 1' in call(f"x-api-key: {key}")
    health = run(grpcurl(), "-plaintext", keyed.grpc, "grpc.health.v1.Health/Check")
    assert json.loads(health) == {"status": "SERVING"}, "health is open to everybody"


# curl and wrk --------------------------------------------------------------------------------------------------------


def curl(*words: str | Path, given: bytes | None = None, timeout_s: float = 60) -> tuple[str, str]:
    """(what it prints, what it says of the connection)."""
    done = subprocess.run(
        [program("curl"), "-sS", "-v", "--max-time", "30", *map(str, words)],
        input=given,
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


def url(site: Site, path: str = EVENTS) -> str:
    return f"http://{site.http['collector']}{path}"


def body_of(service: str, events: int = 1) -> bytes:
    return b"".join(b'{"service":"%s","message":"n %d"}\n' % (service.encode(), number) for number in range(events))


def test_curl_keeps_its_connection_also_after_a_refusal(site: Site) -> None:
    wanted = "%{http_code} %{num_connects}\n"
    each = ("-o", "/dev/null", "-w", wanted)
    said, _ = curl(
        *each, "-d", '{"service":"kept","message":"a"}', url(site),
        "--next", *each, "-d", "no json", url(site),
        "--next", *each, url(site, "/health"),
        "--next", *each, url(site, "/nothing"),
        "--next", *each, "-d", '{"service":"kept","message":"b"}', url(site),
    )  # fmt: skip
    assert said.splitlines() == ["202 1", "400 0", "200 0", "404 0", "202 0"]


@pytest.mark.parametrize("size", [1, 100_000])
def test_curl_that_expects_to_be_told_to_continue_is(site: Site, size: int) -> None:
    data = body_of(f"expected-{size}", max(1, size // 50))
    words = ("-H", "Expect: 100-continue", "-w", "%{http_code} %{time_total}", "--data-binary", "@-", url(site))
    printed, said = curl("-o", "/dev/null", *words, given=data)
    assert "HTTP/1.1 100 Continue" in said
    code, seconds = printed.split()
    assert code == "202"
    assert float(seconds) < 0.9, "curl waited a second for it, and went on by itself"


def test_curl_that_expects_to_continue_is_refused_before_it_sends(keyed: Site) -> None:
    data = body_of("refused", 40_000)
    words = ("-H", "Expect: 100-continue", "-w", "%{http_code} %{size_upload}", "--data-binary", "@-", url(keyed))
    printed, said = curl("-o", "/dev/null", *words, given=data)
    assert printed == "401 0", printed
    assert "100 Continue" not in said


@pytest.mark.parametrize("gzipped", [False, True], ids=["plain", "gzip"])
def test_curl_uploads_in_chunks(site: Site, gzipped: bool) -> None:
    service = f"chunked-{gzipped}"
    data = body_of(service, 20_000)
    more: tuple[str, ...] = ()
    if gzipped:
        data, more = gzip.compress(data), ("-H", "Content-Encoding: gzip")
    words = ("-X", "POST", "-H", "Transfer-Encoding: chunked", "-T", "-", *more, "-w", "%{http_code}", url(site))
    printed, said = curl("-o", "/dev/null", *words, given=data)
    assert printed == "202"
    assert "Transfer-Encoding: chunked" in said
    until(lambda: site.events_of(service) == 20_000)


def test_curl_is_refused_what_is_too_large_however_it_comes(site: Site) -> None:
    data = b" " * (MAX_BODY_BYTES + 1)
    for more in ((), ("-H", "Transfer-Encoding: chunked")):
        printed, _ = curl("-o", "/dev/null", *more, "-w", "%{http_code}", "--data-binary", "@-", url(site), given=data)
        assert printed == "413"


@pytest.mark.parametrize("path", ["/health", "/metrics"])
@pytest.mark.parametrize("part", PARTS)
def test_curl_asks_for_the_head_alone(site: Site, part: str, path: str) -> None:
    whole, _ = curl("-D", "-", "-o", "/dev/null", f"http://{site.http[part]}{path}")
    head, _ = curl("-I", f"http://{site.http[part]}{path}")
    assert head.startswith("HTTP/1.1 200 ")

    def names(text: str) -> list[str]:
        return sorted(line.partition(":")[0].lower() for line in text.splitlines()[1:] if line)

    assert names(head) == names(whole)
    # The connection stays good for the next request: nothing of a body was sent.
    each = ("-o", "/dev/null", "-w", "%{http_code} %{num_connects}\n")
    address = f"http://{site.http[part]}"
    said, _ = curl(*each, "-I", f"{address}{path}", "--next", *each, f"{address}/health")
    assert said.splitlines() == ["200 1", "200 0"]


@pytest.mark.parametrize("method", ["OPTIONS", "GET", "HEAD", "PUT", "DELETE", "PATCH", "TRACE", "BREW"])
def test_curl_with_a_method_that_events_do_not_take_is_told_which_they_do(site: Site, method: str) -> None:
    words = ("-I",) if method == "HEAD" else ("-X", method, "-i")
    printed, _ = curl(*words, url(site))
    status, *headers = printed.split("\r\n\r\n")[0].splitlines()
    assert re.match(r"HTTP/1\.1 (405|400|501) ", status), status
    if status.split()[1] == "405":
        allowed = {line.partition(":")[2].strip() for line in headers if line.lower().startswith("allow:")}
        assert allowed == {"POST"}


@pytest.mark.parametrize("path", ["/health", "/metrics"])
def test_the_methods_that_it_says_it_allows_are_all_that_it_allows(site: Site, path: str) -> None:
    printed, _ = curl("-X", "OPTIONS", "-i", url(site, path))
    allowed = re.search(r"^allow: (.*)\r?$", printed, re.MULTILINE | re.IGNORECASE)
    assert allowed is not None
    assert set(re.split(r",\s*", allowed[1].strip())) >= {"GET", "HEAD"}


@pytest.mark.parametrize(
    "words",
    [("--http1.0",), ("-H", "Connection: close"), ("-H", "Host: localhost"), ("--tr-encoding",)],
    ids=["http1.0", "close", "host", "te"],
)
def test_curl_is_answered_whatever_it_would_rather_speak(site: Site, words: tuple[str, ...]) -> None:
    service = f"spoken-{re.sub('[^a-z0-9]', '', ''.join(words).lower())}"
    said, _ = curl(
        *words, "-o", "/dev/null", "-w", "%{http_code}", "--data-binary", "@-", url(site), given=body_of(service)
    )
    assert said == "202"
    until(lambda: site.events_of(service) == 1)


def test_events_with_an_offer_of_http2_are_taken(site: Site) -> None:
    words = ("--http2", "-o", "/dev/null", "-w", "%{http_code}", "--data-binary", "@-")
    said, _ = curl(*words, url(site), given=body_of("offered"))
    assert said == "202"


def test_otlp_with_an_offer_of_http2_is_never_acknowledged_and_lost(site: Site) -> None:
    request = ExportLogsServiceRequest()
    resource = request.resource_logs.add()
    resource.resource.attributes.add(key="service.name").value.string_value = "offered-otlp"
    resource.scope_logs.add().log_records.add(time_unix_nano=time.time_ns(), severity_number=9)
    before = site.metric("helios_otlp_accepted_total")
    kind = ("-H", "Content-Type: application/x-protobuf")
    words = ("--http2", *kind, "-o", "/dev/null", "-w", "%{http_code}", "--data-binary", "@-")
    said, _ = curl(*words, f"http://{site.otlp}/v1/logs", given=request.SerializeToString())
    assert (said, site.metric("helios_otlp_accepted_total") - before) in [("200", 1), ("503", 0)]


def test_a_body_is_never_read_as_a_request(site: Site) -> None:
    """What a proxy takes for the body of one request must not be another one here."""
    host, port = site.http["collector"].split(":")
    body = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    head = f"POST {EVENTS} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n".encode()
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body))
        time.sleep(0.3)
        connection.sendall(body)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        with suppress(ConnectionError):
            while got := connection.recv(65_536):
                answer += got
    assert answer.count(b"HTTP/1.1 200 OK") == 0, answer


def test_requests_in_one_piece_are_answered_in_their_order(site: Site) -> None:
    """Pipelining, as HTTP/1.1 has it: the next request is sent before the answer to this one."""
    host, port = site.http["collector"].split(":")
    posted = body_of("pipelined")
    post = f"POST {EVENTS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: ".encode()
    one = post + b"%d\r\n\r\n%s" % (len(posted), posted)
    asked = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    wrong = post + b"1\r\n\r\n{"
    last = b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(one + asked + wrong + one * 50 + last)
        answer = b""
        while got := connection.recv(65_536):
            answer += got
    statuses = re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)
    assert statuses == [b"202", b"200", b"400", *[b"202"] * 50, b"404"]
    until(lambda: site.events_of("pipelined") == 51)


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [1, 8], ids=["alone", "pipelined"])
def test_wrk_that_posts_has_no_error_and_all_that_it_counts_is_stored(site: Site, tmp_path: Path, at_once: int) -> None:
    service = f"wrk-{at_once}"
    script = tmp_path / "post.lua"
    script.write_text(
        "wrk.method = 'POST'\n"
        f"wrk.body = '{body_of(service).decode().strip()}'\n"
        "init = function() one = wrk.format() many = string.rep(one, " + str(at_once) + ") end\n"
        "request = function() return many end\n"
        "done = function(summary)\n"
        "  local e = summary.errors\n"
        "  local lost = e.connect + e.read + e.write + e.timeout\n"
        "  io.write('SUMMARY ', summary.requests, ' ', lost, ' ', e.status, '\\n')\n"
        "end\n"
    )
    before = site.metric("helios_events_accepted_total")
    said = run(program("wrk"), "-t", "1", "-c", "32", "-d", "3s", "--timeout", "10s", "-s", script, url(site)).decode()
    found = re.search(r"SUMMARY (\d+) (\d+) (\d+)", said)
    assert found is not None, said
    requests, faults, refused = map(int, found.groups())
    assert requests > 100, said
    assert (faults, refused) == (0, 0), said

    def accepted() -> float:
        return site.metric("helios_events_accepted_total") - before

    # What was under way when wrk ended is taken a little later, and wrk did not count it.
    until(lambda: site.events_of(service) == accepted(), 60, lambda: (site.events_of(service), accepted()))
    assert requests <= accepted() <= requests + 32 * at_once * 2
