"""Every feature set can train and serve in the engine, with latency and without."""

from __future__ import annotations

import random

import pytest

from helios_core.features import CONTEXT_1, CORE_7, FULL_12, FeatureSet, HorizonView
from helios_core.model import Level
from helios_core.windows import WindowDelta
from helios_detector import engine as module
from helios_detector import training
from helios_detector.detectors import forest as forest_detector
from helios_detector.engine import Engine
from helios_detector.training import Forest

S = 1_000_000
T0 = 1_772_409_600
MINUTES = 1_500


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "N_TREES", 5)
    monkeypatch.setattr(module, "train", training.train)  # and not one that another test has kept


def minutes(*, has_latency: bool) -> list[WindowDelta]:
    dice = random.Random(1)
    made = []
    for minute in range(MINUTES):
        delta = WindowDelta((T0 + minute * 60) * S, "web", "h1", duration_ms=60_000)
        delta.levels[Level.INFO] = dice.randrange(150, 250)
        delta.levels[Level.ERROR] = dice.randrange(3)
        delta.latency.add([round(dice.lognormvariate(10, 0.3)) for _ in range(20 if has_latency else 0)])
        made.append(delta)
    return made


@pytest.mark.parametrize("feature_set", [CORE_7, FULL_12, CONTEXT_1], ids=lambda one: one.name)
@pytest.mark.parametrize("has_latency", [True, False])
def test_it_trains_and_scores(feature_set: FeatureSet, has_latency: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[Forest] = []
    find = forest_detector.find

    def noted(forest: Forest, view: HorizonView) -> object:
        assert 0 < forest.scorer.score_one(forest.feature_set.vector(view)) < 1
        scored.append(forest)
        return find(forest, view)

    monkeypatch.setattr(forest_detector, "find", noted)
    engine = Engine(window_ms=60_000, allowed_lateness_us=0, feature_set=feature_set)
    engine.observe("web", minutes(has_latency=has_latency))
    engine.advance("web", (T0 + MINUTES * 60) * S)
    assert scored
    used = feature_set if has_latency else feature_set.without_latency()
    assert {forest.feature_set.hash for forest in scored} == {used.hash}
    assert engine.models() == {"web": scored[-1].version}
    by_hand = engine.train("web")
    assert by_hand is not None
    assert by_hand.feature_set.name == used.name
