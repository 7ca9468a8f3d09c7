"""Decides which anomaly happens where and when, so that none overlaps another on the same service."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from helios_detector.simulate.anomalies import KINDS, Kind
from helios_detector.simulate.errors import SimulationError, unknown
from helios_detector.simulate.held_out import ALL_KINDS, HELD_OUT
from helios_detector.simulate.model import MINUTE_S, Anomaly, Service
from helios_detector.simulate.seeding import generator
from helios_detector.simulate.traffic import Traffic

GAP_S = 45 * MINUTE_S
"""Least time between two anomalies of a service."""
FASTEST_HOP_S = 20
SLOWEST_HOP_S = 90
"""How long a cascade takes from a service to its dependant."""
INJECTED_SEVERITY = 0.8
_TRIES = 60
_GRID_POINTS = 2000


@dataclass(frozen=True, slots=True)
class Injection:
    """An anomaly at a stated time; without a service the busiest one that can have it."""

    kind: str
    after_s: int
    duration_s: int
    service: str | None = None

    @classmethod
    def parse(cls, text: str) -> Injection:
        """Reads KIND[@SERVICE]:AFTER_S:DURATION_S."""
        parts = text.split(":")
        if len(parts) != 3 or not (parts[1].isdecimal() and parts[2].isdecimal()):
            raise SimulationError(
                f"cannot read injection {text!r}: write KIND[@SERVICE]:AFTER_S:DURATION_S "
                "with whole seconds, for example error_spike@checkout:60:300"
            )
        kind, _, service = parts[0].partition("@")
        return cls(kind, int(parts[1]), int(parts[2]), service or None)


class Placement:
    """The anomalies of a scenario as they are added one by one."""

    def __init__(
        self, services: tuple[Service, ...], traffic: Sequence[Traffic], start_s: int, end_s: int, seed: int
    ) -> None:
        self._services = services
        self._traffic = traffic
        self._start_s = start_s
        self._end_s = end_s
        self._rng = generator(seed, "placement")
        self._injection_rng = generator(seed, "injection")
        self._held_out_rng = generator(seed, "held out")
        self._busy: dict[int, list[tuple[int, int]]] = {service.index: [] for service in services}
        """(start, end) of the labels of each service, by time."""
        self._placed: list[Anomaly] = []

    def result(self) -> tuple[Anomaly, ...]:
        """All anomalies by time, each numbered among those of its kind on its service."""
        seen: dict[tuple[str, int], int] = {}
        numbered = []
        for anomaly in sorted(self._placed, key=lambda a: (a.start_s, a.service)):
            key = (anomaly.kind, anomaly.service)
            numbered.append(replace(anomaly, ordinal=seen.get(key, 0)))
            seen[key] = seen.get(key, 0) + 1
        return tuple(numbered)

    def inject(self, injection: Injection) -> None:
        """Places an anomaly exactly where it is asked for, or raises with the reason why not."""
        kind = ALL_KINDS.get(injection.kind)
        if kind is None:
            raise unknown("kind", injection.kind, ALL_KINDS)
        service = self._injected_service(injection, kind)
        if injection.duration_s < 1:
            raise SimulationError(f"an injection must last a second at least, not {injection.duration_s}")
        start_s = self._start_s + injection.after_s
        end_s = start_s + injection.duration_s
        if end_s > self._end_s:
            raise SimulationError(
                f"{kind.name} ends {injection.after_s + injection.duration_s} s after the start, "
                f"but the scenario lasts {self._end_s - self._start_s} s"
            )
        anomaly = self._anomaly(kind, service, start_s, end_s, self._injection_rng, INJECTED_SEVERITY)
        for index, first_s in _reached(anomaly):
            if not self._free(index, first_s, end_s, 0):
                raise SimulationError(
                    f"{kind.name} overlaps another injection on {self._services[index].name}; "
                    "labels of a service never overlap"
                )
        self._add(anomaly)

    def fill(self, count: int, kinds: Sequence[str], learning_s: int) -> int:
        """Places up to `count` anomalies of the kinds in turn; returns how many found a place."""
        first_s = self._start_s + learning_s
        left = list(kinds)
        placed = 0
        order: list[str] = []
        while placed < count and left:
            if not order:
                order = [left[i] for i in self._rng.permutation(len(left))]
            name = order.pop()
            anomaly = self._found(ALL_KINDS[name], first_s, self._rng)
            if anomaly is None:
                # Room only shrinks: a kind that found no place now finds none later.
                left.remove(name)
                continue
            self._add(anomaly)
            placed += 1
        return placed

    def fill_held_out(self, each: int, learning_s: int) -> None:
        """Adds up to `each` anomalies of each kind in reserve; call last, for it leaves the others where they are."""
        for _ in range(each):
            for kind in HELD_OUT.values():
                if all(kind.refusal(s, self._services) is not None for s in self._services):
                    continue
                anomaly = self._found(kind, self._start_s + learning_s, self._held_out_rng)
                if anomaly is not None:
                    self._add(anomaly)

    def _injected_service(self, injection: Injection, kind: Kind) -> Service:
        names = {service.name: service for service in self._services}
        if injection.service is not None:
            if injection.service not in names:
                raise unknown("service", injection.service, names)
            service = names[injection.service]
            refusal = kind.refusal(service, self._services)
            if refusal is not None:
                raise SimulationError(f"{service.name} cannot have {kind.name}: {refusal}")
            return service
        fit = [s for s in self._services if kind.refusal(s, self._services) is None]
        if not fit:
            reason = kind.refusal(self._services[0], self._services)
            raise SimulationError(f"no service can have {kind.name}: {reason}")
        return max(fit, key=lambda s: s.per_second)

    def _candidates(self, kind: Kind, rng: np.random.Generator) -> list[Service]:
        fit = [s for s in self._services if kind.refusal(s, self._services) is None]
        return [fit[i] for i in rng.permutation(len(fit))]

    def _found(self, kind: Kind, first_s: int, rng: np.random.Generator) -> Anomaly | None:
        return self._search(kind, first_s, rng) or self._sweep(kind, first_s, rng)

    def _search(self, kind: Kind, first_s: int, rng: np.random.Generator) -> Anomaly | None:
        """A uniformly random place."""
        for _ in range(_TRIES):
            duration_s = int(rng.integers(kind.shortest_s, kind.longest_s + 1))
            if first_s + duration_s > self._end_s:
                continue
            start_s = int(rng.integers(first_s, self._end_s - duration_s + 1))
            service = self._candidates(kind, rng)[0]
            anomaly = self._anomaly(kind, service, start_s, start_s + duration_s, rng)
            if self._fits(anomaly, kind):
                return anomaly
        return None

    def _sweep(self, kind: Kind, first_s: int, rng: np.random.Generator) -> Anomaly | None:
        """The first place for a short one, looking at all of the time on all services."""
        last_s = self._end_s - kind.shortest_s
        step_s = max(5 * MINUTE_S, (last_s - first_s) // _GRID_POINTS)
        for service in self._candidates(kind, rng):
            for start_s in range(first_s, last_s + 1, step_s):
                if not self._free(service.index, start_s, start_s + kind.shortest_s, GAP_S):
                    continue
                anomaly = self._anomaly(kind, service, start_s, start_s + kind.shortest_s, rng)
                if self._fits(anomaly, kind):
                    return anomaly
        return None

    def _fits(self, anomaly: Anomaly, kind: Kind) -> bool:
        return all(
            self._free(index, first_s, anomaly.end_s, GAP_S)
            and self._traffic[index].expected(first_s, anomaly.end_s) * 5 * MINUTE_S >= kind.min_per_5min
            for index, first_s in _reached(anomaly)
        )

    def _free(self, index: int, start_s: int, end_s: int, gap_s: int) -> bool:
        busy = self._busy[index]
        after = bisect_right(busy, (start_s, start_s))
        return (after == 0 or busy[after - 1][1] + gap_s <= start_s) and (
            after == len(busy) or end_s + gap_s <= busy[after][0]
        )

    def _add(self, anomaly: Anomaly) -> None:
        self._placed.append(anomaly)
        for index, _ in _reached(anomaly):
            # The label covers all of it on every service that it names.
            insort(self._busy[index], (anomaly.start_s, anomaly.end_s))

    def _anomaly(
        self,
        kind: Kind,
        service: Service,
        start_s: int,
        end_s: int,
        rng: np.random.Generator,
        severity: float | None = None,
    ) -> Anomaly:
        """An anomaly with everything but its place drawn, and the severity unless it is given."""
        drawn, *rolls = (float(draw) for draw in rng.random(5))
        anomaly = Anomaly(
            kind=kind.name,
            service=service.index,
            start_s=start_s,
            end_s=end_s,
            severity=round(drawn, 3) if severity is None else severity,
            rolls=(rolls[0], rolls[1], rolls[2], rolls[3]),
        )
        if kind.needs_callers:
            return replace(anomaly, also=_cascade(anomaly, service, rng))
        return (
            anomaly if kind.reaches is None else replace(anomaly, also=kind.reaches(anomaly, service, self._services))
        )


def _cascade(anomaly: Anomaly, service: Service, rng: np.random.Generator) -> tuple[tuple[int, int], ...]:
    """One or two dependants, one after the other."""
    # Never more than a fifth of a short one: it must reach the dependants while it lasts.
    longest_s = min(SLOWEST_HOP_S, max((anomaly.end_s - anomaly.start_s) // 5, 1))
    hops = rng.integers(min(FASTEST_HOP_S, longest_s), longest_s + 1, 2)
    wanted = 1 if anomaly.rolls[3] < 0.4 else 2
    also: list[tuple[int, int]] = []
    delay_s = 0
    for index, hop_s in zip(service.callers[:wanted], hops, strict=False):
        delay_s += int(hop_s)
        also.append((index, delay_s))
    return tuple(also)


def _reached(anomaly: Anomaly) -> list[tuple[int, int]]:
    """Each service that it concerns, with the start of its label."""
    return [(anomaly.service, anomaly.start_s)] + [(index, anomaly.start_s) for index, _ in anomaly.also]


def check_kinds(kinds: Sequence[str], services: tuple[Service, ...]) -> tuple[str, ...]:
    """The kinds to draw from: those asked for, or all of the usual ones that some service can have."""
    for name in kinds:
        if name not in ALL_KINDS:
            raise unknown("kind", name, ALL_KINDS)
        refusals = [ALL_KINDS[name].refusal(service, services) for service in services]
        if None not in refusals:
            raise SimulationError(f"no service can have {name}: {refusals[0]}")
    able = [name for name, kind in KINDS.items() if any(kind.refusal(s, services) is None for s in services)]
    return tuple(dict.fromkeys(kinds)) or tuple(able)
