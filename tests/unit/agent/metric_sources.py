"""Metric sources that do as a test tells them, for the tests of what asks them."""

from __future__ import annotations

import threading
from collections.abc import Callable

from helios_agent.sources import CollectionResult, MetricSample, MetricsSource


class Told(MetricsSource):
    """Does what its attributes say; counts its calls, and the threads that they come on."""

    def __init__(self, *samples: MetricSample) -> None:
        super().__init__({})
        self.result: CollectionResult | None = CollectionResult(samples=list(samples))
        self.on_initialize: Callable[[], object] = list
        self.on_collect: Callable[[], object] = list
        self.on_close: Callable[[], object] = list
        self.calls: list[str] = []
        self.threads: set[int] = set()

    def _called(self, name: str) -> None:
        self.calls.append(name)
        self.threads.add(threading.get_ident())

    def initialize(self) -> None:
        self._called("initialize")
        self.on_initialize()

    def collect(self) -> CollectionResult:
        self._called("collect")
        self.on_collect()
        return self.result  # type: ignore[return-value]  # a plugin may return anything

    def close(self) -> None:
        self._called("close")
        self.on_close()


class Hanging(Told):
    """A collection that does not return before it is let go."""

    def __init__(self) -> None:
        super().__init__(MetricSample("late", 1))
        self.let_go = threading.Event()
        self.on_collect = self.let_go.wait


def raises(*errors: BaseException | None) -> Callable[[], None]:
    """Raises one after the other, and then no more; None is a call that goes well."""
    left = iter(errors)

    def call() -> None:
        error = next(left, None)
        if error is not None:
            raise error

    return call
