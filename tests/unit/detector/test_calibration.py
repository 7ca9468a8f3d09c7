"""Calibration: a tail probability that never rises with the score, and is about right on fresh normal data."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest
from tests.examples import examples

from helios_detector.errors import CalibrationError
from helios_detector.forest.calibration import MAX_EXTRAPOLATION, MIN_SCORES, Calibration
from helios_detector.forest.export import to_onnx
from helios_detector.forest.scorer import ForestScorer

Scores = NDArray[np.float64]

# Few distinct values, so that ties are common, or any value at all.
SCORE = st.integers(1, 49).map(lambda i: i / 50) | st.floats(0.001, 0.999)
HISTORY = st.lists(SCORE, min_size=MIN_SCORES, max_size=2 * MIN_SCORES).map(np.array)
ANY_SCORE = st.floats(0, 1) | st.floats(allow_nan=False)


def usual(n: int, seed: int = 0) -> Scores:
    """A history shaped like those of a forest: most scores near 0.44, a tail towards 0.7."""
    return np.clip(0.4 + np.random.default_rng(seed).gamma(2.0, 0.025, n), 0.01, 0.8)


# --- what any history keeps to -------------------------------------------------------------------


@settings(max_examples=examples(50))
@given(HISTORY, st.lists(ANY_SCORE, min_size=2))
@example(np.full(MIN_SCORES, 0.5), [0.4, 0.5, 0.6, 0.99])
def test_a_higher_score_is_never_more_probable(history: Scores, scores: list[float]) -> None:
    calibration = Calibration.fit(history)
    scores = sorted([*scores, *calibration.scores, *np.nextafter(calibration.scores, 1), *history[:20].tolist()])
    probabilities = [calibration.tail_probability(score) for score in scores]
    assert all(a >= b for a, b in pairwise(probabilities))
    assert all(0.0 < calibration.floor <= p <= 1.0 for p in probabilities)


@settings(max_examples=examples(50))
@given(HISTORY)
def test_there_is_no_step_at_the_join_nor_at_any_rank(history: Scores) -> None:
    calibration = Calibration.fit(history)
    for score, share in zip(calibration.scores, calibration.shares, strict=True):
        assert calibration.tail_probability(score) == share
    join = calibration.scores[-1]
    assert calibration.tail_probability(float(np.nextafter(join, 1))) == pytest.approx(calibration.shares[-1], rel=1e-6)
    assert calibration.tail_probability(math.nextafter(calibration.scores[0], 0)) == 1.0


@settings(max_examples=examples(50))
@given(HISTORY)
def test_below_the_join_it_is_the_share_of_the_history_at_or_above(history: Scores) -> None:
    calibration = Calibration.fit(history)
    for score in history[history <= calibration.scores[-1]].tolist():
        assert calibration.tail_probability(score) == pytest.approx((history >= score).mean(), abs=1e-12)


@settings(max_examples=examples(50))
@given(HISTORY)
def test_it_survives_json_exactly(history: Scores) -> None:
    calibration = Calibration.fit(history)
    assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration


def test_the_order_of_the_history_means_nothing() -> None:
    history = usual(500)
    assert Calibration.fit(history) == Calibration.fit(history[::-1]) == Calibration.fit(np.sort(history))


def test_a_long_history_is_kept_small_and_close() -> None:
    history = usual(50_000)
    calibration = Calibration.fit(history)
    assert len(json.dumps(calibration.to_dict())) < 12_000
    for score in history[:300].tolist():
        assert calibration.tail_probability(score) == pytest.approx((history >= score).mean(), abs=0.004)


# --- the tail ------------------------------------------------------------------------------------


def test_no_probability_is_less_than_the_history_can_bear() -> None:
    floors = {}
    for n in (100, 200, 1000, 10_000):
        calibration = Calibration.fit(usual(n))
        floors[n] = calibration.tail_probability(0.999)
        assert floors[n] == calibration.tail_probability(1.0) == calibration.tail_probability(7.0) == calibration.floor
    assert floors[100] > 3e-4
    assert floors[200] > 1e-4
    assert floors[1000] == 1 / (MAX_EXTRAPOLATION * 1000)
    assert floors[10_000] == 1 / (MAX_EXTRAPOLATION * 10_000)


def test_a_history_of_one_score_does_not_make_its_neighbours_rare() -> None:
    calibration = Calibration.fit(np.full(1000, 0.42))
    assert calibration.tail_probability(0.42) == 1.0
    assert calibration.tail_probability(0.43) > 0.5
    assert calibration.tail_probability(0.6) > 0.01
    assert calibration.tail_probability(0.79) < 1e-3


def test_ties_at_the_top_are_not_taken_for_a_tail() -> None:
    nightly_job = np.concatenate([usual(950), np.full(50, 0.72)])
    calibration = Calibration.fit(np.minimum(nightly_job, 0.72))
    assert calibration.tail_probability(0.72) == pytest.approx(0.05, abs=0.002)


@pytest.mark.parametrize("top", [0.79, 0.8, 0.9, 0.999999])
def test_a_forest_that_saturates_later_still_has_a_tail(top: float) -> None:
    history = np.append(usual(1000), [top] * 5)
    calibration = Calibration.fit(history)
    assert calibration.floor < calibration.tail_probability(top) < 0.02


@pytest.mark.slow
def test_on_fresh_normal_windows_the_probabilities_are_about_right() -> None:
    shares: dict[float, list[float]] = {0.1: [], 0.01: [], 0.001: [], 0.0001: []}
    for seed in range(8):
        scores = scores_of_a_service(seed, n_history=3000, n_fresh=20_000)
        calibration = Calibration.fit(scores[:3000])
        fresh = np.array([calibration.tail_probability(score) for score in scores[3000:].tolist()])
        for p, seen in shares.items():
            seen.append(float((fresh < p).mean()) / p)
    # A single history of 3,000 is off by 0.14 at 0.01 and by 0.5 at 0.001 (standard deviations).
    assert np.mean(shares[0.1]) == pytest.approx(1, abs=0.1)
    assert np.mean(shares[0.01]) == pytest.approx(1, abs=0.2)
    assert np.mean(shares[0.001]) == pytest.approx(1, abs=0.5)
    assert np.mean(shares[0.0001]) < 1.5


def test_a_saturated_anomaly_is_rarer_than_anything_in_the_history() -> None:
    for seed in range(2):
        scores = scores_of_a_service(seed, n_history=3000, n_fresh=0, and_then=[[1e7, 1, 1e7, 1e7, 1e7]])
        calibration = Calibration.fit(scores[:3000])
        assert calibration.tail_probability(float(scores[-1])) < 1e-5


def scores_of_a_service(seed: int, n_history: int, n_fresh: int, and_then: list[list[float]] | None = None) -> Scores:
    """A forest trained on windows of a service with a daily profile, and its scores of later ones."""
    rng = np.random.default_rng(seed)
    n_train = 2000
    n = n_train + n_history + n_fresh
    level = 200 * (1 + 0.6 * np.sin(rng.random(n) * 2 * np.pi)) * rng.lognormal(0, 0.1, n)
    count = rng.poisson(level)
    errors = rng.binomial(count, 0.004 * rng.lognormal(0, 0.5, n))
    latency = rng.lognormal(3 + 0.0008 * level, 0.15)
    spread = latency * rng.lognormal(-0.5, 0.3, n)
    columns = [count, errors / np.maximum(count, 1), latency, spread, latency + 1.7 * spread]
    rows = np.column_stack(columns).astype(np.float32)
    model = IsolationForest(n_estimators=100, random_state=seed).fit(rows[:n_train])
    names = ["count", "error_rate", "latency", "stddev", "p95"]
    metadata = {"helios.feature_set": "test", "helios.feature_hash": "0"}
    graph = to_onnx(model, names, metadata).SerializeToString()
    later = np.vstack([rows[n_train:], *(np.array([row], dtype=np.float32) for row in and_then or [])])
    scorer = ForestScorer(graph, feature_set="test", feature_hash="0")
    return scorer.score(later).astype(np.float64)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("history", "message"),
    [
        (usual(99), r"shape \(99,\): calibrating needs 100 scores"),
        (np.array([]), r"shape \(0,\)"),
        (np.array(0.5), r"shape \(\)"),
        (usual(200).reshape(2, 100), r"shape \(2, 100\)"),
        (np.append(usual(100), np.nan), r"1 of 101 scores are outside \(0, 1\), such as nan"),
        (np.append(usual(100), 1.0), r"such as 1\.0"),
        (np.append(usual(100), [0.0, -0.5]), r"2 of 102 scores .* such as 0\.0"),
    ],
)
def test_a_history_that_is_none_is_refused(history: Scores, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        Calibration.fit(history)


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(CalibrationError, match="NaN"):
        Calibration.fit(usual(100)).tail_probability(float("nan"))


GOOD = {
    "observations": 200,
    "scores": [0.4, 0.5, 0.6],
    "shares": [1.0, 0.3, 0.02],
    "exponent": 5.0,
    "shortest": 0.3,
    "floor": 0.0001,
}


@pytest.mark.parametrize(
    "change",
    [
        {"observations": 20},
        {"observations": 200.0},
        {"observations": True},
        {"observations": "200"},
        {"scores": []},
        {"scores": [], "shares": []},
        {"scores": [0.4, 0.5]},
        {"scores": [0.4, 0.6, 0.5]},
        {"scores": [0.4, 0.4, 0.5]},
        {"scores": [0.4, 0.5, 1.0]},
        {"scores": [0.0, 0.5, 0.6]},
        {"scores": [0.4, 0.5, float("nan")]},
        {"scores": "0.4"},
        {"scores": [0.4, 0.5, "0.6"]},
        {"scores": [0.4, 0.5, None]},
        {"shares": [0.9, 0.3, 0.02]},
        {"shares": [1.0, 0.3, 0.3]},
        {"shares": [1.0, 0.3, 0.0]},
        {"shares": {"0": 1.0}},
        {"exponent": 0.0},
        {"exponent": float("inf")},
        {"exponent": True},
        {"shortest": -0.1},
        {"shortest": 0.8},
        {"floor": 0.0},
        {"floor": 0.03},
        {"floor": None},
        {"version": 2},
    ],
    ids=str,
)
def test_a_stored_calibration_that_no_fit_could_have_given_is_refused(change: dict[str, Any]) -> None:
    Calibration.from_dict(GOOD)
    with pytest.raises(CalibrationError):
        Calibration.from_dict(GOOD | change)


@given(st.dictionaries(st.text(max_size=5) | st.sampled_from(sorted(GOOD)), st.none() | st.integers() | st.text()))
@settings(max_examples=examples(50))
def test_nothing_that_is_stored_can_fail_in_another_way(stored: dict[str, Any]) -> None:
    with pytest.raises(CalibrationError):
        Calibration.from_dict(stored)
    for name in GOOD:
        with pytest.raises(CalibrationError):
            Calibration.from_dict({key: value for key, value in GOOD.items() if key != name})
