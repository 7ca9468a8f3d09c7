"""The commands beside `up` and `replay`: learn, train, models, list and show, on one data directory after the other."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from helios_detector.cli import cli as detector
from helios_reporter.cli import cli as reporter
from tests.e2e.conftest import Helios, access_log, stored

START = datetime(2026, 3, 2, tzinfo=UTC)


def service_log(path: Path, minutes: int, *, failing_from: int | None = None) -> Path:
    """Thirty events a minute of one service; every second one fails from some minute on."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(minutes * 30):
            when = START + timedelta(seconds=number * 2)
            failing = failing_from is not None and number >= failing_from * 30 and number % 2
            line = {
                "time": when.isoformat(),
                "service": "shop",
                "level": "ERROR" if failing else "INFO",
                "message": "m",
            }
            file.write(json.dumps(line) + "\n")
    return path


@pytest.mark.slow
def test_what_is_learned_is_counted_once_and_can_be_trained_on(helios: Helios, tmp_path: Path) -> None:
    log, data = service_log(tmp_path / "old.jsonl", 16 * 60), tmp_path / "data"
    ran = helios("learn", log, "--data-dir", data)
    assert ran.returncode == 0, ran.stderr
    assert "28,800 lines, 28,800 events until 2026-03-02T1" in ran.stdout
    again = helios("learn", log, "--data-dir", data)
    assert "nothing new" in again.stdout
    assert stored(data, "SELECT sum(events) FROM windows") == 28_800
    assert stored(data, "SELECT count(*) FROM anomalies") == 0

    trained = CliRunner().invoke(detector, ["train", "--data-dir", str(data), "--json"])
    assert trained.exit_code == 0, trained.output
    (one,) = json.loads(trained.output)
    assert one["service"] == "shop"
    assert one["version"]
    assert "2026-03-02" in one["trained_until"]
    listed = CliRunner().invoke(detector, ["models", "--data-dir", str(data)])
    assert one["version"] in listed.output
    assert "context-1" in listed.output


@pytest.mark.slow
def test_too_little_history_says_how_much_there_is(helios: Helios, tmp_path: Path) -> None:
    data = tmp_path / "data"
    helios("learn", service_log(tmp_path / "old.jsonl", 30), "--data-dir", data)
    trained = CliRunner().invoke(detector, ["train", "--data-dir", str(data)])
    assert trained.exit_code == 0
    assert "too little history: " in trained.output
    assert "of 720 minutes" in trained.output
    unknown = CliRunner().invoke(detector, ["train", "--data-dir", str(data), "--service", "cart"])
    assert unknown.exit_code == 1
    assert "known: shop" in unknown.output


def test_incidents_are_listed_and_shown(helios: Helios, tmp_path: Path) -> None:
    log, data = service_log(tmp_path / "shop.jsonl", 30, failing_from=20), tmp_path / "data"
    assert helios("replay", log, "--data-dir", data).returncode == 0
    listed = CliRunner().invoke(reporter, ["list", "--data-dir", str(data)])
    assert listed.exit_code == 0, listed.output
    (line,) = listed.output.splitlines()
    assert "shop" in line
    incident = line.split()[0]
    shown = CliRunner().invoke(reporter, ["show", incident[:5], "--data-dir", str(data)])
    assert shown.output.rstrip() == (data / "reports" / f"{incident}.md").read_text().rstrip()
    document = json.loads(CliRunner().invoke(reporter, ["show", incident, "--data-dir", str(data), "--json"]).output)
    assert document["report"]["incident_id"] == incident
    as_json = json.loads(CliRunner().invoke(reporter, ["list", "--data-dir", str(data), "--json"]).output)
    assert [row["id"] for row in as_json] == [incident]
    missing = CliRunner().invoke(reporter, ["show", "nothing", "--data-dir", str(data)])
    assert missing.exit_code == 1
    assert "helios-reporter list" in missing.output


@pytest.mark.parametrize(
    ("command", "words"),
    [(detector, ["train"]), (detector, ["models"]), (reporter, ["list"]), (reporter, ["show", "x"])],
)
def test_a_directory_without_data_is_one_sentence(tmp_path: Path, command: object, words: list[str]) -> None:
    ran = CliRunner().invoke(command, [*words, "--data-dir", str(tmp_path / "nowhere")])  # type: ignore[arg-type]
    assert ran.exit_code == 1
    assert len(ran.output.splitlines()) == 1
    assert "helios up" in ran.output


@pytest.mark.slow
def test_learning_from_an_access_log_counts_every_line(helios: Helios, tmp_path: Path) -> None:
    ran = helios("learn", access_log(tmp_path / "access.log", 3_000), "--data-dir", tmp_path / "data")
    assert ran.returncode == 0, ran.stderr
    assert stored(tmp_path / "data", "SELECT sum(events) FROM windows") == 3_000
