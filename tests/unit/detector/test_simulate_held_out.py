"""The kinds in reserve: they do what they say within their labels only, and leave the usual week as it was."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from click.testing import CliRunner

from helios_detector.simulate.anomalies import KINDS
from helios_detector.simulate.catalogue import ARCHETYPES
from helios_detector.simulate.cli import simulate
from helios_detector.simulate.errors import SimulationError
from helios_detector.simulate.held_out import _JOURNEYS, _WITHOUT_TOKEN, ALL_KINDS, HELD_OUT
from helios_detector.simulate.incidents import INCIDENT_MESSAGES
from helios_detector.simulate.placement import GAP_S, Injection
from helios_detector.simulate.scenario import Label, Scenario, Simulation

Line = dict[str, Any]

MORNING = datetime(2026, 3, 3, 10, tzinfo=UTC)
AFTER_S, DURATION_S, TOTAL_S = 900, 2400, 4200
QUIET: dict[str, Any] = {"start": MORNING, "days": TOTAL_S / 86_400, "anomalies": 0, "seed": 3, "services": 4}
HOUR = timedelta(hours=1)


def at(line: Line) -> datetime:
    return datetime.fromisoformat(line["timestamp"])


def digest(data: object) -> str:
    return hashlib.sha256(data if isinstance(data, bytes) else json.dumps(data).encode()).hexdigest()


def share(lines: list[Line], level: str) -> float:
    return len([line for line in lines if line["level"] == level]) / len(lines)


def saying(lines: list[Line], text: str) -> list[Line]:
    return [line for line in lines if text in line["message"]]


def middle(lines: list[Line]) -> float:
    return float(median(line["latency_ms"] for line in lines if "latency_ms" in line))


@cache
def quiet(rate_scale: float) -> bytes:
    return b"".join(chunk.data for chunk in Simulation(Scenario(**QUIET, rate_scale=rate_scale)).chunks(None))


class Case:
    """One injected anomaly beside the same time without it."""

    def __init__(self, kind: str, service: str, rate_scale: float = 1.0) -> None:
        injection = Injection(kind, AFTER_S, DURATION_S, service)
        simulation = Simulation(Scenario(**QUIET, rate_scale=rate_scale, injections=(injection,)))
        (self.label,) = simulation.labels
        self.data = b"".join(chunk.data for chunk in simulation.chunks(None))
        self.reached = {service: self.label.start, **self.label.reached}
        self.lines, outside = self._split(self.data)
        self.usual, usual_outside = self._split(quiet(rate_scale))
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

    def part(self, service: str, first: float, last: float) -> tuple[list[Line], list[Line]]:
        """The lines between two shares of the label: with the anomaly, and without."""
        length = self.label.end - self.label.start
        begin, end = self.label.start + length * first, self.label.start + length * last
        with_it, without = ([x for x in part[service] if begin <= at(x) < end] for part in (self.lines, self.usual))
        return with_it, without

    def volume(self, service: str, first: float = 0.0, last: float = 1.0) -> float:
        lines, usual = self.part(service, first, last)
        return len(lines) / len(usual)


@cache
def case(kind: str, service: str) -> Case:
    return Case(kind, service)


PLACES = [(kind, service) for kind in HELD_OUT for service in ("checkout", "payments", "gateway", "mailer")]
ABLE = [place for place in PLACES if place not in {("key_rotation", "payments"), ("key_rotation", "mailer")}]
ABLE.remove(("client_release", "mailer"))


@pytest.mark.parametrize(("kind", "service"), ABLE)
def test_the_label_covers_all_that_changes_on_each_service_that_it_names(kind: str, service: str) -> None:
    found = case(kind, service)
    assert found.nothing_outside, "every other line is byte for byte the same"
    for name in (service, *found.label.also):
        assert found.lines[name] != found.usual[name], "each service is affected"
    assert found.data == Case(kind, service).data


@pytest.mark.parametrize("place", sorted(set(PLACES) - set(ABLE)))
def test_a_service_that_cannot_have_a_kind_says_why(place: tuple[str, str]) -> None:
    with pytest.raises(SimulationError, match=f"{place[1]} cannot have {place[0]}: "):
        Case(*place)


class TestMemoryLimit:
    @pytest.mark.parametrize("service", ["checkout", "payments", "gateway", "mailer"])
    def test_hosts_take_turns_while_the_traffic_goes_on(self, service: str) -> None:
        found = case("memory_limit", service)
        lines, usual = found.part(service, 0, 1)
        assert 0.85 < found.volume(service) < 1.05
        ready = Counter(line["host"] for line in saying(lines, "ready, listening"))
        assert set(ready) == {line["host"] for line in usual}, "at this severity all hosts have it"
        assert min(ready.values()) >= 5
        assert {line["version"] for line in lines} == {line["version"] for line in usual}
        assert not saying(lines, "shutting down")
        assert 0.02 < share(lines, "ERROR") < 0.09
        assert 0.01 < len(saying(lines, "heap at")) / len(lines) < 0.1
        if service != "mailer":
            assert 1.4 < middle(lines) / middle(usual) < 3

    def test_a_host_says_nothing_between_its_death_and_its_return(self) -> None:
        lines, _ = case("memory_limit", "gateway").part("gateway", 0, 1)
        gaps = []
        for host in {line["host"] for line in lines}:
            mine = [line for line in lines if line["host"] == host]
            for before, after in itertools.pairwise(mine):
                if "ready, listening" in after["message"]:
                    gaps.append((at(after) - at(before)).total_seconds())
        assert min(gaps) > 12
        assert 70 < max(gaps) < 130

    def test_latency_grows_from_life_to_death(self) -> None:
        lines, _ = case("memory_limit", "gateway").part("gateway", 0, 1)
        returns = [line for line in lines if "ready, listening" in line["message"]]
        early: list[float] = []
        late: list[float] = []
        for host in {line["host"] for line in lines}:
            deaths = [at(line) for line in returns if line["host"] == host]
            for line in (line for line in lines if line["host"] == host and "latency_ms" in line):
                age = min(((at(line) - t).total_seconds() for t in deaths if t <= at(line)), default=0.0)
                left = min(((t - at(line)).total_seconds() for t in deaths if t > at(line)), default=1e9)
                if 40 < age < 80:
                    early.append(line["latency_ms"])
                elif left < 110:
                    late.append(line["latency_ms"])
        assert median(late) > 1.7 * median(early)

    def test_the_caller_fails_now_and_then(self) -> None:
        found = case("memory_limit", "payments")
        assert found.label.also == ("checkout",)
        assert found.label.reached["checkout"] > found.label.start
        lines, usual = found.lines["checkout"], found.usual["checkout"]
        assert share(usual, "ERROR") + 0.01 < share(lines, "ERROR") < 0.08
        assert len(lines) == len(usual)
        seconds = {int((at(x) - found.label.start).total_seconds()) for x in lines if x["level"] == "ERROR"}
        assert len(saying(lines, "payments is unavailable")) > 3 * len(saying(usual, "payments is unavailable"))
        assert len(seconds) < DURATION_S / 5

    @pytest.mark.slow
    def test_a_subtle_one_spares_hosts(self) -> None:
        scenario = Scenario(
            start=MORNING, days=0.4, anomalies=8, learning_hours=0, kinds=("memory_limit",), seed=5, services=3
        )
        simulation = Simulation(scenario)
        lines = [json.loads(raw) for chunk in simulation.chunks(None) for raw in chunk.data.splitlines()]
        subtle = [label for label in simulation.labels if label.severity < 0.3]
        assert subtle
        for label in subtle:
            mine = [x for x in lines if x["service"] == label.service and label.start <= at(x) < label.end]
            short_of_memory = {line["host"] for line in saying(mine, "heap at")}
            assert 0 < len(short_of_memory) < len({line["host"] for line in mine})


class TestKeyRotation:
    @pytest.mark.parametrize("service", ["gateway", "checkout"])
    def test_ever_more_requests_are_refused_fast_and_none_fails(self, service: str) -> None:
        found = case("key_rotation", service)
        shares = []
        for first in (0.0, 0.1, 0.2, 0.7):
            lines, _ = found.part(service, first, first + 0.1)
            refused = saying(lines, "token refused")
            shares.append(len(refused) / len(lines))
        assert shares == sorted(shares)
        assert shares[0] < 0.06
        assert 0.25 < shares[-1] < 0.4
        lines, usual = found.part(service, 0.6, 1)
        refused = saying(lines, "token refused")
        assert {(line["level"], line["status"]) for line in refused} == {("WARN", 401)}
        assert middle(refused) < 5
        assert middle(lines) < middle(usual)
        assert share(lines, "ERROR") <= share(usual, "ERROR")
        assert found.volume(service) == 1

    def test_nobody_is_refused_who_needs_no_token(self) -> None:
        lines, _ = case("key_rotation", "gateway").part("gateway", 0, 1)
        assert not {line["endpoint"] for line in saying(lines, "token refused")} & {"/api/session"}
        assert not [x for x in saying(lines, "token refused") if x["endpoint"].startswith("/assets")]

    def test_what_is_refused_does_not_reach_the_services_behind(self) -> None:
        found = case("key_rotation", "gateway")
        assert found.label.also == ("checkout", "payments")
        refused = {line["trace_id"] for line in saying(found.lines["gateway"], "token refused")}
        for name in found.label.also:
            assert 0.55 < found.volume(name, 0.6, 1) < 0.8
            passed = {line["trace_id"] for line in found.lines[name] if "webhooks" not in line.get("endpoint", "")}
            assert not refused & passed

    def test_a_caller_hands_the_refusal_on(self) -> None:
        found = case("key_rotation", "checkout")
        assert found.label.also == ("payments", "gateway")
        lines, usual = found.part("gateway", 0.6, 1)
        refused = saying(lines, "upstream refused the token")
        assert 0.05 < len(refused) / len(lines) < 0.15
        assert {re.sub(r"\d+", "#", line["endpoint"]) for line in refused} == {
            "/api/orders",
            "/api/orders/#",
            "/api/cart/#",
        }
        assert len(lines) == len(usual)


class TestClientRelease:
    @pytest.mark.parametrize("service", ["gateway", "checkout", "payments"])
    def test_a_part_of_the_operations_goes_and_the_others_stay(self, service: str) -> None:
        found = case("client_release", service)
        for name in (service, *found.label.also):
            lines, usual = found.part(name, 0.25, 0.9)
            assert all(line in usual for line in lines), "nothing comes that would not have come"
            now, then = Counter(map(operation, lines)), Counter(map(operation, usual))
            gone = {key for key, count in then.items() if count > 30 and now[key] < 0.3 * count}
            assert gone
            assert all(now[key] == then[key] for key in then if not any(k in key for k in gone) and then[key] > 30)
        assert found.volume(service, 0.25, 0.9) < 0.9

    @pytest.mark.slow
    def test_it_comes_and_goes_in_minutes(self) -> None:
        found = Case("client_release", "payments", rate_scale=6)
        start, end = found.label.start, found.label.end

        def left(first: datetime, minutes: float) -> float:
            last = first + timedelta(minutes=minutes)
            now, then = (
                [x for x in part["payments"] if first <= at(x) < last and "/methods" in x["endpoint"]]
                for part in (found.lines, found.usual)
            )
            return len(now) / len(then)

        assert left(start, 1) > 0.5
        assert left(start + timedelta(minutes=10), 20) < 0.12
        assert left(end - timedelta(minutes=1), 1) > 0.5

    def test_every_journey_names_operations_that_exist_and_matters_to_its_owner(self) -> None:
        kinds = {kind.name: kind for kind in ARCHETYPES}
        for journey in _JOURNEYS:
            for name, steps in journey.steps:
                assert steps <= {operation.name for operation in kinds[name].operations}
            owner, steps = journey.steps[0]
            weights = {operation.name: operation.weight for operation in kinds[owner].operations}
            assert sum(weights[step] for step in steps) > sum(weights.values()) / 7

    def test_what_needs_no_token_exists(self) -> None:
        assert {o.name for kind in ARCHETYPES for o in kind.operations} >= _WITHOUT_TOKEN


def operation(line: Line) -> str:
    """The request as the client sees it, or the kind of job."""
    return re.sub(r"\d+", "#", line.get("endpoint") or line["message"].partition("#")[0])


class TestPlacing:
    @pytest.mark.parametrize(("seed", "services"), [(1, 5), (2, 5), (3, 5), (401, 5), (1, 12)])
    def test_four_of_each_join_the_usual_week_and_keep_apart(self, seed: int, services: int) -> None:
        usual = Simulation(Scenario(seed=seed, services=services))
        simulation = Simulation(Scenario(seed=seed, services=services, held_out=True))
        added = [label for label in simulation.labels if label.kind in HELD_OUT]
        assert Counter(label.kind for label in added) == dict.fromkeys(HELD_OUT, 4)
        assert [label for label in simulation.labels if label.kind in KINDS] == list(usual.labels)
        assert simulation.background == usual.background
        spans: dict[str, list[tuple[datetime, datetime]]] = defaultdict(list)
        for label in simulation.labels:
            assert simulation.scenario.start + 26 * HOUR <= label.start < label.end
            for service in (label.service, *label.also):
                spans[service].append((label.start, label.end))
        for taken in spans.values():
            for (_, last), (following, _) in itertools.pairwise(sorted(taken)):
                assert (following - last).total_seconds() >= GAP_S
        for label in added:
            kind = HELD_OUT[label.kind]
            assert kind.shortest_s <= (label.end - label.start).total_seconds() <= kind.longest_s
        assert simulation.labels == Simulation(simulation.scenario).labels

    def test_the_number_is_in_proportion_and_they_can_come_alone(self) -> None:
        fortnight = Simulation(Scenario(days=14, anomalies=0, held_out=True)).labels
        assert Counter(label.kind for label in fortnight) == dict.fromkeys(HELD_OUT, 9)
        assert Simulation(Scenario(days=1, held_out=True)).labels == ()

    def test_a_kind_that_no_service_can_have_is_left_out(self) -> None:
        labels = Simulation(Scenario(services=1, anomalies=0, held_out=True)).labels
        assert Counter(label.kind for label in labels) == {"memory_limit": 4, "client_release": 4}

    def test_they_come_only_when_they_are_asked_for(self) -> None:
        assert not set(KINDS) & set(HELD_OUT)
        assert set(ALL_KINDS) == set(KINDS) | set(HELD_OUT)
        labels = Simulation(Scenario(anomalies=5, kinds=("key_rotation",))).labels
        assert {label.kind for label in labels} == {"key_rotation"}

    @pytest.mark.slow
    def test_lines_outside_the_added_labels_are_those_of_the_usual_week(self) -> None:
        def raw(held_out: bool) -> tuple[tuple[Label, ...], list[bytes]]:
            simulation = Simulation(Scenario(days=1.2, learning_hours=4, rate_scale=0.6, seed=9, held_out=held_out))
            return simulation.labels, b"".join(chunk.data for chunk in simulation.chunks(None)).splitlines()

        (usual, before), (labels, after) = raw(held_out=False), raw(held_out=True)
        added = [label for label in labels if label not in usual]
        assert {label.kind for label in added} == set(HELD_OUT)
        changed = set(before) ^ set(after)
        assert changed
        for line in map(json.loads, changed):
            assert any(x.start <= at(line) < x.end and line["service"] in (x.service, *x.also) for x in added)


class TestTheUsualWeek:
    """Digests of what the simulator wrote before there were kinds in reserve; a new usual kind renews them."""

    @pytest.mark.parametrize(
        ("seed", "labels", "background"),
        [
            (
                1,
                "87dacb5eeb270cda1004e3d0546ff54ddb0a7aadc3c1d93a625b239599af1629",
                "8a049bf536f3b5d8c5f1df99e75a6024a3cdb3bcbb07888491219a5f49fa3d71",
            ),
            (
                401,
                "67dac29a324042bbc1cbbae438db2d198c45b67026be38b38b02258aaf0547f6",
                "b18b60dd5b6d2e12946a3f775832e782910204542da0a1c11cd816f7b543e84f",
            ),
        ],
    )
    def test_labels_and_background_stay_what_they_were(self, seed: int, labels: str, background: str) -> None:
        simulation = Simulation(Scenario(days=7, seed=seed))
        assert digest([label.as_json() for label in simulation.labels]) == labels
        assert digest([note.as_json() for note in simulation.background]) == background

    def test_lines_stay_what_they_were(self) -> None:
        simulation = Simulation(Scenario(days=7, seed=1))
        first_s = simulation.scenario.start_s
        hours = b"".join(chunk.data for chunk in itertools.islice(simulation.chunks(3600), 32))
        assert any(label.start.timestamp() < first_s + 32 * 3600 for label in simulation.labels)
        assert digest(hours) == "1ad430b6a9e1106f8348d24c533a43b73196efc9c9d5fb28739116a0844f42e5"


class TestCommand:
    def run(self, *arguments: str | Path) -> str:
        result = CliRunner().invoke(simulate, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        return result.output

    @pytest.mark.slow
    def test_the_option_adds_them(self, tmp_path: Path) -> None:
        labels = tmp_path / "labels.json"
        scale = ("--rate-scale", "0.6", "--days", "1.2", "--learning-hours", "4")
        arguments = ("--out", "/dev/null", "--labels", labels, "--force", *scale)
        self.run(*arguments)
        usual = json.loads(labels.read_text())
        self.run(*arguments, "--held-out")
        both = json.loads(labels.read_text())
        assert [label for label in both if label["kind"] in KINDS] == usual
        assert {label["kind"] for label in both} - set(KINDS) == set(HELD_OUT)

    def test_help_explains_the_option_and_does_not_describe_the_kinds(self) -> None:
        text = self.run("--help")
        assert "--held-out" in text
        assert "for judging only" in " ".join(text.split())
        assert not any(name in text or kind.summary in text for name, kind in HELD_OUT.items())


def test_the_page_describes_every_kind() -> None:
    page = (Path(__file__).parents[3] / "docs" / "simulator.md").read_text()
    for_judging = page.partition("## For judging only")[2]
    assert re.findall(r"^### (\w+)$", for_judging, re.MULTILINE) == list(HELD_OUT)


def test_incident_messages_fit_services_without_operations_in_their_lines() -> None:
    assert not [message.text for _, message in INCIDENT_MESSAGES if "{op}" in message.text]
