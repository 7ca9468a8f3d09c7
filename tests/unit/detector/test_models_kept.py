"""Models of an earlier run: those that can be used are, the others are said at the start, and stop nobody."""

from __future__ import annotations

import asyncio
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from helios_core import wire
from helios_core.alerts import Alert, AlertState, Family
from helios_core.batches import BatchId, Slice
from helios_core.bus.base import Topic
from helios_core.bus.memory import MemoryBus
from helios_core.clock import EventClock
from helios_core.features import CONTEXT_1, CORE_7, FeatureSet
from helios_core.model import Level
from helios_core.records import slice_record
from helios_core.service import IDLE_AFTER_US, Context
from helios_core.windows import WindowDelta
from helios_detector import registry, training
from helios_detector.models import KeptModels
from helios_detector.registry import Registry
from helios_detector.service import MODELS, DetectorService
from helios_detector.training import Forest, train

S = 1_000_000
T0_US = 1_772_409_600 * S
OLDER = FeatureSet("context-1", 0, CONTEXT_1.features)  # as an earlier release may have had it


@cache
def forest(feature_set: FeatureSet) -> Forest:
    rows = np.random.default_rng(0).lognormal(size=(300, len(feature_set.features))).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "N_TREES", 5)
        return train(rows, feature_set, T0_US)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data directory with a model that is good, one damaged, and two of other features."""
    kept = Registry(tmp_path / MODELS)
    kept.save("good", forest(CONTEXT_1))
    kept.save("small", forest(CONTEXT_1.without_latency()))
    damaged = kept.save("damaged", forest(CONTEXT_1)) / "model.onnx"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    kept.save("other", forest(CORE_7))
    kept.save("older", forest(OLDER))
    return tmp_path


def unusable(logs: list[Any]) -> dict[str, Any]:
    found = [entry for entry in logs if entry["event"] == "model_unusable"]
    assert {entry["log_level"] for entry in found} <= {"warning"}
    by_service = {entry["service"]: entry for entry in found}
    assert len(by_service) == len(found), "said once"
    return by_service


def test_each_that_cannot_be_used_is_said_once_with_what_to_do(folder: Path) -> None:
    with capture_logs() as logs:
        kept = KeptModels(folder / MODELS)
        assert logs == []
        kept.open()
        said = unusable(logs)
        assert set(said) == {"damaged", "other", "older"}
        assert "model.onnx" in said["damaged"]["error"]
        assert "core-7" in said["other"]["error"]
        assert "context-1" in said["other"]["error"]
        assert OLDER.hash in said["older"]["error"]
        for service, entry in said.items():
            assert entry["path"].startswith(str(folder / MODELS / service))
            assert "train again" in entry["error"]
        found = {name: kept.find(name, trained_us=T0_US) for name in ("good", "small", *said)}
        assert {name for name, one in found.items() if one is not None} == {"good", "small"}
        assert kept.find("good", trained_us=T0_US + 1) is None
        unusable(logs)


def test_a_model_that_is_kept_is_found_at_once(tmp_path: Path) -> None:
    kept = KeptModels(tmp_path / MODELS)
    kept.open()
    kept.save("web", forest(CONTEXT_1))
    found = kept.find("web", trained_us=T0_US)
    assert found is not None
    assert found.version == forest(CONTEXT_1).version


def test_a_disk_that_refuses_is_said_and_raises_nothing(tmp_path: Path) -> None:
    (tmp_path / MODELS).write_bytes(b"no folder")
    kept = KeptModels(tmp_path / MODELS)
    with capture_logs() as logs:
        kept.open()
        kept.save("web", forest(CONTEXT_1))
    assert [entry["event"] for entry in logs] == ["model_unusable", "model_not_kept"]
    assert kept.find("web", trained_us=T0_US) is None


def test_an_engine_of_another_set_takes_those_of_its_own(folder: Path) -> None:
    kept = KeptModels(folder / MODELS, CORE_7)
    with capture_logs() as logs:
        kept.open()
    assert set(unusable(logs)) == {"good", "small", "damaged", "older"}
    assert kept.find("other", trained_us=T0_US) is not None


async def test_the_detector_starts_and_decides_whatever_models_are_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read when it runs, and not on the event loop."""
    readers: set[threading.Thread] = set()
    read = registry.Registry.versions

    def reading(self: Registry, service: str | None = None) -> Any:
        readers.add(threading.current_thread())
        return read(self, service)

    monkeypatch.setattr(registry.Registry, "versions", reading)
    bus = MemoryBus(EventClock(T0_US))
    for number in range(1, 60):
        delta = WindowDelta(T0_US + (number - 1) * 10 * S, "damaged", "h1")
        delta.levels[Level.ERROR if number > 40 else Level.INFO] = 100
        data = wire.slice_to_proto(Slice("damaged", delta.end_us, deltas=[delta])).SerializeToString()
        await bus.publish([slice_record(BatchId(b"a" * 16, 1, number), "damaged", data, "h1")])
    context = Context(
        data_dir=folder,
        clock=EventClock(T0_US),
        bus=bus,
        store=None,  # type: ignore[arg-type]  # the detector does not use it
        collector=asyncio.get_running_loop().create_future(),
        idle_after_us=IDLE_AFTER_US,
    )
    context.drain.set()
    with capture_logs() as logs:
        service = DetectorService(context)
        assert not readers
        await service.run()
    assert set(unusable(logs)) == {"damaged", "other", "older"}
    assert readers
    assert threading.current_thread() not in readers
    alerts = await bus.subscribe("test", [Topic.ANOMALY_ALERTS])
    first = Alert.from_bytes((await alerts.poll(max_records=10, timeout_s=0))[0].value)
    assert (first.service, first.family, first.state) == ("damaged", Family.ERRORS, AlertState.FIRED)
