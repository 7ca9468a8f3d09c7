"""Trains the forest of one service from its own history, and calibrates it on scores it has not seen."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from helios_core.clock import rfc3339
from helios_core.features import FeatureSet
from helios_detector.errors import MissingExtra
from helios_detector.forest.calibration import Calibration
from helios_detector.forest.scorer import META_FEATURE_HASH, META_FEATURE_SET, ForestScorer

N_TREES: Final = 100
CONTAMINATION: Final = 0.05
_SEED: Final = 42
# Neighbouring horizons share most of their windows; a fold of hours keeps most of them apart.
_FOLD_ROWS: Final = 120
MIN_ROWS: Final = 720  # half a day of minutes
_FIRST_ROWS: Final = 64


class History:
    """The last feature vectors of a service, one a minute: rows of one growing array.

    Args:
        n_features: of a vector.
        max_rows: how many are kept.
    """

    def __init__(self, n_features: int, max_rows: int) -> None:
        self._rows = np.empty((_FIRST_ROWS, n_features), dtype=np.float32)
        self._max_rows = max_rows
        self._next = 0
        self._full = False

    def __len__(self) -> int:
        return len(self._rows) if self._full else self._next

    def append(self, vector: NDArray[np.float32]) -> None:
        """The oldest goes when there are too many."""
        if self._next == len(self._rows) and not self._full and self._next < self._max_rows:
            grown = np.empty((min(2 * self._next, self._max_rows), self._rows.shape[1]), dtype=np.float32)
            grown[: self._next] = self._rows
            self._rows = grown
        if self._next == len(self._rows):
            self._next, self._full = 0, True
        self._rows[self._next] = vector
        self._next += 1

    def rows(self) -> NDArray[np.float32]:
        """(n_rows, n_features), the oldest first; a copy."""
        if not self._full:
            return self._rows[: self._next].copy()
        return np.concatenate((self._rows[self._next :], self._rows[: self._next]))


@dataclass(frozen=True, slots=True)
class Forest:
    """A trained forest of one service, ready to score.

    Attributes:
        version: of the model: a hash of its bytes.
        feature_set: the features it was trained on.
        onnx: the model's bytes.
        calibration: from scores to tail probabilities.
        typical: (n_features,) the median of each feature in training, NaN where all were missing.
        trained_us: the end of what it has seen.
        rows: how many horizons it was trained on.
    """

    version: str
    feature_set: FeatureSet
    onnx: bytes
    calibration: Calibration
    typical: NDArray[np.float32]
    trained_us: int
    rows: int
    scorer: ForestScorer


def train(history: NDArray[np.float32], feature_set: FeatureSet, trained_us: int) -> Forest:
    """Trains on a history of feature vectors.

    The forest that serves is trained on all of it. The calibration comes from two others, each
    trained on half of the history (in folds of two hours) and scoring the other half: a forest's
    scores of its own training rows are too low to calibrate with.

    Args:
        history: (n_horizons, n_features), at steps of a minute, alerted spans left out, in order.
        feature_set: its columns.
        trained_us: the end of the history.
    """
    from helios_detector.forest.export import to_onnx  # brings scikit-learn, which only training needs

    metadata = {
        META_FEATURE_SET: feature_set.name,
        META_FEATURE_HASH: feature_set.hash,
        "helios.trained_until": rfc3339(trained_us),
        "helios.rows": str(len(history)),
    }
    model = _fit(history)
    onnx = to_onnx(model, feature_set.names, metadata).SerializeToString()
    fold = np.arange(len(history)) // _FOLD_ROWS % 2 == 0
    scores = np.empty(len(history))
    for own in (fold, ~fold):
        scores[~own] = -_fit(history[own]).score_samples(history[~own])
    missing = np.isnan(history).all(axis=0)
    typical = np.full(history.shape[1], np.nan, dtype=np.float32)
    typical[~missing] = np.nanmedian(history[:, ~missing], axis=0)
    return Forest(
        version=hashlib.sha256(onnx).hexdigest()[:12],
        feature_set=feature_set,
        onnx=onnx,
        calibration=Calibration.fit(scores),
        typical=typical,
        trained_us=trained_us,
        rows=len(history),
        scorer=ForestScorer(onnx, feature_set=feature_set.name, feature_hash=feature_set.hash),
    )


def _fit(rows: NDArray[np.float32]) -> Any:
    try:
        from sklearn.ensemble import IsolationForest
    except ImportError as error:
        raise MissingExtra("scikit-learn is not installed: pip install 'helios-observability[train]'") from error
    model = IsolationForest(n_estimators=N_TREES, contamination=CONTAMINATION, max_samples="auto", random_state=_SEED)
    return model.fit(rows)
