"""The engine's way to the registry: looks are cheap, and a disk that refuses does not stop detection."""

from __future__ import annotations

from pathlib import Path

import structlog

from helios_core.errors import HeliosError
from helios_detector.registry import Registry
from helios_detector.training import Forest

_log = structlog.get_logger(__name__)


class KeptModels:
    """The models of a registry, by service and the end of what they were trained on."""

    def __init__(self, folder: Path) -> None:
        self._registry = Registry(folder, keep=10)
        self._known = {
            (info.about.service, info.about.trained_us) for info in self._registry.versions() if info.about is not None
        }

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
