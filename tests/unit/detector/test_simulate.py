"""The simulator: deterministic lines, anomalies that do what they say within their labels only, and its command."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from helios_detector.simulate import estate
from helios_detector.simulate.anomalies import KINDS, LONGEST_S, SHORTEST_S, Span
from helios_detector.simulate.catalogue import ARCHETYPES, WORDS
from helios_detector.simulate.cli import simulate
from helios_detector.simulate.conditions import Conditions
from helios_detector.simulate.errors import SimulationError
from helios_detector.simulate.live import write_live
from helios_detector.simulate.placement import GAP_S, Injection
from helios_detector.simulate.probes import PROBES
from helios_detector.simulate.scenario import Label, Scenario, Simulation

Line = dict[str, Any]

MORNING = datetime(2026, 3, 3, 10, tzinfo=UTC)
AFTER_S, DURATION_S, TOTAL_S = 1500, 1500, 3600
QUIET: dict[str, Any] = {"start": MORNING, "days": TOTAL_S / 86_400, "anomalies": 0, "seed": 3, "services": 4}


def produced(simulation: Simulation, chunk_s: int | None = None) -> bytes:
    return b"".join(chunk.data for chunk in simulation.chunks(chunk_s))


def decoded(data: bytes) -> list[Line]:
    return [json.loads(line) for line in data.splitlines()]


def at(line: Line) -> datetime:
    return datetime.fromisoformat(line["timestamp"])


def share(lines: Iterable[Line], wanted: Callable[[Line], bool]) -> float:
    found = [wanted(line) for line in lines]
    return sum(found) / len(found)


def failed(line: Line) -> bool:
    return bool(line["level"] == "ERROR")


def pattern(line: Line) -> str:
    text = line["message"]
    for word in WORDS:
        text = text.replace(word, "<word>")
    return re.sub(r"\d+", "<n>", text)


def latency_quantile(lines: list[Line], percent: int) -> float:
    return quantiles([line["latency_ms"] for line in lines if "latency_ms" in line], n=100)[percent - 1]


@cache
def quiet_hour() -> bytes:
    return produced(Simulation(Scenario(**QUIET)))


class Case:
    """One injected anomaly beside the same hour without it."""

    def __init__(self, kind: str, service: str) -> None:
        simulation = Simulation(Scenario(**QUIET, injections=(Injection(kind, AFTER_S, DURATION_S, service),)))
        (self.label,) = simulation.labels
        data = produced(simulation)
        self.reached = {service: self.label.start, **self.label.reached}
        self.lines, outside = self._split(data)
        self.usual, usual_outside = self._split(quiet_hour())
        self.nothing_outside = outside == usual_outside

    def _split(self, data: bytes) -> tuple[dict[str, list[Line]], list[bytes]]:
        inside: dict[str, list[Line]] = defaultdict(list)
        outside: list[bytes] = []
        for raw in data.splitlines():
            line = json.loads(raw)
            start = self.reached.get(line["service"])
            if start is not None and start <= at(line) < self.label.end:
                inside[line["service"]].append(line)
            else:
                outside.append(raw)
        return inside, outside

    def of(self, service: str) -> tuple[list[Line], list[Line]]:
        """The lines within the label: with the anomaly, and without."""
        return self.lines[service], self.usual[service]

    def volume(self, service: str) -> float:
        lines, usual = self.of(service)
        return len(lines) / len(usual)


def error_spike(case: Case, service: str) -> None:
    lines, _ = case.of(service)
    assert 0.06 <= share(lines, failed) <= 0.6
    assert case.volume(service) == 1
    (_, most), *_ = Counter(pattern(line) for line in lines if failed(line)).most_common(1)
    assert most > 0.7 * sum(map(failed, lines))


def total_outage(case: Case, service: str) -> None:
    lines, usual = case.of(service)
    assert share(lines, failed) == 1
    assert case.volume(service) == 1
    assert [line["latency_ms"] for line in lines] == [line["latency_ms"] for line in usual]


def latency_shift(case: Case, service: str) -> None:
    lines, usual = case.of(service)
    for percent in (50, 95):
        assert 2 < latency_quantile(lines, percent) / latency_quantile(usual, percent) < 6
    assert sum(map(failed, lines)) == sum(map(failed, usual))


def latency_tail(case: Case, service: str) -> None:
    lines, usual = case.of(service)
    assert latency_quantile(lines, 50) / latency_quantile(usual, 50) < 1.15
    assert latency_quantile(lines, 99) / latency_quantile(usual, 99) > 2.5


def traffic_spike(case: Case, service: str) -> None:
    assert 3 < case.volume(service) < 8
    assert share(case.lines[service], failed) < 0.02


def traffic_drop(case: Case, service: str) -> None:
    assert 0.03 < case.volume(service) < 0.3


def silence(case: Case, service: str) -> None:
    assert case.volume(service) == 0
    assert case.usual[service]


def new_error_pattern(case: Case, service: str) -> None:
    lines, usual = case.of(service)
    new = {pattern(line) for line in lines} - {pattern(line) for line in decoded(quiet_hour())}
    assert len(new) == 1
    assert 0.015 <= share(lines, lambda line: pattern(line) in new) <= 0.05
    assert share(lines, failed) < 0.05 + 0.01
    assert case.volume(service) == 1
    assert sum(map(failed, lines)) > sum(map(failed, usual)) + 10


def dependency_cascade(case: Case, service: str) -> None:
    label = case.label
    assert label.also
    delays = [(reached - label.start).total_seconds() for reached in label.reached.values()]
    assert all(20 <= later - sooner <= 90 for sooner, later in itertools.pairwise([0, *delays]))
    assert len(delays) in (1, 2)
    for name in (service, *label.also):
        lines, usual = case.of(name)
        assert latency_quantile(lines, 50) > 1.5 * latency_quantile(usual, 50)
        assert share(lines, failed) > 0.05
        begin = case.reached[name]
        first = [line for line in lines if at(line) < begin + timedelta(seconds=30)]
        assert share(first, failed) < 0.05, "latency comes first"


def slow_leak(case: Case, service: str) -> None:
    lines, usual = case.of(service)
    third = (case.label.end - case.label.start) / 3
    ratios = []
    for first in (case.label.start + third * i for i in range(3)):
        now, then = (
            median(line["latency_ms"] for line in part if first <= at(line) < first + third) for part in (lines, usual)
        )
        ratios.append(now / then)
    assert ratios == sorted(ratios)
    assert ratios[0] < 2
    assert ratios[2] > 3


def endpoint_scan(case: Case, service: str) -> None:
    lines, usual = case.of(service)
    probes = [line for line in lines if line["endpoint"] in PROBES]
    assert len({line["endpoint"] for line in probes}) > 200
    assert {line["status"] for line in probes} == {404}
    assert len(lines) == len(usual) + len(probes)
    assert not any(line["endpoint"] in PROBES for line in decoded(quiet_hour()) if "endpoint" in line)


def retry_storm(case: Case, service: str) -> None:
    lines, usual = case.of(service)
    assert 1.8 < case.volume(service) < 3
    assert 0.1 < share(lines, failed) < 0.3
    assert latency_quantile(lines, 50) > 1.4 * latency_quantile(usual, 50)


def flapping(case: Case, service: str) -> None:
    lines, _ = case.of(service)
    on, off = [], []
    for line in lines:
        minute = int((at(line) - case.label.start).total_seconds() // 60)
        (off if minute % 2 else on).append(line)
    assert 0.3 < share(on, failed) <= 0.9
    assert share(off, failed) < 0.03


def host_failure(case: Case, service: str) -> None:
    by_host: dict[str, list[Line]] = defaultdict(list)
    for line in case.lines[service]:
        by_host[line["host"]].append(line)
    shares = sorted(share(lines, failed) for lines in by_host.values())
    assert shares[-1] == 1
    assert shares[-2] < 0.03


CHECKS = (
    error_spike,
    total_outage,
    latency_shift,
    latency_tail,
    traffic_spike,
    traffic_drop,
    silence,
    new_error_pattern,
    dependency_cascade,
    slow_leak,
    endpoint_scan,
    retry_storm,
    flapping,
    host_failure,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_kind_does_what_it_says_within_its_label_and_nothing_outside(
    check: Callable[[Case, str], None],
) -> None:
    service = "payments" if check is dependency_cascade else "checkout"
    case = Case(check.__name__, service)
    check(case, service)
    assert case.nothing_outside, "every other line is byte for byte the same"


def test_all_kinds_are_checked() -> None:
    assert {check.__name__ for check in CHECKS} == set(KINDS)


@pytest.mark.slow
def test_a_subtle_host_failure_is_a_host_that_goes_silent() -> None:
    simulation = Simulation(
        Scenario(start=MORNING, days=0.2, anomalies=6, learning_hours=0, kinds=("host_failure",), seed=5)
    )
    subtle = [label for label in simulation.labels if label.severity < 0.5]
    assert subtle
    lines = decoded(produced(simulation))
    for label in subtle:
        hosts = {line["host"] for line in lines if line["service"] == label.service}
        within = {
            line["host"] for line in lines if line["service"] == label.service and label.start <= at(line) < label.end
        }
        assert len(hosts - within) == 1


@pytest.mark.parametrize(
    ("kind", "field", "subtle", "clear"),
    [
        ("error_spike", "error", 0.06, 0.6),
        ("latency_shift", "latency", 2.0, 6.0),
        ("latency_tail", "tail_share", 0.03, 0.08),
        ("latency_tail", "tail_factor", 8.0, 30.0),
        ("traffic_spike", "extra", 2.0, 7.0),
        ("traffic_drop", "keep", 0.3, 0.05),
        ("new_error_pattern", "novel", 0.015, 0.04),
        ("slow_leak", "latency", 4.0, 6.0),
        ("flapping", "error", 0.3, 0.9),
    ],
)
def test_severity_spans_the_stated_range(kind: str, field: str, subtle: float, clear: float) -> None:
    for severity, expected in ((0.0, subtle), (1.0, clear)):
        conditions = steady(seconds=661)
        (service,) = estate.build(1, 1, 1.0)
        span = Span(
            at=slice(0, 661),
            elapsed_s=np.arange(661.0),
            length_s=660,
            severity=severity,
            rolls=(0.0,) * 4,
            ordinal=0,
            hop=0,
            delay_s=0,
            service=service,
            root=service,
        )
        KINDS[kind].effect(conditions, span)
        assert getattr(conditions, field)[..., 600:].max() == pytest.approx(expected, rel=1e-6)


def steady(seconds: int) -> Conditions:
    ones, zeros = np.ones(seconds), np.zeros(seconds)
    return Conditions(
        start_s=0,
        rate=ones.copy(),
        extra=zeros.copy(),
        batch=zeros.copy(),
        scan=zeros.copy(),
        keep=np.ones((2, seconds)),
        error=np.full((2, seconds), 0.001),
        warn=zeros.copy(),
        latency=ones.copy(),
        tail_share=zeros.copy(),
        tail_factor=ones.copy(),
        novel=zeros.copy(),
        novelty=np.zeros(seconds, np.int64),
        cause=np.full(seconds, -1),
    )


class TestDeterminism:
    scenario = Scenario(start=MORNING, days=0.1, services=6, anomalies=3, learning_hours=0, seed=11)

    def test_equal_scenarios_give_equal_bytes_and_labels(self) -> None:
        one, two = Simulation(self.scenario), Simulation(self.scenario)
        assert produced(one) == produced(two)
        assert one.labels == two.labels
        assert one.background == two.background

    def test_the_chunks_do_not_matter(self) -> None:
        simulation = Simulation(self.scenario)
        whole = produced(simulation)
        assert produced(simulation, 60) == whole
        assert produced(simulation, 7) == whole
        half_read = simulation.chunks()
        next(half_read)
        assert produced(simulation, 100_000) == whole

    def test_another_seed_gives_another_estate(self) -> None:
        other = Simulation(Scenario(**{**QUIET, "seed": 4}))
        assert produced(other) != quiet_hour()
        assert not set(produced(other).splitlines()) & set(quiet_hour().splitlines())

    def test_chunks_hold_the_lines_of_their_time(self) -> None:
        simulation = Simulation(self.scenario)
        end_ms = simulation.scenario.start_s * 1000
        for chunk in simulation.chunks(60):
            assert chunk.start_ms == end_ms
            end_ms = chunk.end_ms
            assert chunk.end_ms - chunk.start_ms <= 60_000
            assert chunk.data.count(b"\n") == len(chunk)
            times = [round(at(line).timestamp() * 1000) for line in decoded(chunk.data)]
            assert times == chunk.times_ms.tolist() == sorted(times)
            assert all(chunk.start_ms <= time < chunk.end_ms for time in times)
        assert end_ms == (simulation.scenario.start_s + simulation.scenario.total_s) * 1000


class TestLines:
    def test_lines_have_the_documented_keys(self) -> None:
        simulation = Simulation(
            Scenario(start=MORNING, days=1 / 24, services=len(ARCHETYPES), anomalies=0, rate_scale=0.4)
        )
        plain = {"timestamp", "service", "level", "message", "host", "version", "trace_id", "request_id"}
        full = plain | {"latency_ms", "endpoint", "status"}
        silent = {archetype.name for archetype in ARCHETYPES if not archetype.has_latency}
        seen = set()
        for line in decoded(produced(simulation)):
            seen.add(line["service"])
            restart = line["message"].startswith(f"{line['service']}: ")
            assert set(line) == (plain if line["service"] in silent or restart else full)
            assert line["level"] in {"INFO", "WARN", "ERROR"}
            assert re.fullmatch(r"2026-03-03T1\d:\d\d:\d\d\.\d{3}Z", line["timestamp"])
            assert re.fullmatch(r"[0-9a-f]{32}", line["trace_id"])
            assert re.fullmatch(r"[0-9a-f]{8}", line["request_id"])
            assert re.fullmatch(line["service"] + r"-[1-4]", line["host"])
            assert "{" not in line["message"]
            if "status" in line:
                assert line["latency_ms"] > 0
                assert line["endpoint"].startswith("/")
                assert (line["status"] >= 500) == (line["level"] == "ERROR")
        assert seen >= {archetype.name for archetype in ARCHETYPES} - {"audit"}

    def test_services_share_traces_and_a_trace_fails_as_a_whole(self) -> None:
        case = Case("dependency_cascade", "payments")
        root, caller = (case.lines[name] for name in ("payments", case.label.also[0]))
        broken = {line["trace_id"] for line in root if failed(line)}
        assert len(broken & {line["trace_id"] for line in caller if failed(line)}) > 20

    @pytest.mark.slow
    def test_a_week_is_of_the_stated_size_and_shape(self) -> None:
        scale = 0.15
        simulation = Simulation(Scenario(rate_scale=scale, anomalies=0))
        count = size = 0
        hours = np.zeros(7 * 24)
        for hour, chunk in enumerate(simulation.chunks(3600)):
            hours[hour] = len(chunk)
            count += len(chunk)
            size += len(chunk.data)
        assert 3e6 < count / scale < 5e6
        assert 200 < size / count < 300
        days = hours.reshape(7, 24)
        assert days[:5].sum(axis=1).min() > days[5:].sum(axis=1).max(), "weekends are lower"
        assert days[2].max() > 1.8 * days[2].min(), "days have a shape"

    @pytest.mark.slow
    def test_a_rare_service_has_about_three_events_an_hour(self) -> None:
        data = produced(Simulation(Scenario(days=3, anomalies=0, rate_scale=0.3, seed=8)), None)
        count = data.count(b'"service":"audit"')
        assert 3 * 72 * 0.3 * 0.5 < count < 3 * 72 * 0.3 * 1.6


class TestBackground:
    simulation = Simulation(Scenario(days=7, anomalies=0, rate_scale=0.2, seed=21))

    def test_all_of_it_occurs_and_nothing_is_labelled(self) -> None:
        kinds = Counter(note.kind for note in self.simulation.background)
        assert set(kinds) == {"deploy", "batch", "burst", "outlier"}
        assert self.simulation.labels == ()
        deploys = [note for note in self.simulation.background if note.kind == "deploy"]
        assert all((note.end - note.start).total_seconds() < 60 for note in deploys)
        assert all(note.start.weekday() < 5 and 8 <= note.start.hour < 17 for note in deploys)

    def test_a_deploy_brings_a_new_version_to_every_host(self) -> None:
        deploys = [note for note in self.simulation.background if note.kind == "deploy"]
        note = next(note for note in deploys if note.service == "gateway")
        start = note.start.replace(minute=0, second=0)
        hour = int((start - self.simulation.scenario.start).total_seconds() // 3600)
        chunk = next(itertools.islice(self.simulation.chunks(3600), hour, None))
        lines = [line for line in decoded(chunk.data) if line["service"] == "gateway"]
        before = {line["version"] for line in lines if at(line) < note.start}
        after = {line["version"] for line in lines if at(line) > note.end}
        assert len(before) == len(after) == 1
        assert before != after
        ready = [line for line in lines if "ready, listening" in line["message"]]
        assert {line["host"] for line in ready} == {f"gateway-{i}" for i in range(1, 5)}
        assert {line["version"] for line in ready} == after

    def test_a_batch_has_its_own_endpoint_at_the_same_hour_each_night(self) -> None:
        nights = [n for n in self.simulation.background if n.kind == "batch" and n.service == "payments"]
        assert len(nights) == 7
        assert len({(note.start.hour, note.start.minute) for note in nights}) == 1
        note = nights[0]
        chunk = next(itertools.islice(self.simulation.chunks(3600), note.start.hour, None))
        lines = [line for line in decoded(chunk.data) if line["service"] == "payments"]
        jobs = [line for line in lines if line.get("endpoint", "").startswith("/internal/reconcile/")]
        assert jobs
        assert all(note.start <= at(line) < note.end for line in jobs)


class TestLabels:
    @pytest.mark.parametrize("seed", [1, 2, 3])
    def test_a_usual_week_has_forty_that_keep_apart(self, seed: int) -> None:
        simulation = Simulation(Scenario(seed=seed))
        assert len(simulation.labels) == 40
        assert {label.kind for label in simulation.labels} == set(KINDS)
        first = simulation.scenario.start + timedelta(hours=26)
        end = simulation.scenario.start + timedelta(days=7)
        spans: dict[str, list[tuple[datetime, datetime]]] = defaultdict(list)
        for label in simulation.labels:
            assert first <= label.start < label.end <= end
            assert SHORTEST_S <= (label.end - label.start).total_seconds() <= LONGEST_S
            assert label.service in simulation.services
            assert bool(label.also) == (label.kind == "dependency_cascade")
            for service in (label.service, *label.also):
                spans[service].append((label.start, label.end))
        assert "audit" not in spans, "three events an hour show nothing"
        for taken in spans.values():
            for (_, last), (following, _) in itertools.pairwise(sorted(taken)):
                assert (following - last).total_seconds() >= GAP_S
        assert {label.start.hour < 8 for label in simulation.labels} == {True, False}

    def test_they_are_json(self) -> None:
        label = Simulation(Scenario()).labels[0].as_json()
        assert {"service", "also", "kind", "start", "end"} <= set(label)
        assert datetime.fromisoformat(str(label["start"])).utcoffset() == timedelta(0)
        assert json.loads(json.dumps(label)) == label

    def test_a_short_scenario_is_for_learning_only(self) -> None:
        assert Simulation(Scenario(days=1)).labels == ()

    def test_several_new_patterns_on_a_service_are_all_new(self) -> None:
        injections = tuple(
            Injection("new_error_pattern", after_s, 600, "gateway") for after_s in (60, 1000, 2000, 3000)
        )
        simulation = Simulation(Scenario(**QUIET, injections=injections))
        new = {pattern(line) for line in decoded(produced(simulation))}
        assert len(new - {pattern(line) for line in decoded(quiet_hour())}) == 4

    def test_without_a_service_the_busiest_is_taken(self) -> None:
        (label,) = Simulation(Scenario(**QUIET, injections=(Injection("silence", 0, 60),))).labels
        assert label.service == "gateway"
        assert (label.end - label.start).total_seconds() == 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"days": 0}, "days must be more than 0"),
        ({"days": -1}, "days must be more than 0"),
        ({"days": float("nan")}, "days must be more than 0"),
        ({"days": 1e-6}, "a second at least"),
        ({"services": 0}, "services must be between 1 and"),
        ({"services": 1000}, "services must be between 1 and"),
        ({"rate_scale": 0}, "rate scale must be more than 0"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"start": MORNING.replace(tzinfo=None)}, "has no time zone"),
        ({"start": MORNING.replace(year=1950)}, "start must lie between"),
        ({"anomalies": -1}, "anomalies must be 0 or more"),
        ({"anomalies": 5000}, r"only \d{3} of 5000 anomalies fit"),
        ({"anomalies": 1, "days": 1}, "only 0 of 1 anomalies fit"),
        ({"anomalies": 1, "rate_scale": 0.001}, "only 0 of 1 anomalies fit"),
        ({"kinds": ("latency_shfit",)}, "did you mean 'latency_shift'"),
        ({"kinds": ("dependency_cascade",), "services": 1}, "no other service depends on it"),
        ({"injections": (Injection("silense", 0, 60),)}, "did you mean 'silence'"),
        ({"injections": (Injection("silence", 0, 60, "chekout"),)}, "did you mean 'checkout'"),
        ({"injections": (Injection("silence", 0, 60),), "services": 1}, "no service can have silence"),
        ({"injections": (Injection("latency_shift", 0, 60, "mailer"),)}, "carry no latency"),
        ({"injections": (Injection("silence", 0, 0),)}, "last a second at least"),
        ({"injections": (Injection("silence", 86_400 * 7, 60),)}, "but the scenario lasts 604800 s"),
        ({"injections": (Injection("silence", 0, 60), Injection("flapping", 59, 60))}, "overlaps another"),
    ],
)
def test_a_scenario_that_cannot_be_says_why(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SimulationError, match=message):
        Simulation(Scenario(**arguments))


@pytest.mark.parametrize("text", ["", "silence", "silence:1", "silence:a:b", "silence:1:2:3", "silence:-1:5"])
def test_an_injection_that_cannot_be_read_shows_how_to_write_it(text: str) -> None:
    with pytest.raises(SimulationError, match=r"error_spike@checkout:60:300"):
        Injection.parse(text)


def test_live_writes_every_line_when_its_time_has_come() -> None:
    simulation = Simulation(Scenario(**{**QUIET, "days": 120 / 86_400}))
    now = simulation.scenario.start_s + 0.5
    written: list[bytes] = []

    def write(data: bytes) -> None:
        times = [at(line).timestamp() for line in decoded(data)]
        assert max(times) <= now + 0.001
        # The first half second was over before the start; later lines are a tick late at most.
        assert min(times) > now - 0.25 or not written
        written.append(data)

    def sleep(seconds: float) -> None:
        nonlocal now
        assert 0 < seconds <= 0.1
        now += seconds

    count = write_live(simulation.chunks(), write, clock=lambda: now, sleep=sleep)
    assert b"".join(written) == produced(simulation)
    assert count == b"".join(written).count(b"\n")


class TestCommand:
    def run(self, *arguments: str | Path) -> Result:
        return CliRunner().invoke(simulate, [str(argument) for argument in arguments])

    def test_writes_lines_labels_and_background(self, tmp_path: Path) -> None:
        out, labels, background = tmp_path / "app.log", tmp_path / "labels.json", tmp_path / "bg.json"
        result = self.run(
            *("--out", out, "--labels", labels, "--background", background),
            *("--days", "0.05", "--inject", "total_outage@checkout:600:300", "--start", "2026-03-03T02:00:00+01:00"),
        )
        assert result.exit_code == 0, result.output
        assert "lines, 1 anomalies" in result.stderr
        (label,) = json.loads(labels.read_text())
        assert (label["service"], label["kind"], label["also"]) == ("checkout", "total_outage", [])
        assert (label["start"], label["end"]) == ("2026-03-03T01:10:00Z", "2026-03-03T01:15:00Z")
        lines = decoded(out.read_bytes())
        stamps = [line["timestamp"] for line in lines]
        assert stamps == sorted(stamps)
        assert stamps[0].startswith("2026-03-03T01:00:")
        assert isinstance(json.loads(background.read_text()), list)

    def test_no_anomalies_make_an_empty_array(self, tmp_path: Path) -> None:
        labels = tmp_path / "labels.json"
        result = self.run("--out", tmp_path / "a", "--labels", labels, "--days", "0.001", "--anomalies", "0")
        assert result.exit_code == 0, result.output
        assert json.loads(labels.read_text()) == []

    def test_a_dash_is_standard_output(self) -> None:
        result = self.run("--out", "-", "--days", "0.01", "--seed", "9")
        assert result.exit_code == 0
        assert result.stdout_bytes == produced(Simulation(Scenario(days=0.01, seed=9)))

    @pytest.mark.slow
    def test_live_writes_now_and_tells_what_comes(self, tmp_path: Path) -> None:
        out = tmp_path / "app.log"
        result = self.run(
            *("--out", out, "--live", "--days", "0.00002", "--rate-scale", "50"),
            *("--inject", "silence@checkout:0:1"),
        )
        assert result.exit_code == 0, result.output
        assert "silence on checkout" in result.stderr
        lines = decoded(out.read_bytes())
        assert lines
        assert all(abs((at(line) - datetime.now(UTC)).total_seconds()) < 60 for line in lines)

    def test_help_lists_the_kinds(self) -> None:
        result = self.run("--help")
        assert result.exit_code == 0
        assert all(kind in result.output for kind in KINDS)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--days", "0"), "days must be more than 0"),
            (("--kinds", "slow_leek"), "did you mean 'slow_leak'"),
            (("--anomalies", "9999"), "anomalies fit into 7 days"),
            (("--inject", "silence@chekout:1:2"), "did you mean 'checkout'"),
            (("--inject", "silence"), "KIND[@SERVICE]:AFTER_S:DURATION_S"),
            (("--start", "yesterday"), "is no RFC 3339 time"),
            (("--start", "2026-03-02T00:00:00"), "has no time zone"),
            (("--live", "--start", "2026-03-02T00:00:00Z"), "leave out --start"),
        ],
    )
    def test_bad_arguments_are_explained(self, arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
        out = tmp_path / "app.log"
        result = self.run("--out", out, *arguments)
        assert result.exit_code == 2
        assert message in " ".join(result.stderr.split())
        assert not out.exists(), "nothing is written"

    def test_bad_files_are_explained(self, tmp_path: Path) -> None:
        old = tmp_path / "old.log"
        old.write_text("precious")
        for arguments, message in (
            (("--out", tmp_path), "is a directory"),
            (("--out", tmp_path / "no" / "app.log"), "there is no directory"),
            (("--out", old), "overwrite it with --force"),
            (("--out", tmp_path / "new", "--labels", old), "overwrite it with --force"),
            (("--out", tmp_path / "new", "--labels", tmp_path / "new"), "name the same file"),
        ):
            result = self.run(*arguments, "--days", "0.01")
            assert result.exit_code == 2
            assert message in " ".join(result.stderr.split())
        assert old.read_text() == "precious"
        assert self.run("--out", old, "--days", "0.01", "--force").exit_code == 0
        assert old.read_bytes().startswith(b'{"timestamp"')

    def test_a_full_disk_is_one_sentence(self) -> None:
        if not Path("/dev/full").exists():
            pytest.skip("this system has no /dev/full")
        result = self.run("--out", "/dev/full", "--days", "0.01")
        assert result.exit_code == 1
        assert "cannot write /dev/full: No space left on device" in result.stderr


def test_labels_compare_by_value() -> None:
    scenario = Scenario(days=2)
    first, second = Simulation(scenario).labels[0], Simulation(scenario).labels[0]
    assert isinstance(first, Label)
    assert first == second
