"""Where the real logs are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_BESIDE_THE_CHECKOUT = Path(__file__).parents[4] / "shared" / "data"


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of real inputs; skips when it is not there."""
    data = Path(os.environ.get("HELIOS_TEST_DATA", _BESIDE_THE_CHECKOUT))
    if not (data / "logs").is_dir():
        pytest.skip(f"no real logs in {data}: run with HELIOS_TEST_DATA=/path/to/the/data")
    return data
