"""Real engines as fixtures: one of each for a whole run, in a temporary folder, on loopback."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.engines.kafka import broker


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The bootstrap address of a broker: that of KAFKA_BOOTSTRAP, or one of our own."""
    given = os.environ.get("KAFKA_BOOTSTRAP")
    if given:
        yield given
        return
    if broker.missing():
        pytest.fail(f"no Kafka: {broker.missing()}; or set KAFKA_BOOTSTRAP to a running one")
    brokers = broker.Brokers(tmp_path_factory.mktemp("kafka"))
    try:
        brokers.start_all()
        yield brokers.bootstrap
    finally:
        brokers.stop()
