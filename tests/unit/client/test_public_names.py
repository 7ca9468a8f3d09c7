"""What `helios` offers its users, compared with a list."""

from __future__ import annotations

import subprocess
import sys

import pytest

import helios

PUBLIC = [
    "AsyncClient",
    "Batching",
    "Client",
    "ClientClosed",
    "ClientStats",
    "CollectorFailed",
    "ConfigError",
    "ConnectionFailed",
    "DeadlineExceeded",
    "Denied",
    "Endpoint",
    "Event",
    "EventRejected",
    "HeliosClientError",
    "InvalidEvent",
    "InvalidRequest",
    "Level",
    "RejectedItem",
    "RetryPolicy",
    "SendResult",
    "Signal",
    "Status",
    "Transport",
    "Unavailable",
]


def test_the_public_names_are_these() -> None:
    assert helios.__all__ == PUBLIC
    assert set(PUBLIC) <= set(dir(helios))


@pytest.mark.parametrize("name", PUBLIC)
def test_each_name_can_be_had_and_is_documented(name: str) -> None:
    assert getattr(helios, name).__doc__


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'helios' has no attribute 'Cleint'"):
        getattr(helios, "Cleint")  # noqa: B009 - a plain access would not type-check


def test_the_messages_of_the_contract_the_event_and_the_twin_load_no_grpc() -> None:
    code = (
        "import sys; import helios.v1.events_pb2, helios.testing; from helios import Event; "
        "print([name for name in sys.modules if name.split('.')[0] == 'grpc'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
