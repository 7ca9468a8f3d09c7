"""How good detection was, by onset: precision, recall, false alarms, delay, beside chance.

An onset (an alert that fires or rises) inside [start, end + 5 min] of a label, on its service or one
of `also`, finds it once. An onset inside none is a false alarm; repeats within 10 minutes on one
service count once. An alert that is already open finds nothing. False alarms while a service was
still learning are counted apart.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import sqrt
from pathlib import Path
from statistics import median
from typing import Any, Final

import msgspec

from helios_core.alerts import Alert, AlertState
from helios_core.clock import to_us
from helios_core.errors import InputError

_AFTER_US: Final = 300_000_000
_REPEAT_US: Final = 600_000_000
_DAY_US: Final = 86_400_000_000
_Z95: Final = 1.959964
_CHANCE_ROUNDS: Final = 200


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """One labelled anomaly: what `helios replay --labels` reads. Further keys are ignored."""

    service: str
    kind: str
    start: datetime
    end: datetime
    also: tuple[str, ...] = ()

    @property
    def start_us(self) -> int:
        return to_us(self.start)

    @property
    def until_us(self) -> int:
        """The last instant at which an onset finds it."""
        return to_us(self.end) + _AFTER_US

    def covers(self, service: str, time_us: int) -> bool:
        """An onset there and then finds it."""
        return (service == self.service or service in self.also) and self.start_us <= time_us <= self.until_us


def read_labels(path: Path) -> list[Label]:
    """A JSON array of labels; InputError when it is none, or an interval ends before it starts."""
    try:
        labels = msgspec.json.decode(path.read_bytes(), type=list[Label])
        for label in labels:
            if label.until_us - _AFTER_US <= label.start_us:
                raise InputError(f"{path}: the label of {label.service} from {label.start} ends before it starts")
    except OSError as error:
        raise InputError(f"the labels cannot be read: {error}") from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a JSON array of labels with times in RFC 3339: {error}") from error
    return labels


@dataclass(frozen=True, slots=True)
class Onset:
    """An alert that fired or rose."""

    service: str
    time_us: int


@dataclass(frozen=True, slots=True)
class Judged:
    """What a set of onsets is worth against labels."""

    found: int
    labels: int
    false: int
    delays_s: tuple[float, ...]
    found_labels: frozenset[int]

    @property
    def precision(self) -> float | None:
        total = self.found + self.false
        return self.found / total if total else None

    @property
    def recall(self) -> float | None:
        return self.found / self.labels if self.labels else None


def onsets_of(alerts: Sequence[Alert]) -> list[Onset]:
    """The onsets among alerts, in order of time."""
    begun = [Onset(a.service, a.decided_us) for a in alerts if a.state is not AlertState.RESOLVED]
    return sorted(begun, key=lambda onset: (onset.time_us, onset.service))


def judge(onsets: Sequence[Onset], labels: Sequence[Label]) -> Judged:
    """Counts what was found and what was false."""
    delays: dict[int, float] = {}
    last_false: dict[str, int] = {}
    false = 0
    for onset in onsets:
        covering = [i for i, label in enumerate(labels) if label.covers(onset.service, onset.time_us)]
        for i in covering:
            delays.setdefault(i, (onset.time_us - labels[i].start_us) / 1e6)
        if not covering:
            before = last_false.get(onset.service)
            if before is None or onset.time_us - before > _REPEAT_US:
                false += 1
            last_false[onset.service] = onset.time_us
    return Judged(len(delays), len(labels), false, tuple(delays.values()), frozenset(delays))


def evaluate(
    alerts: Sequence[Alert], labels: Sequence[Label], spans: Mapping[str, tuple[int, int, int]]
) -> dict[str, Any]:
    """The evaluation of a replay, as `--json` prints it.

    Args:
        alerts: all that were decided.
        labels: what is known to have happened.
        spans: for each service (first event, until when it learned, last event), µs.
    """
    onsets = onsets_of(alerts)
    mature: list[Onset] = []
    learning: list[Onset] = []
    for onset in onsets:
        learned = onset.service not in spans or onset.time_us >= spans[onset.service][1]
        (mature if learned else learning).append(onset)
    judged = judge(mature, labels)
    days = sum(max(0, last - learned) for _, learned, last in spans.values()) / _DAY_US
    return {
        "labels": len(labels),
        "found": judged.found,
        "false_alarms": judged.false,
        "precision": judged.precision,
        "precision_interval": wilson(judged.found, judged.found + judged.false),
        "recall": judged.recall,
        "recall_interval": wilson(judged.found, judged.labels),
        "service_days": days,
        "false_alarms_per_service_day": judged.false / days if days else None,
        "median_delay_s": median(judged.delays_s) if judged.delays_s else None,
        "false_alarms_while_learning": judge(learning, labels).false,
        "by_kind": _by_kind(mature, labels, judged),
        "by_chance": _by_chance(mature, labels, spans),
    }


def wilson(successes: int, trials: int) -> tuple[float, float] | None:
    """The 95 % interval of a share (E. B. Wilson, 1927); None without trials."""
    if not trials:
        return None
    share, z2 = successes / trials, _Z95**2
    middle = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z95 * sqrt(share * (1 - share) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    return max(0.0, middle - half), min(1.0, middle + half)


def _by_kind(onsets: Sequence[Onset], labels: Sequence[Label], judged: Judged) -> dict[str, dict[str, Any]]:
    kinds: defaultdict[str, list[int]] = defaultdict(list)
    for i, label in enumerate(labels):
        kinds[label.kind].append(i)
    result = {}
    for kind, members in sorted(kinds.items()):
        delays = judge(onsets, [labels[i] for i in members]).delays_s
        found = sum(i in judged.found_labels for i in members)
        result[kind] = {
            "labels": len(members),
            "found": found,
            "recall": found / len(members),
            "median_delay_s": median(delays) if delays else None,
        }
    return result


def _by_chance(
    onsets: Sequence[Onset], labels: Sequence[Label], spans: Mapping[str, tuple[int, int, int]]
) -> dict[str, dict[str, float | None]]:
    """What as many onsets, placed at random or at even distances, would have been worth."""
    counts: defaultdict[str, int] = defaultdict(int)
    for onset in onsets:
        counts[onset.service] += 1
    rng = random.Random(1)  # noqa: S311 - a simulation, no secret
    rounds = []
    for _ in range(_CHANCE_ROUNDS):
        placed = [
            Onset(service, rng.randrange(spans[service][1], max(spans[service][2], spans[service][1] + 1)))
            for service, count in counts.items()
            if service in spans
            for _ in range(count)
        ]
        rounds.append(judge(sorted(placed, key=lambda onset: onset.time_us), labels))
    even = [
        Onset(service, spans[service][1] + (spans[service][2] - spans[service][1]) * (2 * i + 1) // (2 * count))
        for service, count in counts.items()
        if service in spans
        for i in range(count)
    ]
    evenly = judge(sorted(even, key=lambda onset: onset.time_us), labels)
    return {
        "random": {
            "precision": _mean([judged.precision for judged in rounds]),
            "recall": _mean([judged.recall for judged in rounds]),
        },
        "every_n": {"precision": evenly.precision, "recall": evenly.recall},
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
