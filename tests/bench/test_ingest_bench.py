"""What a collector takes in: over HTTP and gRPC, onto a real Kafka (acks=all) and onto the embedded log, in one run.

The load, the broker and the collector share the machine. A bare route of the same HTTP server stands beside it.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import grpc.aio
import pytest
import yaml
from pytest_benchmark.fixture import BenchmarkFixture
from tests.engines.kafka.broker import Brokers, free_port, missing

from helios.v1.service_pb2 import ANSWER_ACCEPTED, SendBatchRequest
from helios.v1.service_pb2_grpc import HeliosStub
from helios_core import wire
from helios_core.batches import Batch, BatchId, Slice
from helios_core.bus.kafka import topics
from helios_core.bus.kafka.settings import KafkaSettings
from helios_core.model import Level
from helios_core.sketches.latency import LatencyHistogram
from helios_core.windows import WindowDelta

BIN: Final = Path(sys.executable).parent
SECONDS: Final = 4  # of a round
ROUNDS: Final = 5
WARM_UP: Final = 3
EVENTS: Final = 500  # of a batch over HTTP
WINDOWS: Final = 200  # of a batch over gRPC
STREAMS: Final = 8
UNDER_WAY: Final = 3  # batches of each of them
BATCHES: Final = 8  # that each of them has
# Channels of one process would share a connection, and so one of several workers: agents have one each.
APART: Final = [("grpc.use_local_subchannel_pool", 1)]
PATH: Final = "/api/v1/events"
EVENT: Final = (
    '{"service":"shop-%d","level":"INFO","message":"order 17 was paid",'
    '"metadata":{"latency_ms":12.5,"endpoint":"/pay/1","order":17}}'
)
BARE: Final = """
import asyncio, sys
from helios_core.http import serving
from helios_core.routes import Routes, respond
async def answer(scope, receive, send):
    await receive()
    await respond(send, 202, b"{}")
async def main():
    routes = Routes()
    routes.mount("/", answer)
    async with serving(routes, sys.argv[1]):
        await asyncio.sleep(3600)
asyncio.run(main())
"""


class Serving:
    """A process that is measured, with where it listens."""

    def __init__(self, command: list[Any], http: str, grpc: str = "") -> None:
        self.http, self.grpc = http, grpc
        self.process = subprocess.Popen(command)
        host, _, port = http.partition(":")
        deadline_s = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex((host, int(port))) == 0:
                    break
            assert self.process.poll() is None
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        time.sleep(1)

    def cpu_s(self) -> float:
        """Of it and of what it has started."""
        ticks = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if self.process.pid in (int(stat.parent.name), int(fields[1])):
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def served(command: list[Any], http: str, grpc: str = "") -> Iterator[Serving]:
    serving = Serving(command, http, grpc)
    try:
        yield serving
    finally:
        serving.process.terminate()
        try:
            serving.process.wait(45)
        finally:
            serving.process.kill()


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if missing():
        pytest.skip(missing())
    brokers = Brokers(tmp_path_factory.mktemp("kafka"))
    try:
        brokers.start_all()
        asyncio.run(topics.apply(KafkaSettings(brokers.bootstrap), topics.Plan()))
        yield brokers.bootstrap
    finally:
        brokers.stop()


@pytest.fixture(params=["embedded", "kafka", "kafka, 2 workers"])
def collector(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Serving]:
    """One that only takes in; the embedded log is for one process, which stores, too."""
    http, grpc = (f"127.0.0.1:{free_port()}" for _ in range(2))
    settings: dict[str, Any] = {"http": http, "grpc": grpc, "data_dir": str(tmp_path / "data")}
    if request.param != "embedded":
        settings |= {"kafka": {"bootstrap": request.getfixturevalue("kafka")}, "roles": ["ingest"]}
        settings["workers"] = 2 if "2" in request.param else 1
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings))
    with served([BIN / "helios-collector", "run", "--config", config, "--log-level", "warning"], http, grpc) as made:
        yield made


def loaded(serving: Serving, folder: Path, script: str, connections: int) -> dict[str, Any]:
    """What wrk measures, and what it cost."""
    if shutil.which("wrk") is None:
        pytest.skip("no wrk: apt-get install wrk")
    file = folder / "load.lua"
    file.write_text(script)
    before_s = serving.cpu_s()
    words = ["-t1", f"-c{connections}", f"-d{SECONDS}s", "--latency", "--timeout", "20s", "-s", str(file)]
    done = subprocess.run(["wrk", *words, f"http://{serving.http}{PATH}"], capture_output=True, text=True, check=True)
    count = int(re.findall(r"(\d+) requests in", done.stdout)[0])
    assert "Non-2xx" not in done.stdout, done.stdout
    p99, unit = re.findall(r"99%\s+([\d.]+)(us|ms|s)", done.stdout)[0]
    return {
        "requests_per_second": float(re.findall(r"Requests/sec:\s+([\d.]+)", done.stdout)[0]),
        "p99_ms": round(float(p99) * {"us": 1e-3, "ms": 1, "s": 1_000}[unit], 1),
        "cpu_us": round((serving.cpu_s() - before_s) / count * 1e6, 1),
        "load": round(os.getloadavg()[0], 1),
    }


def single() -> str:
    return (
        "local n = 0\nrequest = function()\n  n = n + 1\n"
        f"  return wrk.format('POST', '{PATH}', nil, '{EVENT.replace('%d', chr(39) + '..(n % 8)..' + chr(39))}')\nend\n"
    )


def batches() -> str:
    body = "[" + ",".join(EVENT % (number % 8) for number in range(EVENTS)) + "]"
    return f"wrk.method = 'POST'\nwrk.body = '{body}'\n"


def noted(benchmark: BenchmarkFixture, measure: Callable[[], dict[str, Any]]) -> None:
    """Rounds whose time says nothing: what they say is beside it, of the best one and of that in the middle.

    Others warm up: a broker that has just begun spends a quarter of both cores on compiling itself.
    """
    found: list[dict[str, Any]] = []
    benchmark.pedantic(lambda: found.append(measure()), rounds=ROUNDS, warmup_rounds=WARM_UP)
    first = next(iter(found[0]))  # of what it counts a second
    best, *_, middle = sorted(found[WARM_UP:], key=itemgetter(first), reverse=True)[: ROUNDS // 2 + 1]
    benchmark.extra_info.update(best, **{f"{name}_median": value for name, value in middle.items()})


def test_bare_route(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    http = f"127.0.0.1:{free_port()}"
    with served([sys.executable, "-c", BARE, http], http) as bare:
        noted(benchmark, lambda: loaded(bare, tmp_path, single(), 256))


def test_http_single_events(benchmark: BenchmarkFixture, collector: Serving, tmp_path: Path) -> None:
    noted(benchmark, lambda: loaded(collector, tmp_path, single(), 256))


def test_http_batches(benchmark: BenchmarkFixture, collector: Serving, tmp_path: Path) -> None:
    def measure() -> dict[str, Any]:
        found = loaded(collector, tmp_path, batches(), 8)
        events = {"events_per_second": round(found.pop("requests_per_second") * EVENTS)}
        return events | {"cpu_us_of_an_event": round(found.pop("cpu_us") / EVENTS, 1)} | found

    noted(benchmark, measure)


def requests(agent: int) -> list[SendBatchRequest]:
    """Batches as an agent sends them; sent again and again, for a collector does not look whether it knows them.

    Each window has latencies of its own, as of an application in ten seconds, or they would compress to nothing: a
    histogram of some 280 bytes.
    """
    rng = random.Random(agent)
    made = []
    for sequence in range(1, BATCHES + 1):
        slices = []
        for service in range(20):
            deltas = []
            for i in range(WINDOWS // 20):
                start_us = 1_772_445_600_000_000 + (sequence * WINDOWS + i) * 10_000_000
                latency = LatencyHistogram.of([round(rng.lognormvariate(10.3, 0.9)) for _ in range(400)])
                delta = WindowDelta(start_us, f"service-{service}", f"host-{agent}", latency=latency)
                delta.levels[Level.INFO] = latency.count
                deltas.append(delta)
            slices.append(Slice(f"service-{service}", 0, deltas=deltas))
        data = wire.batch_to_bytes(Batch(f"host-{agent}", 0, [], slices))
        id_ = wire.id_to_proto(BatchId(bytes([agent]) * 16, 1, sequence))
        made.append(
            SendBatchRequest(id=id_, batch=data, sha256=wire.content_hash(data), contract_version=wire.CONTRACT_VERSION)
        )
    return made


async def streamed(address: str, batches_of: list[list[SendBatchRequest]]) -> tuple[int, list[float]]:
    """Batches acknowledged over all streams within the time, and how long each took, s."""
    took_s: list[float] = []
    until_s = time.monotonic() + SECONDS

    async def stream(known: list[SendBatchRequest]) -> None:
        sent_s: list[float] = []
        room = asyncio.Semaphore(UNDER_WAY)

        async def source() -> AsyncIterator[SendBatchRequest]:
            number = 0
            while time.monotonic() < until_s:
                await room.acquire()
                sent_s.append(time.monotonic())
                yield known[number % len(known)]
                number += 1

        async with grpc.aio.insecure_channel(address, APART) as channel:
            number = 0
            async for answer in HeliosStub(channel).Stream(source()):
                assert answer.answer == ANSWER_ACCEPTED
                took_s.append(time.monotonic() - sent_s[number])
                number += 1
                room.release()

    await asyncio.gather(*map(stream, batches_of))
    return len(took_s), sorted(took_s)


def test_grpc_batches(benchmark: BenchmarkFixture, collector: Serving) -> None:
    batches_of = [requests(agent) for agent in range(STREAMS)]

    def measure() -> dict[str, Any]:
        before_s = collector.cpu_s()
        count, took_s = asyncio.run(streamed(collector.grpc, batches_of))
        return {
            "windows_per_second": round(count * WINDOWS / SECONDS),
            "p99_ms": round(took_s[int(0.99 * count)] * 1_000, 1),
            "cpu_us_of_a_window": round((collector.cpu_s() - before_s) / count / WINDOWS * 1e6, 2),
            "load": round(os.getloadavg()[0], 1),
        }

    noted(benchmark, measure)
