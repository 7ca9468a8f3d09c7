"""Microseconds a row, one row at a time: the fused graph behind the scorer against the stock conversion."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
import skl2onnx
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture
from sklearn.ensemble import IsolationForest

from helios_detector.forest.export import to_onnx
from helios_detector.forest.scorer import ForestScorer

CORE_7 = (
    "total_events",
    "error_rate",
    "avg_latency",
    "p95_latency",
    "p99_latency",
    "latency_stddev",
    "unique_endpoints",
)
MIN_TIMES_AS_FAST = 50  # a ratio of one run: it does not depend on the machine
MAX_DIFFERENCE = 1e-6  # of a score
ROWS_A_TURN = 100
Row = NDArray[np.float32]


class Case:
    """A forest as in the requirements, fitted on 5,000 windows, and both of its graphs."""

    def __init__(self) -> None:
        rng = np.random.default_rng(42)
        rows = rng.lognormal(size=(7000, len(CORE_7))).astype(np.float32)
        forest = IsolationForest(n_estimators=100, contamination=0.05, random_state=42).fit(rows[:5000])
        # Before anything registers the fused converter, which replaces the stock one in this process.
        stock = skl2onnx.to_onnx(forest, rows[:1], target_opset={"": 15, "ai.onnx.ml": 3})
        if len(stock.graph.node) < 1000:
            pytest.fail("the fused converter was registered before the stock graph was made: run this file alone")
        self.stock_nodes = len(stock.graph.node)
        self.fused = ForestScorer(
            to_onnx(forest, CORE_7, {"helios.feature_set": "core-7", "helios.feature_hash": "0"}).SerializeToString(),
            feature_set="core-7",
            feature_hash="0",
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._stock = onnxruntime.InferenceSession(
            stock.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.scored = rows[5000:]
        self._offset = float(forest.offset_)
        stock_scores = -(self._stock.run(["scores"], {"X": self.scored})[0][:, 0] + self._offset)
        scores = self.fused.score(self.scored)
        self.difference = float(np.abs(scores + forest.score_samples(self.scored)).max())
        self.stock_difference = float(np.abs(stock_scores + forest.score_samples(self.scored)).max())
        self.difference_of_graphs = float(np.abs(scores - stock_scores).max())

    def stock_one(self, row: Row) -> float:
        """The score of a row; the stock graph gives decision_function, which is -score - offset_."""
        (scores,) = self._stock.run(["scores"], {"X": row.reshape(1, -1)})
        return -(float(scores[0, 0]) + self._offset)


@pytest.fixture(scope="module")
def case() -> Case:
    return Case()


def measure(benchmark: BenchmarkFixture, score: Callable[[Row], float], rows: Row, rounds: int) -> tuple[float, float]:
    """p50 and p99 in microseconds over single calls; another row each time, as in service."""
    numbers = iter(np.random.default_rng(0).integers(0, len(rows), rounds).tolist())
    for row in rows[:200]:
        score(row)
    benchmark.pedantic(score, setup=lambda: ((rows[next(numbers)],), {}), rounds=rounds, iterations=1)
    p50, p99 = np.percentile(benchmark.stats.stats.data, [50, 99]) * 1e6
    return float(p50), float(p99)


@pytest.fixture
def report(
    request: pytest.FixtureRequest, benchmark: BenchmarkFixture, capsys: pytest.CaptureFixture[str]
) -> Callable[[dict[str, Any]], None]:
    """Records figures with the benchmark and shows them, which pytest-benchmark's table does not."""

    def show(figures: dict[str, Any]) -> None:
        benchmark.extra_info.update(figures)
        line = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        with capsys.disabled():
            request.config.pluginmanager.get_plugin("terminalreporter").write_line(f"\n{request.node.name}: {line}")

    return show


def test_score_one(case: Case, benchmark: BenchmarkFixture, report: Callable[[dict[str, Any]], None]) -> None:
    p50, p99 = measure(benchmark, case.fused.score_one, case.scored, rounds=20_000)
    report({"p50_us": p50, "p99_us": p99, "off_scikit_learn": case.difference})
    assert case.difference < MAX_DIFFERENCE


def test_stock_graph(case: Case, benchmark: BenchmarkFixture, report: Callable[[dict[str, Any]], None]) -> None:
    p50, p99 = measure(benchmark, case.stock_one, case.scored, rounds=2_000)
    report({"p50_us": p50, "p99_us": p99, "nodes": case.stock_nodes, "off_scikit_learn": case.stock_difference})
    assert case.stock_difference < MAX_DIFFERENCE
    assert case.difference_of_graphs < MAX_DIFFERENCE


def test_fused_against_stock(case: Case, benchmark: BenchmarkFixture, report: Callable[[dict[str, Any]], None]) -> None:
    """The same scores in a fraction of the time. They take turns, so that what else the machine does slows both."""
    rows = iter(np.random.default_rng(1).permutation(case.scored))
    ratios, differences = [], []

    def turn() -> None:
        some = [next(rows) for _ in range(ROWS_A_TURN)]
        fused_us, fused = timed(case.fused.score_one, some)
        stock_us, stock = timed(case.stock_one, some)
        ratios.append(stock_us / fused_us)
        differences.append(float(np.abs(np.subtract(fused, stock)).max()))

    benchmark.pedantic(turn, rounds=len(case.scored) // ROWS_A_TURN, iterations=1)
    times = float(np.median(ratios))
    report({"times_as_fast": times, "off_each_other": max(differences)})
    assert max(differences) < MAX_DIFFERENCE
    assert times >= MIN_TIMES_AS_FAST


def timed(score: Callable[[Row], float], rows: list[Row]) -> tuple[float, list[float]]:
    """The median microseconds of a call, after some that warm it up, and the scores."""
    for row in rows:
        score(row)
    taken_ns, scores = [], []
    for row in rows:
        began = time.perf_counter_ns()
        scores.append(score(row))
        taken_ns.append(time.perf_counter_ns() - began)
    return float(np.median(taken_ns)) / 1_000, scores
