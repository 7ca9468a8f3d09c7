"""Asks the metric sources for their values, each on a thread of its own, into one bounded buffer."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import structlog

from helios_agent.sources import CollectionResult, MetricSample, MetricsSource
from helios_agent.sources.checks import checked
from helios_agent.status import MetricsStatus
from helios_core.clock import Clock

MAX_WAITING: Final = 10_000  # samples, about 3 MB; beyond it the oldest go
_MAX_ERROR_CHARS: Final = 500
_SAY_AGAIN_S: Final = 600.0  # a source that goes on failing is logged this often
_JOIN_S: Final = 2.0
_ONCE_S: Final = 30.0  # what a source has for a single collection
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Polled:
    """One source, and how it has done.

    Attributes:
        asked_s: since when it has not answered; None between two calls.
        error: of the last call.
        said_s: when one was logged.
    """

    name: str
    source: MetricsSource
    initialized: bool = False
    collections: int = 0
    failures: int = 0
    samples: int = 0
    error: str = ""
    asked_s: float | None = None
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
        self._started_s = 0.0
        # All reasons from the start: another thread may look while one is counted.
        self.dropped = Counter({"overflow": 0, "bad_sample": 0})

    def __len__(self) -> int:
        """How many sources there are."""
        return len(self._polled)

    @property
    def waiting(self) -> int:
        """Samples that nobody has taken yet."""
        return len(self._waiting)

    def start(self, *, once: bool = False) -> None:
        """Begins to collect; with `once` each source a single time."""
        self._started_s = time.monotonic()
        self._threads = [
            self._thread(polled, self._collect_once if once else self._collect_on) for polled in self._polled
        ]
        for thread in self._threads:
            thread.start()

    def is_collecting(self) -> bool:
        """Whether a source that is asked once has still to answer, and has time left for it."""
        in_time = time.monotonic() - self._started_s < _ONCE_S
        return in_time and any(thread.is_alive() for thread in self._threads)

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
                error=self._hangs(polled) or polled.error,
            )
            for polled in self._polled
        ]

    def _thread(self, polled: _Polled, run: Callable[[_Polled], None]) -> threading.Thread:
        return threading.Thread(target=run, args=(polled,), name=f"metrics-{polled.name}", daemon=True)

    def _collect_on(self, polled: _Polled) -> None:
        due_s = time.monotonic()
        while not self._stopping.is_set():
            if polled.initialized:
                self._collect(polled)
            else:
                self._initialize(polled)
            due_s = max(due_s + self._interval_s, time.monotonic())  # what it has missed is not made up for
            self._stopping.wait(due_s - time.monotonic())
        self._close(polled)

    def _collect_once(self, polled: _Polled) -> None:
        self._initialize(polled)
        if polled.initialized:
            self._collect(polled)
        self._close(polled)

    def _initialize(self, polled: _Polled) -> None:
        with self._asking(polled, "metrics_source_not_initialized"):
            polled.source.initialize()
            polled.initialized = True
            polled.error = ""

    def _collect(self, polled: _Polled) -> None:
        with self._asking(polled, "metrics_not_collected"):
            self._keep(polled, polled.source.collect())

    def _close(self, polled: _Polled) -> None:
        with self._asking(polled, "metrics_source_not_closed"):
            polled.source.close()

    @contextmanager
    def _asking(self, polled: _Polled, failed: str) -> Iterator[None]:
        """Around a call of a source: what it raises is counted, and logged now and then."""
        polled.asked_s = time.monotonic()
        try:
            yield
        except Exception as error:  # noqa: BLE001 -- the edge to code of others: counted, and asked again
            polled.failures += 1
            polled.error = (str(error) or type(error).__name__)[:_MAX_ERROR_CHARS]
            now_s = time.monotonic()
            if now_s - polled.said_s >= _SAY_AGAIN_S:
                polled.said_s = now_s
                _log.warning(failed, source=polled.name, error=polled.error, again_in_s=self._interval_s)
        finally:
            polled.asked_s = None

    def _keep(self, polled: _Polled, result: CollectionResult) -> None:
        good, faults = checked(result, now_us=self._clock.now_us(), host=self._host)
        error = "; ".join([*map(str, result.errors), *faults])[:_MAX_ERROR_CHARS]
        polled.collections += 1
        polled.samples += len(good)
        polled.error = error
        with self._lock:
            self._waiting.extend(good)
            excess = max(0, len(self._waiting) - MAX_WAITING)
            for _ in range(excess):
                self._waiting.popleft()
            self.dropped["overflow"] += excess
            self.dropped["bad_sample"] += len(faults)

    def _hangs(self, polled: _Polled) -> str:
        """Says so of a source that misses its turn."""
        asked_s = polled.asked_s
        waited_s = 0.0 if asked_s is None else time.monotonic() - asked_s
        return f"it has not answered for {waited_s:.0f} s" if waited_s > min(self._interval_s, _ONCE_S) else ""
