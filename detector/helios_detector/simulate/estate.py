"""Makes the services of an estate: the archetypes, varied by the seed, and who calls whom."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from helios_detector.simulate.catalogue import ARCHETYPES, REGIONS
from helios_detector.simulate.model import HOUR_S, MINUTE_S, Operation, Service
from helios_detector.simulate.seeding import generator

MAX_SERVICES = len(ARCHETYPES) * len(REGIONS)


def names(count: int) -> list[str]:
    """The names of the first `count` services; a service keeps its name when the estate grows."""
    return [f"{ARCHETYPES[i % len(ARCHETYPES)].name}{REGIONS[i // len(ARCHETYPES)]}" for i in range(count)]


def build(count: int, seed: int, rate_scale: float) -> tuple[Service, ...]:
    """The first `count` services as this seed makes them, at `rate_scale` times their usual traffic."""
    known = {name: index for index, name in enumerate(names(count))}
    return tuple(_service(index, name, known, seed, rate_scale) for name, index in known.items())


def _service(index: int, name: str, known: dict[str, int], seed: int, rate_scale: float) -> Service:
    kind = ARCHETYPES[index % len(ARCHETYPES)]
    rng = generator(seed, name, "service")

    def vary(value: float, by: float) -> float:
        return float(value * np.exp(rng.uniform(-by, by)))

    return Service(
        index=index,
        name=name,
        kind=kind,
        per_second=vary(kind.per_second, 0.1) * rate_scale,
        operations=tuple(_varied(operation, rng) for operation in kind.operations),
        batch=None if kind.batch is None else _varied(kind.batch, rng),
        batch_start_s=int(rng.integers(1, 5)) * HOUR_S + int(rng.integers(0, 4)) * 15 * MINUTE_S,
        error_rate=vary(kind.error_rate, 0.3),
        warn_rate=vary(kind.warn_rate, 0.3),
        amplitude=vary(kind.amplitude, 0.2),
        peak_hour=kind.peak_hour + float(rng.uniform(-1.5, 1.5)),
        weekend=vary(kind.weekend, 0.1),
        growth=float(rng.uniform(0.005, 0.04)),
        callers=_callers(index, known),
    )


def _varied(operation: Operation, rng: np.random.Generator) -> Operation:
    weight, median = np.exp(rng.uniform(-0.2, 0.2, 2))
    return replace(operation, weight=operation.weight * weight, median_ms=operation.median_ms * median)


def _callers(index: int, known: dict[str, int]) -> tuple[int, ...]:
    """Who depends on the service within its region, nearest first."""
    region = REGIONS[index // len(ARCHETYPES)]
    found: list[int] = []
    near = [index]
    while near:
        wanted = {ARCHETYPES[i % len(ARCHETYPES)].name for i in near}
        near = [
            known[caller.name + region]
            for caller in ARCHETYPES
            if wanted.intersection(caller.calls) and caller.name + region in known
        ]
        near = [i for i in near if i not in found and i != index]
        found += near
    return tuple(found)
