"""Every kind of bad input by each way in: what it is counted as, and where; all good input beside it is there."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest

from tests.e2e.conftest import Helios
from tests.e2e.test_agent import PLAIN, settled
from tests.e2e.test_collector import Collector, running

GOOD = 600  # lines of one case, one a second
A_WINDOW = 10  # seconds, and so many good lines
ODD_AT = 300  # seconds after the first good line: where the odd line stands, and its time unless it says another
HOUR = 3_600
RECEIVED = -1  # it is counted at its receipt, in place of a time
OVERFLOW = "_overflow"
ENOUGH_S = 240  # for a command, on a machine with much else to do


@dataclass(frozen=True)
class Bad:
    """One odd line among 600 good ones.

    Attributes:
        line: with `%T` for the time of the good line before it, `%B` and `%A` for an hour before that and
            a day ahead of now, `%S` for the service of the good ones.
        unparsed, dropped, mended: what it is counted as.
        at: the second of the window in which its event is; None when it gives none.
        service: of its event, if it is not that of the good ones.
        latency: its event has one.
    """

    what: str
    line: bytes
    unparsed: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    mended: Mapping[str, int] = field(default_factory=dict)
    at: int | None = None
    service: str = ""
    latency: bool = False

    @property
    def own(self) -> str:
        """The service of its good lines."""
        return "web-" + self.what.replace(" ", "-")


def odd(more: bytes = b"", *, stamp: bytes = b"%T", service: bytes = b"%S") -> bytes:
    return b'{"timestamp":"' + stamp + b'","service":"' + service + b'","level":"INFO"' + more + b"}\n"


BAD = (
    Bad("malformed", b"{broken\n", unparsed=1),
    Bad("no object", b'["INFO"]\n', unparsed=1),
    Bad("half a line", odd()[:30] + b"\n", unparsed=1),
    Bad("half a line before a whole one", odd()[:30] + odd(), unparsed=1),
    Bad("10 MB", b'{"a":"' + b"y" * 10_000_000 + b'"}\n', dropped={"line_too_long": 1}),
    Bad("blank", b" \t\n", dropped={"blank": 1}),
    Bad("deeply nested", b'{"a":' + b"[" * 100_000 + b"\n", unparsed=1),
    Bad("no UTF-8", b"\xff\xfe\x00\x01\n", unparsed=1),
    Bad("no UTF-8 in the message", odd(b',"message":"caf\xe9"'), at=ODD_AT),
    Bad("NUL bytes", b"\0" * 4_096 + b"\n", dropped={"blank": 1}),
    Bad("NUL bytes before a line", b"\0" * 512 + odd(), at=ODD_AT),
    Bad("NUL in the message", odd(b',"message":"a\0b"'), at=ODD_AT),
    Bad("NUL in the service", odd(service=b"a\0b"), mended={"service_overflow": 1}, at=ODD_AT, service=OVERFLOW),
    Bad("service of 10 kB", odd(service=b"x" * 10_240), mended={"service_overflow": 1}, at=ODD_AT, service=OVERFLOW),
    Bad("year 1", odd(stamp=b"0001-01-01T00:00:00Z"), mended={"time_too_old": 1}, at=RECEIVED),
    Bad("year 1970", odd(stamp=b"1970-01-01T00:00:00Z"), mended={"time_too_old": 1}, at=RECEIVED),
    Bad("year 9999", odd(stamp=b"9999-12-31T23:59:59Z"), mended={"time_in_future": 1}, at=RECEIVED),
    Bad("a day ahead", odd(stamp=b"%A"), mended={"time_in_future": 1}, at=RECEIVED),
    Bad("no time", odd(stamp=b"yesterday"), mended={"bad_time": 1}, at=RECEIVED),
    Bad("clock back an hour", odd(b',"latency_ms":5', stamp=b"%B"), at=ODD_AT - HOUR, latency=True),
    Bad("negative latency", odd(b',"latency_ms":-5'), mended={"bad_latency": 1}, at=ODD_AT),
    Bad("NaN", odd(b',"latency_ms":NaN'), mended={"bad_latency": 1}, at=ODD_AT),
    Bad("Infinity", odd(b',"latency_ms":Infinity'), mended={"bad_latency": 1}, at=ODD_AT),
    Bad("latency of 400 digits", odd(b',"latency_ms":' + b"9" * 400), mended={"bad_latency": 1}, at=ODD_AT),
    Bad("latency in words", odd(b',"latency_ms":"long"'), mended={"bad_latency": 1}, at=ODD_AT),
)
NAMES = 100_000
NAMES_KEPT = 2_000


def hours_ago(hours: int) -> int:
    """At the beginning of a window; live agents take nothing that is much older."""
    return int(time.time() - hours * HOUR) // A_WINDOW * A_WINDOW


def stamp(second: int) -> bytes:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second)).encode()


def written(case: Bad, base: int) -> bytes:
    """The lines of one case, the first of them at `base`."""
    good = [odd(b',"latency_ms":5', stamp=stamp(base + i), service=case.own.encode()) for i in range(GOOD)]
    line = case.line.replace(b"%T", stamp(base + ODD_AT)).replace(b"%B", stamp(base + ODD_AT - HOUR))
    line = line.replace(b"%A", stamp(int(time.time()) + 24 * HOUR)).replace(b"%S", case.own.encode())
    return b"".join(good[:ODD_AT]) + line + b"".join(good[ODD_AT:])


@dataclass
class Stored:
    """What a store holds: events and latencies by service and window, unparsed lines by service."""

    events: Counter[tuple[str, int]] = field(default_factory=Counter)
    latencies: Counter[tuple[str, int]] = field(default_factory=Counter)
    unparsed: Counter[str] = field(default_factory=Counter)

    @classmethod
    def read(cls, data_dir: Path) -> Stored:
        found = cls()
        connection = sqlite3.connect(data_dir / "store.db")
        query = "SELECT service, start_us / 1000000, events, latency_count, unparsed FROM windows"
        for service, start, events, latencies, unparsed in connection.execute(query):
            found.events[service, start] += events
            found.latencies[service, start] += latencies
            found.unparsed[service] += unparsed
        connection.close()
        return Stored(+found.events, +found.latencies, +found.unparsed)

    @classmethod
    def of(cls, cases: Iterable[Bad], base: int, received: int) -> Stored:
        """What there must be, all of it."""
        due = cls()
        for case in cases:
            for start in range(base, base + GOOD, A_WINDOW):
                due.events[case.own, start] += A_WINDOW
                due.latencies[case.own, start] += A_WINDOW
            if case.unparsed:
                due.unparsed[case.own] += case.unparsed
            if case.at is not None:
                second = received if case.at == RECEIVED else base + case.at
                window = (case.service or case.own, second // A_WINDOW * A_WINDOW)
                due.events[window] += 1
                if case.latency:
                    due.latencies[window] += 1
        return due


def summed(cases: Iterable[object], what: str) -> dict[str, int]:
    total: Counter[str] = Counter()
    for case in cases:
        total.update(getattr(case, what))
    return dict(total)


def check_counts(counts: Mapping[str, object], cases: Iterable[Bad], *, unparsed: int = 0) -> None:
    """What the way in says of the lines: each odd one under its reason, and the law."""
    cases = list(cases)
    events = sum(GOOD + (case.at is not None) for case in cases)
    due = {
        "lines": len(cases) * (GOOD + 1) + unparsed,
        "events": events,
        "unparsed": sum(case.unparsed for case in cases) + unparsed,
        "dropped": summed(cases, "dropped"),
        "mended": summed(cases, "mended"),
    }
    assert {name: counts[name] for name in due} == due
    assert due["lines"] == events + due["unparsed"] + sum(due["dropped"].values())


def test_the_table_has_one_outcome_for_each_odd_line() -> None:
    for case in BAD:
        assert (case.at is not None) + case.unparsed + sum(case.dropped.values()) == 1, case.what
    assert len({case.own for case in BAD}) == len(BAD)


def test_all_kinds_in_one_replay(helios: Helios, tmp_path: Path) -> None:
    base, received = hours_ago(3), hours_ago(1)
    for number, case in enumerate(BAD):
        path = tmp_path / f"{number}.jsonl"
        path.write_bytes(written(case, base))
        os.utime(path, (received, received))
    files = [tmp_path / f"{number}.jsonl" for number in range(len(BAD))]
    ran = helios("replay", *files, "--data-dir", "data", "--json", timeout_s=ENOUGH_S)
    assert ran.returncode == 0, ran.stderr
    check_counts(json.loads(ran.stdout), BAD)
    assert Stored.read(tmp_path / "data") == Stored.of(BAD, base, received)


@pytest.mark.slow
@pytest.mark.parametrize("case", BAD, ids=lambda case: case.what)
def test_each_kind_in_a_replay_of_its_own(helios: Helios, tmp_path: Path, case: Bad) -> None:
    """Its reason is its own, not that of another."""
    base, received = hours_ago(3), hours_ago(1)
    log = tmp_path / "app.jsonl"
    log.write_bytes(written(case, base))
    os.utime(log, (received, received))
    ran = helios("replay", log, "--data-dir", "data", "--json", timeout_s=ENOUGH_S)
    assert ran.returncode == 0, ran.stderr
    check_counts(json.loads(ran.stdout), [case])
    assert Stored.read(tmp_path / "data") == Stored.of([case], base, received)


@dataclass(frozen=True)
class Alone:
    """What has no good line beside it, so that nothing tells it from plain text."""

    what: str
    data: bytes
    lines: int = 0
    events: int = 0
    unparsed: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    mended: Mapping[str, int] = field(default_factory=dict)

    def check_counts(self, counts: Mapping[str, Any]) -> None:
        names = ("lines", "events", "unparsed", "dropped", "mended")
        assert {name: counts[name] for name in names} == {name: getattr(self, name) for name in names}

    def add_to(self, due: Stored, service: str, received: int) -> None:
        if self.events:
            due.events[service, received // A_WINDOW * A_WINDOW] += self.events
        if self.unparsed:
            due.unparsed[service] += self.unparsed


ALONE = (
    Alone("empty", b""),
    Alone("line feeds", b"\n\n", lines=2, dropped={"blank": 2}),
    Alone("NUL bytes", b"\0" * 4_096, lines=1, dropped={"blank": 1}),
    Alone("lines of NUL bytes", (b"\0" * 100 + b"\n") * 5, lines=5, dropped={"blank": 5}),
    Alone("10 MB", b"y" * 10_000_000, lines=1, dropped={"line_too_long": 1}),
    Alone("10 MB and a line feed", b"y" * 10_000_000 + b"\n", lines=1, dropped={"line_too_long": 1}),
    Alone("no UTF-8", b"\xff\xfe\n" * 3, lines=3, events=3, mended={"bad_time": 3}),
    Alone("half a line", odd()[:30], lines=1, events=1, mended={"bad_time": 1}),
)


@pytest.mark.slow
@pytest.mark.parametrize("case", ALONE, ids=lambda case: case.what)
def test_alone_in_a_replay(helios: Helios, tmp_path: Path, case: Alone) -> None:
    received = hours_ago(1)
    log = tmp_path / "app.log"
    log.write_bytes(case.data)
    os.utime(log, (received, received))
    ran = helios("replay", log, "--data-dir", "data", "--json", timeout_s=ENOUGH_S)
    assert ran.returncode == 0, ran.stderr
    due = Stored()
    case.add_to(due, "app", received)
    case.check_counts(json.loads(ran.stdout))
    assert Stored.read(tmp_path / "data") == due


def configured(folder: Path, collector: Collector, sources: str) -> Path:
    path = folder / "agent.yaml"
    path.write_text(
        f"agent: {{state_dir: '{folder}/state', log_level: warning}}\nsources:\n{sources}"
        f"helios: {{endpoint: 'http://127.0.0.1:{collector.grpc}'}}\n"
    )
    return path


def agent(*words: str | Path, stdin: IO[bytes] | None = None) -> subprocess.CompletedProcess[str]:
    """The command, with windows as they are."""
    command = [*PLAIN, *map(str, words)]
    return subprocess.run(command, stdin=stdin, capture_output=True, text=True, timeout=ENOUGH_S, check=False)


def status_of(config: Path) -> dict[str, Any]:
    """What `helios-agent status --json` shows of an agent that has ended."""
    found: dict[str, Any] = json.loads((config.parent / "state" / "status.json").read_text())
    return found


def piped(config: Path, path: Path) -> subprocess.CompletedProcess[str]:
    """The agent with a file on its standard input, through a pipe."""
    with subprocess.Popen(["cat", str(path)], stdout=subprocess.PIPE) as source:
        return agent("run", "--once", "--config", config, stdin=source.stdout)


def once_stored(collector: Collector, began: float, due: Stored) -> Stored:
    """What is stored, as soon as it is what is due, or else the time is over; see `comparable`."""
    deadline = time.monotonic() + ENOUGH_S / 2
    while comparable(Stored.read(collector.folder / "data"), began, due) != due and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.3)  # what would come twice has come by now
    return comparable(Stored.read(collector.folder / "data"), began, due)


def comparable(found: Stored, began: float, due: Stored) -> Stored:
    """The same, with what was counted between `began` and now put to one window: `began`'s.

    Unparsed lines are put together where they are not due by service.
    """
    put = int(began) // A_WINDOW * A_WINDOW

    def moved(counts: Counter[tuple[str, int]]) -> Counter[tuple[str, int]]:
        made: Counter[tuple[str, int]] = Counter()
        for (service, start), count in counts.items():
            made[service, put if put <= start <= time.time() else start] += count
        return made

    unparsed = Counter({"": found.unparsed.total()}) if set(due.unparsed) == {""} else found.unparsed
    return Stored(moved(found.events), moved(found.latencies), unparsed)


@pytest.mark.slow
def test_all_kinds_through_one_agent(tmp_path: Path) -> None:
    base = hours_ago(3)
    logs = tmp_path / "logs"
    (logs / "folder.jsonl").mkdir(parents=True)
    (logs / "empty.jsonl").touch()
    (logs / "half.jsonl").write_bytes(odd()[:30])  # the rest of the line may come
    for number, case in enumerate(BAD):
        (logs / f"{number}.jsonl").write_bytes(written(case, base))
    began = time.time()
    with running(tmp_path) as collector:
        paths = [f"{logs}/{name}" for name in ("*.jsonl", "folder.jsonl", "missing.jsonl")]
        config = configured(tmp_path, collector, f"  - {{type: file, config: {{paths: {paths}}}}}\n")
        ran = agent("run", "--once", "--config", config)
        assert ran.returncode == 0, ran.stderr
        assert ran.stderr.count("source_is_directory") == 1
        due = Stored.of(BAD, base, int(began))
        assert once_stored(collector, began, due) == due
        check_counts(status_of(config), BAD)


@pytest.mark.slow
def test_all_kinds_through_standard_input(tmp_path: Path) -> None:
    base = hours_ago(3)
    stream = tmp_path / "stream"
    stream.write_bytes(b"".join([*(written(case, base) for case in BAD), odd()[:30]]))
    began = time.time()
    with running(tmp_path) as collector:
        config = configured(tmp_path, collector, "  - {type: stdin, config: {service: piped}}\n")
        ran = piped(config, stream)
        assert ran.returncode == 0, ran.stderr
        due = Stored.of(BAD, base, int(began))
        # An unparsed line counts with the last event of its block, and a pipe decides what is a block.
        due.unparsed = Counter({"": due.unparsed.total() + 1})
        assert once_stored(collector, began, due) == due
        check_counts(status_of(config), BAD, unparsed=1)


@pytest.mark.slow
def test_a_first_line_of_another_kind_decides_nothing(tmp_path: Path) -> None:
    """Many programs say something before their log begins."""
    base = hours_ago(3)
    log = tmp_path / "app.log"
    log.write_text("Starting up\n")
    with running(tmp_path) as collector:
        config = configured(tmp_path, collector, f"  - {{type: file, config: {{paths: ['{log}']}}}}\n")
        process = subprocess.Popen([*PLAIN, "run", "--config", str(config)])
        try:
            wait_for_lines(config, 1)
            with log.open("ab") as file:
                file.writelines(odd(stamp=stamp(base + i), service=b"web") for i in range(100))
            wait_for_lines(config, 101)
        finally:
            process.terminate()
            assert process.wait(timeout=ENOUGH_S) == 0
        settled(collector, 100, timeout_s=60)
    found = Stored.read(tmp_path / "data")
    assert sum(count for (service, _), count in found.events.items() if service == "web") == 100


def wait_for_lines(config: Path, lines: int) -> None:
    """Until a running agent has read so many."""
    deadline = time.monotonic() + ENOUGH_S / 2
    while time.monotonic() < deadline:
        if (config.parent / "state" / "status.json").exists() and status_of(config)["lines"] >= lines:
            return
        time.sleep(0.1)
    raise TimeoutError(f"the agent has not read {lines} lines")


@pytest.mark.slow
def test_alone_in_files_of_one_agent(tmp_path: Path) -> None:
    """The last line counts once its line feed is there."""
    logs = tmp_path / "logs"
    logs.mkdir()
    for case in ALONE:
        (logs / f"{case.what.replace(' ', '-')}.log").write_bytes(case.data)
    whole = [case for case in ALONE if case.data.endswith(b"\n")]
    due = Stored()
    with running(tmp_path) as collector:
        config = configured(tmp_path, collector, f"  - {{type: file, config: {{paths: ['{logs}/*.log']}}}}\n")
        began = time.time()
        ran = agent("run", "--once", "--config", config)
        assert ran.returncode == 0, ran.stderr
        for case in whole:
            case.add_to(due, case.what.replace(" ", "-"), int(began))
        assert once_stored(collector, began, due) == due
        counts = status_of(config)
    assert counts["lines"] == sum(case.lines for case in whole)
    assert (counts["events"], counts["unparsed"]) == (due.events.total(), due.unparsed.total())
    assert (counts["dropped"], counts["mended"]) == (summed(whole, "dropped"), summed(whole, "mended"))


@pytest.mark.slow
def test_alone_on_standard_input(tmp_path: Path) -> None:
    """Its end ends the last line. One collector takes it from an agent for each."""
    due = Stored()
    with running(tmp_path) as collector:
        began = time.time()
        for number, case in enumerate(ALONE):
            folder = tmp_path / str(number)
            folder.mkdir()
            config = configured(folder, collector, f"  - {{type: stdin, config: {{service: piped-{number}}}}}\n")
            (folder / "stream").write_bytes(case.data)
            ran = piped(config, folder / "stream")
            assert ran.returncode == 0, ran.stderr
            case.check_counts(status_of(config))
            case.add_to(due, f"piped-{number}", int(began))
        assert once_stored(collector, began, due) == due


@pytest.mark.slow
@pytest.mark.parametrize("way", ["replay", "agent", "standard input"])
def test_a_hundred_thousand_names_are_bounded(helios: Helios, tmp_path: Path, way: str) -> None:
    base = hours_ago(3)
    lines = [odd(stamp=stamp(base + i % 60), service=b"s%d" % i) for i in range(NAMES)]
    log = tmp_path / "app.jsonl"
    log.write_bytes(b"".join(lines))
    if way == "replay":
        ran = helios("replay", log, "--data-dir", "data", "--json", timeout_s=ENOUGH_S)
        assert ran.returncode == 0, ran.stderr
        counts = json.loads(ran.stdout)
    else:
        source = "{type: stdin}" if way == "standard input" else f"{{type: file, config: {{paths: ['{log}']}}}}"
        with running(tmp_path) as collector:
            config = configured(tmp_path, collector, f"  - {source}\n")
            ran = piped(config, log) if way == "standard input" else agent("run", "--once", "--config", config)
            assert ran.returncode == 0, ran.stderr
            assert settled(collector, NAMES, timeout_s=120) == NAMES
            counts = status_of(config)
    assert (counts["lines"], counts["events"], counts["unparsed"], counts["dropped"]) == (NAMES, NAMES, 0, {})
    assert counts["mended"] == {"service_overflow": NAMES - NAMES_KEPT}
    found = Stored.read(tmp_path / "data")
    by_service: Counter[str] = Counter()
    for (service, start), events in found.events.items():
        assert base <= start < base + 60
        by_service[service] += events
    assert by_service.pop(OVERFLOW) == NAMES - NAMES_KEPT
    assert len(by_service) == by_service.total() == NAMES_KEPT
