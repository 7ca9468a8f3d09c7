"""The detector as a whole, without input or output: deltas and watermarks in, alerts out.

A horizon is decided once, when the watermark of its service has passed its end by the lateness that
is allowed. What is learned from a horizon is learned after it was decided: nothing is ever scored
by what has seen it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import isnan
from typing import Final, Protocol

from helios_core.alerts import Alert, Finding
from helios_core.features import CONTEXT_1, FeatureSet, HorizonView
from helios_core.model import Level
from helios_core.windows import WindowDelta
from helios_detector.baseline import Band, Measure
from helios_detector.decide import Decider, Horizon
from helios_detector.detectors import forest as forest_detector
from helios_detector.detectors.base import Detector, Evaluation, NewTemplate
from helios_detector.detectors.deviation import Deviation
from helios_detector.detectors.patterns import NewPattern
from helios_detector.detectors.rules import ErrorRateRule, VolumeRule
from helios_detector.detectors.silence import Silence
from helios_detector.horizon import HORIZON_MINUTES, ServiceHorizon, WindowTotals
from helios_detector.measures import FLOORS, expectation, measured, shown
from helios_detector.training import MIN_ROWS, Forest, History, train

_MINUTE_US: Final = 60_000_000
_DAY_US: Final = 86_400_000_000
LEARNING_US: Final = _DAY_US  # before the first forest
MIN_EVENTS: Final = 10  # in a horizon, for the forest
_BANDS_AFTER: Final = 120  # minutes that a measure has been learned before it is used
_VOLUME_AFTER: Final = 30  # and that of the volume, where only its level is
_MAX_HISTORY: Final = 14 * 1_440  # minutes of feature vectors
_NEW_FOR_US: Final = 600_000_000  # a template is new this long
_MAX_TEMPLATES: Final = 10_000  # remembered for a service
_MAX_NEW_A_DAY: Final = 20  # new error templates beyond which a service's new ones say nothing
_MAX_FROZEN_US: Final = 7_200_000_000  # after so long an alert is the new normal
_LATEST_US: Final = 20_000_000  # in which an outage shows
_GIVE_UP_US: Final = 1_800_000_000  # of silence, after which windows without data are passed over


class Models(Protocol):
    """Where forests are kept."""

    def find(self, service: str, *, trained_us: int) -> Forest | None:
        """The forest of a service that was trained until exactly this event time."""
        ...

    def save(self, service: str, forest: Forest) -> object:
        """Keeps it; a disk that cannot be written is no reason to raise."""
        ...


@dataclass(slots=True)
class _Service:
    """What is known of one service."""

    horizon: ServiceHorizon
    first_us: int
    history: History
    measures: dict[str, Measure] = field(default_factory=lambda: {n: Measure(f) for n, f in FLOORS.items()})
    decider: Decider = field(default_factory=Decider)
    templates: dict[int, int] = field(default_factory=dict)  # id -> when it was first seen
    fresh: dict[int, NewTemplate] = field(default_factory=dict)
    fresh_days: deque[int] = field(default_factory=deque)
    bands: dict[str, Band] = field(default_factory=dict)
    bands_minute: int = -1
    watermark_us: int = 0
    is_past: bool = False  # what came last was history
    last_event_us: int = 0
    suspicious_since_us: int = 0
    trained_us: int = 0
    forest: Forest | None = None
    has_latency: bool = False


class Engine:
    """Decides the horizons of all services. Not for use by two threads at once.

    Args:
        window_ms: the duration of a window.
        allowed_lateness_us: how long after its end a horizon waits.
        feature_set: of the forest.
        models: where forests are kept; without one they live in memory alone.
    """

    def __init__(
        self,
        *,
        window_ms: int,
        allowed_lateness_us: int,
        feature_set: FeatureSet = CONTEXT_1,
        models: Models | None = None,
    ) -> None:
        self._window_us = window_ms * 1_000
        self._latest_windows = max(1, _LATEST_US // self._window_us)
        self._lateness_us = allowed_lateness_us
        self._feature_set = feature_set
        self._models = models
        self._services: dict[str, _Service] = {}
        self._detectors: tuple[Detector, ...] = (
            ErrorRateRule(),
            VolumeRule(),
            Silence(),
            Deviation(),
            NewPattern(),
        )
        self.decided = 0
        self.late_events = 0  # that came after their horizons had been decided
        self.trainings: int | None = None  # that may still be done now; a service that is due waits for its turn

    def observe(self, service: str, deltas: Iterable[WindowDelta]) -> int:
        """Takes deltas of a service, in any order; returns how many of their events were late.

        How many services there are is bounded by who names them: see `Watermarks.under`.
        """
        state = self._services.get(service)
        late = 0
        for delta in deltas:
            if state is None:
                history = History(len(self._feature_set.features), _MAX_HISTORY)
                state = self._services[service] = _Service(ServiceHorizon(self._window_us), delta.start_us, history)
            if state.horizon.add(delta):
                state.first_us = min(state.first_us, delta.start_us)
            else:
                late += delta.events
        self.late_events += late
        return late

    def advance(self, service: str, watermark_us: int, *, history: bool = False, watched: bool = True) -> list[Alert]:
        """Decides the service's horizons that its watermark has passed.

        Args:
            history: what the watermark has passed is of the past: it is learned from, and nothing is
                decided of it. Its windows may be of a whole minute.
            watched: all the service's agents are heard of. Otherwise silence says nothing.
        """
        state = self._services.get(service)
        alerts: list[Alert] = []
        if state is None:
            return alerts
        if state.is_past and not history:
            began_us = state.horizon.break_off()
            state.last_event_us = state.last_event_us if began_us is None else began_us
            state.watermark_us = 0  # that of the past may be ahead, at the end of its last minute
        state.is_past = history
        state.watermark_us = max(state.watermark_us, watermark_us)
        limit_us = state.watermark_us - self._lateness_us
        if history:  # of a wider window more may come until its end, and it stands at its beginning
            limit_us -= state.horizon.widest_us - self._window_us
        while (end_us := state.horizon.next_end_us) is not None and end_us <= limit_us:
            if end_us - max(state.last_event_us, state.first_us) > _GIVE_UP_US and state.horizon.is_empty:
                # Nothing is decided of windows without data, however the watermark comes along.
                state.horizon.skip_to_data(limit_us)
                if not state.horizon.has_data(limit_us):
                    break
            if history or state.horizon.is_coarse:
                self._absorb(service, state)
            else:
                alerts += self._decide(service, state, watched)
        return alerts

    def learning(self) -> dict[str, tuple[int, int]]:
        """For each service that still learns: (windows seen, windows needed)."""
        needed = LEARNING_US // self._window_us
        return {
            name: (min(needed, ((state.horizon.end_us or state.first_us) - state.first_us) // self._window_us), needed)
            for name, state in list(self._services.items())  # asked from another thread
            if not self._learned(state)
        }

    def learning_until(self) -> dict[str, int]:
        """For each service the event time at which it has history enough."""
        return {name: state.first_us + LEARNING_US for name, state in self._services.items()}

    def _learned(self, state: _Service) -> bool:
        return (state.horizon.end_us or 0) - state.first_us >= LEARNING_US

    def _decide(self, service: str, state: _Service, watched: bool) -> list[Alert]:
        end_us = self._move(state)
        self.decided += 1
        view, measures, bands = _look(state, end_us)
        learned = self._learned(state)
        evaluation = Evaluation(
            service=service,
            view=view,
            minute=state.horizon.last_minute,
            latest=state.horizon.latest(self._latest_windows),
            steady=state.horizon.outside_worst_minute(),
            bands=bands,
            measures=measures,
            full=state.horizon.full,
            silent_us=end_us - state.last_event_us,
            learned=learned,
            watched=watched,
            usual_events=_usual_events(state, end_us),
            new_templates=tuple(state.fresh.values()) if len(state.fresh_days) <= _MAX_NEW_A_DAY else (),
        )
        findings: list[Finding] = []
        for detector in self._detectors:
            findings += detector.find(evaluation)
        if state.forest is not None and evaluation.full and view.events >= MIN_EVENTS:
            unusual = forest_detector.find(state.forest, view)
            if unusual is not None:
                findings.append(unusual)
        decided = Horizon(
            service=service,
            end_us=end_us,
            length_us=round(HORIZON_MINUTES * _MINUTE_US),
            features=shown(view),
            model_version=state.forest.version if state.forest else "",
            learning=not learned,
            hosts=state.horizon.hosts(),
        )
        alerts = state.decider.decide(findings, decided)
        if end_us % _MINUTE_US == 0 and evaluation.full:
            learned_now = self._learn(state, view, measures, end_us)
            self._renew(service, state, end_us, may_train=learned_now)
        return alerts

    def _absorb(self, service: str, state: _Service) -> None:
        """Moves the horizon by a window and learns at the end of a minute."""
        end_us = self._move(state)
        if end_us % _MINUTE_US == 0 and state.horizon.full:
            view, measures, _ = _look(state, end_us)
            self._learn(state, view, measures, end_us)
            self._renew(service, state, end_us, may_train=False)

    def skip_to(self, service: str, time_us: int) -> None:
        """Nothing is known of a service until that time: its horizons go on there."""
        state = self._services.get(service)
        if state is not None and state.horizon.skip_to(time_us):
            state.last_event_us = time_us

    def _move(self, state: _Service) -> int:
        """Moves the horizon by a window; returns its new end."""
        window = state.horizon.advance()
        end_us = state.horizon.end_us or 0
        if window is not None and window.events:
            state.last_event_us = end_us
        self._note_templates(state, window, end_us)
        return end_us

    def _learn(self, state: _Service, view: HorizonView, measures: dict[str, float], end_us: int) -> bool:
        """Once a minute, of what looks normal; what has lasted for hours is normal, too. Whether it did."""
        for name, value in measures.items():
            state.measures[name].see(end_us, value)
        if not state.decider.is_suspicious:
            state.suspicious_since_us = 0
        elif not state.suspicious_since_us:
            state.suspicious_since_us = end_us
        if state.suspicious_since_us and end_us - state.suspicious_since_us < _MAX_FROZEN_US:
            return False
        expected = view.expected
        for name, value in measures.items():
            state.measures[name].learn(end_us, value)
        state.has_latency = state.has_latency or view.latency.count > 0
        if view.events >= MIN_EVENTS and not isnan(expected.log_events):
            state.history.append(self._feature_set.vector(view))
        return True

    def _renew(self, service: str, state: _Service, end_us: int, *, may_train: bool) -> None:
        """A forest that was kept of this very minute, or a new one when the last is a day old."""
        forest = self._models.find(service, trained_us=end_us) if self._models is not None else None
        due = may_train and self._learned(state) and end_us - state.trained_us >= _DAY_US
        if forest is None and due and self.trainings != 0 and len(state.history) >= MIN_ROWS:
            self.trainings = None if self.trainings is None else self.trainings - 1
            forest = self._train(state, end_us)
            if self._models is not None:
                self._models.save(service, forest)
        if forest is not None:
            state.forest, state.trained_us = forest, end_us

    def train(self, service: str) -> Forest | None:
        """A forest of all that is known of a service, for its next horizons; None with too little history.

        It counts as trained at the last full minute, where an engine that comes by there finds it.
        """
        state = self._services[service]
        if len(state.history) < MIN_ROWS:
            return None
        end_us = state.horizon.end_us or 0
        return self._train(state, end_us - end_us % _MINUTE_US)

    def services(self) -> list[str]:
        """The names of all services that it knows."""
        return sorted(self._services)

    def history(self, service: str) -> tuple[int, int]:
        """(minutes that a forest would be trained on, end of the last horizon)."""
        state = self._services[service]
        return len(state.history), state.horizon.end_us or state.first_us

    def models(self) -> dict[str, str]:
        """The version of the forest that scores each service, for those that have one."""
        return {name: state.forest.version for name, state in list(self._services.items()) if state.forest}

    def _train(self, state: _Service, end_us: int) -> Forest:
        rows = state.history.rows()
        if state.has_latency:
            return train(rows, self._feature_set, end_us)
        kept = [i for i, feature in enumerate(self._feature_set.features) if not feature.needs_latency]
        return train(rows[:, kept], self._feature_set.without_latency(), end_us)

    def _note_templates(self, state: _Service, window: WindowTotals | None, end_us: int) -> None:
        for id_, template in list(state.fresh.items()):
            if end_us - state.templates.get(id_, 0) > _NEW_FOR_US:
                del state.fresh[id_]
            del template
        while state.fresh_days and end_us - state.fresh_days[0] > _DAY_US:
            state.fresh_days.popleft()
        if window is None:
            return
        for id_, entry in window.templates.counts.items():
            known = state.fresh.get(id_)
            if known is not None:
                state.fresh[id_] = NewTemplate(id_, entry.text, entry.level, known.count + entry.count)
            elif id_ not in state.templates:
                if len(state.templates) >= _MAX_TEMPLATES:
                    state.templates.pop(next(iter(state.templates)))
                state.templates[id_] = end_us
                if end_us - state.first_us >= LEARNING_US:
                    state.fresh[id_] = NewTemplate(id_, entry.text, entry.level, entry.count)
                    if entry.level >= Level.ERROR:
                        state.fresh_days.append(end_us)


def _look(state: _Service, end_us: int) -> tuple[HorizonView, dict[str, float], dict[str, Band]]:
    """The horizon as it is now, its measures, and what the baseline expects of them."""
    if end_us // _MINUTE_US != state.bands_minute:
        # What is learned changes once a minute, and the season hardly within one.
        state.bands = {name: m.band(end_us) for name, m in state.measures.items() if m.steps >= _BANDS_AFTER}
        state.bands_minute = end_us // _MINUTE_US
    view = state.horizon.view(expectation(state.bands), len(state.fresh))
    return view, measured(view), state.bands


def _usual_events(state: _Service, end_us: int) -> Band | None:
    """What is expected of the volume; in the first hours between the least and the most that it has ever been."""
    measure = state.measures["log_events"]
    if "log_events" in state.bands:
        return state.bands["log_events"]
    if measure.steps < _VOLUME_AFTER:
        return None
    band = measure.band(end_us)
    return Band(band.value, min(band.low, measure.least), max(band.high, measure.most), band.sigma)
