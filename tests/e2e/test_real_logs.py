"""Real logs through the whole chain: the store holds exactly what a regular expression counts in the files."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import tarfile
import time
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.conftest import COMMAND, Helios, stored

pytestmark = [pytest.mark.corpus, pytest.mark.slow]

ENOUGH_S = 300  # for a command, on a machine with much else to do
WINDOW_S = 10
# Each finds, in every line, what its log has: the parsers are not asked.
ACCESS = re.compile(rb'^\S+ \S+ \S+ \[(?P<time>\S+) \+0000\] ".*?" (?P<status>\d{3}) (?:\d+|-) ', re.MULTILINE)
OPENSTACK = re.compile(rb"^\S+ (?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\.\d{3} ", re.MULTILINE)
OPENSTACK_SECONDS = re.compile(rb"(?: time: |\bTook )(\d+\.\d+)")
AUTH = re.compile(rb"^(?P<time>\w{3} +\d+ \d\d:\d\d:\d\d) \S+ (?P<service>[\w-]+)(?:\[\d+\])?: ", re.MULTILINE)
AUTH_YEAR = 2015


class Counted(NamedTuple):
    """Events by service and window, and what the lines of a file come to."""

    events: Counter[tuple[str, int]]
    lines: int


def window_of(text: bytes, form: str) -> int:
    when = datetime.strptime(f"{text.decode()} +0000", f"{form} %z")
    return int(when.timestamp()) // WINDOW_S * WINDOW_S


def lines_in(data: bytes) -> int:
    return data.count(b"\n") + (not data.endswith(b"\n"))


def windows(data_dir: Path) -> Counter[tuple[str, int]]:
    """Events by service and window, as stored."""
    connection = sqlite3.connect(data_dir / "store.db")
    query = "SELECT service, start_us / 1000000, sum(events) FROM windows GROUP BY 1, 2"
    found = Counter({(service, start): events for service, start, events in connection.execute(query)})
    connection.close()
    return +found


def check(summary: dict[str, object], data_dir: Path, due: Counted) -> None:
    """The law, line by line: all of these logs' lines are events."""
    assert summary["lines"] == due.lines
    assert summary["events"] == due.events.total()
    assert (summary["unparsed"], summary["dropped"], summary["mended"]) == (0, {}, {})
    assert stored(data_dir, "SELECT sum(unparsed) FROM windows") == 0
    assert windows(data_dir) == due.events


def replayed(helios: Helios, *words: str | Path) -> dict[str, object]:
    ran = helios("replay", *words, "--data-dir", "data", "--json", timeout_s=ENOUGH_S)
    assert ran.returncode == 0, ran.stderr
    summary: dict[str, object] = json.loads(ran.stdout)
    return summary


def kill_replays(tmp_path: Path, *files: Path, times: int) -> None:
    """Replays into `data` that are killed at random moments of what a whole one takes."""
    moments = random.Random(5)
    began = time.monotonic()
    whole = [*COMMAND, "replay", *map(str, files), "--data-dir"]
    subprocess.run([*whole, str(tmp_path / "whole")], check=True, stdout=subprocess.DEVNULL, timeout=ENOUGH_S)
    takes_s = time.monotonic() - began
    killed = 0
    for _ in range(5 * times):
        process = subprocess.Popen([*whole, str(tmp_path / "data")], stdout=subprocess.DEVNULL)
        time.sleep(takes_s * moments.uniform(0.3, 0.9))
        if process.poll() is None:
            killed += 1
        else:  # the machine was busier when a whole one was timed
            takes_s /= 2
        process.kill()
        process.wait()
        if killed == times:
            break
    assert killed


def access(corpus: Path, tmp_path: Path) -> tuple[Path, Counted]:
    path = tmp_path / "web.log"
    shutil.copyfile(corpus / "logs/elastic/apache_access_10k.log", path)
    data = path.read_bytes()
    starts = [window_of(match["time"], "%d/%b/%Y:%H:%M:%S") for match in ACCESS.finditer(data)]
    return path, Counted(Counter(("web", start) for start in starts), lines_in(data))


def test_the_access_log(helios: Helios, corpus: Path, tmp_path: Path) -> None:
    path, due = access(corpus, tmp_path)
    assert due.events.total() == due.lines == 10_000
    check(replayed(helios, path), tmp_path / "data", due)
    statuses = Counter(int(match["status"]) // 100 for match in ACCESS.finditer(path.read_bytes()))
    assert stored(tmp_path / "data", "SELECT sum(events) FROM windows") == 10_000
    assert stored(tmp_path / "data", "SELECT sum(errors) FROM windows") == statuses[5]
    assert stored(tmp_path / "data", "SELECT sum(warnings) FROM windows") == statuses[4]
    assert replayed(helios, path)["lines"] == 0
    assert stored(tmp_path / "data", "SELECT sum(events) FROM windows") == 10_000


def test_the_access_log_by_replays_that_are_killed(helios: Helios, corpus: Path, tmp_path: Path) -> None:
    path, due = access(corpus, tmp_path)
    kill_replays(tmp_path, path, times=5)
    replayed(helios, path)
    assert stored(tmp_path / "data", "SELECT sum(events) FROM windows") == 10_000
    assert windows(tmp_path / "data") == due.events


def test_requests_of_openstack(helios: Helios, corpus: Path, tmp_path: Path) -> None:
    path = corpus / "logs/loghub/OpenStack_2k.log"
    data = path.read_bytes()
    starts = [window_of(match["time"], "%Y-%m-%d %H:%M:%S") for match in OPENSTACK.finditer(data)]
    due = Counted(Counter(("nova", start) for start in starts), lines_in(data))
    assert due.events.total() == due.lines == 2_000
    check(replayed(helios, path, "--service", "nova"), tmp_path / "data", due)
    latencies_us = [round(float(seconds) * 1e6) for seconds in OPENSTACK_SECONDS.findall(data)]
    assert stored(tmp_path / "data", "SELECT sum(latency_count) FROM windows") == len(latencies_us)
    assert stored(tmp_path / "data", "SELECT sum(latency_sum_us) FROM windows") == sum(latencies_us)


def test_logins(helios: Helios, corpus: Path, tmp_path: Path) -> None:
    """Lines without a year, which have that in which the file was last changed; a service in each line."""
    path = tmp_path / "auth.log"
    shutil.copyfile(corpus / "logs/elastic/auth.log", path)
    changed = datetime(AUTH_YEAR, 4, 21, tzinfo=UTC).timestamp()
    os.utime(path, (changed, changed))
    data = path.read_bytes()
    due = Counted(
        Counter(
            (match["service"].decode(), window_of(b"%d " % AUTH_YEAR + match["time"], "%Y %b %d %H:%M:%S"))
            for match in AUTH.finditer(data)
        ),
        lines_in(data),
    )
    assert due.events.total() == due.lines == 7_121
    check(replayed(helios, path), tmp_path / "data", due)


def booking_system(corpus: Path, folder: Path) -> tuple[list[Path], Counted]:
    """A file for each of its services. A piece without a line feed goes on in the next of its stream."""
    csv.field_size_limit(1 << 24)
    rows: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    with tarfile.open(next(corpus.glob("nezha-*/log.tar.xz"))) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None:
                for row in csv.DictReader(io.TextIOWrapper(file, "utf-8", newline="")):
                    rows[row["PodName"].rsplit("-", 2)[0]].append((int(row["TimeUnixNano"]), row["Log"].rstrip("\n")))
    events: Counter[tuple[str, int]] = Counter()
    lines = 0
    folder.mkdir()
    for service, logged in rows.items():
        logged.sort(key=lambda one: one[0])
        (folder / f"{service}.log").write_text("".join(f"{line}\n" for _, line in logged), encoding="utf-8")
        lines += len(logged)
        for _, line in logged:
            piece = json.loads(line)
            if piece["log"].endswith("\n"):
                start = window_of(piece["time"][:19].encode(), "%Y-%m-%dT%H:%M:%S")
                events[service, start] += 1
    return sorted(folder.iterdir()), Counted(events, lines)


def test_the_booking_system(helios: Helios, corpus: Path, tmp_path: Path) -> None:
    files, due = booking_system(corpus, tmp_path / "logs")
    assert (len(files), due.lines, due.events.total()) == (27, 94_703, 92_947)
    summary = replayed(helios, *files)
    # 1,756 lines are the beginning of a longer one.
    assert summary["lines"] == due.events.total() + 1_756
    check(summary, tmp_path / "data", due)
    assert replayed(helios, *files)["lines"] == 0


def test_the_booking_system_by_replays_that_are_killed(helios: Helios, corpus: Path, tmp_path: Path) -> None:
    files, due = booking_system(corpus, tmp_path / "logs")
    kill_replays(tmp_path, *files, times=3)
    replayed(helios, *files)
    assert windows(tmp_path / "data") == due.events
