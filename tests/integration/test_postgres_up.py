"""`helios up` on PostgreSQL, as a process: from a line to its report, when either is killed, and what it says."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.e2e.conftest import access_log
from tests.e2e.test_agent import agent as run_agent
from tests.e2e.test_up import ANY, Posting, Up, event, refused, until
from tests.engines.kafka.broker import free_port
from tests.engines.postgres.server import Server, tools

from helios_core.store.postgres.migrate import migrate
from helios_core.store.postgres.settings import PostgresSettings

pytestmark = pytest.mark.engines

SECRET = "hunter2-secret"
HIDDEN = [sys.executable, "-c", "import sys; sys.modules['asyncpg'] = None; from helios_core.main import main; main()"]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One of our own, that may be killed."""
    if tools() is None:
        pytest.fail("no PostgreSQL: apt-get install postgresql")
    made = Server()
    try:
        made.start()
        yield made
    finally:
        made.stop()


class Database:
    """A database of the server, asked by connections of their own."""

    def __init__(self, server: Server, *, timescale: bool) -> None:
        name = f"up_{uuid.uuid4().hex}"
        self._ask(server.dsn(), f"CREATE DATABASE {name} TEMPLATE template0")
        self._dsn = server.dsn(name)
        if timescale:
            self._ask(self._dsn, "CREATE EXTENSION timescaledb")
        # The server lets everybody in, whatever the password is.
        self.dsn = self._dsn.replace("helios@", f"helios:{SECRET}@")

    def migrate(self) -> None:
        asyncio.run(migrate(PostgresSettings(self.dsn)))

    def number(self, query: str) -> int:
        """One number; 0 when there is none."""
        return int(self._ask(self._dsn, query) or 0)

    def events_of(self, service: str) -> int:
        return self.number(f"SELECT sum(events) FROM windows WHERE service = '{service}'")

    @staticmethod
    def _ask(dsn: str, query: str) -> Any:
        async def ask() -> Any:
            connection = await asyncpg.connect(dsn)
            try:
                return await connection.fetchval(query)
            finally:
                await connection.close()

        return asyncio.run(ask())


@pytest.fixture(params=["plain", "timescale"])
def database(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> Database:
    """Written to `up.yaml` in the test's folder."""
    try:
        made = Database(server, timescale=request.param == "timescale")
    except asyncpg.FeatureNotSupportedError:
        pytest.skip("the server has no TimescaleDB: its packages and its source are at docs.timescale.com")
    (tmp_path / "up.yaml").write_text(f"postgres: {{dsn: '{made.dsn}'}}\n")
    return made


@pytest.fixture
def instance(database: Database, tmp_path: Path) -> Iterator[Up]:
    """On addresses that stay its own; nothing that it ever says has the password in it."""
    database.migrate()
    made = Up(tmp_path, "--config", "up.yaml", http=f"127.0.0.1:{free_port()}", grpc=f"127.0.0.1:{free_port()}")
    said = []
    start = made.start

    def started() -> Up:
        said.append(made.said + made.complained if (tmp_path / "up.out").exists() else "")
        return start()

    made.start = started  # type: ignore[method-assign]  # its files are those of the last start
    try:
        yield made
    finally:
        made.close()
        assert SECRET not in "".join(said) + made.said + made.complained


def ship(folder: Path, grpc: str) -> None:
    """`helios-agent run --once` over `logs/*.log`."""
    (folder / "agent.yaml").write_text(
        f"agent: {{state_dir: '{folder}/state', log_level: warning}}\n"
        f"sources: [{{type: file, config: {{paths: ['{folder}/logs/*.log'], service: shop}}}}]\n"
        f"helios: {{endpoint: 'http://{grpc}'}}\n"
    )
    ran = run_agent("run", "--once", "--config", folder / "agent.yaml")
    assert ran.returncode == 0, ran.stderr


def words(folder: Path) -> tuple[str | Path, ...]:
    return ("--config", "up.yaml", "--data-dir", folder / "data", "--http", ANY, "--grpc", ANY)


def test_without_its_schema_it_is_one_sentence(database: Database, tmp_path: Path) -> None:
    said = refused(tmp_path, *words(tmp_path))
    assert "the schema lacks 0001_initial" in said
    assert "`helios db migrate` brings it up to date" in said
    assert SECRET not in said
    assert database.number("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0


@pytest.mark.parametrize(
    ("dsn", "message"),
    [
        (f"postgresql://helios:{SECRET[:4]}/{SECRET[4:]}@127.0.0.1:1/helios", "postgres.dsn cannot be read"),
        (f"helios:{SECRET}@127.0.0.1/helios", "postgres.dsn cannot be read"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_sentence(tmp_path: Path, dsn: str, message: str) -> None:
    (tmp_path / "up.yaml").write_text(f"postgres: {{dsn: '{dsn}'}}\n")
    said = refused(tmp_path, *words(tmp_path))
    assert message in said
    assert SECRET[:4] not in said


def test_a_configuration_that_is_wrong_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "up.yaml").write_text(f"postgres: {{dns: 'postgresql://helios:{SECRET}@127.0.0.1/helios'}}\n")
    said = refused(tmp_path, *words(tmp_path))
    assert "unknown key 'dns' in postgres; did you mean 'dsn'?" in said
    assert SECRET not in said
    (tmp_path / "up.yaml").write_text(
        f"postgres: {{dsn: 'postgresql://helios:{SECRET}@127.0.0.1/helios', connections: 1}}\n"
    )
    said = refused(tmp_path, *words(tmp_path))
    assert "postgres.connections" in said
    assert SECRET not in said


def test_without_the_library_the_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "up.yaml").write_text("postgres: {dsn: 'postgresql://127.0.0.1:1/helios'}\n")
    said = refused(tmp_path, *words(tmp_path), command=HIDDEN)
    assert said == "helios: asyncpg is not installed: pip install 'helios-observability[timescale]'\n"


def test_what_comes_in_is_stored_exactly(database: Database, instance: Up, tmp_path: Path) -> None:
    """An access log of the past through the agent, events over HTTP, and the same once more after a restart."""
    (tmp_path / "logs").mkdir()
    access_log(tmp_path / "logs" / "access.log", 3_000)
    instance.start()
    ship(tmp_path, instance.grpc)
    made = [event(i) for i in range(300)]
    for i in range(0, 300, 100):
        assert instance.post(*made[i : i + 100]).json()["accepted"] == 100
    assert instance.post(*made[:100]).status_code == 202  # sent again
    until(lambda: database.events_of("shop") >= 3_000 and database.events_of("web") >= 300, 30)
    assert instance.end(signal.SIGINT) == 0, instance.complained
    assert instance.complained == ""
    counts = "SELECT count(*) FROM events WHERE service = 'web'"
    assert (database.events_of("shop"), database.events_of("web"), database.number(counts)) == (3_000, 300, 300)
    instance.start()
    assert instance.post(*made[100:200], event(300)).status_code == 202
    until(lambda: database.events_of("web") >= 301, 30)
    assert instance.end(signal.SIGTERM) == 0, instance.complained
    assert (database.events_of("shop"), database.events_of("web"), database.number(counts)) == (3_000, 301, 301)
    assert not (instance.data / "store.db").exists()


@pytest.mark.slow
def test_from_a_line_to_its_report(database: Database, instance: Up, tmp_path: Path) -> None:
    """Two minutes in which 60 % fail, after four in which all was well; then every page of the console has it."""
    instance.start()
    (tmp_path / "logs").mkdir()
    now = datetime.now(UTC)
    with (tmp_path / "logs" / "shop.log").open("w") as file:
        for i in range(-360 * 20, 0):
            failed = i >= -120 * 20 and i % 5 < 3
            line = {
                "timestamp": (now + timedelta(seconds=i / 20)).isoformat(),
                "service": "checkout é",
                "level": "ERROR" if failed else "INFO",
                "message": f"the payment of \0 {i} was not taken" if failed else "order placed",
            }
            file.write(json.dumps(line) + "\n")
    ship(tmp_path, instance.grpc)
    found: list[dict[str, Any]] = []

    def reported() -> bool:
        found[:] = instance.get("/api/v1/incidents").json()["incidents"]
        return bool(found) and database.number("SELECT count(*) FROM reports") > 0

    until(reported, 90, lambda: instance.complained)
    assert len(found) == 1
    assert "checkout é" in json.dumps(found[0], ensure_ascii=False)
    assert database.events_of("checkout é") == 7_200
    filled = {"incident_id": found[0]["id"], "name": "checkout é"}
    paths = instance.get("/openapi.json").json()["paths"]
    asked = 0
    for path, methods in paths.items():
        if "get" in methods:
            answer = instance.get(path.format(**filled))
            assert answer.status_code == 200, (path, answer.text)
            asked += 1
    assert asked >= 9
    for query in ("state=open", "state=resolved", "service=checkout é", "service=other", f"before={found[0]['id']}"):
        answer = instance.get(f"/api/v1/incidents?{query}&limit=1")
        assert answer.status_code == 200, answer.text
        expected = 1 if query in ("state=open", "service=checkout é") else 0
        assert len(answer.json()["incidents"]) == expected
    detail = instance.get(f"/api/v1/incidents/{found[0]['id']}").json()
    assert detail["report"]
    text = instance.get(f"/api/v1/incidents/{found[0]['id']}/report.md").text
    assert "was not taken" in text
    charts = instance.get("/api/v1/services/checkout é/windows").json()
    assert sum(value or 0 for value in charts["events_per_minute"]) > 0
    assert instance.get("/api/v1/services").json()["services"][0]["open_alerts"] >= 1
    # A restart knows the incident, and makes none of its own.
    assert instance.end(signal.SIGINT) == 0, instance.complained
    instance.start()
    time.sleep(3)
    again = instance.get("/api/v1/incidents").json()["incidents"]
    assert [one["id"] for one in again] == [found[0]["id"]]
    assert database.events_of("checkout é") == 7_200


@pytest.mark.slow
def test_killed_under_load_everything_counts_once(
    server: Server, database: Database, instance: Up, tmp_path: Path
) -> None:
    """It and its database in turns."""
    instance.start()
    posting = Posting(instance, every_s=0.01)
    posting.start()
    try:
        for turn in range(4):
            time.sleep(1.5)
            if turn % 2:
                assert instance.end(signal.SIGKILL) == -signal.SIGKILL
                instance.start()
            else:
                server.kill()
                time.sleep(1)
                started = time.monotonic()
                while True:
                    try:
                        server.start()
                        break
                    except RuntimeError:  # the children of the killed one still hold its memory
                        assert time.monotonic() - started < 20
                        time.sleep(0.5)
    finally:
        posting.end(give_up=True)
    accepted = len(posting.accepted)
    assert accepted > 50
    until(lambda: database.events_of("web") >= accepted, 30, lambda: database.events_of("web"))
    assert instance.end(signal.SIGINT) == 0, instance.complained
    stored = database.number("SELECT count(*) FROM events WHERE service = 'web'")
    assert stored == database.number("SELECT count(DISTINCT message) FROM events WHERE service = 'web'")
    assert stored == database.events_of("web")
    assert accepted <= stored <= accepted + len(posting.unanswered)
