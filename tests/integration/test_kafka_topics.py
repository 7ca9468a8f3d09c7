"""`helios topics` on a real Kafka: what it makes, what it puts right, and what it never touches."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from tests.engines.kafka.broker import free_port
from tests.integration.kafka_support import admin_of, opened, prefixed, record

from helios_core.bus.base import Topic
from helios_core.bus.kafka import topics
from helios_core.bus.kafka.settings import KafkaSettings

pytestmark = pytest.mark.engines
NAMES = {"windows", "events", "metrics", "anomaly-alerts", "incidents", "dead-letter"}
WITHOUT_AIOKAFKA = "import sys; sys.modules['aiokafka'] = None; from helios_core.main import main; main()"
COMMAND = "from helios_core.main import main; main()"
DAY_MS = 86_400_000


def helios(*words: str | Path, command: str = COMMAND, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HELIOS_", "KAFKA_"))}
    return subprocess.run(
        [sys.executable, "-c", command, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=clean | environment,
    )


def one_sentence(ran: subprocess.CompletedProcess[str]) -> str:
    """What a command says that cannot do it."""
    assert ran.returncode == 1, ran
    assert ran.stdout == ""
    assert len(ran.stderr.strip().splitlines()) == 1, ran.stderr
    assert ran.stderr.startswith("helios: ")
    return ran.stderr


@pytest.fixture
def settings(kafka: str) -> KafkaSettings:
    return prefixed(kafka)


@pytest.fixture
def config(tmp_path: Path, settings: KafkaSettings) -> Path:
    path = tmp_path / "up.yaml"
    path.write_text(f"kafka: {{bootstrap: '{settings.bootstrap}', prefix: '{settings.prefix}'}}\n")
    return path


async def brokers_of(settings: KafkaSettings) -> int:
    async with admin_of(settings) as admin:
        return len((await admin.describe_cluster())["brokers"])


async def names_of(settings: KafkaSettings) -> set[str]:
    """Those with its prefix."""
    async with admin_of(settings) as admin:
        return {name for name in await admin.list_topics() if name.startswith(settings.prefix)}


async def config_of(settings: KafkaSettings, topic: str) -> dict[str, str]:
    async with admin_of(settings) as admin:
        (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, settings.prefix + topic)])
    return {entry[0]: entry[1] for entry in answer.resources[0][4]}


async def change(settings: KafkaSettings, topic: str, **changed: str) -> None:
    """Somebody else sets a topic's settings, and these alone."""
    async with admin_of(settings) as admin:
        configs = {name.replace("_", "."): value for name, value in changed.items()}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, settings.prefix + topic, configs=configs)])
    for _ in range(200):  # the broker hears of it a little later
        if configs.items() <= (await config_of(settings, topic)).items():
            break
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("topic", [Topic.EVENTS, Topic.ANOMALY_ALERTS])
async def test_topics_that_a_detector_reads_side_by_side_have_as_many_partitions(
    settings: KafkaSettings, topic: Topic
) -> None:
    async with admin_of(settings) as admin:
        await admin.create_topics([NewTopic(settings.prefix + topic.value, 3, 1)])
    await topics.apply(settings)
    found = {state.name.removeprefix(settings.prefix): state.faults for state in await topics.check(settings)}
    assert [name for name, faults in found.items() if any("two detectors" in fault for fault in faults)] == [
        topic.value
    ]


async def test_apply_makes_all_and_a_second_time_nothing(settings: KafkaSettings) -> None:
    made = await topics.apply(settings)
    assert {state.name for state in made} == {settings.prefix + name for name in NAMES} == await names_of(settings)
    assert all(state.made and state.partitions == 10 and not state.changed and not state.faults for state in made)
    copies = min(3, await brokers_of(settings))
    for name in NAMES:
        found = await config_of(settings, name)
        assert found["min.insync.replicas"] == str(min(2, copies))
        assert found["cleanup.policy"] == "delete"
        assert found["retention.ms"] == str(7 * DAY_MS)
        assert found["unclean.leader.election.enable"] == "false"
        assert found["message.timestamp.type"] == "LogAppendTime"
        assert int(found["max.message.bytes"]) >= 1024 * 1024
    assert {state.replication for state in made} == {copies}
    warned = [" ".join(state.warnings) for state in made]
    assert all(("one copy" in text) == (copies == 1) for text in warned)
    again = await topics.apply(settings)
    assert not any(state.made or state.changed or state.faults for state in again)
    assert again == await topics.check(settings)


async def test_numbers_that_are_asked_for(settings: KafkaSettings) -> None:
    made = await topics.apply(settings, topics.Plan(partitions=3, replication=1, retention_days=2))
    assert {(state.partitions, state.replication) for state in made} == {(3, 1)}
    assert (await config_of(settings, "events"))["retention.ms"] == str(2 * DAY_MS)
    assert not any(state.faults for state in await topics.check(settings, topics.Plan(3, 1, 2)))


async def test_a_changed_setting_is_put_right_and_what_others_set_stays(settings: KafkaSettings) -> None:
    await topics.apply(settings, topics.Plan(partitions=2))
    before = await config_of(settings, "windows")
    await change(settings, "windows", cleanup_policy="compact", segment_ms="123456789", retention_bytes="77777777")
    checked = {state.name: state for state in await topics.check(settings)}
    faults = " ".join(checked[settings.prefix + "windows"].faults)
    assert "cleanup.policy is compact, not delete" in faults
    assert "message.timestamp.type" in faults  # the call of that somebody has taken it away
    assert "segment" not in faults
    assert not any(state.faults for name, state in checked.items() if not name.endswith("windows"))
    assert (await config_of(settings, "windows"))["cleanup.policy"] == "compact"  # a check changes nothing
    applied = {state.name: state for state in await topics.apply(settings)}
    assert "cleanup.policy" in applied[settings.prefix + "windows"].changed
    assert not any(state.changed for name, state in applied.items() if not name.endswith("windows"))
    assert not any(state.faults or state.made for state in applied.values())
    assert await config_of(settings, "windows") == {
        **before, "segment.ms": "123456789", "retention.bytes": "77777777",
    }  # fmt: skip
    assert not any(state.changed for state in await topics.apply(settings))


async def test_another_number_of_partitions_is_a_fault_and_never_changed(settings: KafkaSettings) -> None:
    await topics.apply(settings, topics.Plan(partitions=2))
    for call in (topics.apply, topics.check):
        for partitions in (1, 3):
            states = await call(settings, topics.Plan(partitions=partitions))
            assert all(f"2 partitions, not {partitions}" in " ".join(state.faults) for state in states)
            assert {state.partitions for state in states} == {2}
        assert not any(state.faults for state in await call(settings, topics.Plan()))


async def test_what_is_missing_is_named_and_only_that_is_made(settings: KafkaSettings) -> None:
    assert all("helios topics apply" in state.faults[0] for state in await topics.check(settings))
    assert await names_of(settings) == set()
    await topics.apply(settings, topics.Plan(partitions=2))
    async with opened(settings) as bus:
        await bus.publish([record("k", "v", Topic.EVENTS)])
    async with admin_of(settings) as admin:
        await admin.delete_topics([settings.prefix + "incidents"])
    for _ in range(200):
        if settings.prefix + "incidents" not in await names_of(settings):
            break
        await asyncio.sleep(0.05)
    missing = [state.name for state in await topics.check(settings) if state.faults]
    assert missing == [settings.prefix + "incidents"]
    assert settings.prefix + "incidents" not in await names_of(settings)
    applied = await topics.apply(settings, topics.Plan(partitions=2))
    assert [state.name for state in applied if state.made] == missing
    reader = AIOKafkaConsumer(
        settings.prefix + "events", bootstrap_servers=settings.bootstrap, auto_offset_reset="earliest"
    )
    await reader.start()
    assert (await reader.getone()).value == b"v"
    await reader.stop()


async def test_two_who_apply_at_once(settings: KafkaSettings) -> None:
    plan = topics.Plan(partitions=1)
    states = [
        state for both in await asyncio.gather(*(topics.apply(settings, plan) for _ in range(3))) for state in both
    ]
    assert not any(state.faults for state in states)
    assert sorted(state.name for state in states if state.made) == sorted(await names_of(settings))


async def test_prefixes_do_not_meet(kafka: str) -> None:
    one, other = prefixed(kafka), prefixed(kafka)
    await topics.apply(one, topics.Plan(partitions=1))
    assert all(state.faults for state in await topics.check(other))
    assert await names_of(other) == set()


# The commands


def test_the_commands(kafka: str, config: Path, settings: KafkaSettings) -> None:
    missing = helios("topics", "check", "--config", config)
    assert missing.returncode == 1
    assert missing.stdout.count("✗") == 6
    assert "helios topics apply" in missing.stdout
    made = helios("topics", "apply", "--config", config, "--partitions", 2, "--json")
    assert made.returncode == 0, made.stderr
    found: list[dict[str, Any]] = json.loads(made.stdout)
    assert {state["name"] for state in found} == {settings.prefix + name for name in NAMES}
    assert all(state["made"] and state["partitions"] == 2 and state["faults"] == [] for state in found)
    checked = helios("topics", "check", "--config", config)
    assert checked.returncode == 0
    assert checked.stdout.count("✓") == 6
    refused = helios("topics", "apply", "--config", config, "--partitions", 5, "--json")
    assert refused.returncode == 1
    assert all("2 partitions, not 5" in state["faults"][0] for state in json.loads(refused.stdout))
    assert helios("topics", "check", "--config", config, "--partitions", 2).returncode == 0
    for words in (("--partitions", 0), ("--replication", 0), ("--retention-days", "x")):
        assert helios("topics", "check", "--config", config, *words).returncode == 2
    # The address alone, by option and by variable: of the prefix of nobody.
    assert helios("topics", "check", "--bootstrap", kafka, "--json").returncode in (0, 1)
    by_variable = helios("topics", "check", "--json", KAFKA_BROKERS=kafka)
    assert {state["name"] for state in json.loads(by_variable.stdout)} == NAMES


def test_a_configuration_beats_the_variable(config: Path, settings: KafkaSettings) -> None:
    ran = helios("topics", "check", "--config", config, "--json", KAFKA_BROKERS="127.0.0.1:1")
    assert {state["name"] for state in json.loads(ran.stdout)} == {settings.prefix + name for name in NAMES}


@pytest.mark.parametrize("verb", ["apply", "check"])
def test_without_a_cluster_it_asks_which(verb: str, tmp_path: Path) -> None:
    assert "--bootstrap host:port, or --config FILE" in one_sentence(helios("topics", verb))
    (tmp_path / "up.yaml").write_text("http: 127.0.0.1:0\n")
    assert "says nothing under kafka:" in one_sentence(helios("topics", verb, "--config", tmp_path / "up.yaml"))
    assert "none.yaml" in one_sentence(helios("topics", verb, "--config", tmp_path / "none.yaml"))
    (tmp_path / "up.yaml").write_text("kafka: {bootstrap: 'a:1', compresion: zstd}\n")
    said = one_sentence(helios("topics", verb, "--config", tmp_path / "up.yaml"))
    assert "did you mean 'compression'?" in said


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "no-such-host.invalid:9092", "127.0.0.1:{port},127.0.0.1:1"])
def test_a_broker_that_is_away_is_one_sentence(address: str) -> None:
    began_s = time.monotonic()
    ran = helios("topics", "check", "--bootstrap", address.format(port=free_port()))
    assert time.monotonic() - began_s < 30
    assert "kafka.bootstrap" in one_sentence(ran)


@pytest.mark.parametrize(
    "address", ["localhost", "localhost:", "localhost:nine", ":9092", ",", "a:1,,b:2", "http://a:9092"]
)
def test_what_is_no_address_is_one_sentence(address: str) -> None:
    assert one_sentence(helios("topics", "check", "--bootstrap", address))


def test_without_the_library_it_says_what_to_install(kafka: str, tmp_path: Path) -> None:
    command = "pip install 'helios-observability[kafka]'"
    said = one_sentence(helios("topics", "apply", "--bootstrap", kafka, command=WITHOUT_AIOKAFKA))
    assert command in said
    (tmp_path / "up.yaml").write_text(
        f"kafka: {{bootstrap: '{kafka}'}}\ndata_dir: '{tmp_path}/data'\nhttp: 127.0.0.1:0\ngrpc: 127.0.0.1:0\n"
    )
    assert command in one_sentence(helios("up", "--config", tmp_path / "up.yaml", command=WITHOUT_AIOKAFKA))
    assert helios("--help", command=WITHOUT_AIOKAFKA).returncode == 0
