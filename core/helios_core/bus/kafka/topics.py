"""The topics of Helios on a cluster: made as they must be, and checked to be so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, for_code

from helios_core.bus.base import MAX_RECORD_BYTES, Topic
from helios_core.bus.kafka.errors import translated
from helios_core.bus.kafka.settings import KafkaSettings
from helios_core.errors import BusError

PARTITIONS: Final = 10
REPLICATION: Final = 3
RETENTION_DAYS: Final = 7
_DAY_MS: Final = 86_400_000
_UNKNOWN_TOPIC: Final = 3
_ALREADY_THERE: Final = 36
_SHOWN_S: Final = 10.0
_APPLY: Final = "`helios topics apply`"
_OVERHEAD_BYTES: Final = 64 * 1024  # key, headers and the frame of a batch of one record


@dataclass(frozen=True, slots=True)
class Plan:
    """How the topics shall be.

    Attributes:
        partitions: of a topic that is made, PARTITIONS when None. That of a topic which is there never
            changes, since it decides which partition, and which ledger of what was applied, a service
            belongs to: another number than the one asked for is a fault.
        replication: copies of each record; fewer where the cluster has fewer brokers.
    """

    partitions: int | None = None
    replication: int = REPLICATION
    retention_days: int = RETENTION_DAYS

    def copies(self, brokers: int) -> int:
        return min(self.replication, brokers)

    def settings(self, brokers: int) -> dict[str, str]:
        """The settings of each topic, by the names of Kafka."""
        return {
            "cleanup.policy": "delete",
            "retention.ms": str(self.retention_days * _DAY_MS),
            # A record is acknowledged when two have it, so that the loss of one loses nothing.
            "min.insync.replicas": str(min(2, self.copies(brokers))),
            "unclean.leader.election.enable": "false",
            "max.message.bytes": str(MAX_RECORD_BYTES + _OVERHEAD_BYTES),
            # The cluster's clock, so that the order of time is the order of each partition.
            "message.timestamp.type": "LogAppendTime",
        }


@dataclass(frozen=True, slots=True)
class TopicState:
    """One topic, as it is.

    Attributes:
        made: it was made just now.
        changed: settings that were put right just now.
        faults: what is not as it must be, with what to do.
        warnings: what is as it can be, and not safe.
    """

    name: str
    partitions: int
    replication: int
    made: bool = False
    changed: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


async def check(settings: KafkaSettings, plan: Plan | None = None) -> list[TopicState]:
    """How the topics are; nothing is changed. BusUnavailable when the cluster cannot be asked."""
    async with _admin(settings) as admin:
        return await _states(admin, settings, plan or Plan())


async def apply(settings: KafkaSettings, plan: Plan | None = None) -> list[TopicState]:
    """Makes the topics that are not there, and puts the settings of the others right.

    Raises:
        BusUnavailable: the cluster cannot be asked.
        BusError: it refuses.
    """
    plan = plan or Plan()
    async with _admin(settings) as admin:
        brokers = len((await admin.describe_cluster())["brokers"])
        before = {state.name: state for state in await _states(admin, settings, plan)}
        wanted = plan.settings(brokers)
        missing = [name for name, state in before.items() if not state.partitions]
        answer = await admin.create_topics(
            [
                NewTopic(name, plan.partitions or PARTITIONS, plan.copies(brokers), topic_configs=wanted)
                for name in missing
            ]
        )
        for name, code, message in answer.topic_errors:
            if code == _ALREADY_THERE:  # somebody else has made it just now
                missing.remove(name)
            elif code:
                raise BusError(f"the topic {name} cannot be made: {message or for_code(code).__name__}")
        changed: dict[str, tuple[str, ...]] = {}
        for name in before.keys() - set(missing):
            found = await _settings_of(admin, name)
            differing = tuple(sorted(key for key, value in wanted.items() if found.get(key, ("", 0))[0] != value))
            if differing:
                # The call replaces all that was set: what others have set stays.
                own = {key: value for key, (value, is_own) in found.items() if is_own} | wanted
                await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, configs=own)])
                changed[name] = differing
        after = await _shown(admin, settings, plan)
    return [
        TopicState(
            state.name,
            state.partitions,
            state.replication,
            state.name in missing,
            changed.get(state.name, ()),
            state.faults,
            state.warnings,
        )
        for state in after
    ]


@asynccontextmanager
async def _admin(settings: KafkaSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(**settings.connection())
    try:
        await admin.start()
        yield admin
    except KafkaError as error:
        raise translated(error, "the topics cannot be looked at") from error
    finally:
        await admin.close()


async def _shown(admin: AIOKafkaAdminClient, settings: KafkaSettings, plan: Plan) -> list[TopicState]:
    """All of them, once nothing is left to apply: a broker hears a little later of what was made or set."""
    deadline_s = time.monotonic() + _SHOWN_S
    while True:
        states = await _states(admin, settings, plan)
        is_left = any(_APPLY in fault for state in states for fault in state.faults)
        if not is_left or time.monotonic() > deadline_s:
            return states
        await asyncio.sleep(0.1)


async def _states(admin: AIOKafkaAdminClient, settings: KafkaSettings, plan: Plan) -> list[TopicState]:
    names = [settings.prefix + topic.value for topic in Topic]
    brokers = len((await admin.describe_cluster())["brokers"])
    described = {topic["topic"]: topic for topic in await admin.describe_topics(names)}
    states = []
    followed = [settings.prefix + topic.value for topic in (Topic.EVENTS, Topic.ANOMALY_ALERTS)]
    counts = {name: len(topic["partitions"]) for name, topic in described.items() if not topic["error_code"]}
    for name in names:
        found = described[name]
        if found["error_code"] == _UNKNOWN_TOPIC:
            states.append(TopicState(name, 0, 0, faults=(f"it is not there: {_APPLY} makes it",)))
            continue
        partitions = found["partitions"]
        copies = min((len(partition["replicas"]) for partition in partitions), default=0)
        own = {key: value for key, (value, _) in (await _settings_of(admin, name)).items()}
        faults = [
            f"{key} is {own.get(key)}, not {value}: {_APPLY} sets it"
            for key, value in plan.settings(brokers).items()
            if own.get(key) != value
        ]
        if len(partitions) != (plan.partitions or len(partitions)):
            faults.append(
                f"it has {len(partitions)} partitions, not {plan.partitions}: the number of a topic in use never "
                "changes; make topics of another prefix"
            )
        other = settings.prefix + Topic.WINDOWS.value
        if name in followed and counts.get(other, len(partitions)) != len(partitions):
            faults.append(
                f"it has {len(partitions)} partitions, and {other} has {counts[other]}: the records of a service would "
                "go to two detectors; make topics of another prefix"
            )
        if copies < plan.copies(brokers):
            faults.append(
                f"it has {copies} copies of each record, not {plan.copies(brokers)}: "
                "kafka-reassign-partitions adds them"
            )
        warnings = ["one copy of each record: the loss of a broker loses them"] if copies == 1 else []
        lagging = [p["partition"] for p in partitions if len(p["isr"]) < len(p["replicas"])]
        if lagging:
            warnings.append(f"partitions {', '.join(map(str, sorted(lagging)))} have copies that are behind")
        states.append(TopicState(name, len(partitions), copies, faults=tuple(faults), warnings=tuple(warnings)))
    return states


async def _settings_of(admin: AIOKafkaAdminClient, name: str) -> dict[str, tuple[str, bool]]:
    """(value, whether it was set for this topic) of each setting."""
    found: dict[str, tuple[str, bool]] = {}
    for answer in await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)]):
        for code, message, _, _, entries in answer.resources:
            if code:
                raise BusError(f"the settings of {name} cannot be read: {message or for_code(code).__name__}")
            for key, value, _, source, *_ in entries:
                found[key] = (value, source == _OF_THE_TOPIC)
    return found


_OF_THE_TOPIC: Final = 1  # DescribeConfigs' config_source
