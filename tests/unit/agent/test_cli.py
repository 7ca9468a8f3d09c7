"""The command `helios-agent` with metric sources: what test, sources, validate and status say, and to scripts."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.unit.agent.metric_sources import Told

from helios_agent import cli as cli_module
from helios_agent import connection
from helios_agent.sources import CollectionResult, MetricSample, base
from helios_agent.status import MetricsStatus, Status, write_status

SAMPLE = MetricSample("queue.length", 17.25, {"queue": "mail"})


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_module, "_ASKED_AFTER_S", 0.06)
    for name in [name for name in os.environ if name.startswith("HELIOS_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    """What every source of type `queue` does."""
    source = Told(SAMPLE)
    monkeypatch.setattr(base, "_TYPES", {**base._TYPES, "queue": lambda config: source})
    return source


def ran(folder: Path, *words: str, sources: str = "{type: queue}") -> Result:
    path = folder / "agent.yaml"
    path.write_text(f"agent: {{state_dir: '{folder}/state'}}\nsources: [{sources}]\n")
    result = CliRunner().invoke(cli_module.cli, [*words, "--config", str(path)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def reached(monkeypatch: pytest.MonkeyPatch, fault: str = "") -> None:
    """A collector that takes all, or one with that fault."""

    async def found(*words: Any) -> str:
        return fault

    monkeypatch.setattr(connection, "fault", found)


# ---- test


def test_test_shows_the_samples(told: Told, tmp_path: Path) -> None:
    told.result = CollectionResult([SAMPLE, MetricSample("load", 1_234_567.0)], ["/mnt: gone"])
    said = ran(tmp_path, "test").output.splitlines()
    assert said == [
        "queue: 2 samples in 0 s",
        "  queue.length 17.25 queue=mail",
        "  load 1.23457e+06",
        "  ✗ /mnt: gone",
    ]
    assert told.calls == ["initialize", "collect", "close"]


def test_test_for_scripts(told: Told, tmp_path: Path) -> None:
    found = json.loads(ran(tmp_path, "test", "--json").output)
    assert found == [{"type": "queue", "samples": [["queue.length", 17.25, {"queue": "mail"}]], "errors": []}]


@pytest.mark.parametrize("bad", [float("nan"), "17", None, 10**400], ids=lambda bad: str(bad)[:5])
@pytest.mark.parametrize("words", [("test",), ("test", "--json")])
def test_test_says_why_a_sample_is_none(told: Told, tmp_path: Path, words: tuple[str, ...], bad: Any) -> None:
    told.result = CollectionResult([SAMPLE, MetricSample("odd", bad)])
    said = ran(tmp_path, *words).output
    assert "queue.length" in said
    assert "odd" in said
    if "--json" in words:
        (found,) = json.loads(said)
        assert (len(found["samples"]), len(found["errors"])) == (1, 1)
    else:
        assert "queue: 1 samples" in said
        assert said.count("✗") == 1


def test_test_says_what_a_source_raises(told: Told, tmp_path: Path) -> None:
    def refuse() -> None:
        raise OSError("connection refused")

    told.on_initialize = refuse
    assert ran(tmp_path, "test").output.splitlines() == ["queue: 0 samples in 0 s", "  ✗ connection refused"]


def test_test_of_the_real_host(tmp_path: Path) -> None:
    (found,) = json.loads(ran(tmp_path, "test", "--json", sources="{type: system}").output)
    assert (found["type"], found["errors"]) == ("system", [])
    assert "system.memory.utilization" in {name for name, _, _ in found["samples"]}


# ---- sources


def test_sources_are_listed(told: Told, tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("hello\n")
    sources = f"{{type: file, config: {{paths: ['{tmp_path}/*.log']}}}}, {{type: queue}}, {{type: system}}"
    said = ran(tmp_path, "sources", sources=sources).output.splitlines()
    assert said == [f"file {tmp_path}/*.log", f"  {tmp_path}/a.log (6 bytes)", "queue", "system"]
    found = json.loads(ran(tmp_path, "sources", "--json", sources=sources).output)
    assert [(one["type"], one["files"]) for one in found] == [
        ("file", [f"{tmp_path}/a.log"]),
        ("queue", []),
        ("system", []),
    ]
    assert told.calls == []  # to list is not to ask


# ---- validate


def test_validate_asks_the_sources(told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reached(monkeypatch)
    result = ran(tmp_path, "validate", sources="{type: queue}, {type: system}")
    assert (result.exit_code, result.output) == (0, "✓ configuration, files, state directory and collector are fine\n")


@pytest.mark.parametrize(("error", "said"), [(OSError("no route"), "no route"), (KeyError(), "KeyError")])
def test_validate_says_why_a_source_cannot_be_asked(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def unhealthy() -> None:
        raise error

    reached(monkeypatch)
    monkeypatch.setattr(told, "health_check", unhealthy)
    result = ran(tmp_path, "validate")
    assert (result.exit_code, result.output) == (1, f"✗ source of type queue: {said}\n")


def test_validate_without_psutil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reached(monkeypatch)
    monkeypatch.setitem(sys.modules, "psutil", None)
    result = ran(tmp_path, "validate", sources="{type: system}")
    sentence = "psutil is not installed: pip install 'helios-observability[agent]'"
    assert (result.exit_code, result.output) == (1, f"✗ source of type system: {sentence}\n")


def test_validate_says_what_is_wrong_with_the_way_to_the_collector(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached(monkeypatch, "helios.api_key: the collector refuses")
    result = ran(tmp_path, "validate")
    assert (result.exit_code, result.output) == (1, "✗ helios.api_key: the collector refuses\n")


def test_validate_names_a_directory_and_a_state_directory_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached(monkeypatch)
    (tmp_path / "logs").mkdir()
    (tmp_path / "state").touch()
    result = ran(tmp_path, "validate", sources=f"{{type: file, config: {{paths: ['{tmp_path}/logs/']}}}}")
    assert f"is a directory: name the files in it, for example {tmp_path}/logs/*.log\n" in result.output
    assert f"✗ agent.state_dir: {tmp_path}/state cannot be written\n" in result.output


# ---- status


def status(folder: Path, *words: str, **fields: Any) -> str:
    (folder / "state").mkdir()
    write_status(folder / "state", Status(at="2026-03-02T00:00:00Z", process=os.getpid(), **fields))
    return ran(folder, "status", *words, sources="").output


def test_status_says_how_the_sources_do(tmp_path: Path) -> None:
    metrics = [
        MetricsStatus(type="system", collections=1_200, samples=27_000),
        MetricsStatus(type="queue", collections=3, failures=1_001, samples=3, error="connection refused"),
    ]
    said = status(tmp_path, metrics=metrics, metrics_dropped={"overflow": 1_500, "bad_sample": 2})
    assert "  system: 27,000 samples of 1,200 collections\n" in said
    assert "  queue: 3 samples of 3 collections, 1,001 failed\n    the last time: connection refused\n" in said
    assert "  samples dropped: 2 bad_sample, 1,500 overflow\n" in said


def test_status_says_how_many_files_wait(tmp_path: Path) -> None:
    assert "  1,500 files more than can be open: they take turns\n" in status(tmp_path, files_left_out=1_500)


def test_status_for_scripts(tmp_path: Path) -> None:
    found = json.loads(status(tmp_path, "--json", metrics=[MetricsStatus(type="system", samples=3)]))
    assert found["metrics"] == [{"type": "system", "collections": 0, "failures": 0, "samples": 3, "error": ""}]


def test_status_without_any_of_it_says_nothing_of_it(tmp_path: Path) -> None:
    said = status(tmp_path)
    assert "samples" not in said
    assert "files" not in said
    assert "_overflow" not in said


@pytest.mark.parametrize(("count", "shown"), [(2, "'s-0', 's-1'; "), (5, "'s-4'; "), (6, "'s-4', …; ")])
def test_status_names_services_beyond_the_bound(tmp_path: Path, count: int, shown: str) -> None:
    said = status(tmp_path, overflowed=[f"s-{number}" for number in range(count)])
    (line,) = [line for line in said.splitlines() if "_overflow" in line]
    assert line.startswith("  counted under _overflow: 's-0', 's-1'")
    assert shown in line
    assert "'s-5'" not in line
    assert line.endswith("beyond the first 2,000, or their names are too long or cannot be printed")


# ---- the configuration


def test_a_configuration_that_is_none_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\x7fELF\xff\xfe")
    for path, said in (
        (tmp_path, f"the configuration {tmp_path} is a directory: give the YAML file in it"),
        (tmp_path / "binary", "is no text in UTF-8 (byte 4 is 0xff): give a YAML file"),
        (tmp_path / "none", f"there is no configuration {tmp_path}/none: `helios-agent init` writes one"),
    ):
        result = CliRunner().invoke(cli_module.cli, ["status", "--config", str(path)])
        assert result.exit_code == 1
        assert said in result.output
        assert result.output.count(str(path)) == 1
