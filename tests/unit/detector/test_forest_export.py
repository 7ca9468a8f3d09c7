"""The exported graph: the same score as scikit-learn for every row, from one tree ensemble."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import skl2onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler
from tests.examples import examples

from helios_detector.errors import MissingExtra, ModelExportError
from helios_detector.forest.export import average_path_length, register_converter, to_onnx

Rows = NDArray[np.float32]
NAN = np.float32(np.nan)


def names(model: Any) -> list[str]:
    return [f"f{i}" for i in range(model.n_features_in_)]


def graph_scores(graph: onnx.ModelProto, rows: Rows) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {"features": rows})
    assert scores.shape == (len(rows), 1)
    assert scores.dtype == np.float32
    return scores[:, 0]


def assert_equal_scores(model: Any, rows: Rows) -> None:
    scores = graph_scores(to_onnx(model, names(model), {}), rows)
    np.testing.assert_allclose(scores, -model.score_samples(rows), rtol=0, atol=1e-6)


def windows(n: int, seed: int = 0) -> Rows:
    """Columns on very different scales, as a service's features are; (n, 7)."""
    rng = np.random.default_rng(seed)
    scale = np.array([1e3, 1e-2, 40.0, 1e6, 1.0, 1e-4, 7.0])
    center = np.array([5e4, 0.0, 200.0, 0.0, 1e4, 1.0, -30.0])
    return (rng.normal(size=(n, 7)) * scale + center).astype(np.float32)


def with_missing(rows: Rows, share: float, seed: int = 1) -> Rows:
    rows = rows.copy()
    rows[np.random.default_rng(seed).random(rows.shape) < share] = NAN
    return rows


def around_thresholds(model: Any, rows: Rows, scale: Callable[[Rows], Rows] = lambda x: x) -> Rows:
    """Copies of the rows in which columns hold, once scaled, a threshold or a neighbour of one."""
    rng = np.random.default_rng(3)
    forest = model[-1] if hasattr(model, "steps") else model
    columns, thresholds = [], []
    for estimator, drawn in zip(forest.estimators_, forest.estimators_features_, strict=True):
        split = estimator.tree_.children_left >= 0
        order = drawn if len(drawn) < forest.n_features_in_ else np.arange(forest.n_features_in_)
        columns.append(order[estimator.tree_.feature[split]])
        thresholds.append(estimator.tree_.threshold[split])
    column, threshold = np.concatenate(columns), np.concatenate(thresholds)
    made = rows[rng.integers(0, len(rows), len(column))]
    nearest = threshold.astype(np.float32)
    step = rng.integers(-1, 2, len(column))
    made[np.arange(len(column)), column] = np.where(
        step == 0, nearest, np.nextafter(nearest, np.where(step < 0, -np.inf, np.inf).astype(np.float32))
    )
    return scale(made)


# --- equal to scikit-learn -----------------------------------------------------------------------

PARAMETERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "contamination": {"contamination": 0.05},
    "half of the columns": {"max_features": 0.5},
    "one column a tree": {"max_features": 1},
    "bootstrap": {"bootstrap": True},
    "1 sample a tree": {"max_samples": 1},
    "2 samples a tree": {"max_samples": 2},
    "3 samples a tree": {"max_samples": 3},
    "a share of the samples": {"max_samples": 0.3},
    "deep trees": {"max_samples": 1.0},
    "one tree": {"n_estimators": 1},
}
SCALERS: dict[str, tuple[Any, ...]] = {
    "no scaler": (),
    "standard": (StandardScaler,),
    "robust": (RobustScaler,),
    "both": (StandardScaler, RobustScaler),
}


@pytest.mark.parametrize(
    "scalers",
    [  # one scaler alone is the lesser part of both
        pytest.param(made, id=name, marks=pytest.mark.slow if len(made) == 1 else ()) for name, made in SCALERS.items()
    ],
)
@pytest.mark.parametrize("parameters", PARAMETERS.values(), ids=PARAMETERS)
def test_any_forest_scores_as_in_scikit_learn(parameters: dict[str, Any], scalers: Sequence[Callable[[], Any]]) -> None:
    forest = IsolationForest(**{"n_estimators": 20, "random_state": 7} | parameters)
    model = make_pipeline(*(scaler() for scaler in scalers), forest) if scalers else forest
    model.fit(with_missing(windows(400), 0.1))
    far = windows(400, seed=2) * np.float32(3)
    assert_equal_scores(model, np.vstack([windows(400), with_missing(far, 0.2)]))


@pytest.mark.slow
def test_a_thousand_trees_stay_within_the_tolerance() -> None:
    model = IsolationForest(n_estimators=1000, max_samples=64, random_state=0).fit(windows(500))
    assert_equal_scores(model, with_missing(windows(2000, seed=4), 0.1))


# RobustScaler takes the median of a column without values, of which numpy warns.
@pytest.mark.filterwarnings("ignore:All-NaN slice encountered:RuntimeWarning")
@pytest.mark.parametrize("scaler", [None, StandardScaler, RobustScaler])
@pytest.mark.parametrize("missing", ["rows", "a column", "a column and rows", "nothing"])
def test_missing_values_in_training_go_the_way_that_scikit_learn_sends_them(
    missing: str, scaler: Callable[[], Any] | None
) -> None:
    trained = windows(500)
    if missing in ("rows", "a column and rows"):
        trained = with_missing(trained, 0.25)
    if missing in ("a column", "a column and rows"):
        trained[:, 3] = NAN
    forest = IsolationForest(n_estimators=30, random_state=1)
    model = make_pipeline(scaler(), forest) if scaler else forest
    with np.errstate(invalid="ignore"):  # scikit-learn divides 0 by 0 for the mean of no values
        model.fit(trained)
    scored = [windows(200), with_missing(windows(200), 0.3), np.full((1, 7), NAN)]
    for column in range(7):  # missing at scoring only, one column at a time
        rows = windows(50)
        rows[:, column] = NAN
        scored.append(rows)
    assert_equal_scores(model, np.vstack(scored))


def test_without_the_routing_of_missing_values_the_scores_would_differ() -> None:
    model = IsolationForest(n_estimators=30, random_state=1).fit(with_missing(windows(500), 0.25))
    graph = to_onnx(model, names(model), {})
    for attribute in list(graph.graph.node[0].attribute):
        if attribute.name == "nodes_missing_value_tracks_true":
            graph.graph.node[0].attribute.remove(attribute)
    rows = with_missing(windows(500, seed=2), 0.3)
    assert np.abs(graph_scores(graph, rows) + model.score_samples(rows)).max() > 0.01


@pytest.mark.parametrize("max_features", [1.0, 0.4])
def test_values_on_a_threshold_take_the_same_branch(max_features: float) -> None:
    model = IsolationForest(n_estimators=30, max_features=max_features, random_state=5).fit(windows(300))
    assert_equal_scores(model, around_thresholds(model, windows(300)))


@pytest.mark.parametrize("scaler", [StandardScaler, RobustScaler])
def test_values_on_a_threshold_after_scaling_take_the_same_branch(scaler: Callable[[], Any]) -> None:
    model = make_pipeline(scaler(), IsolationForest(n_estimators=30, random_state=5)).fit(windows(300))
    back = model[0].inverse_transform
    scaled = model[0].transform(windows(300))
    rows = around_thresholds(model, scaled, lambda made: back(made).astype(np.float32))
    # The way back rounds too, so that these lie on the threshold or an ulp or two beside it.
    assert_equal_scores(model, np.vstack([rows, np.nextafter(rows, np.float32(np.inf))]))


def test_a_float32_value_between_a_threshold_and_its_rounding_goes_right() -> None:
    # Neighbouring float32 values: every threshold lies strictly between two of them, in float64.
    steps = np.float32(1) + np.arange(64, dtype=np.float32) * np.finfo(np.float32).eps
    model = IsolationForest(n_estimators=20, random_state=0).fit(np.repeat(steps[:, None], 3, axis=1) * 1e6)
    assert_equal_scores(model, np.repeat(steps[:, None], 3, axis=1) * np.float32(1e6))


@pytest.mark.parametrize("trained_on", [[np.inf], [-np.inf], [np.inf, -np.inf], [-np.inf, np.nan]])
def test_infinite_values_score_as_in_scikit_learn(trained_on: list[float]) -> None:
    trained = windows(200)
    trained[:40, 2] = np.resize(np.array(trained_on, dtype=np.float32), 40)
    model = IsolationForest(n_estimators=50, random_state=0).fit(trained)
    rows = windows(60)
    for i, value in enumerate([np.inf, -np.inf, np.nan, np.finfo(np.float32).max, np.finfo(np.float32).tiny]):
        rows[i * 10 : i * 10 + 10, i % 7] = value
        rows[i * 10, :] = value
    assert_equal_scores(model, np.vstack([trained, rows]))


def test_constant_columns_repeated_rows_and_a_single_column() -> None:
    constant = windows(100)
    constant[:, [0, 3, 6]] = 4
    every_row_the_same = np.ones((50, 3), dtype=np.float32)
    single = windows(100)[:, :1]
    few_values = np.random.default_rng(0).integers(0, 3, (100, 2)).astype(np.float32)
    for trained in (constant, every_row_the_same, single, few_values, windows(1), windows(2)):
        for scaler in ((), (StandardScaler(),)):
            model = make_pipeline(*scaler, IsolationForest(n_estimators=10, random_state=0)).fit(trained)
            assert_equal_scores(model, np.vstack([trained, trained * 2, with_missing(trained, 0.5)]))


def test_weighted_samples_and_trees_added_later() -> None:
    model = IsolationForest(n_estimators=5, random_state=0, warm_start=True)
    model.fit(windows(300), sample_weight=np.linspace(0.1, 3, 300))
    model.set_params(n_estimators=12).fit(windows(300))
    assert_equal_scores(model, windows(300, seed=2))


def test_the_order_in_which_all_columns_were_drawn_means_nothing() -> None:
    model = IsolationForest(n_estimators=5, random_state=0).fit(windows(100))
    model.estimators_features_ = [drawn[::-1] for drawn in model.estimators_features_]
    assert_equal_scores(model, windows(100))


VALUE = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 2.0, float("nan"), 1e-40, -3e38]),
    st.floats(width=32, min_value=-1e6, max_value=1e6),
)


@settings(max_examples=examples(60), deadline=None)
@given(data=st.data(), n_columns=st.integers(1, 4), seed=st.integers(0, 2**31), scaled=st.booleans())
def test_any_rows_score_as_in_scikit_learn(data: st.DataObject, n_columns: int, seed: int, scaled: bool) -> None:
    row = st.lists(VALUE, min_size=n_columns, max_size=n_columns)
    trained = np.array(data.draw(st.lists(row, min_size=2, max_size=25)), dtype=np.float32)
    scored = np.array(data.draw(st.lists(row, min_size=1, max_size=25)), dtype=np.float32)
    forest = IsolationForest(n_estimators=8, random_state=seed)
    model = make_pipeline(StandardScaler(), forest) if scaled else forest
    with np.errstate(all="ignore"):  # scaling values of such sizes overflows within scikit-learn
        try:
            model.fit(trained)
            expected = -model.score_samples(np.vstack([trained, scored]))
        except ValueError as error:  # a scaled value became infinite: there is no score to compare with
            if scaled and "infinity" in str(error):
                return
            raise
    scores = graph_scores(to_onnx(model, names(model), {}), np.vstack([trained, scored]))
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)


# --- the graph -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scaled", [False, True])
def test_the_graph_is_one_ensemble_and_one_power(scaled: bool) -> None:
    forest = IsolationForest(n_estimators=100, random_state=0)
    model = (make_pipeline(StandardScaler(), forest) if scaled else forest).fit(windows(300))
    graph = to_onnx(model, names(model), {})
    onnx.checker.check_model(graph, full_check=True)
    assert [node.op_type for node in graph.graph.node] == ["TreeEnsembleRegressor", "Pow"]
    (given_,), (got,) = graph.graph.input, graph.graph.output
    shapes = [[d.dim_value for d in value.type.tensor_type.shape.dim] for value in (given_, got)]
    assert (given_.name, got.name) == ("features", "score")
    assert shapes == [[0, 7], [0, 1]]  # 0: any number of rows


def test_metadata_names_and_offset_are_written_into_the_model() -> None:
    model = IsolationForest(n_estimators=5, contamination=0.1, random_state=0).fit(windows(100))
    metadata = {"helios.feature_set": "core-7", "helios.feature_hash": "abc", "trained": "2026-01-01 \u2713"}
    graph = onnx.load_from_string(to_onnx(model, names(model), metadata).SerializeToString())
    written = {entry.key: entry.value for entry in graph.metadata_props}
    assert json.loads(written.pop("helios.features")) == names(model)
    assert float(written.pop("helios.offset")) == model.offset_
    assert written == metadata


def test_the_same_model_gives_the_same_bytes() -> None:
    model = IsolationForest(n_estimators=5, random_state=0).fit(windows(100))
    first, second = (to_onnx(model, names(model), {"a": "b"}).SerializeToString() for _ in range(2))
    assert first == second


def test_once_registered_skl2onnx_itself_makes_the_fused_graph() -> None:
    register_converter()
    register_converter()
    model = make_pipeline(StandardScaler(), IsolationForest(n_estimators=5, random_state=0)).fit(windows(100))
    graph = skl2onnx.to_onnx(model, windows(1), target_opset={"": 15, "ai.onnx.ml": 3})
    assert [node.op_type for node in graph.graph.node] == ["Scaler", "TreeEnsembleRegressor", "Pow"]


def test_path_lengths_are_those_of_a_binary_search_tree() -> None:
    assert average_path_length([0, 1, 2]).tolist() == [0.0, 0.0, 1.0]
    for n in (10, 256, 5000):
        exact = 2 * sum(1 / i for i in range(1, n)) - 2 * (n - 1) / n
        # ln(i) + Euler's constant is less than the harmonic number by about 1 / (2 i).
        assert average_path_length([n])[0] == pytest.approx(exact - 1 / (n - 1), abs=0.2 / (n - 1) ** 2)
    assert average_path_length([256])[0] == pytest.approx(10.244770920)


# --- what is refused -----------------------------------------------------------------------------


def fitted(**parameters: Any) -> IsolationForest:
    return IsolationForest(n_estimators=2, random_state=0, **parameters).fit(windows(20))


class OtherForest(IsolationForest):
    """Might score in another way."""


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (IsolationForest(), "IsolationForest is not fitted: call fit"),
        (make_pipeline(StandardScaler(), IsolationForest()), "StandardScaler is not fitted"),
        (StandardScaler().fit(windows(20)), "cannot export StandardScaler"),
        (OtherForest(n_estimators=2).fit(windows(20)), "cannot export OtherForest"),
        (
            make_pipeline(MinMaxScaler(), IsolationForest(n_estimators=2)).fit(windows(20)),
            "cannot fold MinMaxScaler",
        ),
    ],
)
def test_other_models_are_refused(model: Any, message: str) -> None:
    with pytest.raises(ModelExportError, match=message):
        to_onnx(model, ["a"] * 7, {})


def test_a_passthrough_step_is_no_step() -> None:
    model = make_pipeline("passthrough", None, fitted()).fit(windows(50))
    scores = graph_scores(to_onnx(model, names(model[-1]), {}), windows(50))
    np.testing.assert_allclose(scores, -model.score_samples(windows(50)), rtol=0, atol=1e-6)


def test_names_that_are_not_those_of_the_columns_are_refused() -> None:
    model = fitted()
    with pytest.raises(ModelExportError, match="6 feature names for a model of 7"):
        to_onnx(model, names(model)[:6], {})
    with pytest.raises(ModelExportError, match="occurs twice"):
        to_onnx(model, ["f0"] * 7, {})
    model.feature_names_in_ = np.array([f"g{i}" for i in range(7)], dtype=object)
    with pytest.raises(ModelExportError, match="fitted on columns"):
        to_onnx(model, [f"f{i}" for i in range(7)], {})


def test_a_scaler_that_knows_column_names_is_folded_without_a_warning() -> None:
    model = make_pipeline(StandardScaler(), IsolationForest(n_estimators=5, random_state=0)).fit(windows(50))
    expected = -model.score_samples(windows(50))
    model[0].feature_names_in_ = np.array(names(model), dtype=object)
    scores = graph_scores(to_onnx(model, names(model), {}), windows(50))
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)


def test_metadata_that_the_export_writes_is_refused() -> None:
    with pytest.raises(ModelExportError, match=r"\['helios.offset'\]"):
        to_onnx(fitted(), names(fitted()), {"helios.offset": "-0.4"})


def test_a_missing_library_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skl2onnx", None)
    with pytest.raises(MissingExtra, match=r'needs skl2onnx: pip install "helios-observability\[train\]"'):
        to_onnx(fitted(), names(fitted()), {})


def test_importing_loads_no_library() -> None:
    code = (
        "import sys, helios_detector.forest.export, helios_detector.forest.scorer\n"
        "print([m for m in ('sklearn', 'skl2onnx', 'onnx', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
