"""The scorer: the exported model's scores, and a clear refusal of whatever does not belong to it."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest

from helios_detector.errors import DetectorError, MissingExtra, ModelError, ModelMismatch, ModelUnreadable, VectorError
from helios_detector.forest.export import to_onnx
from helios_detector.forest.scorer import ForestScorer

CORE_7 = [
    "total_events",
    "error_rate",
    "avg_latency",
    "p95_latency",
    "p99_latency",
    "latency_stddev",
    "unique_endpoints",
]
IDENTITY = {"helios.feature_set": "core-7", "helios.feature_hash": "5f1c"}


def rows_of(n: int, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).lognormal(size=(n, 7)).astype(np.float32)
    rows[::5, 2:6] = np.nan
    return rows


@pytest.fixture(scope="module")
def forest() -> IsolationForest:
    return IsolationForest(n_estimators=50, contamination=0.05, random_state=42).fit(rows_of(500))


@pytest.fixture(scope="module")
def model(forest: IsolationForest) -> bytes:
    return bytes(to_onnx(forest, CORE_7, IDENTITY | {"trained_rows": "500"}).SerializeToString())


@pytest.fixture
def scorer(model: bytes) -> ForestScorer:
    return ForestScorer(model, feature_set="core-7", feature_hash="5f1c")


def test_rows_score_as_in_scikit_learn(scorer: ForestScorer, forest: IsolationForest) -> None:
    rows = rows_of(300, seed=1)
    scores = scorer.score(rows)
    assert scores.shape == (300,)
    np.testing.assert_allclose(scores, -forest.score_samples(rows), rtol=0, atol=1e-6)


def test_one_row_scores_as_among_others(scorer: ForestScorer) -> None:
    rows = rows_of(100, seed=1)
    assert [scorer.score_one(row) for row in rows] == scorer.score(rows).tolist()
    assert [scorer.score_one(row.tolist()) for row in rows] == scorer.score(rows).tolist()
    assert type(scorer.score_one(rows[0])) is float


def test_a_score_is_not_changed_by_the_next(scorer: ForestScorer) -> None:
    rows = rows_of(2, seed=3)
    first = scorer.score(rows[:1])
    kept = first.copy()
    scorer.score(rows[1:])
    scorer.score_one(rows[1])
    assert first == kept


def test_any_layout_of_rows_is_taken(scorer: ForestScorer) -> None:
    rows = rows_of(40, seed=1)
    expected = scorer.score(rows)
    for same in (np.asfortranarray(rows), rows.astype(np.float64), np.repeat(rows, 2, axis=0)[::2]):
        assert (scorer.score(same) == expected).all()
    assert scorer.score(rows[:0]).shape == (0,)


def test_many_threads_may_score_at_once(scorer: ForestScorer) -> None:
    rows = rows_of(200, seed=1)
    expected = scorer.score(rows)
    with ThreadPoolExecutor(4) as pool:
        assert all((scores == expected).all() for scores in pool.map(lambda _: scorer.score(rows), range(40)))


def test_metadata_comes_back_and_cannot_be_changed(scorer: ForestScorer, forest: IsolationForest) -> None:
    assert dict(scorer.metadata).items() >= (IDENTITY | {"trained_rows": "500"}).items()
    assert float(scorer.metadata["helios.offset"]) == forest.offset_
    assert scorer.n_features == 7
    with pytest.raises(TypeError):
        scorer.metadata["helios.feature_set"] = "full-12"  # type: ignore[index]  # what is being tested


@pytest.mark.parametrize("shape", [(7,), (1, 6), (1, 8), (0, 6), (1, 1, 7), ()])
def test_rows_of_another_shape_are_refused(scorer: ForestScorer, shape: tuple[int, ...]) -> None:
    with pytest.raises(VectorError, match=r"give \(n_rows, 7\)"):
        scorer.score(np.ones(shape, dtype=np.float32))


@pytest.mark.parametrize("row", [[1.0] * 6, [1.0] * 8, [], np.ones((1, 7))])
def test_one_row_of_another_shape_is_refused(scorer: ForestScorer, row: list[float]) -> None:
    with pytest.raises(VectorError, match="for a model of 7 features"):
        scorer.score_one(row)


@pytest.mark.parametrize(("feature_set", "feature_hash"), [("full-12", "5f1c"), ("core-7", "0000"), ("", "")])
def test_a_model_of_another_feature_set_is_refused(model: bytes, feature_set: str, feature_hash: str) -> None:
    with pytest.raises(ModelMismatch, match=r"trained for feature set core-7 \(5f1c\), not"):
        ForestScorer(model, feature_set=feature_set, feature_hash=feature_hash)


def test_a_model_that_does_not_name_its_feature_set_is_refused(forest: IsolationForest) -> None:
    anonymous = to_onnx(forest, CORE_7, {}).SerializeToString()
    with pytest.raises(ModelMismatch, match=r"feature set None"):
        ForestScorer(anonymous, feature_set="core-7", feature_hash="5f1c")


def graph_model(inputs: list[tuple[str, list[int | str]]], output: list[int | str]) -> bytes:
    """A model that adds up its inputs."""
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Sum", [name for name, _ in inputs], ["y"])],
        "sum",
        [value(name, onnx.TensorProto.FLOAT, shape) for name, shape in inputs],
        [value("y", onnx.TensorProto.FLOAT, output)],
    )
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 15)], ir_version=8)
    onnx.helper.set_model_props(made, IDENTITY)
    return bytes(made.SerializeToString())


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"garbage",
        b"\x08\x08",
        graph_model([("a", ["n", 1]), ("b", ["n", 1])], ["n", 1]),
        graph_model([("a", ["n", 7])], ["n", 7]),
        graph_model([("a", [7])], [7]),
        graph_model([("a", ["n", "m"])], ["n", 1]),
    ],
    ids=["empty", "garbage", "no graph", "two inputs", "wide output", "one dimension", "any columns"],
)
def test_what_is_no_forest_is_refused(broken: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelUnreadable):
        ForestScorer(broken, feature_set="core-7", feature_hash="5f1c")
    assert capfd.readouterr() == ("", "")


def test_a_truncated_or_altered_model_is_refused(model: bytes) -> None:
    for damaged in (model[: len(model) // 2], model.replace(b"TreeEnsembleRegressor", b"TreeEnsembleRegresso?")):
        with pytest.raises(ModelUnreadable, match="no model that onnxruntime can load"):
            ForestScorer(damaged, feature_set="core-7", feature_hash="5f1c")


def test_a_missing_library_is_one_sentence(model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        MissingExtra, match=r'^scoring needs onnxruntime: pip install "helios-observability\[detector\]"$'
    ):
        ForestScorer(model, feature_set="core-7", feature_hash="5f1c")


def test_every_refusal_is_an_error_of_the_detector() -> None:
    assert issubclass(ModelMismatch, ModelError)
    assert issubclass(ModelUnreadable, ModelError)
    for error in (ModelError, VectorError, MissingExtra):
        assert issubclass(error, DetectorError)
