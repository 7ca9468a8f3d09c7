"""The paths that globs mean."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from helios_agent.cli import cli
from helios_agent.paths import matching
from helios_agent.settings import EXAMPLE
from helios_agent.tail import Tail
from helios_core.clock import EventClock


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.log", "a.log.1.gz", "b.txt", "old/a.log", "old/c.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x\n")
    return tmp_path


@pytest.mark.parametrize(
    ("exclude", "found"),
    [
        ([], ["a.log", "a.log.1.gz", "b.txt", "old", "old/a.log", "old/c.gz"]),
        (["*.gz"], ["a.log", "b.txt", "old", "old/a.log"]),
        (["a.log"], ["a.log.1.gz", "b.txt", "old", "old/c.gz"]),
        (["{}/*.gz", "[b]*"], ["a.log", "old", "old/a.log", "old/c.gz"]),
        (["{}/**/*.gz", "{}/old"], ["a.log", "b.txt", "old/a.log"]),
        (["*.GZ"], ["a.log", "a.log.1.gz", "b.txt", "old", "old/a.log", "old/c.gz"]),
    ],
)
def test_what_is_left_out(folder: Path, exclude: list[str], found: list[str]) -> None:
    patterns = [f"{folder}/*", f"{folder}/old/*", f"{folder}/a*"]
    matched = matching(patterns, [pattern.format(folder) for pattern in exclude])
    assert sorted(matched) == [f"{folder}/{name}" for name in found]


def test_a_name_is_left_out_wherever_the_agent_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    tail = Tail([f"{folder}/*"], checkpoints={}, clock=EventClock(0), exclude=["*.gz"])
    tail.discover()
    assert {Path(tracked.path).name for tracked in tail.files.values()} == {"a.log", "b.txt"}
    tail.close()
    assert 'exclude: ["*.gz"]' in EXAMPLE
    Path("agent.yaml").write_text(EXAMPLE.replace("/var/log/nginx/access.log", f"{folder}/*"))
    said = CliRunner().invoke(cli, ["sources", "--config", "agent.yaml"]).output
    assert "b.txt" in said
    assert ".gz (" not in said
