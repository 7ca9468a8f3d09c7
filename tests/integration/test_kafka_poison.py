"""Records on the topics that nobody should have published: kept with their reason, and the good beside them go on."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import pytest
from aiokafka import AIOKafkaConsumer
from tests.e2e.conftest import stored
from tests.e2e.test_up import Up, until
from tests.engines.kafka.broker import Brokers, free_port
from tests.integration.bad_input_support import configured, posting
from tests.integration.kafka_support import eventually, prefixed, raw_producer

from helios.v1 import events_pb2
from helios_core import wire
from helios_core.alerts import Alert, AlertState, Contribution, Family, Finding, Severity
from helios_core.batches import BatchId, Slice
from helios_core.bus.base import Topic
from helios_core.bus.kafka import topics
from helios_core.bus.kafka.settings import KafkaSettings
from helios_core.clock import SystemClock
from helios_core.model import Event, EventRecord, Level, MetricRecord, MetricSample
from helios_core.records import slice_record
from helios_core.windows import WindowDelta

pytestmark = [pytest.mark.engines, pytest.mark.slow]

NOW_US: Final = SystemClock().now_us() // 10_000_000 * 10_000_000
FAR_US: Final = 4_000_000_000_000_000_000  # beyond the year 9999, within 64 bits


@dataclass(frozen=True)
class Poison:
    """A record, and what its reason in the dead letter says; empty when it is none for a store."""

    topic: Topic
    value: bytes | None
    reason: str
    headers: tuple[tuple[str, bytes], ...] = ()


def a_slice(service: str = "poison", watermark_us: int = NOW_US, start_us: int = NOW_US) -> Slice:
    delta = WindowDelta(start_us, service, "host-1")
    delta.levels[Level.INFO] = 3
    return Slice(service, watermark_us, deltas=[delta])


def in_bytes(part: Slice) -> bytes:
    return wire.slice_to_proto(part).SerializeToString()


def slice_headers(number: int = 1, **other: str) -> tuple[tuple[str, bytes], ...]:
    made = dict(slice_record(BatchId(b"p" * 16, 7, number), "poison", b"", "host-1").headers) | other
    return tuple((name, text.encode()) for name, text in made.items())


def of_tomorrow() -> bytes:
    """A slice with a level that nobody knows yet."""
    message = wire.slice_to_proto(a_slice())
    message.samples.add(time_us=NOW_US, service="poison", level=99, signal=1, message="x")
    return message.SerializeToString()


def events(received_us: int = NOW_US, **changed: Any) -> bytes:
    event = replace(Event(NOW_US, "poison", Level.INFO, "hello"), **changed)
    return wire.record_to_bytes(EventRecord("poison", received_us, [event]))


def events_of_tomorrow() -> bytes:
    message = events_pb2.EventRecord.FromString(events())
    message.events[0].signal = 99  # type: ignore[assignment]
    return message.SerializeToString()


def metrics(value: float = 1.0, name: str = "m", time_us: int = NOW_US) -> bytes:
    sample = MetricSample(name, value, {}, time_us, "poison", "h")
    return wire.metric_record_to_bytes(MetricRecord("poison", NOW_US, [sample]))


def alert(service: str = "poison", **changed: Any) -> bytes:
    actual = Contribution(feature="error_rate", unit="share", actual=0.6, typical=0.01, limit=0.1)
    finding = Finding(
        detector="rules", family=Family.ERRORS, severity=Severity.HIGH, minutes=1.0, contributions=(actual,)
    )
    made = Alert(
        id=changed.pop("id", f"id-{service}"),
        episode=changed.pop("episode", f"id-{service}"),
        service=service,
        family=Family.ERRORS,
        state=AlertState.FIRED,
        severity=Severity.HIGH,
        decided_us=NOW_US,
        onset_us=NOW_US,
        seen_us=NOW_US,
        horizon_us=300_000_000,
        detectors=("rules",),
        findings=(finding,),
        features={"events": 0.0},
    )
    return msgspec.json.encode(msgspec.to_builtins(made) | changed)


BAD: Final = {
    "windows-tombstone": Poison(Topic.WINDOWS, None, "without a slice's identity"),
    "windows-empty": Poison(Topic.WINDOWS, b"", "a service name of 0 bytes", slice_headers(2)),
    "windows-garbage": Poison(Topic.WINDOWS, b"\xff\xfe garbage", "are not a slice", slice_headers(3)),
    "windows-no-headers": Poison(Topic.WINDOWS, in_bytes(a_slice()), "without a slice's identity"),
    "windows-agent": Poison(
        Topic.WINDOWS,
        in_bytes(a_slice()),
        "without a slice's identity",
        slice_headers(4, agent="nobody"),
    ),
    "windows-sequence": Poison(
        Topic.WINDOWS,
        in_bytes(a_slice()),
        "without a slice's identity",
        slice_headers(5, sequence="first"),
    ),
    "windows-incarnation": Poison(Topic.WINDOWS, in_bytes(a_slice()), "", slice_headers(6, incarnation="f" * 40)),
    "windows-tomorrow": Poison(Topic.WINDOWS, of_tomorrow(), "level 99", slice_headers(7)),
    "events-tombstone": Poison(Topic.EVENTS, None, "a service name of 0 bytes"),
    "events-garbage": Poison(Topic.EVENTS, b"\xff\xfe garbage", "are not a record of events"),
    "events-tomorrow": Poison(Topic.EVENTS, events_of_tomorrow(), "signal 99"),
    "events-time": Poison(Topic.EVENTS, events(time_us=FAR_US), "outside the years 1970 to 9999"),
    "metrics-tombstone": Poison(Topic.METRICS, None, "a service name of 0 bytes"),
    "metrics-garbage": Poison(Topic.METRICS, b"\xff\xfe garbage", "are not a record of metrics"),
    "metrics-nan": Poison(Topic.METRICS, metrics(float("nan")), "a name and a finite number"),
    "metrics-no-name": Poison(Topic.METRICS, metrics(name=""), "a name and a finite number"),
    "alerts-tombstone": Poison(Topic.ANOMALY_ALERTS, None, "0 bytes are not an alert"),
    "alerts-garbage": Poison(Topic.ANOMALY_ALERTS, b"\xff\xfe garbage", "are not an alert"),
    "alerts-deep": Poison(Topic.ANOMALY_ALERTS, b"[" * 100_000, "are not an alert"),
    "alerts-tomorrow": Poison(Topic.ANOMALY_ALERTS, alert(family="cosmic"), "are not an alert"),
}
# What every check lets through, and nobody should say.
ODD: Final = {
    "windows-watermark": Poison(Topic.WINDOWS, in_bytes(a_slice(watermark_us=FAR_US)), "", slice_headers(8)),
    "windows-9999": Poison(
        Topic.WINDOWS,
        in_bytes(a_slice(start_us=253_402_300_790_000_000)),
        "",
        slice_headers(9),
    ),
    "windows-sequence": Poison(Topic.WINDOWS, in_bytes(a_slice()), "", slice_headers(10, sequence=str(10**30))),
    "events-received": Poison(Topic.EVENTS, events(received_us=FAR_US), ""),
    "events-9999": Poison(Topic.EVENTS, events(time_us=253_402_300_790_000_000), ""),
    "alerts-time": Poison(Topic.ANOMALY_ALERTS, alert(decided_us=FAR_US), ""),
    "alerts-huge": Poison(Topic.ANOMALY_ALERTS, alert(id="huge", episode="huge", decided_us=10**30), ""),
    "alerts-past": Poison(Topic.ANOMALY_ALERTS, alert(id="past", episode="past", onset_us=-(10**18)), ""),
    "alerts-nothing": Poison(Topic.ANOMALY_ALERTS, alert(id="no", episode="no", findings=[], features={}), ""),
    "alerts-feature": Poison(Topic.ANOMALY_ALERTS, alert(id="f", episode="f", features={"of_tomorrow": 1.0}), ""),
    "alerts-service": Poison(Topic.ANOMALY_ALERTS, alert(service="", id="s", episode="s"), ""),
}


@pytest.fixture
def kafka_settings(broker: Brokers) -> KafkaSettings:
    made = prefixed(broker.bootstrap)
    asyncio.run(eventually(lambda: topics.apply(made, topics.Plan(partitions=1))))
    return made


@pytest.fixture
def running(kafka_settings: KafkaSettings, tmp_path: Path) -> Iterator[Up]:
    configured(tmp_path / "up.yaml", kafka={"bootstrap": kafka_settings.bootstrap, "prefix": kafka_settings.prefix})
    made = Up(tmp_path, "--config", "up.yaml", http=f"127.0.0.1:{free_port()}", grpc=f"127.0.0.1:{free_port()}")
    try:
        yield made.start()
    finally:
        made.close()


def publish(kafka_settings: KafkaSettings, *poisons: Poison) -> None:
    async def send() -> None:
        async with raw_producer(kafka_settings) as producer:
            for one in poisons:
                await producer.send_and_wait(
                    kafka_settings.prefix + one.topic.value, one.value, key=b"poison", headers=list(one.headers)
                )

    asyncio.run(send())


def dead_letters(kafka_settings: KafkaSettings) -> list[tuple[dict[str, str], bytes]]:
    """(headers, value) of all that are there."""

    async def read() -> list[tuple[dict[str, str], bytes]]:
        topic = kafka_settings.prefix + Topic.DEAD_LETTER.value
        consumer = AIOKafkaConsumer(topic, bootstrap_servers=kafka_settings.bootstrap, auto_offset_reset="earliest")
        await consumer.start()
        try:
            found: list[tuple[dict[str, str], bytes]] = []
            while got := await consumer.getmany(timeout_ms=1_000):
                for records in got.values():
                    found += [({n: v.decode() for n, v in one.headers}, one.value or b"") for one in records]
            return found
        finally:
            await consumer.stop()

    return asyncio.run(read())


def is_reported(running: Up, kafka_settings: KafkaSettings, name: str) -> bool:
    """Whether an alert that is sound becomes an incident."""
    publish(kafka_settings, Poison(Topic.ANOMALY_ALERTS, alert(service=name), ""))

    def has_incident() -> bool:
        incidents = httpx.get(f"http://{running.http}/api/v1/incidents", timeout=10).json()["incidents"]
        return any(name in str(incident) for incident in incidents)

    until(has_incident, 20, lambda: running.complained[-3_000:])
    return True


def seen(running: Up) -> float:
    """Events that the detector of this process has taken."""
    (line,) = re.findall(r"^helios_detection_events_processed_total (\S+)$", running.get("/metrics").text, re.MULTILINE)
    return float(line)


def test_what_no_part_can_read_is_kept_and_the_good_beside_it_go_on(kafka_settings: KafkaSettings, running: Up) -> None:
    with posting(running, every_s=0.02) as sender:
        until(lambda: len(sender.accepted) > 20, 20)
        publish(kafka_settings, *BAD.values())
        before = len(sender.accepted)
        until(lambda: len(sender.accepted) > before + 20, 20)
        sender.end()
    assert sender.statuses == {202}
    of_web = "SELECT count(*) FROM events WHERE service = 'web'"
    until(lambda: stored(running.data, of_web) >= len(sender.accepted), 30, lambda: running.complained)
    assert stored(running.data, of_web) == len(sender.accepted)
    assert is_reported(running, kafka_settings, "checkout")
    letters = dead_letters(kafka_settings)
    assert len(letters) == len(BAD)
    for name, one in BAD.items():
        found = [
            h for h, value in letters if value == (one.value or b"") and h["kind"] == f"record of {one.topic.value}"
        ]
        assert any(one.reason in headers["reason"] for headers in found), (name, found)
    until(lambda: seen(running) >= len(sender.accepted), 20, lambda: running.part("detector"))
    assert running.end(signal.SIGTERM) == 0, running.complained
    assert "Traceback" not in running.complained, running.complained


@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_and_can_be_read_stops_nobody(kafka_settings: KafkaSettings, running: Up, name: str) -> None:
    """Neither the writer, the detector nor the reporter; also after a restart, which reads it again."""
    publish(kafka_settings, ODD[name])
    for turn in range(2):
        with posting(running, f"turn{turn}-") as sender:
            until(lambda: len(sender.accepted) > 20, 20)
            sender.end()
        query = f"SELECT count(*) FROM events WHERE message LIKE 'turn{turn}-%'"
        expected = len(sender.accepted)
        until(lambda: stored(running.data, query) >= expected, 20, lambda: running.complained)  # noqa: B023
        assert is_reported(running, kafka_settings, f"checkout-{turn}")
        until(lambda: seen(running) >= expected, 20, lambda: running.part("detector"))  # noqa: B023
        assert "Traceback" not in running.complained, running.complained
        assert running.process is not None
        assert running.process.poll() is None
        assert running.end(signal.SIGTERM) == 0, running.complained
        if not turn:
            running.start()
