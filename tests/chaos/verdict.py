"""What was sent held against what is stored, and what the detectors said against itself."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from typing import Any, Final

import asyncpg

from helios_core import wire
from helios_core.alerts import Alert, AlertState
from helios_core.bus.base import Received, Topic
from helios_core.bus.kafka.bus import KafkaBus
from helios_core.bus.kafka.settings import KafkaSettings
from tests.chaos.load import Sent

_SETTLED_S: Final = 240
_ROLLED_S: Final = 150
_QUIET_S: Final = 6  # in which what would come twice has come
_SHOWN: Final = 5


async def settled(dsn: str, sent: Sent) -> float:
    """Waits until as much is stored as was sent, or it is hopeless; how long that took."""
    began_s = time.monotonic()
    expected = sum(sent.events.values())
    while time.monotonic() - began_s < _SETTLED_S:
        try:
            store = await asyncpg.connect(dsn, timeout=5)
        except (OSError, TimeoutError, asyncpg.PostgresError):
            await asyncio.sleep(1)
            continue
        stored = await store.fetchval("SELECT coalesce(sum(events), 0)::bigint FROM windows")
        await store.close()
        if stored >= expected:
            break
        await asyncio.sleep(1)
    took_s = time.monotonic() - began_s
    await asyncio.sleep(_QUIET_S)
    return took_s


async def of_store(dsn: str, bootstrap: str, sent: Sent) -> list[str]:
    """What is missing, there twice, or wrong; nothing when all is well."""
    store = await asyncpg.connect(dsn)
    try:
        rows = await store.fetch(
            "SELECT attributes->>'n' AS n, count(*) AS times FROM events WHERE attributes ? 'n' GROUP BY 1"
        )
        stored = {row["n"]: row["times"] for row in rows}
        missing = sent.ids - stored.keys()
        faults = [
            *_some("ids sent and not stored", missing),
            *(await _whereabouts(bootstrap, missing) if missing else []),
            *_some("ids stored and never sent", stored.keys() - sent.ids),
            *_some("ids stored more than once", (n for n, times in stored.items() if times > 1)),
        ]
        rows = await store.fetch(
            "SELECT service, (extract(epoch FROM start_time) * 1000000)::bigint AS start_us,"
            " sum(events)::bigint AS events, sum(errors)::bigint AS errors"
            " FROM windows GROUP BY 1, 2 HAVING sum(events) > 0"
        )
        for name, counts in (("events", sent.events), ("errors", sent.errors)):
            windows = {(row["service"], row["start_us"]): row[name] for row in rows if row[name]}
            wrong = windows.items() ^ {key: count for key, count in counts.items() if count}.items()
            faults += _some(f"windows with another number of {name}", {key for key, _ in wrong})
        return faults
    finally:
        await store.close()


async def of_rollups(dsn: str, sent: Sent) -> list[str]:
    """What rollups of each step say, as soon as no minute is left to be added up."""
    store = await asyncpg.connect(dsn)
    try:
        deadline_s = time.monotonic() + _ROLLED_S
        while await store.fetchval("SELECT count(*) FROM rollup_pending"):
            if time.monotonic() > deadline_s:
                return ["minutes are left that were not added up"]
            await asyncio.sleep(1)
        rows = await store.fetch(
            "SELECT step_s, sum(events)::bigint AS events, sum(errors)::bigint AS errors FROM rollups GROUP BY step_s"
        )
        wanted = sum(sent.events.values()), sum(sent.errors.values())
        found = {row["step_s"]: (row["events"], row["errors"]) for row in rows}
        return [f"rollups are {found}, and were sent as {wanted}"] if set(found.values()) != {wanted} else []
    finally:
        await store.close()


async def alerts_of(bootstrap: str) -> list[Alert]:
    """Everything that was ever said on the topic of alerts, in its order."""
    return [Alert.from_bytes(record.value) for record in await _all_of(bootstrap, Topic.ANOMALY_ALERTS)]


async def _whereabouts(bootstrap: str, missing: Collection[str]) -> list[str]:
    """Of what is in no table: whether it came onto the bus, which tells whose fault it is, and where."""
    on_bus = {
        event.attributes.get("n"): f"{record.partition.number}/{record.offset}"
        for record in await _all_of(bootstrap, Topic.EVENTS)
        for event in wire.record_from_bytes(record.value).events
    }
    places = sorted({on_bus[n] for n in missing if n in on_bus})
    return [
        *_some("of these never came onto the bus", (n for n in missing if n not in on_bus)),
        *_some("records of the bus have the others", places),
    ]


async def _all_of(bootstrap: str, topic: Topic) -> list[Received]:
    bus = KafkaBus(KafkaSettings(bootstrap))
    try:
        consumer = await bus.subscribe(f"chaos-{time.time_ns()}", (topic,))
        found: list[Received] = []
        while received := await consumer.poll(max_records=1_000, timeout_s=3 if not found else 1):
            found += received
        await consumer.close()
        return found
    finally:
        await bus.close()


async def of_alerts(dsn: str, said: list[Alert]) -> list[str]:
    """Whether each horizon had one effective decision, and each id one alert."""
    by_id: defaultdict[str, list[Alert]] = defaultdict(list)
    for alert in said:
        by_id[alert.id].append(alert)
    faults = _some(
        "alert ids with two meanings", (i for i, same in by_id.items() if len({_meaning(a) for a in same}) > 1)
    )
    decided = Counter((one[0].service, one[0].family, one[0].decided_us) for one in by_id.values())
    faults += _some("horizons decided twice", (key for key, times in decided.items() if times > 1))
    states: defaultdict[tuple[str, str], list[Alert]] = defaultdict(list)
    for same in by_id.values():
        states[same[0].service, same[0].family].append(same[0])
    for key, alerts in states.items():
        open_episode = ""
        for alert in sorted(alerts, key=lambda alert: alert.decided_us):
            if alert.state is AlertState.FIRED and open_episode:
                faults.append(f"{key}: {alert.id} fired while {open_episode} was open")
                break
            if alert.state is AlertState.FIRED:
                open_episode = alert.episode
            elif alert.state is AlertState.RESOLVED and alert.episode == open_episode:
                open_episode = ""
    store = await asyncpg.connect(dsn)
    try:
        stored = {row["id"] for row in await store.fetch("SELECT id FROM anomalies")}
    finally:
        await store.close()
    return faults + _some("alerts said and not stored", by_id.keys() - stored)


def ended_unsaid(said: list[Alert]) -> int:
    """Ends of what nobody had said: of an agent that comes back when no detector was there to miss it."""
    fired = {alert.episode for alert in said if alert.state is AlertState.FIRED}
    return len({alert.id for alert in said if alert.state is AlertState.RESOLVED and alert.episode not in fired})


def _meaning(alert: Alert) -> tuple[Any, ...]:
    return alert.service, alert.family, alert.state, alert.severity, alert.decided_us, alert.episode


def _some(what: str, which: Iterable[Any]) -> list[str]:
    found = sorted(which, key=str)
    return [f"{len(found)} {what}, such as {', '.join(map(str, found[:_SHOWN]))}"] if found else []
