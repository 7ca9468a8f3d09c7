"""Asks the metric sources for their values, each on a thread of its own, into one bounded buffer."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Final

import structlog

from helios_agent.sources import CollectionResult, MetricSample, MetricsSource
from helios_agent.status import MetricsStatus
from helios_core.clock import Clock

MAX_WAITING: Final = 10_000  # samples, about 3 MB; beyond it the oldest go
_MAX_NAME_CHARS: Final = 256
_MAX_LABELS: Final = 32
_MAX_LABEL_CHARS: Final = 256
_MAX_ERROR_CHARS: Final = 500
_SAY_AGAIN_S: Final = 600.0  # a source that goes on failing is logged this often
_JOIN_S: Final = 2.0
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Polled:
    """One source, and how it has done."""

    name: str
    source: MetricsSource
    collections: int = 0
    failures: int = 0
    samples: int = 0
    error: str = ""
    said_s: float = float("-inf")


class Poller:
    """See the module.

    Args:
        sources: each with the name of its type; not yet initialized.
        host: of samples that name none.
        interval_s: between two collections of one source.
        clock: the time of samples that have none.

    Attributes:
        dropped: samples that were not taken, by reason: `overflow` when nobody took them in time,
            `bad_sample` for one that the contract does not take.
    """

    def __init__(
        self, sources: Sequence[tuple[str, MetricsSource]], *, host: str, interval_s: float, clock: Clock
    ) -> None:
        self._polled = [_Polled(name, source) for name, source in sources]
        self._host = host
        self._interval_s = interval_s
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: deque[MetricSample] = deque()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self.dropped: Counter[str] = Counter()

    def __len__(self) -> int:
        """How many sources there are."""
        return len(self._polled)

    @property
    def waiting(self) -> int:
        """Samples that nobody has taken yet."""
        return len(self._waiting)

    def start(self) -> None:
        """Begins to collect."""
        for polled in self._polled:
            thread = threading.Thread(target=self._run, args=(polled,), name=f"metrics-{polled.name}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def collect_once(self) -> None:
        """One collection of every source, here and now, instead of `start`."""
        for polled in self._polled:
            try:
                if self._initialized(polled):
                    self._collect(polled)
            finally:
                polled.source.close()

    def take(self) -> list[MetricSample]:
        """The samples since the last take, in the order in which they came."""
        with self._lock:
            taken, self._waiting = list(self._waiting), deque()
        return taken

    def stop(self) -> None:
        """Collects no more. A source that does not return is left behind: its thread ends with the process."""
        self._stopping.set()
        deadline_s = time.monotonic() + _JOIN_S
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))

    def status(self) -> list[MetricsStatus]:
        """How each source has done."""
        return [
            MetricsStatus(
                type=polled.name,
                collections=polled.collections,
                failures=polled.failures,
                samples=polled.samples,
                error=polled.error,
            )
            for polled in self._polled
        ]

    def _run(self, polled: _Polled) -> None:
        initialized = False
        due_s = time.monotonic()
        try:
            while not self._stopping.is_set():
                if not initialized:
                    initialized = self._initialized(polled)
                else:
                    self._collect(polled)
                due_s += self._interval_s
                late_s = time.monotonic() - due_s
                if late_s > 0:  # what it has missed is not made up for
                    due_s += late_s
                self._stopping.wait(max(0.0, due_s - time.monotonic()))
        finally:
            polled.source.close()

    def _initialized(self, polled: _Polled) -> bool:
        try:
            polled.source.initialize()
        except Exception as error:  # noqa: BLE001 -- the edge to code of others: counted, and tried again
            self._failed(polled, "metrics_source_not_initialized", error)
            return False
        return True

    def _collect(self, polled: _Polled) -> None:
        try:
            result = polled.source.collect()
            samples = self._stamped(result)
        except Exception as error:  # noqa: BLE001 -- the edge to code of others: counted, and asked again
            self._failed(polled, "metrics_not_collected", error)
            return
        polled.collections += 1
        polled.samples += len(samples)
        polled.error = "; ".join(map(str, result.errors))[:_MAX_ERROR_CHARS]
        with self._lock:
            self._waiting.extend(samples)
            excess = len(self._waiting) - MAX_WAITING
            for _ in range(excess):
                self._waiting.popleft()
            self.dropped["overflow"] += max(0, excess)

    def _failed(self, polled: _Polled, event: str, error: Exception) -> None:
        polled.failures += 1
        polled.error = (str(error) or type(error).__name__)[:_MAX_ERROR_CHARS]
        now_s = time.monotonic()
        if now_s - polled.said_s >= _SAY_AGAIN_S:
            polled.said_s = now_s
            _log.warning(event, source=polled.name, error=polled.error, again_in_s=self._interval_s)

    def _stamped(self, result: CollectionResult) -> list[MetricSample]:
        """The good samples, each with a time and a host."""
        now_us = self._clock.now_us()
        good = [
            replace(sample, value=float(sample.value), time_us=sample.time_us or now_us, host=sample.host or self._host)
            for sample in result.samples
            if _is_good(sample)
        ]
        with self._lock:
            self.dropped["bad_sample"] += len(result.samples) - len(good)
        return good


def _is_good(sample: MetricSample) -> bool:
    """The contract takes it: a finite number, and texts that are not too long."""
    value: object = sample.value  # what a plugin gives may be anything
    texts: list[object] = [text for label in sample.labels.items() for text in label]
    return (
        isinstance(value, int | float)
        and isfinite(value)
        and 0 < len(sample.name) <= _MAX_NAME_CHARS
        and len(sample.labels) <= _MAX_LABELS
        and all(isinstance(text, str) and len(text) <= _MAX_LABEL_CHARS for text in texts)
    )
