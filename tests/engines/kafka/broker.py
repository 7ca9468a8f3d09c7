"""Real Kafka brokers for tests: the published artifacts, in a temporary folder, on loopback."""

from __future__ import annotations

import random
import shutil
import signal
import socket
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Final

POM: Final = Path(__file__).with_name("pom.xml")
JARS: Final = Path(__file__).parents[3] / ".engines" / "kafka"
_UP_WITHIN_S: Final = 60


def missing() -> str:
    """What this machine lacks to run a broker, with what to do; empty when it lacks nothing."""
    if shutil.which("java") is None:
        return "there is no java: install a JRE of 17 or newer"
    if not any(JARS.glob("kafka_*.jar")):
        return "the broker's artifacts are not there: `make engines` brings them"
    return ""


def free_port() -> int:
    """One that the system gives to nobody by itself: it has to be free again when a broker was killed."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Brokers:
    """A cluster of combined brokers and controllers.

    Args:
        folder: holds their logs; it is the caller's to remove.
        nodes: how many there are.
        advertised: the port that clients of a single one are told, when something stands before it.
    """

    def __init__(self, folder: Path, nodes: int = 1, *, advertised: int | None = None) -> None:
        self._folder = folder
        self._ports = [free_port() for _ in range(nodes)]
        self._advertised = advertised
        self._controllers = [free_port() for _ in range(nodes)]
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * nodes
        cluster = "h" + urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]  # one with a dash is an option
        for node in range(nodes):
            self._file(node).write_text(self._properties(node), encoding="utf-8")
            format_log = self._java("kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._file(node)))
            subprocess.run(format_log, check=True, capture_output=True, timeout=_UP_WITHIN_S)

    @property
    def bootstrap(self) -> str:
        return ",".join(f"127.0.0.1:{port}" for port in self._ports)

    @property
    def ports(self) -> list[int]:
        """Where they listen."""
        return list(self._ports)

    def logs(self, node: int = 0) -> Path:
        """Where it keeps what it has."""
        return self._folder / f"node{node}.logs"

    def is_running(self, node: int = 0) -> bool:
        process = self._processes[node]
        return process is not None and process.poll() is None

    def start(self, node: int = 0) -> None:
        """Starts one, and does not wait for it."""
        with (self._folder / f"node{node}.out").open("ab") as out:
            self._processes[node] = subprocess.Popen(
                self._java("kafka.Kafka", str(self._file(node))), stdout=out, stderr=subprocess.STDOUT
            )

    def start_all(self) -> None:
        """Starts all, and waits until each listens."""
        for node in range(len(self._ports)):
            self.start(node)
        for node in range(len(self._ports)):
            self.wait(node)

    def wait(self, node: int = 0) -> None:
        """Until it listens."""
        deadline_s = time.monotonic() + _UP_WITHIN_S
        process = self._processes[node]
        while time.monotonic() < deadline_s:
            if process is not None and process.poll() is not None:
                break
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._ports[node])) == 0:
                    return
            time.sleep(0.05)
        out = (self._folder / f"node{node}.out").read_text(errors="replace")
        raise RuntimeError(f"Kafka does not come up:\n{out[-2_000:]}")

    def kill(self, node: int = 0) -> None:
        """kill -9."""
        self._end(node, signal.SIGKILL)

    def restart(self, node: int = 0) -> None:
        """Starts one that was killed, with what it has on disk, at its address; waits until it listens."""
        self.start(node)
        self.wait(node)

    def freeze(self, node: int = 0) -> None:
        """It accepts connections and answers nothing, until `thaw`."""
        self._signal(node, signal.SIGSTOP)

    def thaw(self, node: int = 0) -> None:
        self._signal(node, signal.SIGCONT)

    def stop(self) -> None:
        """Ends all."""
        for node in range(len(self._ports)):
            self._end(node, signal.SIGKILL)

    def _signal(self, node: int, number: signal.Signals) -> None:
        process = self._processes[node]
        if process is not None:
            process.send_signal(number)  # none to one that has ended by itself

    def _end(self, node: int, number: signal.Signals) -> None:
        process, self._processes[node] = self._processes[node], None
        if process is not None:
            process.send_signal(number)
            process.wait(_UP_WITHIN_S)

    def _file(self, node: int) -> Path:
        return self._folder / f"node{node}.properties"

    @staticmethod
    def _java(*arguments: str) -> list[str]:
        return ["java", "-Xmx512m", "-XX:+UseSerialGC", "-cp", f"{JARS}/*", *arguments]

    def _properties(self, node: int) -> str:
        nodes = len(self._ports)
        voters = ",".join(f"{number + 1}@127.0.0.1:{port}" for number, port in enumerate(self._controllers))
        settings = {
            "process.roles": "broker,controller",
            "node.id": node + 1,
            "controller.quorum.voters": voters,
            "listeners": f"PLAINTEXT://127.0.0.1:{self._ports[node]},CONTROLLER://127.0.0.1:{self._controllers[node]}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self._advertised or self._ports[node]}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "log.dirs": self.logs(node),
            "auto.create.topics.enable": "false",
            "offsets.topic.num.partitions": 4,
            "offsets.topic.replication.factor": min(3, nodes),
            "transaction.state.log.replication.factor": min(3, nodes),
            "transaction.state.log.min.isr": min(2, nodes),
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1_000,
            "log.cleaner.enable": "false",
        }
        return "".join(f"{name}={value}\n" for name, value in settings.items())
