"""Disks that are full: nothing is acknowledged that is not kept, and it goes on by itself when there is room."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import re
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import asyncpg
import grpc
import pytest
from tests.e2e.conftest import COMMAND, stored
from tests.e2e.test_agent import AGENT, EVENTS, lines
from tests.e2e.test_up import ANY, ENVIRONMENT, Up, until
from tests.engines.kafka.broker import Brokers, free_port, missing
from tests.integration.bad_input_support import (
    Numbered,
    OwnServer,
    SmallDisk,
    one_more,
    postgres_server,
    posting,
    sentence,
    small_disk,
)
from tests.integration.kafka_support import eventually, prefixed

from helios import Client, Event, Unavailable
from helios.retry_info import TRAILER
from helios_core.bus.kafka import topics
from helios_core.store.postgres.migrate import migrate
from helios_core.store.postgres.settings import PostgresSettings

pytestmark = [pytest.mark.engines, pytest.mark.slow]

OF_WEB = "SELECT count(*) FROM events WHERE service = 'web'"
DISTINCT = "SELECT count(DISTINCT message) FROM events WHERE service = 'web'"


@contextmanager
def instance(folder: Path, *words: str) -> Iterator[Up]:
    made = Up(folder, *words, http=f"127.0.0.1:{free_port()}", grpc=f"127.0.0.1:{free_port()}")
    try:
        yield made
    finally:
        made.close()


def check_refusals(sender: Numbered) -> None:
    """Only what makes a client send again, with the time to wait, and the reason in words."""
    assert sender.statuses <= {202, 503}
    assert sender.refusals
    for answer in sender.refusals:
        assert int(answer.headers["retry-after"]) >= 1
    assert any("is the disk full?" in answer.json()["error"] for answer in sender.refusals)
    assert not sender.unanswered


def check_stored(data: Path, sender: Numbered) -> None:
    """Exactly what was acknowledged, once."""
    until(
        lambda: stored(data, OF_WEB) >= len(sender.accepted), 40, lambda: (stored(data, OF_WEB), len(sender.accepted))
    )
    assert stored(data, OF_WEB) == stored(data, DISTINCT) == len(sender.accepted)
    assert stored(data, "SELECT coalesce(sum(events), 0) FROM windows WHERE service = 'web'") == len(sender.accepted)


def test_a_full_disk_of_the_embedded_engines(tmp_path: Path) -> None:
    """Bus and store on one disk, as they are without any configuration."""
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(tmp_path / "data", 16))
        running = stack.enter_context(instance(tmp_path)).start()
        sender = stack.enter_context(posting(running))
        until(lambda: len(sender.accepted) > 50, 20)
        disk.fill()
        until(lambda: len(sender.refusals) > 3, 30)
        grpc_is_told_to_come_again(running)
        assert running.get("/health").status_code == 200
        disk.free()
        before = len(sender.accepted)
        until(lambda: len(sender.accepted) > before + 50, 40, lambda: running.complained)
        sender.end()
        check_refusals(sender)
        check_stored(running.data, sender)
        assert running.end(signal.SIGTERM) == 0, running.complained
        assert "Traceback" not in running.complained, running.complained


def grpc_is_told_to_come_again(running: Up) -> None:
    """UNAVAILABLE with RetryInfo."""
    with (
        Client(f"http://{running.grpc}", timeout_s=0.5) as client,
        pytest.raises(Unavailable) as raised,
    ):
        client.send_event(Event("probe", "hello"))
    cause = raised.value.__cause__
    assert isinstance(cause, grpc.RpcError), cause
    assert TRAILER in {name for name, _ in cause.trailing_metadata()}


def linked(data: Path, name: str, disk: Path) -> None:
    """A file of the data directory on another disk, with what SQLite keeps beside it."""
    data.mkdir(exist_ok=True)
    (data / name).symlink_to(disk / name)


def test_a_full_disk_of_the_store_alone(tmp_path: Path) -> None:
    """What comes is still taken, and stored when there is room."""
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(tmp_path / "disk", 4))
        linked(tmp_path / "data", "store.db", disk.folder)
        running = stack.enter_context(instance(tmp_path)).start()
        sender = stack.enter_context(posting(running))
        until(lambda: len(sender.accepted) > 50 and stored(running.data, OF_WEB) > 50, 20)
        disk.fill()
        until(lambda: "is the disk full?" in running.complained, 60)
        before = len(sender.accepted)
        until(lambda: len(sender.accepted) > before + 100, 20)
        assert running.get("/health").status_code == 200
        disk.free()
        sender.end()
        assert sender.statuses == {202}
        check_stored(running.data, sender)
        assert running.end(signal.SIGTERM) == 0, running.complained
        assert "Traceback" not in running.complained, running.complained


def test_a_full_disk_of_the_bus_alone(tmp_path: Path) -> None:
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(tmp_path / "disk", 8))
        linked(tmp_path / "data", "bus.db", disk.folder)
        running = stack.enter_context(instance(tmp_path)).start()
        sender = stack.enter_context(posting(running))
        until(lambda: len(sender.accepted) > 50, 20)
        disk.fill()
        until(lambda: len(sender.refusals) > 3, 30)
        disk.free()
        before = len(sender.accepted)
        until(lambda: len(sender.accepted) > before + 50, 40, lambda: running.complained)
        sender.end()
        check_refusals(sender)
        check_stored(running.data, sender)
        assert running.end(signal.SIGTERM) == 0, running.complained
        assert "Traceback" not in running.complained, running.complained


def test_it_ends_and_begins_with_a_full_disk(tmp_path: Path) -> None:
    """What was acknowledged is stored when there is room again; a start without room is one sentence, or goes on."""
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(tmp_path / "data", 16))
        running = stack.enter_context(instance(tmp_path)).start()
        sender = stack.enter_context(posting(running))
        until(lambda: len(sender.accepted) > 50, 20)
        disk.fill()
        until(lambda: len(sender.refusals) > 3, 30)
        sender.end(give_up=True)
        began_s = time.monotonic()
        running.end(signal.SIGTERM, timeout_s=60)
        assert time.monotonic() - began_s < 45
        assert "Traceback" not in running.complained, running.complained
        disk.fill()  # what it let go of
        running.spawn()
        assert running.process is not None
        until(lambda: "Ctrl-C stops." in running.said or running.process.poll() is not None, 30)  # type: ignore[union-attr]
        assert "Traceback" not in running.complained, running.complained
        if running.process.poll() is None:  # it is up, and waits for room
            disk.free()
        else:
            assert "disk" in running.complained
            disk.free()
            running.start()
        until(lambda: one_more(running), 30)
        check_stored(running.data, sender)
        assert running.end(signal.SIGTERM) == 0, running.complained


@pytest.mark.parametrize("room", [0, 8_192, 81_920, 163_840])
def test_a_first_start_on_a_full_disk_is_one_sentence(tmp_path: Path, room: int) -> None:
    """Whatever still finds room before it is full: the directory, its lock, the bus."""
    with small_disk(tmp_path / "disk", 1) as disk:
        disk.fill(but=room)
        words = ("up", "--data-dir", disk.folder / "data", "--http", ANY, "--grpc", ANY)
        assert re.search("full|No space|disk", sentence(tmp_path, COMMAND, *words))


def configured_agent(folder: Path, grpc_address: str) -> Path:
    path = folder / "agent.yaml"
    (folder / "logs").mkdir(exist_ok=True)
    path.write_text(
        f"agent: {{state_dir: '{folder}/state', log_level: info}}\n"
        f"sources: [{{type: file, config: {{paths: ['{folder}/logs/*.log'], service: shop}}}}]\n"
        f"helios: {{endpoint: 'http://{grpc_address}'}}\n"
    )
    return path


@contextmanager
def following(folder: Path, config: Path) -> Iterator[Path]:
    """An agent that runs; its log."""
    log = folder / "agent.err"
    with log.open("wb") as err:
        process = subprocess.Popen([*AGENT, "run", "--config", str(config)], stderr=err, env=ENVIRONMENT)
    try:
        yield log
        assert process.poll() is None, log.read_text()
        process.terminate()
        assert process.wait(40) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_a_full_disk_of_an_agents_spool(tmp_path: Path) -> None:
    """It says so, waits, and every line is counted once in the end; also when the collector is away meanwhile."""
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(tmp_path / "state", 2))
        running = stack.enter_context(instance(tmp_path)).start()
        log = stack.enter_context(following(tmp_path, configured_agent(tmp_path, running.grpc)))
        shop = tmp_path / "logs" / "shop.log"
        shop.write_text(lines(0, 500))
        until(lambda: stored(running.data, EVENTS) >= 500, 30, log.read_text)
        disk.fill()
        with shop.open("a") as file:
            file.write(lines(500, 3_000))
        until(lambda: "spool_cannot_be_written" in log.read_text(), 30, log.read_text)
        assert "No space left" in log.read_text()
        disk.free()
        until(lambda: stored(running.data, EVENTS) >= 3_500, 40, log.read_text)
        assert running.end(signal.SIGTERM) == 0, running.complained
        with shop.open("a") as file:
            file.write(lines(3_500, 1_500))
        status = tmp_path / "state" / "status.json"  # written now and then
        until(lambda: status.exists() and json.loads(status.read_text())["spool_batches"] > 0, 30)
        disk.fill()
        with shop.open("a") as file:
            file.write(lines(5_000, 1_000))
        until(lambda: log.read_text().count("spool_cannot_be_written") > 2, 40, log.read_text)
        running.start()
        disk.free()
        until(lambda: stored(running.data, EVENTS) >= 6_000, 60, log.read_text)
    assert stored(running.data, EVENTS) == 6_000
    assert "Traceback" not in log.read_text(), log.read_text()


@pytest.mark.parametrize(
    "room",
    [
        0,
        4_096,
    ],
)
def test_an_agent_that_begins_on_a_full_disk_is_one_sentence(tmp_path: Path, room: int) -> None:
    with small_disk(tmp_path / "state", 1) as disk:
        disk.fill(but=room)
        config = configured_agent(tmp_path, "127.0.0.1:1")
        assert re.search("full|No space", sentence(tmp_path, AGENT, "run", "--config", config))


def test_an_agent_killed_while_its_disk_is_full_loses_nothing(tmp_path: Path) -> None:
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(tmp_path / "state", 2))
        running = stack.enter_context(instance(tmp_path)).start()
        config = configured_agent(tmp_path, running.grpc)
        shop = tmp_path / "logs" / "shop.log"
        shop.write_text(lines(0, 500))
        log = tmp_path / "killed.err"
        with log.open("wb") as err:
            process = subprocess.Popen([*AGENT, "run", "--config", str(config)], stderr=err, env=ENVIRONMENT)
        written = 500
        try:
            until(lambda: stored(running.data, EVENTS) >= 500, 30)
            disk.fill()
            deadline_s = time.monotonic() + 30
            while "spool_cannot_be_written" not in log.read_text():
                assert time.monotonic() < deadline_s, log.read_text()
                with shop.open("a") as file:
                    file.write(lines(written, 100))
                written += 100
                time.sleep(0.2)
        finally:
            process.kill()
            process.wait()
        assert stored(running.data, EVENTS) < written
        disk.free()
        with following(tmp_path, config) as log:
            until(lambda: stored(running.data, EVENTS) >= written, 40, log.read_text)
        assert stored(running.data, EVENTS) == written


# ---- engines


@contextmanager
def database(server: OwnServer, disk: SmallDisk | None = None) -> Iterator[str]:
    """A migrated database; with a disk its tables are there, and the server's log is not."""
    name = f"full_{uuid.uuid4().hex}"

    async def make() -> None:
        connection = await asyncpg.connect(server.dsn())
        try:
            where = ""
            if disk is not None:
                folder = disk.folder / "space"
                folder.mkdir()
                owner = pwd.getpwnam("postgres")
                os.chown(folder, owner.pw_uid, owner.pw_gid)
                await connection.execute(f"CREATE TABLESPACE {name} LOCATION '{folder}'")
                where = f"TABLESPACE {name}"
            await connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 {where}")
        finally:
            await connection.close()
        await migrate(PostgresSettings(server.dsn(name)))

    asyncio.run(make())
    yield server.dsn(name)


def number(dsn: str, query: str) -> int:
    async def ask() -> int:
        connection = await asyncpg.connect(dsn)
        try:
            return int(await connection.fetchval(query) or 0)
        finally:
            await connection.close()

    return asyncio.run(ask())


def check_in_database(dsn: str, sender: Numbered) -> None:
    """Exactly what was acknowledged, once."""
    until(lambda: number(dsn, OF_WEB) >= len(sender.accepted), 60, lambda: (number(dsn, OF_WEB), len(sender.accepted)))
    assert number(dsn, OF_WEB) == number(dsn, DISTINCT) == len(sender.accepted)
    assert number(dsn, "SELECT sum(events) FROM windows WHERE service = 'web'") == len(sender.accepted)


@pytest.mark.engines
def test_a_full_disk_of_postgresqls_tables(tmp_path: Path) -> None:
    """Everything is taken meanwhile, and is in the database when there is room."""
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(Path(tempfile.mkdtemp(prefix="helios-space-")), 64))
        own = stack.enter_context(postgres_server())
        dsn = stack.enter_context(database(own, disk))
        (tmp_path / "up.yaml").write_text(f"postgres: {{dsn: '{dsn}'}}\n")
        running = stack.enter_context(instance(tmp_path, "--config", "up.yaml")).start()
        sender = stack.enter_context(posting(running))
        until(lambda: number(dsn, OF_WEB) > 50, 20)
        disk.fill()
        until(lambda: "s disk is full" in running.complained, 60, lambda: running.complained)
        before = len(sender.accepted)
        until(lambda: len(sender.accepted) > before + 100, 20)
        disk.free()
        sender.end()
        assert sender.statuses == {202}
        check_in_database(dsn, sender)
        assert running.end(signal.SIGTERM) == 0, running.complained
        assert "Traceback" not in running.complained, running.complained


@pytest.mark.engines
def test_a_full_disk_of_postgresqls_log(tmp_path: Path) -> None:
    """The server dies of it, and comes back when there is room."""
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(Path(tempfile.mkdtemp(prefix="helios-data-")), 192))
        own = stack.enter_context(postgres_server(disk.folder))
        dsn = stack.enter_context(database(own))
        (tmp_path / "up.yaml").write_text(f"postgres: {{dsn: '{dsn}'}}\n")
        running = stack.enter_context(instance(tmp_path, "--config", "up.yaml")).start()
        sender = stack.enter_context(posting(running))
        until(lambda: number(dsn, OF_WEB) > 50, 20)
        disk.fill()
        asyncio.run(write_much(dsn))
        until(lambda: "PostgreSQL cannot be used" in running.complained, 60, lambda: running.complained)
        before = len(sender.accepted)
        until(lambda: len(sender.accepted) > before + 100, 20)
        disk.free()
        own.start_if_it_has_ended()
        sender.end()
        assert sender.statuses == {202}
        check_in_database(dsn, sender)
        assert running.end(signal.SIGTERM) == 0, running.complained
        assert "Traceback" not in running.complained, running.complained


async def write_much(dsn: str) -> None:
    """Until the server cannot: its log is full then."""
    connection = await asyncpg.connect(dsn)
    try:
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            await connection.execute(
                "CREATE TABLE much AS SELECT repeat('x', 1000) AS t FROM generate_series(1, 200000)"
            )
    finally:
        connection.terminate()


@pytest.mark.engines
def test_a_full_disk_of_kafka(tmp_path: Path) -> None:
    """The broker ends itself, and is started again by a person who has made room."""
    if missing():
        pytest.fail(f"no Kafka: {missing()}")
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(tmp_path / "kafka", 128))
        broker = Brokers(disk.folder)
        stack.callback(broker.stop)
        broker.start_all()
        settings = prefixed(broker.bootstrap)
        asyncio.run(eventually(lambda: topics.apply(settings, topics.Plan(partitions=3))))
        (tmp_path / "up.yaml").write_text(
            f"kafka: {{bootstrap: '{settings.bootstrap}', prefix: '{settings.prefix}'}}\n"
        )
        running = stack.enter_context(instance(tmp_path, "--config", "up.yaml")).start()
        sender = stack.enter_context(posting(running))
        until(lambda: len(sender.accepted) > 100, 20)
        disk.fill()
        until(lambda: len(sender.refusals) > 3, 60)
        assert running.get("/health").status_code == 200
        disk.free()
        broker.stop()  # if it has not ended itself
        broker.restart()
        before = len(sender.accepted)
        until(lambda: len(sender.accepted) > before + 50, 60, lambda: running.complained)
        sender.end()
        assert sender.statuses == {202, 503}
        for answer in sender.refusals:
            assert int(answer.headers["retry-after"]) >= 1
            assert "Kafka" in answer.json()["error"]
        assert sender.longest_s < 15
        check_stored(running.data, sender)
        assert running.end(signal.SIGTERM) == 0, running.complained
        assert "Traceback" not in running.complained, running.complained
