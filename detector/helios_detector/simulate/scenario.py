"""The simulator's programming interface: a `Scenario` says what to simulate, a `Simulation` produces it.

simulation = Simulation(Scenario(days=2, seed=7))
for chunk in simulation.chunks():
    file.write(chunk.data)
print(simulation.labels)
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from helios_detector.simulate import anomalies, background, estate, vocabulary
from helios_detector.simulate.background import Mark
from helios_detector.simulate.columns import Columns, concatenated
from helios_detector.simulate.conditions import Conditions
from helios_detector.simulate.errors import SimulationError
from helios_detector.simulate.held_out import ALL_KINDS
from helios_detector.simulate.model import DAY_S, HOUR_S, Anomaly, Service
from helios_detector.simulate.placement import Injection, Placement, check_kinds
from helios_detector.simulate.render import Renderer
from helios_detector.simulate.sampler import Sampler
from helios_detector.simulate.seeding import generator
from helios_detector.simulate.templates import Templates
from helios_detector.simulate.traffic import Traffic

DEFAULT_START = datetime(2026, 3, 2, tzinfo=UTC)
"""A Monday."""
USUAL_ANOMALIES = 40
HELD_OUT_OF_EACH = 4
_USUAL_DAYS = 7.0
_LEARNING_HOURS = 26.0
_MAX_DAYS = 3660.0
_YEARS = (1971, 2200)
_MAX_RATE_SCALE = 10_000.0
_BLOCKS_S = (3600, 1200, 600, 300, 60, 20, 5, 1)
_BLOCK_LINES = 50_000
"""A block holds about this many lines at most: some 20 MB of work space, and 0.1 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What to simulate. Equal scenarios produce equal bytes."""

    start: datetime = DEFAULT_START
    """Aware; fractions of a second are cut off."""
    days: float = _USUAL_DAYS
    services: int = 5
    seed: int = 1
    anomalies: int | None = None
    """None: 40 for seven days, in proportion to the time after learning for others, as far as they fit."""
    kinds: tuple[str, ...] = ()
    """Empty: all kinds that some service can have."""
    rate_scale: float = 1.0
    learning_hours: float = _LEARNING_HOURS
    """Time at the beginning without anomalies, except injected ones."""
    injections: tuple[Injection, ...] = ()
    held_out: bool = False
    """Whether to add 4 of each kind in reserve for seven days, in proportion for others, as far as they fit."""

    def __post_init__(self) -> None:
        if self.start.tzinfo is None:
            raise SimulationError(f"start {self.start.isoformat()} has no time zone: write it with Z or an offset")
        _check("days", self.days, _MAX_DAYS, positive=True)
        _check("rate scale", self.rate_scale, _MAX_RATE_SCALE, positive=True)
        _check("learning hours", self.learning_hours, 24 * _MAX_DAYS)
        _check("seed", self.seed, 2**63 - 1)
        _check("anomalies", self.anomalies or 0, 1_000_000)
        if not 1 <= self.services <= estate.MAX_SERVICES:
            raise SimulationError(f"services must be between 1 and {estate.MAX_SERVICES}, not {self.services}")
        if not _YEARS[0] <= self.start.year < _YEARS[1]:
            raise SimulationError(f"start must lie between {_YEARS[0]} and {_YEARS[1]}, not in {self.start.year}")
        if self.total_s < 1:
            raise SimulationError(f"days must come to a second at least, not {self.days}")

    @property
    def start_s(self) -> int:
        """The start in seconds since the epoch."""
        return math.floor(self.start.timestamp())

    @property
    def total_s(self) -> int:
        """The length in seconds."""
        return round(self.days * DAY_S)

    @property
    def learning_s(self) -> int:
        """Seconds at the beginning without anomalies."""
        return round(self.learning_hours * HOUR_S)

    def in_proportion(self, a_week: int) -> int:
        """What that many in a usual week come to here, by the time after learning."""
        usual_s = _USUAL_DAYS * DAY_S - _LEARNING_HOURS * HOUR_S
        return round(a_week * (max(self.total_s - self.learning_s, 0) / usual_s))


@dataclass(frozen=True, slots=True)
class Label:
    """One anomaly that is in the lines; `start` is when its first event may occur, `end` is exclusive."""

    service: str
    also: tuple[str, ...]
    kind: str
    start: datetime
    end: datetime
    severity: float
    """From 0, subtle, to 1, clear."""
    reached: dict[str, datetime]
    """When it reaches each service of `also`."""

    def as_json(self) -> dict[str, object]:
        """The label as it is written to the labels file."""
        return {
            "service": self.service,
            "also": list(self.also),
            "kind": self.kind,
            "start": rfc3339(self.start),
            "end": rfc3339(self.end),
            "severity": self.severity,
            "reached": {service: rfc3339(at) for service, at in self.reached.items()},
        }


@dataclass(frozen=True, slots=True)
class Note:
    """Something normal that is in the lines and must not alert."""

    service: str
    kind: str
    start: datetime
    end: datetime
    intensity: float
    """Traffic left in a deploy, extra volume of a batch, errors of a burst, or factor of an outlier."""

    def as_json(self) -> dict[str, object]:
        """The note as it is written to the background file."""
        return {
            "service": self.service,
            "kind": self.kind,
            "start": rfc3339(self.start),
            "end": rfc3339(self.end),
            "intensity": self.intensity,
        }


@dataclass(frozen=True, slots=True)
class Chunk:
    """The lines of all services in [start_ms, end_ms) of event time, by time, each ended by a newline."""

    start_ms: int
    end_ms: int
    data: bytes
    times_ms: NDArray[np.int64]
    """Of each line, milliseconds since the epoch."""

    def __len__(self) -> int:
        return len(self.times_ms)


class Simulation:
    """A scenario worked out: its services, labels, background, and the lines."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        seed, start_s, total_s = scenario.seed, scenario.start_s, scenario.total_s
        services = estate.build(scenario.services, seed, scenario.rate_scale)
        self._services = services
        self._traffic = [Traffic(service, start_s, total_s, seed) for service in services]
        self._habits = [background.plan(service, start_s, total_s, seed) for service in services]
        self._mark_times = [[mark.time_ms for mark in habits.marks] for habits in self._habits]
        self._anomalies = _place(scenario, services, self._traffic)
        self._restarts = [self._restarted(service) for service in services]
        templates = Templates()
        words = [vocabulary.build(service, templates, self._novelties(service.index), seed) for service in services]
        compiled = templates.compile()
        self._samplers = [Sampler(service, word, compiled, seed) for service, word in zip(services, words, strict=True)]
        self._first_end: list[int] = []
        self._renderer = Renderer(compiled, self._line_ends())
        per_second = sum(service.per_second for service in services)
        self._block_s = next((s for s in _BLOCKS_S if s * per_second <= _BLOCK_LINES), 1)

    @property
    def services(self) -> tuple[str, ...]:
        """The names of the services."""
        return tuple(service.name for service in self._services)

    @property
    def lines_per_second(self) -> float:
        """The mean rate over a week, all services together."""
        return sum(service.per_second for service in self._services)

    @property
    def labels(self) -> tuple[Label, ...]:
        """The anomalies by time."""
        return tuple(self._label(anomaly) for anomaly in self._anomalies)

    @property
    def background(self) -> tuple[Note, ...]:
        """Deploys, batch jobs, bursts and outliers by time: never part of the labels."""
        records = [record for habits in self._habits for record in habits.records]
        return tuple(
            Note(
                self._services[record.service].name,
                record.kind,
                _utc(record.start_s),
                _utc(record.end_s),
                record.intensity,
            )
            for record in sorted(records, key=lambda record: (record.start_s, record.service))
        )

    def chunks(self, chunk_s: int | None = 60) -> Iterator[Chunk]:
        """The lines in order of time, in chunks of `chunk_s` seconds at most; None: as they are produced.

        The bytes do not depend on `chunk_s`; a simulation can be iterated any number of times.
        """
        if chunk_s is not None and chunk_s < 1:
            raise SimulationError(f"chunks must be a second long at least, not {chunk_s}")
        start_s, total_s = self.scenario.start_s, self.scenario.total_s
        for first_s in range(start_s, start_s + total_s, self._block_s):
            end_s = min(first_s + self._block_s, start_s + total_s)
            block = self._block(first_s, end_s)
            if chunk_s is None or chunk_s >= end_s - first_s:
                yield block
            else:
                yield from _cut(block, chunk_s)

    def _block(self, start_s: int, end_s: int) -> Chunk:
        parts: list[Columns] = []
        current = [a for a in self._anomalies if a.start_s < end_s and a.end_s > start_s]
        for service, traffic, habits, sampler in zip(
            self._services, self._traffic, self._habits, self._samplers, strict=True
        ):
            conditions = Conditions.usual(service, traffic, start_s, end_s - start_s)
            habits.apply(conditions)
            for anomaly in current:
                anomalies.apply(ALL_KINDS[anomaly.kind], anomaly, service.index, self._services, conditions)
            times = self._mark_times[service.index]
            marks = habits.marks[bisect_left(times, start_s * 1000) : bisect_left(times, end_s * 1000)]
            restarts = [m for m in self._restarts[service.index] if start_s * 1000 <= m.time_ms < end_s * 1000]
            for part in sampler.events(conditions, marks, restarts):
                part.host = self._end_rows(service.index, part)
                parts.append(part)
        if not any(len(part) for part in parts):
            return Chunk(start_s * 1000, end_s * 1000, b"", np.empty(0, np.int64))
        events = concatenated(parts)
        events = events.take(np.argsort(events.time_ms, kind="stable"))
        return Chunk(start_s * 1000, end_s * 1000, self._renderer.lines(events), events.time_ms)

    def _line_ends(self) -> list[str]:
        """The end of a line for each version and host of each service."""
        rows: list[str] = []
        for service, habits in zip(self._services, self._habits, strict=True):
            self._first_end.append(len(rows))
            major, minor = generator(self.scenario.seed, service.name, "version").integers(1, 40, 2)
            for version in range(len(habits.rollouts) + 1):
                for host in range(service.hosts):
                    name = f"{service.name}-{host + 1}"
                    rows.append(f',"host":"{name}","version":"{major}.{minor + version}.0","trace_id":"')
        return rows

    def _end_rows(self, index: int, part: Columns) -> NDArray[np.int64]:
        """The row of the line ends for each event: hosts change to a new version one after the other."""
        version = np.zeros(len(part), np.int64)
        if len(part):
            last_ms = int(part.time_ms.max())
            for rollout in self._habits[index].rollouts:
                if rollout[0] <= last_ms:
                    version += part.time_ms >= np.array(rollout)[part.host]
        return self._first_end[index] + version * self._services[index].hosts + part.host

    def _restarted(self, service: Service) -> list[Mark]:
        """The lines that anomalies of the service bring by themselves."""
        marks: list[Mark] = []
        for anomaly in self._anomalies:
            restarts = ALL_KINDS[anomaly.kind].restarts
            if anomaly.service == service.index and restarts is not None:
                marks += restarts(anomaly, service)
        return sorted(marks, key=lambda mark: mark.time_ms)

    def _novelties(self, index: int) -> int:
        return sum(a.service == index and a.kind == "new_error_pattern" for a in self._anomalies)

    def _label(self, anomaly: Anomaly) -> Label:
        also = {self._services[index].name: _utc(anomaly.start_s + delay) for index, delay in anomaly.also}
        return Label(
            service=self._services[anomaly.service].name,
            also=tuple(also),
            kind=anomaly.kind,
            start=_utc(anomaly.start_s),
            end=_utc(anomaly.end_s),
            severity=anomaly.severity,
            reached=also,
        )


def rfc3339(at: datetime) -> str:
    """A UTC time to the second, `2026-03-02T10:15:00Z`."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _utc(at_s: int) -> datetime:
    return datetime.fromtimestamp(at_s, UTC)


def _check(name: str, value: float, most: float, *, positive: bool = False) -> None:
    if not (0 < value <= most if positive else 0 <= value <= most):
        least = "more than 0" if positive else "0 or more"
        raise SimulationError(f"{name} must be {least} and at most {most:g}, not {value:g}")


def _place(scenario: Scenario, services: tuple[Service, ...], traffic: Sequence[Traffic]) -> tuple[Anomaly, ...]:
    estate_services = tuple(services)
    end_s = scenario.start_s + scenario.total_s
    placement = Placement(estate_services, traffic, scenario.start_s, end_s, scenario.seed)
    kinds = check_kinds(scenario.kinds, estate_services)
    for injection in scenario.injections:
        placement.inject(injection)
    wanted = scenario.in_proportion(USUAL_ANOMALIES) if scenario.anomalies is None else scenario.anomalies
    placed = placement.fill(wanted, kinds, scenario.learning_s)
    if scenario.anomalies is not None and placed < wanted:
        raise SimulationError(
            f"only {placed} of {wanted} anomalies fit into {scenario.days:g} days, the first "
            f"{scenario.learning_hours:g} h left free, on {scenario.services} services: ask for fewer, "
            "or for more days, services or traffic, or for fewer learning hours"
        )
    if scenario.held_out:
        placement.fill_held_out(scenario.in_proportion(HELD_OUT_OF_EACH), scenario.learning_s)
    return placement.result()


def _cut(block: Chunk, chunk_s: int) -> Iterator[Chunk]:
    """A block as chunks of `chunk_s` seconds."""
    edges_ms = np.arange(block.start_ms, block.end_ms, chunk_s * 1000)
    rows = [*np.searchsorted(block.times_ms, edges_ms).tolist(), len(block)]
    ends = line_ends(block.data)
    for i, first_ms in enumerate(edges_ms.tolist()):
        first, last = rows[i], rows[i + 1]
        start = int(ends[first - 1]) if first else 0
        stop = int(ends[last - 1]) if last else 0
        end_ms = min(first_ms + chunk_s * 1000, block.end_ms)
        yield Chunk(first_ms, end_ms, block.data[start:stop], block.times_ms[first:last])


def line_ends(data: bytes) -> NDArray[np.int64]:
    """Where each line of the data ends, the newline included."""
    return np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")) + 1
