"""The Isolation Forest: how unusual the combination of features is, in this service's own past."""

from __future__ import annotations

from math import isnan
from typing import Final

import numpy as np
from numpy.typing import NDArray

from helios_core.alerts import Contribution, Family, Finding, Severity
from helios_core.features import HorizonView
from helios_detector.training import Forest

# Tail probability at which a finding has a severity, the worst first. A calibration of n minutes
# believes in no less than 1/(100 n), so a forest alone becomes critical only after months.
SEVERITIES: Final = (
    (1e-8, Severity.CRITICAL),
    (1e-6, Severity.HIGH),
    (3e-6, Severity.MEDIUM),
    (1e-5, Severity.LOW),
)
_MAX_CONTRIBUTIONS: Final = 5
_BISECTIONS: Final = 12


def find(forest: Forest, view: HorizonView) -> Finding | None:
    """What the forest of a service finds in a horizon; None when it is nothing unusual."""
    row = forest.feature_set.vector(view)
    score = forest.scorer.score_one(row)
    probability = forest.calibration.tail_probability(score)
    severity = next((severity for limit, severity in SEVERITIES if probability <= limit), None)
    if severity is None:
        return None
    return Finding(
        detector="forest",
        family=Family.ANOMALY,
        severity=severity,
        minutes=view.minutes,
        score=score,
        tail_probability=probability,
        contributions=explain(forest, row, score),
    )


def explain(forest: Forest, row: NDArray[np.float32], score: float) -> tuple[Contribution, ...]:
    """Which features make the score high: by how much it falls when one of them is typical.

    The limit of a feature is the value, on the way from the actual to the typical one, at which this
    would be no finding; None when no value of this feature alone is enough.
    """
    names = forest.feature_set.features
    variants = np.repeat(row[None, :], len(row), axis=0)
    np.fill_diagonal(variants, forest.typical)
    drops = np.maximum(score - forest.scorer.score(variants), 0.0)
    total = float(drops.sum())
    if total <= 0:
        return ()
    order = np.argsort(-drops)[:_MAX_CONTRIBUTIONS]
    return tuple(
        Contribution(
            feature=names[i].name,
            unit=names[i].unit,
            actual=_number(float(row[i])),
            typical=_number(float(forest.typical[i])),
            limit=_limit(forest, row, int(i)),
            share=float(drops[i]) / total,
        )
        for i in order
        if drops[i] > 0
    )


def _limit(forest: Forest, row: NDArray[np.float32], index: int) -> float | None:
    """Bisects between the actual and the typical value of one feature."""
    far, near = float(row[index]), float(forest.typical[index])
    if isnan(far) or isnan(near):
        return None

    def fires(value: float) -> bool:
        changed = row.copy()
        changed[index] = value
        return forest.calibration.tail_probability(forest.scorer.score_one(changed)) <= SEVERITIES[-1][0]

    if fires(near):
        return None
    for _ in range(_BISECTIONS):
        middle = (far + near) / 2
        far, near = (middle, near) if fires(middle) else (far, middle)
    return near


def _number(value: float) -> float | None:
    return None if isnan(value) else value
