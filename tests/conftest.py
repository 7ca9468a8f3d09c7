"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

# How long a step takes says more about the machine than about the code: speed belongs to the benchmarks.
settings.register_profile("full", deadline=None, max_examples=100)
settings.register_profile("quick", deadline=None, max_examples=25)
settings.load_profile("quick")  # `make test-slow` has --hypothesis-profile=full


@pytest.fixture(autouse=True)
def _log_as_at_the_start() -> Iterator[None]:
    """A command that a test runs in this process sets up its log: for that test alone."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()
