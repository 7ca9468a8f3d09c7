"""What happens in normal operation and must not alert: deploys, nightly jobs, lone outliers, short bursts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from helios_detector.simulate.conditions import Conditions
from helios_detector.simulate.model import DAY_S, HOUR_S, MINUTE_S, Background, Service
from helios_detector.simulate.seeding import generator

_DEPLOYS_PER_DAY = 0.35
_BURSTS_PER_DAY = 3.0
_OUTLIERS_PER_DAY = 2.5
_LEAST_PER_SECOND = 0.02
"""A service with fewer events has no bursts: one of them would be its traffic of an hour."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One line at one time that no rate explains."""

    time_ms: int
    host: int
    role: str
    """`error`, `slow`, `stop` or `start`."""
    roll: float
    """Uniform in [0, 1): which message or operation."""
    factor: float = 1.0
    """On the latency."""


@dataclass(frozen=True, slots=True)
class Habits:
    """The background of one service over the whole scenario."""

    service: Service
    records: tuple[Background, ...]
    marks: tuple[Mark, ...]
    """By time."""
    rollouts: tuple[tuple[int, ...], ...]
    """For each deploy, when each host came back, in milliseconds since the epoch."""

    def apply(self, conditions: Conditions) -> None:
        """Changes the conditions of a block for what happens in it."""
        for record in self.records:
            at = conditions.overlap(record.start_s, record.end_s)
            if at is None:
                continue
            if record.kind == "deploy":
                conditions.keep[:, at] *= record.intensity
                conditions.error[:, at] = np.maximum(conditions.error[:, at], 0.12 * (1 - record.intensity))
            elif record.kind == "batch":
                conditions.batch[at] += record.intensity * self.service.per_second


def plan(service: Service, start_s: int, total_s: int, seed: int) -> Habits:
    """All that will happen to the service by itself."""
    rng = generator(seed, service.name, "background")
    end_s = start_s + total_s
    deploys, rollouts, marks = _deploys(service, start_s, end_s, rng)
    records = deploys + _batches(service, start_s, end_s, seed)
    if service.per_second >= _LEAST_PER_SECOND:
        for make in (_bursts, _outliers):
            more, lines = make(service, start_s, end_s, rng)
            records += more
            marks += lines
    return Habits(
        service,
        tuple(sorted(records, key=lambda record: record.start_s)),
        tuple(sorted(marks, key=lambda mark: mark.time_ms)),
        tuple(rollouts),
    )


def _times(start_s: int, end_s: int, per_day: float, rng: np.random.Generator) -> list[int]:
    """Times of a Poisson process, a minute from either end at least."""
    count = int(rng.poisson(per_day * (end_s - start_s) / DAY_S))
    if end_s - start_s < 4 * MINUTE_S:
        return []
    return sorted(int(t) for t in rng.integers(start_s + MINUTE_S, end_s - MINUTE_S, count))


def _deploys(
    service: Service, start_s: int, end_s: int, rng: np.random.Generator
) -> tuple[list[Background], list[tuple[int, ...]], list[Mark]]:
    """Rolling restarts in working hours, each over in less than a minute."""
    records: list[Background] = []
    rollouts: list[tuple[int, ...]] = []
    marks: list[Mark] = []
    for wanted_s in _times(start_s, end_s, _DEPLOYS_PER_DAY, rng):
        # From any time of the day to 08:00-17:00, and from the weekend to the two days before it.
        day_s = wanted_s // DAY_S * DAY_S
        weekday = (day_s // DAY_S + 3) % 7
        day_s -= 2 * DAY_S if weekday >= 5 else 0
        begin_s = day_s + 8 * HOUR_S + (wanted_s % DAY_S) * 9 // 24
        length_s = int(rng.integers(22, 52))
        keep = float(rng.uniform(0.45, 0.75))
        rolls = rng.random(service.hosts)
        if begin_s < max(start_s, records[-1].end_s if records else 0) or begin_s + length_s > end_s:
            continue
        records.append(Background("deploy", service.index, begin_s, begin_s + length_s, round(keep, 3)))
        step_ms = length_s * 1000 // service.hosts
        up = tuple(begin_s * 1000 + (host + 1) * step_ms - 1500 for host in range(service.hosts))
        rollouts.append(up)
        for host, up_ms in enumerate(up):
            marks.append(Mark(up_ms - step_ms + 1700, host, "stop", float(rolls[host])))
            marks.append(Mark(up_ms + 200, host, "start", float(rolls[host])))
    return records, rollouts, marks


def _batches(service: Service, start_s: int, end_s: int, seed: int) -> list[Background]:
    """The nightly job, at the same time of each day, for 10 to 30 minutes."""
    if service.batch is None:
        return []
    records = []
    for day in range(start_s // DAY_S, end_s // DAY_S + 1):
        # Its own draws for each day: a longer scenario begins like a shorter one.
        rng = generator(seed, service.name, "batch", day)
        begin_s = day * DAY_S + service.batch_start_s + int(rng.integers(0, 4))
        finish_s = min(begin_s + int(rng.integers(10 * MINUTE_S, 30 * MINUTE_S)), end_s)
        intensity = float(rng.uniform(0.6, 0.9))
        if begin_s >= start_s and begin_s < finish_s:
            records.append(Background("batch", service.index, begin_s, finish_s, round(intensity, 3)))
    return records


def _bursts(
    service: Service, start_s: int, end_s: int, rng: np.random.Generator
) -> tuple[list[Background], list[Mark]]:
    """A handful of failures within seconds: one client that retries."""
    records, marks = [], []
    for begin_s in _times(start_s, end_s, _BURSTS_PER_DAY, rng):
        length_s = int(rng.integers(3, 20))
        roll = float(rng.random())
        offsets = np.sort(rng.integers(0, length_s * 1000, int(rng.integers(3, 8))))
        hosts = rng.integers(0, service.hosts, len(offsets))
        records.append(Background("burst", service.index, begin_s, begin_s + length_s, len(offsets)))
        marks += [
            Mark(begin_s * 1000 + int(offset), int(host), "error", roll)
            for offset, host in zip(offsets, hosts, strict=True)
        ]
    return records, marks


def _outliers(
    service: Service, start_s: int, end_s: int, rng: np.random.Generator
) -> tuple[list[Background], list[Mark]]:
    """Single requests that take far longer than any other."""
    if not service.has_latency:
        return [], []
    records, marks = [], []
    for at_s in _times(start_s, end_s, _OUTLIERS_PER_DAY, rng):
        factor = float(np.exp(rng.uniform(np.log(40), np.log(200))))
        host = int(rng.integers(0, service.hosts))
        records.append(Background("outlier", service.index, at_s, at_s + 1, round(factor, 1)))
        marks.append(Mark(at_s * 1000 + int(rng.integers(0, 1000)), host, "slow", float(rng.random()), factor))
    return records, marks
