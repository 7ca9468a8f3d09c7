"""The engine's way to the registry: looks are cheap, and a disk that refuses does not stop detection."""

from __future__ import annotations

from pathlib import Path

import structlog

from helios_core.errors import HeliosError
from helios_core.features import CONTEXT_1, FeatureSet
from helios_detector.registry import ModelInfo, Registry
from helios_detector.training import Forest

_log = structlog.get_logger(__name__)


class KeptModels:
    """The models of a registry, by service and the end of what they were trained on.

    Args:
        folder: of the registry; it is not read before `open`, and may not be there.
        feature_set: of the engine: a model of another is not used.
    """

    def __init__(self, folder: Path, feature_set: FeatureSet = CONTEXT_1) -> None:
        self._registry = Registry(folder, keep=10)
        self._feature_set = feature_set
        self._known: set[tuple[str, int]] = set()

    def open(self) -> None:
        """Looks at what is there, and says once of each model that it cannot be used. It reads every file."""
        for info in self._registry.versions():
            reason = self._fault(info)
            if reason is not None:
                _log.warning(
                    "model_unusable",
                    service=info.service,
                    version=info.version,
                    path=str(info.path),
                    error=reason,
                    instead="detection goes on without it; the next training makes another",
                )
            elif info.about is not None:
                self._known.add((info.about.service, info.about.trained_us))

    def _fault(self, info: ModelInfo) -> str | None:
        """Why a model cannot be used, and what to do; None when it can."""
        own = self._feature_set.name
        if info.damaged is not None or info.about is None:
            return info.damaged
        if info.about.feature_set not in (own, self._feature_set.without_latency().name):
            return f"trained for {info.about.feature_set}, and this detector uses {own}: remove it, or train again"
        return None

    def find(self, service: str, *, trained_us: int) -> Forest | None:
        """See `engine.Models`."""
        if (service, trained_us) not in self._known:
            return None
        return self._registry.find(service, trained_us=trained_us)

    def save(self, service: str, forest: Forest) -> None:
        """See `engine.Models`."""
        try:
            self._registry.save(service, forest)
        except HeliosError as error:
            _log.error("model_not_kept", service=service, version=forest.version, error=str(error))
        else:
            self._known.add((service, forest.trained_us))
