"""What all tests share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

# How long a step takes says more about the machine than about the code: speed belongs to the benchmarks.
settings.register_profile("full", deadline=None, max_examples=100)
settings.register_profile("quick", deadline=None, max_examples=25)
settings.load_profile("quick")  # `make test-slow` has --hypothesis-profile=full


def engines_of(item: pytest.Item) -> list[str]:
    """The engines that a test needs: a test marked so asks for them by fixtures, or by what its id says."""
    if item.get_closest_marker("engines") is None:
        return []
    asked = {*getattr(item, "fixturenames", ()), *re.findall("kafka|postgres|timescale", item.nodeid)}
    found = ["Kafka"] if asked & {"kafka", "broker"} else []
    if "timescale" in asked:
        found.append("PostgreSQL with TimescaleDB")
    elif asked & {"postgres", "database", "databases"} or ("settings" in asked and not found):
        found.append("PostgreSQL")
    return found


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Notes them for the summary."""
    item.user_properties += [("engine", name) for name in engines_of(item)]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What ran against which engine, and what did not."""
    counts: Counter[tuple[str, str]] = Counter()
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.getreports(outcome):
            for name, engine in getattr(report, "user_properties", ()):
                if name == "engine" and (report.when == "call" or outcome != "passed"):
                    counts[str(engine), outcome] += 1
    for engine in sorted({engine for engine, _ in counts}):
        said = ", ".join(f"{count} {outcome}" for (of, outcome), count in sorted(counts.items()) if of == engine)
        terminalreporter.write_line(f"against {engine}: {said}")


@pytest.fixture(autouse=True)
def _log_as_at_the_start() -> Iterator[None]:
    """A command that a test runs in this process sets up its log: for that test alone."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()
