"""The port of the detectors, and what each of them is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from helios_core.alerts import Finding
from helios_core.features import HorizonView
from helios_detector.baseline import Band


@dataclass(frozen=True, slots=True)
class NewTemplate:
    """A template that the service had not shown before, with how often it came since."""

    id: int
    text: str
    level: int
    count: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One horizon of one service, with what is known of the service.

    Attributes:
        service: its name.
        view: the horizon of 5 minutes.
        minute: (events, errors) of its last minute.
        latest: (events, errors) of its last 20 s, or of its last window when that is longer.
        steady: (events, errors) of the horizon without its worst minute.
        bands: what the baseline expects, by measure; without the measures that it does not know yet.
        usual_events: what is expected of `log_events`, also while a band of it is not to be relied on;
            None in a service's first half hour.
        measures: the values of the measures in this horizon.
        full: the horizon has its whole length.
        silent_us: how long no event has come.
        learned: the service has history enough for what needs one.
        watched: all its agents are heard of: what does not come did not happen.
        new_templates: of the last minutes.
    """

    service: str
    view: HorizonView
    minute: tuple[int, int]
    latest: tuple[int, int]
    steady: tuple[int, int]
    bands: Mapping[str, Band]
    measures: Mapping[str, float]
    full: bool
    silent_us: int
    learned: bool
    watched: bool = True
    usual_events: Band | None = None
    new_templates: tuple[NewTemplate, ...] = ()


class Detector(Protocol):
    """Called at every horizon of every service, in order of time. It keeps no state of its own."""

    name: str

    def find(self, evaluation: Evaluation) -> list[Finding]:
        """What it finds in this horizon: at most one finding for each family. It never raises."""
        ...
