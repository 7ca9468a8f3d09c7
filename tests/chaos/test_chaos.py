"""The short form of a run: a dozen faults; `make chaos` is the long one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.run import Plan, run
from tests.engines.kafka import broker
from tests.engines.postgres import server

pytestmark = pytest.mark.engines


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that the database, which has a user of its own, may enter."""
    made = Path(tempfile.mkdtemp(prefix="helios-chaos-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


async def test_a_dozen_faults_lose_nothing_and_double_nothing(folder: Path) -> None:
    """On kafka and timescale, or postgres without it: all that a run starts is its own."""
    if broker.missing():
        pytest.fail(f"no Kafka: {broker.missing()}")
    if server.tools() is None:
        pytest.fail("no PostgreSQL: apt-get install postgresql")
    account = await run(Plan(count=12, seed=20, gap_s=3, rollups=False), folder)
    if account.wrong:
        shutil.copytree(folder, f"{folder}-failed")
    assert not account.wrong, "\n".join([*account.lines(), f"logs: {folder}-failed"])
    assert account.numbers["events sent by id"] > 1_000
