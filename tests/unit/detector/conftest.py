"""What the tests of the detector share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from helios_core.features import FeatureSet
from helios_detector import engine, training
from helios_detector.training import Forest

_MADE: dict[tuple[bytes, FeatureSet, int], Forest] = {}


def _train(history: NDArray[np.float32], feature_set: FeatureSet, trained_us: int) -> Forest:
    key = (history.tobytes(), feature_set, trained_us)
    if key not in _MADE:
        _MADE[key] = training.train(history, feature_set, trained_us)
    return _MADE[key]


@pytest.fixture(scope="module", autouse=True)
def trained_once() -> Iterator[None]:
    """An engine that has seen what another has seen gets its forest: test_detectors.py says that training is exact."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "train", _train)
        yield
