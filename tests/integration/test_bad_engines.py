"""Kafka and PostgreSQL that do not fit, do not answer or take nothing: one sentence for what waiting does not mend."""

from __future__ import annotations

import asyncio
import signal
import socket
import sqlite3
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from aiokafka.admin import NewTopic
from tests.e2e.conftest import COMMAND
from tests.e2e.test_up import ANY, ENVIRONMENT, Up, until
from tests.engines.kafka.broker import Brokers, free_port
from tests.integration.bad_input_support import (
    PARTS,
    SECRET,
    Numbered,
    OwnServer,
    configured,
    one_more,
    postgres_server,
    posting,
    sentence,
    silent,
    stopped,
    warned,
    web_server,
)
from tests.integration.kafka_support import admin_of, eventually, prefixed

import helios_sql
from helios_core.bus.base import Topic
from helios_core.bus.kafka import topics
from helios_core.bus.kafka.settings import KafkaSettings
from helios_core.store.postgres.migrate import _LOCK, migrate
from helios_core.store.postgres.settings import PostgresSettings

pytestmark = [pytest.mark.engines, pytest.mark.slow]

KNOWN = len(helios_sql.migrations("postgres"))
LAST = "{:04d}_{}".format(*helios_sql.migrations("postgres")[-1][:2])
OF_WEB = "SELECT count(*) FROM events WHERE service = 'web'"
DISTINCT = "SELECT count(DISTINCT message) FROM events WHERE service = 'web'"
COUNTED = "SELECT sum(events) FROM windows WHERE service = 'web'"
RUN = {"up": [*COMMAND, "up"], **{name: [*command, "run"] for name, command in PARTS.items()}}


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    with postgres_server() as made:
        yield made


@pytest.fixture
def kafka_settings(broker: Brokers) -> KafkaSettings:
    """Topics of the test's own."""
    made = prefixed(broker.bootstrap)
    asyncio.run(eventually(lambda: topics.apply(made, topics.Plan(partitions=2))))
    return made


def ask(dsn: str, query: str) -> Any:
    async def asked() -> Any:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    return asyncio.run(asked())


@pytest.fixture
def dsn(server: OwnServer) -> str:
    """A database of the test's own, with its schema; the server lets everybody in, whatever the password is."""
    name = f"bad_{uuid.uuid4().hex}"
    ask(server.dsn(), f"CREATE DATABASE {name} TEMPLATE template0")
    made = server.dsn(name).replace("helios@", f"helios:{SECRET}@")
    asyncio.run(migrate(PostgresSettings(made)))
    return made


@contextmanager
def instance(folder: Path, **settings: Any) -> Iterator[Up]:
    """`helios up` with a configuration, on addresses that stay its own."""
    configured(folder / "up.yaml", **settings)
    made = Up(folder, "--config", "up.yaml", http=f"127.0.0.1:{free_port()}", grpc=f"127.0.0.1:{free_port()}")
    try:
        yield made
    finally:
        made.close()


def words(folder: Path, name: str, **settings: Any) -> list[str | Path]:
    """The rest of a command line that starts a part."""
    path = configured(folder / f"{name}.yaml", **settings)
    grpc = ["--grpc", ANY] if name in ("up", "collector") else []
    return ["--config", path, "--data-dir", folder / f"data-{name}", "--http", ANY, *grpc]


def check_stored(dsn: str, sender: Numbered, within_s: float = 60) -> None:
    """Exactly what was acknowledged, once."""
    expected = len(sender.accepted)
    until(lambda: ask(dsn, OF_WEB) >= expected, within_s, lambda: (ask(dsn, OF_WEB), expected))
    assert ask(dsn, OF_WEB) == ask(dsn, DISTINCT) == ask(dsn, COUNTED) == expected


# ---- a schema that does not fit


def older(dsn: str) -> None:
    ask(dsn, f"DELETE FROM helios_migrations WHERE version = {KNOWN}")


def newer(dsn: str) -> None:
    ask(dsn, f"INSERT INTO helios_migrations VALUES ({KNOWN + 1}, 'of_tomorrow')")


@pytest.mark.parametrize("name", RUN)
def test_no_part_starts_with_a_schema_that_is_not_its_own(
    tmp_path: Path, dsn: str, kafka_settings: KafkaSettings, name: str
) -> None:
    kafka = {"bootstrap": kafka_settings.bootstrap, "prefix": kafka_settings.prefix}
    given = words(tmp_path, name, kafka=kafka, postgres={"dsn": dsn})
    older(dsn)
    said = sentence(tmp_path, RUN[name], *given)
    assert f"the schema lacks {LAST}: `helios db migrate` brings it up to date" in said
    ask(dsn, f"INSERT INTO helios_migrations VALUES ({KNOWN}, 'as_it_was')")
    newer(dsn)
    said = sentence(tmp_path, RUN[name], *given)
    assert f"schema version {KNOWN + 1}, newer than this Helios knows ({KNOWN}): use a newer Helios" in said
    assert ask(dsn, "SELECT count(*) FROM helios_migrations") == KNOWN + 1


def test_a_newer_schema_is_said_by_the_commands_and_left_alone(tmp_path: Path, dsn: str) -> None:
    newer(dsn)
    said = sentence(tmp_path, COMMAND, "db", "migrate", "--dsn", dsn)
    assert "newer than this Helios knows" in said
    assert ask(dsn, "SELECT max(version) FROM helios_migrations") == KNOWN + 1


@pytest.mark.parametrize("name", ["up", "collector"])
def test_a_newer_file_of_the_embedded_store_is_refused_by_name(tmp_path: Path, name: str) -> None:
    known = len(helios_sql.migrations("sqlite"))
    given = words(tmp_path, name)
    data = tmp_path / f"data-{name}"
    data.mkdir()
    with sqlite3.connect(data / "store.db") as connection:
        connection.execute(f"PRAGMA user_version = {known + 1}")
    connection.close()
    said = sentence(tmp_path, RUN[name], *given)
    assert (
        f"store.db has schema version {known + 1}, newer than this Helios knows ({known}): use a newer Helios" in said
    )


MIGRATIONS = {
    "tables": ["CREATE TABLE of_tomorrow (n bigint)", "CREATE INDEX of_tomorrow_message ON events (message)"],
    "rows": [f"ALTER TABLE {table} ADD COLUMN of_tomorrow text" for table in ("incidents", "reports", "ledger")],
    "anomalies": ["ALTER TABLE anomalies ADD COLUMN of_tomorrow text"],
    "events": ["ALTER TABLE events ADD COLUMN of_tomorrow text"],
    "windows": ["ALTER TABLE windows ADD COLUMN of_tomorrow bigint NOT NULL DEFAULT 0"],
}


@pytest.mark.parametrize(
    "what",
    [
        "tables",
        "rows",
        "anomalies",
        "events",
        "windows",
    ],
)
def test_a_newer_release_migrates_while_it_runs(tmp_path: Path, dsn: str, what: str) -> None:
    """What a migration may do (it is safe for the release before) changes nothing for who runs."""
    with instance(tmp_path, postgres={"dsn": dsn}) as running, ExitStack() as stack:
        running.start()
        sender = stack.enter_context(posting(running))
        until(lambda: ask(dsn, OF_WEB) > 20, 30)
        for statement in MIGRATIONS[what]:
            ask(dsn, statement)
        newer(dsn)
        before = len(sender.accepted)
        until(lambda: len(sender.accepted) > before + 100, 30)
        assert running.get("/api/v1/services").status_code == 200
        assert running.get("/api/v1/incidents").status_code == 200
        sender.end()
        assert sender.statuses == {202}
        check_stored(dsn, sender, 15)
        assert running.end(signal.SIGTERM) == 0, running.complained
        assert "Traceback" not in running.complained, running.complained
        assert "dead_lettered" not in running.complained, running.complained


def test_a_schema_that_breaks_while_it_runs_ends_it_with_one_sentence(tmp_path: Path, dsn: str) -> None:
    """What was acknowledged by then is stored by the next start."""
    with instance(tmp_path, postgres={"dsn": dsn}) as running:
        running.start()
        with posting(running) as sender:
            until(lambda: ask(dsn, OF_WEB) > 20, 30)
            ask(dsn, "ALTER TABLE metrics RENAME TO metrics_of_tomorrow")
            ask(dsn, "ALTER TABLE windows RENAME TO windows_of_tomorrow")
            assert running.process is not None
            until(lambda: running.process.poll() is not None, 60, lambda: running.complained)  # type: ignore[union-attr]
            assert running.process.returncode == 1
            said = [line for line in running.complained.splitlines() if line.startswith("helios: ")]
            assert len(said) == 1, running.complained
            assert "the schema is not the one of this Helios" in said[0]
            assert "Traceback" not in running.complained, running.complained
            ask(dsn, "ALTER TABLE metrics_of_tomorrow RENAME TO metrics")
            ask(dsn, "ALTER TABLE windows_of_tomorrow RENAME TO windows")
            running.start()
            before = len(sender.accepted)
            until(lambda: len(sender.accepted) > before + 20, 30)
            sender.end()
        until(lambda: ask(dsn, OF_WEB) >= len(sender.accepted), 60)
        assert ask(dsn, OF_WEB) == ask(dsn, DISTINCT) == ask(dsn, COUNTED) == len(sender.accepted)


# ---- those who accept and never answer


@pytest.mark.parametrize("name", ["up", "collector"])
def test_a_database_that_never_answers_at_the_start(tmp_path: Path, name: str) -> None:
    with silent() as port:
        given = words(tmp_path, name, postgres={"dsn": f"postgresql://helios:{SECRET}@127.0.0.1:{port}/helios"})
        warned(tmp_path, RUN[name], *given, of="it does not answer in time")


@pytest.mark.parametrize("name", ["db status", "db check", "db migrate"])
def test_a_database_that_never_answers_a_command(tmp_path: Path, name: str) -> None:
    with silent() as port:
        address = f"postgresql://helios:{SECRET}@127.0.0.1:{port}/helios"
        assert "it does not answer in time" in sentence(tmp_path, COMMAND, *name.split(), "--dsn", address, within_s=30)


@pytest.mark.parametrize("name", ["up", "collector"])
def test_a_broker_that_never_answers_at_the_start(tmp_path: Path, name: str) -> None:
    with silent() as port:
        given = words(tmp_path, name, kafka={"bootstrap": f"127.0.0.1:{port}"})
        warned(tmp_path, RUN[name], *given, of="see whether the brokers of kafka.bootstrap are up", within_s=90)


@pytest.mark.parametrize("name", ["topics check", "topics apply"])
def test_a_broker_that_never_answers_a_command(tmp_path: Path, name: str) -> None:
    with silent() as port:
        said = sentence(tmp_path, COMMAND, *name.split(), "--bootstrap", f"127.0.0.1:{port}", within_s=90)
    assert "see whether the brokers of kafka.bootstrap are up" in said


def test_a_frozen_broker_at_the_start(tmp_path: Path, broker: Brokers, kafka_settings: KafkaSettings) -> None:
    """It is waited for, and what comes then is taken."""
    kafka = {"bootstrap": kafka_settings.bootstrap, "prefix": kafka_settings.prefix}
    with instance(tmp_path, kafka=kafka) as running:
        broker.freeze()
        try:
            running.spawn()
            until(lambda: "see whether the brokers of kafka.bootstrap are up" in running.complained, 90)
            assert not one_more(running)
        finally:
            broker.thaw()
        until(lambda: one_more(running), 90, lambda: running.complained)
        assert running.end(signal.SIGTERM, timeout_s=60) == 0, running.complained


def test_a_start_that_waits_for_kafka_can_be_stopped(tmp_path: Path) -> None:
    with silent() as port, instance(tmp_path, kafka={"bootstrap": f"127.0.0.1:{port}"}) as running:
        running.spawn()
        time.sleep(5)  # it is in the midst of asking
        assert running.end(signal.SIGTERM, timeout_s=5) == 1
        assert running.complained.splitlines()[-1] == "helios: stopped before anybody had answered"


def test_a_start_beside_a_silent_database_can_be_stopped(tmp_path: Path) -> None:
    with silent() as port, instance(tmp_path, postgres={"dsn": f"postgresql://127.0.0.1:{port}/helios"}) as running:
        running.spawn()
        time.sleep(4)  # it is connecting, which takes ten seconds to give up
        assert running.end(signal.SIGTERM, timeout_s=40) == 0
        assert "Traceback" not in running.complained


def test_a_frozen_database_at_the_start(tmp_path: Path, server: OwnServer, dsn: str) -> None:
    """Commands give up; what runs takes what comes in, and stores it when the database is back."""
    with instance(tmp_path, postgres={"dsn": dsn}) as running:
        with stopped(server.pids):
            for command in (("db", "status"), ("db", "migrate")):
                assert "does not answer in time" in sentence(tmp_path, COMMAND, *command, "--dsn", dsn, within_s=30)
            running.start()
            assert "started_without_store" in running.complained
            with posting(running) as sender:
                until(lambda: len(sender.accepted) > 20, 30)
                asked = httpx.get(f"http://{running.http}/api/v1/services", timeout=30)
                assert asked.status_code == 503, asked.text
        check_stored(dsn, sender)
        assert running.get("/api/v1/services").status_code == 200


def test_a_schema_that_is_not_there_when_the_database_is_back(tmp_path: Path, server: OwnServer) -> None:
    """What would have ended the start is waited for: what came in meanwhile is on the bus."""
    ask(server.dsn(), "CREATE DATABASE without_schema")
    dsn = server.dsn("without_schema")
    with instance(tmp_path, postgres={"dsn": dsn}) as running:
        with stopped(server.pids):
            running.start()
            assert one_more(running)
        until(lambda: "`helios db migrate` brings it up to date" in running.complained, 30)
        assert one_more(running)
        asyncio.run(migrate(PostgresSettings(dsn)))
        until(lambda: ask(dsn, "SELECT count(*) FROM events WHERE service = 'probe'") == 2, 30)
        assert running.end(signal.SIGTERM, timeout_s=60) == 0, running.complained


class FallingSilent(threading.Thread):
    """Passes everything on to a PostgreSQL, until that is ready for its first query; then nothing more."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)
        self._done = threading.Event()
        self.port: int = self._listener.getsockname()[1]

    def run(self) -> None:
        with ExitStack() as stack:
            while not self._done.is_set():
                with suppress(TimeoutError):
                    client = stack.enter_context(self._listener.accept()[0])
                    engine = stack.enter_context(socket.create_connection(("127.0.0.1", self._to)))
                    self._shake_hands(client, engine)

    @staticmethod
    def _shake_hands(client: socket.socket, engine: socket.socket) -> None:
        client.settimeout(5)
        engine.settimeout(5)
        answer = b""
        while not answer.endswith(b"Z\0\0\0\5I"):
            sent = client.recv(65_536)
            engine.sendall(sent)
            answer = engine.recv(65_536) if sent else b""
            client.sendall(answer)
            if not answer:  # as after the cancellation of a query
                return

    def __enter__(self) -> FallingSilent:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()
        self._listener.close()


@pytest.mark.parametrize("command", ["status", "migrate"])
def test_a_database_that_falls_silent_under_a_command(
    tmp_path: Path, server: OwnServer, dsn: str, command: str
) -> None:
    with FallingSilent(server.port) as proxy:
        address = dsn.replace(str(server.port), str(proxy.port))
        said = sentence(tmp_path, COMMAND, "db", command, "--dsn", address, within_s=30)
    assert "does not answer in time" in said


def test_a_migration_beside_one_that_hangs(tmp_path: Path, dsn: str) -> None:
    """Another has the lock, and does not let go: who is asked to migrate says so."""
    with locked(dsn):
        said = sentence(tmp_path, COMMAND, "db", "migrate", "--dsn", dsn, within_s=30)
    assert "does not answer in time" in said or "another" in said


@contextmanager
def locked(dsn: str) -> Iterator[None]:
    """As by a migration, in a thread of its own."""
    is_locked, done = threading.Event(), threading.Event()

    async def hold() -> None:
        connection = await asyncpg.connect(dsn)
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        is_locked.set()
        await asyncio.to_thread(done.wait)
        await connection.close()

    thread = threading.Thread(target=lambda: asyncio.run(hold()), daemon=True)
    thread.start()
    assert is_locked.wait(20)
    try:
        yield
    finally:
        done.set()
        thread.join(20)


def test_a_database_that_falls_silent_at_the_start(tmp_path: Path, server: OwnServer, dsn: str) -> None:
    with FallingSilent(server.port) as proxy:
        address = dsn.replace(str(server.port), str(proxy.port))
        given = words(tmp_path, "up", postgres={"dsn": address})
        warned(tmp_path, RUN["up"], *given, of="does not answer in time", within_s=40)


def test_a_frozen_database_while_it_runs(tmp_path: Path, server: OwnServer, dsn: str) -> None:
    """Everything is taken, health is answered, and pages that need the database end in time."""
    with instance(tmp_path, postgres={"dsn": dsn}) as running:
        running.start()
        with posting(running) as sender:
            until(lambda: ask(dsn, OF_WEB) > 20, 30)
            with stopped(server.pids):
                before = len(sender.accepted)
                until(lambda: len(sender.accepted) > before + 200, 30)
                assert httpx.get(f"http://{running.http}/health", timeout=2).status_code == 200
                began_s = time.monotonic()
                answer = httpx.get(f"http://{running.http}/api/v1/incidents", timeout=100)
                assert time.monotonic() - began_s < 90
                assert answer.status_code == 503, answer.text
            sender.end()
            assert sender.statuses == {202}
            assert sender.longest_s < 5
        check_stored(dsn, sender, 90)
        assert running.end(signal.SIGTERM) == 0, running.complained
        assert "Traceback" not in running.complained, running.complained


def test_it_ends_in_time_while_the_database_is_frozen(tmp_path: Path, server: OwnServer, dsn: str) -> None:
    with instance(tmp_path, postgres={"dsn": dsn}) as running:
        running.start()
        with posting(running) as sender:
            until(lambda: ask(dsn, OF_WEB) > 20, 30)
            with stopped(server.pids):
                before = len(sender.accepted)
                until(lambda: len(sender.accepted) > before + 50, 30)
                sender.end()
                began_s = time.monotonic()
                running.end(signal.SIGTERM, timeout_s=60)
                assert time.monotonic() - began_s < 45
                assert "Traceback" not in running.complained, running.complained
        running.start()
        check_stored(dsn, sender)


# ---- a database that takes nothing


def name_of(dsn: str) -> str:
    return dsn.rpartition("/")[2]


def read_only(server: OwnServer, dsn: str) -> None:
    """From now on, and for who is connected: it has to connect anew."""
    ask(server.dsn(), f"ALTER DATABASE {name_of(dsn)} SET default_transaction_read_only = on")
    ask(server.dsn(), f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{name_of(dsn)}'")


def test_a_read_only_database_at_the_start_and_while_it_runs(tmp_path: Path, server: OwnServer, dsn: str) -> None:
    read_only(server, dsn)
    assert "the database is read-only" in sentence(tmp_path, COMMAND, "db", "migrate", "--dsn", dsn)
    with instance(tmp_path, postgres={"dsn": dsn}) as running:
        running.start()
        with posting(running) as sender:
            for _ in range(2):
                until(lambda: running.complained.count("the database is read-only") > 2, 40, lambda: running.complained)
                before = len(sender.accepted)
                until(lambda: len(sender.accepted) > before + 50, 30)  # noqa: B023
                ask(server.dsn(), f"ALTER DATABASE {name_of(dsn)} RESET default_transaction_read_only")
                until(lambda: ask(dsn, OF_WEB) > before, 40)  # noqa: B023 -- asked in this turn
                read_only(server, dsn)
            ask(server.dsn(), f"ALTER DATABASE {name_of(dsn)} RESET default_transaction_read_only")
            sender.end()
        assert sender.statuses == {202}
        check_stored(dsn, sender)
        assert running.end(signal.SIGTERM) == 0, running.complained
        assert "Traceback" not in running.complained, running.complained


def test_a_standby_is_waited_for_until_it_is_the_primary(tmp_path: Path) -> None:
    """Of a server of its own: a standby once promoted is another one."""
    with postgres_server() as own:
        ask(own.dsn(), "CREATE DATABASE helios")
        dsn = own.dsn("helios")
        asyncio.run(migrate(PostgresSettings(dsn)))
        with instance(tmp_path, postgres={"dsn": dsn}) as running:
            running.start()
            with posting(running) as sender:
                until(lambda: ask(dsn, OF_WEB) > 20, 30)
                own.as_standby()
                until(lambda: "the database is read-only" in running.complained, 40, lambda: running.complained)
                assert running.get("/api/v1/services").status_code == 200  # what is there can be read
                own.as_primary()
                before = len(sender.accepted)
                until(lambda: ask(dsn, OF_WEB) > before, 40)
                own.as_standby()
                until(lambda: len(sender.accepted) > before + 50, 30)
                assert running.end(signal.SIGTERM, timeout_s=60) == 0 or "not_drained" in running.complained
                assert "the database is read-only" in sentence(tmp_path, COMMAND, "db", "migrate", "--dsn", dsn)
                running.start()  # it can be asked for its schema, and waits
                until(lambda: "the database is read-only" in running.complained, 40, lambda: running.complained)
                own.as_primary()
                sender.end()
            assert sender.statuses <= {202, 503}
            check_stored(dsn, sender)
            assert running.end(signal.SIGTERM) == 0, running.complained


# ---- topics that do not fit


@pytest.fixture
def apart(broker: Brokers) -> KafkaSettings:
    """Settings whose topics the test makes by itself."""
    return prefixed(broker.bootstrap)


def made(
    settings: KafkaSettings, partitions: dict[Topic, int] | None = None, changed: dict[str, str] | None = None
) -> None:
    """The topics, with other partitions, other settings of `windows`, or without some (0 partitions)."""

    async def make() -> None:
        async with admin_of(settings) as admin:
            wanted = topics.Plan().settings(1)
            new = [
                NewTopic(settings.prefix + topic.value, count, 1, topic_configs=wanted | (changed or {}))
                for topic in Topic
                if (count := (partitions or {}).get(topic, 2))
            ]
            await admin.create_topics(new)

    asyncio.run(make())
    found: list[topics.TopicState] = []

    def are_there() -> bool:
        found[:] = asyncio.run(topics.check(settings))
        return sum(bool(state.partitions) for state in found) >= len([t for t in Topic if (partitions or {}).get(t, 2)])

    until(are_there, 30, lambda: found)


def kafka_of(settings: KafkaSettings) -> dict[str, str]:
    return {"bootstrap": settings.bootstrap, "prefix": settings.prefix}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"cleanup.policy": "compact"}, "cleanup.policy is compact, not delete: `helios topics apply` sets it"),
        ({"min.insync.replicas": "2"}, "min.insync.replicas is 2, not 1: `helios topics apply` sets it"),
        ({"max.message.bytes": "1000"}, "max.message.bytes is 1000, not "),
    ],
)
def test_topics_with_other_settings_are_named_and_put_right(
    tmp_path: Path, apart: KafkaSettings, changed: dict[str, str], said: str
) -> None:
    made(apart, changed=changed)
    path = configured(tmp_path / "kafka.yaml", kafka=kafka_of(apart))
    for name in ("up", "collector"):
        given = words(tmp_path, name, kafka=kafka_of(apart))
        assert said in sentence(tmp_path, RUN[name], *given)
    assert asyncio.run(topics.check(apart))[0].faults[0].startswith(said)
    assert run("topics", "apply", "--config", path) == 0
    assert run("topics", "check", "--config", path) == 0
    with instance(tmp_path, kafka=kafka_of(apart)) as running:
        running.start()
        assert one_more(running)


def run(*given: str | Path) -> int:
    """The exit code of a command."""
    ran = subprocess.run([*COMMAND, *map(str, given)], capture_output=True, timeout=60, check=False, env=ENVIRONMENT)
    return ran.returncode


@pytest.mark.parametrize("name", ["up", "collector"])
def test_a_topic_that_is_missing_is_named_at_the_start(tmp_path: Path, apart: KafkaSettings, name: str) -> None:
    made(apart, {Topic.METRICS: 0})
    said = sentence(tmp_path, RUN[name], *words(tmp_path, name, kafka=kafka_of(apart)))
    assert f"{apart.prefix}metrics: it is not there: `helios topics apply` makes it" in said


@pytest.mark.parametrize("count", [1, 50])
def test_any_number_of_partitions_works(tmp_path: Path, apart: KafkaSettings, count: int) -> None:
    made(apart, dict.fromkeys(Topic, count))
    path = configured(tmp_path / "kafka.yaml", kafka=kafka_of(apart))
    assert run("topics", "check", "--config", path) == 0
    assert run("topics", "check", "--config", path, "--partitions", "3") == 1
    assert run("topics", "apply", "--config", path, "--partitions", "3") == 1  # it never changes
    with instance(tmp_path, kafka=kafka_of(apart)) as running:
        running.start()
        until(lambda: one_more(running), 20)
        assert running.end(signal.SIGTERM, timeout_s=60) == 0, running.complained


def test_topics_with_different_numbers_of_partitions_are_a_fault(tmp_path: Path, apart: KafkaSettings) -> None:
    made(apart, {Topic.WINDOWS: 2, Topic.EVENTS: 5})
    path = configured(tmp_path / "kafka.yaml", kafka=kafka_of(apart))
    assert run("topics", "check", "--config", path) == 1


# ---- somebody else


@pytest.mark.parametrize("name", ["up", "topics check"])
def test_no_kafka_is_there(tmp_path: Path, server: OwnServer, name: str) -> None:
    """A web server, a database, nobody at all, and a host that there is not."""
    with web_server() as web:
        for address in (f"127.0.0.1:{web}", f"127.0.0.1:{server.port}", "127.0.0.1:1", "no-such-host.invalid:9092"):
            advice = "see whether the brokers of kafka.bootstrap are up"
            if name in RUN:
                given = words(tmp_path, name, kafka={"bootstrap": address})
                warned(tmp_path, RUN[name], *given, of=advice, within_s=90)
            else:
                said = sentence(tmp_path, COMMAND, *name.split(), "--bootstrap", address, within_s=90)
                assert advice in said, (address, said)


@pytest.mark.parametrize("name", ["up", "db status"])
def test_no_postgresql_is_there(tmp_path: Path, broker: Brokers, name: str) -> None:
    """A web server, a broker, nobody at all, and a host that there is not."""
    with web_server() as web:
        for address in (f"127.0.0.1:{web}", broker.bootstrap, "127.0.0.1:1", "no-such-host.invalid:5432"):
            dsn = f"postgresql://helios:{SECRET}@{address}/helios"
            if name in RUN:
                given = words(tmp_path, name, postgres={"dsn": dsn})
                warned(tmp_path, RUN[name], *given, of="PostgreSQL cannot be used", within_s=60)
            else:
                said = sentence(tmp_path, COMMAND, *name.split(), "--dsn", dsn, within_s=60)
                assert "postgres.dsn" in said or "does not answer in time" in said, (address, said)


def test_a_password_or_database_that_is_wrong_is_one_sentence(tmp_path: Path, server: OwnServer, dsn: str) -> None:
    hba = server.data / "pg_hba.conf"
    hba.write_text(f"host all secretive 127.0.0.1/32 scram-sha-256\n{hba.read_text()}")
    ask(server.dsn(), "CREATE ROLE secretive LOGIN PASSWORD 'another'")
    ask(server.dsn(), "SELECT pg_reload_conf()")
    wrong = dsn.replace("helios:", "secretive:", 1)
    until(lambda: "user and password" in sentence(tmp_path, COMMAND, "db", "status", "--dsn", wrong), 20)
    nowhere = f"{dsn.rpartition('/')[0]}/nowhere"
    for address, said in ((wrong, "see user and password of postgres.dsn"), (nowhere, "createdb makes it")):
        assert said in sentence(tmp_path, RUN["up"], *words(tmp_path, "up", postgres={"dsn": address}))
        assert said in sentence(tmp_path, COMMAND, "db", "migrate", "--dsn", address)
