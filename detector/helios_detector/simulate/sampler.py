"""Draws the events of one service for one block from its conditions.

What is drawn never depends on an anomaly: each stream of events has a generator of its own, an anomaly thins
a stream, adds another, or moves the limits that the same draws are compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from helios_detector.simulate.background import Mark
from helios_detector.simulate.columns import Columns
from helios_detector.simulate.conditions import NO_CAUSE, Conditions, Floats
from helios_detector.simulate.model import Service
from helios_detector.simulate.overlays import Overlay
from helios_detector.simulate.render import MAX_LATENCY_CS
from helios_detector.simulate.seeding import generator, mix, unit
from helios_detector.simulate.templates import Compiled
from helios_detector.simulate.vocabulary import Ids, Vocabulary

Draws = NDArray[np.float32]

_CAUSE_SHARE = 0.85
"""Share of the errors of an anomaly that have its message."""
_OUTCOME_SALT = np.uint64(0x5851F42D4C957F2D)
_WARN, _MESSAGE, _NUMBER, _IDENTITY, _KEEP, _SLOW, _WORD = range(7)
"""What each uniform draw of an event is for."""
_DRAWS = 7


@dataclass(frozen=True, slots=True)
class Raw:
    """Events before their outcome is decided; all `(events,)`."""

    time_ms: NDArray[np.int64]
    second: Ids
    """Second of the block."""
    operation: Ids
    host: Ids
    trace: NDArray[np.uint64]
    draws: Draws
    """(_DRAWS, events) uniform."""
    normal: Draws
    request: NDArray[np.uint32]


class Sampler:
    """Samples one service of one estate."""

    def __init__(self, service: Service, vocabulary: Vocabulary, compiled: Compiled, seed: int) -> None:
        self._service = service
        self._words = vocabulary
        self._low = compiled.low
        self._span = compiled.span
        self._seed = seed
        self._seed_salt = mix(np.array([seed], np.uint64))[0]

    def events(self, conditions: Conditions, *marks: Sequence[Mark]) -> list[Columns]:
        """The events of a block, in parts and in no particular order; `host` is the number of the host.

        Each sequence of marks is drawn by itself: one cannot disturb another.
        """
        parts = []
        for stream, rate in (
            ("normal", conditions.rate),
            ("extra", conditions.extra),
            ("batch", conditions.batch),
            ("scan", conditions.scan),
        ):
            if rate.any():
                raw = self._draw(stream, rate, conditions.start_s)
                parts.append(self._decide(raw, conditions))
        parts += [self._marked(some, conditions) for some in marks if some]
        return parts

    def _draw(self, stream: str, rate: Floats, start_s: int) -> Raw:
        rng = generator(self._seed, self._service.name, stream, start_s)
        counts = rng.poisson(rate)
        second = np.repeat(np.arange(len(rate)), counts)
        total = len(second)
        draws = rng.random((_DRAWS, total), np.float32)
        normal = rng.standard_normal(total, np.float32)
        request = rng.integers(0, 2**32, total, np.uint32)
        place, which, where = rng.random((3, total), np.float32)
        if stream == "batch":
            operation = np.full(total, self._words.batch)
        elif stream == "scan":
            operation = np.full(total, self._words.scan)
        else:
            operation = np.searchsorted(self._words.popularity, which, side="right")
        # The k-th event of a second has the same trace in every service: that is how they share traces.
        ordinal = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
        shared = stream == "normal"
        salt = 0 if shared else crc32(f"{self._service.name} {stream}".encode())
        return Raw(
            time_ms=(start_s + second) * 1000 + (place * 1000).astype(np.int64),
            second=second,
            operation=operation,
            host=(where * self._service.hosts).astype(np.int64),
            trace=self._traces(((start_s + second) << 20) + ordinal, salt),
            draws=draws,
            normal=normal,
            request=request,
        )

    def _marked(self, marks: Sequence[Mark], conditions: Conditions) -> Columns:
        """Lines that stand for themselves: those of restarts, bursts and outliers."""
        words, total = self._words, len(marks)
        rng = generator(self._seed, self._service.name, "marks", marks[0].time_ms)
        draws = rng.random((_DRAWS, total), np.float32)
        # Not thinned with the traffic: only silence takes them away.
        draws[_KEEP] = 0
        time_ms = np.array([mark.time_ms for mark in marks])
        roll = np.array([mark.roll for mark in marks])
        operation = np.searchsorted(words.popularity, roll, side="right")
        raw = Raw(
            time_ms=time_ms,
            second=time_ms // 1000 - conditions.start_s,
            operation=operation,
            host=np.array([mark.host for mark in marks]),
            trace=self._traces(time_ms, crc32(f"{self._service.name} marks".encode())),
            draws=draws,
            normal=rng.standard_normal(total, np.float32),
            request=rng.integers(0, 2**32, total, np.uint32),
        )
        fixed = {
            "stop": np.full(total, words.stop),
            "start": np.full(total, words.start),
            "slow": words.ok[operation],
            "error": words.error[operation, np.searchsorted(words.error_shares, roll, side="right")],
        }
        roles = np.array([mark.role for mark in marks])
        template = np.select([roles == role for role in fixed], list(fixed.values()))
        factor = np.array([mark.factor for mark in marks])
        return self._columns(raw, conditions, template, factor)

    def _decide(self, raw: Raw, conditions: Conditions) -> Columns:
        """Chooses the line of each event: fine, a warning, an error, or an error never seen before."""
        words, second, operation = self._words, raw.second, raw.operation
        warn_at, message = raw.draws[_WARN], raw.draws[_MESSAGE]
        template = words.ok[operation]
        # A trace fails as a whole: the same trace has the same draw in each service that it passes.
        outcome = unit(mix(raw.trace ^ _OUTCOME_SALT))
        share = conditions.error[raw.host, second]
        warned = np.flatnonzero(warn_at < conditions.warn[second])
        which = np.searchsorted(words.warn_shares(conditions.start_s), message[warned], side="right")
        template[warned] = words.warn[operation[warned], which]
        failed = np.flatnonzero(outcome < share)
        template[failed] = words.error[
            operation[failed], self._error_messages(message[failed], conditions.cause[second[failed]])
        ]
        if conditions.novel.any():
            strange = np.flatnonzero((outcome >= share) & (outcome < share + conditions.novel[second]))
            which = conditions.novelty[second[strange]] % words.novel.shape[1]
            template[strange] = words.novel[operation[strange], which]
        if words.scan < len(words.ok) and self._service.has_latency:
            probed = operation == words.scan
            template[probed] = words.ok[words.scan]
        struck = [(o, o.rows(raw.trace, operation, raw.host, second)) for o in conditions.overlays]
        for overlay, rows in struck:
            if overlay.message is not None:
                template[rows] = words.incident[operation[rows], overlay.message]
        return self._columns(raw, conditions, template, None, struck)

    def _error_messages(self, roll: Draws, cause: Ids) -> Ids:
        """An error has the message of the current cause, or one of the usual mix."""
        caused = (cause != NO_CAUSE) & (roll < _CAUSE_SHARE)
        rest = np.where(cause == NO_CAUSE, roll, (roll - _CAUSE_SHARE) / (1 - _CAUSE_SHARE))
        usual = np.searchsorted(self._words.error_shares, rest, side="right")
        count = len(self._words.error_shares)
        return np.where(caused, cause % count, np.minimum(usual, count - 1))

    def _columns(
        self,
        raw: Raw,
        conditions: Conditions,
        template: Ids,
        factor: Floats | None,
        struck: Sequence[tuple[Overlay, Ids]] = (),
    ) -> Columns:
        number, identity, keep = raw.draws[_NUMBER], raw.draws[_IDENTITY], raw.draws[_KEEP]
        latency = self._latency_cs(raw, conditions, raw.draws[_SLOW])
        if factor is not None:
            latency *= factor
        there = keep < conditions.keep[raw.host, raw.second]
        for overlay, rows in struck:
            latency[rows] = overlay.latencies(latency[rows], raw.normal[rows], raw.host[rows], raw.second[rows])
            there[rows] &= not overlay.gone
        columns = Columns(
            time_ms=raw.time_ms,
            template=template,
            host=raw.host,
            latency_cs=np.clip(latency, 1, MAX_LATENCY_CS).astype(np.int64),
            # Squared, so that a few ids are hot and most are rare.
            id=1000 + (identity * identity * 89_000).astype(np.int64),
            n=self._low[template] + (number * self._span[template]).astype(np.int64),
            word=(raw.draws[_WORD] * 65_536).astype(np.int64),
            trace=raw.trace,
            request=raw.request,
        )
        return columns if there.all() else columns.take(np.flatnonzero(there))

    def _latency_cs(self, raw: Raw, conditions: Conditions, slow: Draws) -> Floats:
        """Two log-normal modes for each operation, and what the conditions make of them."""
        words, operation, second = self._words, raw.operation, raw.second
        latency = words.median_cs[operation] * np.exp(words.sigma[operation] * raw.normal)
        latency *= conditions.latency[second]
        slow_rows = np.flatnonzero(slow < words.slow_share[operation])
        latency[slow_rows] *= words.slow_factor[operation[slow_rows]]
        if conditions.tail_share.any():
            tail = np.flatnonzero(slow >= 1 - conditions.tail_share[second])
            latency[tail] *= conditions.tail_factor[second[tail]]
        return latency

    def _traces(self, keys: NDArray[np.int64], salt: int) -> NDArray[np.uint64]:
        return mix(keys.astype(np.uint64) ^ (self._seed_salt ^ np.uint64(salt)))
