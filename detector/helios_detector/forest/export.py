"""Writes a fitted Isolation Forest as an ONNX graph of one tree ensemble and one power; it trains nothing.

The score of a row x (Liu, Ting, Zhou: "Isolation Forest", ICDM 2008, eq. 2) is

    s(x) = 2 ** (-sum over trees of (depth of x's leaf + c(samples in that leaf)) / (trees * c(psi)))

so a leaf can carry its own share of the exponent, the ensemble's SUM is the exponent, and what is
left is `2 ** exponent`. Every row ends in the same leaves as in scikit-learn, see `_thresholds`; the
only difference from `-score_samples` is the rounding of the float32 sum: 2.4e-7 over 100 trees at
the most, 4e-7 over 1,000.
"""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from helios_detector.errors import MissingExtra, ModelExportError
from helios_detector.forest.scorer import META_FEATURES, META_OFFSET

if TYPE_CHECKING:
    from onnx import ModelProto
    from sklearn.ensemble import IsolationForest
    from sklearn.pipeline import Pipeline

_ALIAS = "HeliosIsolationForest"
# The newest TreeEnsembleRegressor is that of ai.onnx.ml 3, the newest Pow that of opset 15; every
# onnxruntime that is supported knows both.
_OPSET = {"": 15, "ai.onnx.ml": 3}
_LEAF = -1  # sklearn.tree._tree.TREE_LEAF: what children_left holds at a leaf


def average_path_length(n_samples: NDArray[np.integer[Any]] | Sequence[int]) -> NDArray[np.float64]:
    """c(n), the mean depth of an unsuccessful search in a binary tree of n samples; same shape as given.

    Liu, Ting, Zhou: "Isolation Forest", ICDM 2008, eq. 1, with H(i) = ln(i) + Euler's constant; the
    cases n <= 1 and n = 2 are those of the extended paper (ACM TKDD 6.1, 2012).
    """
    n = np.asarray(n_samples, dtype=np.float64)
    length = np.zeros(n.shape)
    length[n == 2] = 1.0
    many = n > 2
    length[many] = 2.0 * (np.log(n[many] - 1.0) + np.euler_gamma) - 2.0 * (n[many] - 1.0) / n[many]
    return length


def register_converter() -> None:
    """Make skl2onnx turn every IsolationForest into the fused graph, in this process; may be repeated.

    The graph then has one output `score`, `(n_rows, 1) float32`, in place of the label and decision
    of the stock conversion. The option `scalers` names fitted scalers to fold into the thresholds.
    """
    skl2onnx = _library("skl2onnx")
    forest_type = _library("sklearn.ensemble").IsolationForest
    skl2onnx.update_registered_converter(
        forest_type,
        _ALIAS,
        _output_shape,
        _convert,
        overwrite=True,
        parser=_parse,
        options={"scalers": None},
    )


def to_onnx(model: IsolationForest | Pipeline, feature_names: Sequence[str], metadata: Mapping[str, str]) -> ModelProto:
    """The fused graph of a fitted forest, or of a pipeline of scalers and a forest.

    Input `features`, `(n_rows, n_features) float32` with any number of rows, NaN for a missing value.
    Output `score`, `(n_rows, 1) float32`, equal to 1e-6 to `-model.score_samples(rows)` of the same
    float32 rows. (If they come as float64, a StandardScaler rounds in another place: of 5,000 rows with
    coarse columns 1.7 % took another branch somewhere and moved by up to 0.004. Without a scaler the
    two are the same.)
    The metadata is written into the model beside the feature names and the offset.

    Raises ModelExportError if the model is not fitted, is of another kind, or has other features.
    """
    scalers, forest = _taken_apart(model)
    names = [str(name) for name in feature_names]
    _check_names([*scalers, forest][0], forest, names)
    reserved = {META_FEATURES, META_OFFSET} & set(metadata)
    if reserved:
        raise ModelExportError(f"metadata {sorted(reserved)} is written by the export itself: leave it out")
    register_converter()
    tensor_type = _library("skl2onnx.common.data_types").FloatTensorType
    graph = _library("skl2onnx").convert_sklearn(
        forest,
        name="helios-isolation-forest",
        initial_types=[("features", tensor_type([None, len(names)]))],
        target_opset=_OPSET,
        options={id(forest): {"scalers": scalers}},
    )
    # scikit-learn's threshold is on score_samples, the public score is its negative.
    written = {META_FEATURES: json.dumps(names), META_OFFSET: repr(float(forest.offset_)), **metadata}
    _library("onnx.helper").set_model_props(graph, written)
    return graph


# --- what is exported --------------------------------------------------------------------------


def _taken_apart(model: Any) -> tuple[list[Any], Any]:
    """The scalers in their order and the forest behind them, all of them fitted and of known kinds."""
    preprocessing = _library("sklearn.preprocessing")
    steps = [model]
    if isinstance(model, _library("sklearn.pipeline").Pipeline):
        steps = [step for _, step in model.steps if step not in (None, "passthrough")]
    *scalers, forest = steps
    # Exact types: a subclass may score, or scale, in another way than the one reproduced here.
    if type(forest) is not _library("sklearn.ensemble").IsolationForest:
        raise ModelExportError(f"cannot export {type(forest).__name__}: give an IsolationForest")
    for scaler in scalers:
        if type(scaler) not in (preprocessing.StandardScaler, preprocessing.RobustScaler):
            raise ModelExportError(
                f"cannot fold {type(scaler).__name__} into the thresholds: "
                "use StandardScaler, RobustScaler or no scaler before the forest"
            )
    not_fitted = _library("sklearn.exceptions").NotFittedError
    for step in steps:
        try:
            _library("sklearn.utils.validation").check_is_fitted(step)
        except not_fitted as error:
            raise ModelExportError(f"{type(step).__name__} is not fitted: call fit first") from error
    return scalers, forest


def _check_names(first_step: Any, forest: Any, names: list[str]) -> None:
    if len(names) != forest.n_features_in_:
        raise ModelExportError(
            f"{len(names)} feature names for a model of {forest.n_features_in_} features: give one each"
        )
    if len(set(names)) != len(names):
        raise ModelExportError(f"a feature name occurs twice in {names}: name every column once")
    trained_on = getattr(first_step, "feature_names_in_", None)
    if trained_on is not None and [str(name) for name in trained_on] != names:
        raise ModelExportError(f"the model was fitted on columns {list(trained_on)}, not {names}: give those")


# --- the converter, in the three parts that skl2onnx asks for ----------------------------------


def _parse(scope: Any, model: Any, inputs: list[Any], custom_parsers: Any = None) -> list[Any]:
    operator = scope.declare_local_operator(_ALIAS, model)
    operator.inputs = inputs
    float_tensor = _library("skl2onnx.common.data_types").FloatTensorType
    operator.outputs.append(scope.declare_local_variable("score", float_tensor()))
    return list(operator.outputs)


def _output_shape(operator: Any) -> None:
    operator.outputs[0].type.shape = [operator.inputs[0].get_first_dimension(), 1]


def _convert(scope: Any, operator: Any, container: Any) -> None:
    forest = operator.raw_operator
    scalers = container.get_options(forest, {"scalers": None})["scalers"] or []
    exponent = scope.get_unique_variable_name("exponent")
    container.add_node(
        "TreeEnsembleRegressor",
        [operator.inputs[0].full_name],
        [exponent],
        op_domain="ai.onnx.ml",
        op_version=3,
        name=scope.get_unique_operator_name("Forest"),
        **_ensemble(forest, scalers),
    )
    two = scope.get_unique_variable_name("two")
    container.add_initializer(two, _library("onnx").TensorProto.FLOAT, [1], [2.0])
    container.add_node(
        "Pow",
        [two, exponent],
        [operator.outputs[0].full_name],
        op_version=15,
        name=scope.get_unique_operator_name("Score"),
    )


# --- the trees ---------------------------------------------------------------------------------


class _Nodes(NamedTuple):
    """All nodes of all trees, one entry each; a leaf has column, threshold and children 0."""

    tree: NDArray[np.int64]
    node: NDArray[np.int64]  # its number within its tree
    leaf: NDArray[np.bool_]
    column: NDArray[np.int64]  # of the model's input
    threshold: NDArray[np.float64]  # left if value <= threshold
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    missing_left: NDArray[np.bool_]
    samples: NDArray[np.int64]
    depth: NDArray[np.int64]  # 0 at the root


def _nodes(forest: Any) -> _Nodes:
    parts = []
    every_column = np.arange(forest.n_features_in_)
    for number, (estimator, drawn) in enumerate(zip(forest.estimators_, forest.estimators_features_, strict=True)):
        tree = estimator.tree_
        leaf = tree.children_left == _LEAF
        # scikit-learn looks at what was drawn only when that is fewer than all.
        columns = drawn if len(drawn) < forest.n_features_in_ else every_column
        parts.append(
            _Nodes(
                tree=np.full(tree.node_count, number),
                node=np.arange(tree.node_count),
                leaf=leaf,
                column=columns[np.where(leaf, 0, tree.feature)],
                threshold=np.where(leaf, 0.0, tree.threshold),
                left=np.where(leaf, 0, tree.children_left),
                right=np.where(leaf, 0, tree.children_right),
                # Set for columns without a missing value in training too: the larger child.
                missing_left=tree.missing_go_to_left.astype(bool) & ~leaf,
                samples=tree.n_node_samples,
                depth=tree.compute_node_depths() - 1,
            )
        )
    return _Nodes(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _ensemble(forest: Any, scalers: Sequence[Any]) -> dict[str, Any]:
    """The attributes of the TreeEnsembleRegressor whose sum is the exponent of the score."""
    nodes = _nodes(forest)
    base, weights = _leaf_weights(forest, nodes)
    return {
        "n_targets": 1,
        "aggregate_function": "SUM",
        "post_transform": "NONE",
        "base_values": [base],
        "nodes_treeids": nodes.tree.tolist(),
        "nodes_nodeids": nodes.node.tolist(),
        "nodes_modes": np.where(nodes.leaf, "LEAF", "BRANCH_LEQ").tolist(),
        "nodes_featureids": nodes.column.tolist(),
        "nodes_values": _thresholds(nodes, scalers, forest.n_features_in_).tolist(),
        "nodes_truenodeids": nodes.left.tolist(),
        "nodes_falsenodeids": nodes.right.tolist(),
        "nodes_missing_value_tracks_true": nodes.missing_left.astype(int).tolist(),
        "target_treeids": nodes.tree[nodes.leaf].tolist(),
        "target_nodeids": nodes.node[nodes.leaf].tolist(),
        "target_ids": [0] * len(weights),
        "target_weights": weights.tolist(),
    }


def _leaf_weights(forest: Any, nodes: _Nodes) -> tuple[float, NDArray[np.float64]]:
    """The part of the exponent that all rows share, and what each leaf adds to it, in leaf order.

    The runtime adds in float32, which is finest near 0: with leaves that only hold their distance
    from a typical leaf, 1,000 trees are off by 4e-7 instead of 1.1e-6.
    """
    n_trees = len(forest.estimators_)
    longest = n_trees * float(average_path_length([forest.max_samples_])[0])
    path = nodes.depth[nodes.leaf] + average_path_length(nodes.samples[nodes.leaf])
    if longest == 0.0:
        # Trees of a single sample: scikit-learn takes the exponent to be -1, a score of 0.5.
        return -1.0, np.zeros(path.shape)
    typical = float(np.average(path, weights=nodes.samples[nodes.leaf]))
    base = float(np.float32(-typical * n_trees / longest))  # the leaves make up for this rounding
    return base, -path / longest - base / n_trees


# --- the thresholds ----------------------------------------------------------------------------


def _thresholds(nodes: _Nodes, scalers: Sequence[Any], n_features: int) -> NDArray[np.float32]:
    """For each node the greatest float32 value of the input that scikit-learn sends to the left.

    scikit-learn compares a float32 value with a float64 threshold, after the scalers. Both steps
    never decrease in the value, so one float32 number per node separates left from right exactly.
    """
    if not scalers:
        return _rounded_down(nodes.threshold)
    # One column of the grid for each column of the input, as deep as the most used one needs.
    split = np.flatnonzero(~nodes.leaf)
    split = split[np.argsort(nodes.column[split], kind="stable")]
    column = nodes.column[split]
    used = np.bincount(column, minlength=n_features)
    row = np.arange(len(split)) - np.repeat(np.cumsum(used) - used, used)
    grid = np.zeros((max(int(used.max()), 1), n_features))
    grid[row, column] = nodes.threshold[split]
    folded = np.zeros(len(nodes.threshold), dtype=np.float32)
    folded[split] = _greatest_not_above(scalers, grid)[row, column]
    return folded


def _rounded_down(values: NDArray[np.float64]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # beyond the float32 range becomes an infinity, stepped back below
        rounded = values.astype(np.float32)
    above = rounded > values
    rounded[above] = np.nextafter(rounded[above], np.float32(-np.inf))
    return rounded


def _greatest_not_above(scalers: Sequence[Any], limits: NDArray[np.float64]) -> NDArray[np.float32]:
    """Per column, the greatest finite float32 whose scaled value is <= its limit; -inf if there is none.

    Found by bisection through scikit-learn's own `transform`, over the ordinals of the float32
    numbers: `limit * scale + center` would be off by an ulp where the scaler rounds, and a value
    that lies on a threshold would take the other branch.
    """
    largest = _ordinal(np.array(np.finfo(np.float32).max))
    low = np.full(limits.shape, -largest - 1)  # the ordinal of -inf, which scalers refuse to scale
    high = np.full(limits.shape, largest)
    while (low < high).any():
        middle = np.maximum((low + high + 1) // 2, -largest)
        below = _scaled(scalers, _of_ordinal(middle)) <= limits
        low = np.where(below, middle, low)
        high = np.where(below, high, middle - 1)
    return _of_ordinal(low)


def _scaled(scalers: Sequence[Any], rows: NDArray[np.float32]) -> NDArray[np.float32]:
    finite = np.finfo(np.float32)
    with warnings.catch_warnings(), np.errstate(over="ignore", invalid="ignore"):
        # The rows are probes of our own, without column names and up to the ends of the float32 range.
        warnings.filterwarnings("ignore", message="X does not have valid feature names")
        for scaler in scalers:
            rows = np.clip(np.asarray(scaler.transform(rows)), finite.min, finite.max)
    return rows


def _ordinal(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """The place of float32 numbers in their order: 0 for zero, 1 for the next above, -1 below."""
    bits = values.view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _of_ordinal(ordinals: NDArray[np.int64]) -> NDArray[np.float32]:
    bits = np.where(ordinals < 0, -ordinals | 0x80000000, ordinals)
    return bits.astype(np.uint32).view(np.float32)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtra(
            f'exporting a model needs {name.partition(".")[0]}: pip install "helios-observability[train]"'
        ) from error
