"""Every error of aiokafka becomes one of the bus's, with something to read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from aiokafka import errors

from helios_core.bus.kafka.errors import translated
from helios_core.errors import BusError, BusRejected, BusUnavailable, BusUnreachable

SIZES = {errors.MessageSizeTooLargeError, errors.RecordListTooLargeError, errors.RecordTooLargeError}

AWAY = {
    errors.KafkaConnectionError, errors.KafkaTimeoutError, errors.NoBrokersAvailable, errors.NodeNotReadyError,
    errors.RequestTimedOutError,
}  # fmt: skip


def tree(kind: type[errors.KafkaError]) -> Iterator[type[errors.KafkaError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from tree(child)


# The base of what brokers answer has no number, and is never raised itself.
ALL = sorted(set(tree(errors.KafkaError)) - {errors.BrokerResponseError}, key=lambda kind: kind.__name__)


def test_there_are_errors() -> None:
    assert len(ALL) > 80
    assert set(ALL) >= SIZES


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_each_is_translated(kind: type[errors.KafkaError]) -> None:
    for error in (kind(), kind("because of this")):
        made = translated(error, "it was being done")
        assert isinstance(made, BusError)
        assert type(made) is (BusRejected if kind in SIZES else BusUnreachable if kind in AWAY else BusUnavailable)
        assert made.retryable is (kind not in SIZES)
        reason = str(made).removeprefix("it was being done: ")
        assert reason != str(made)
        assert reason.strip(" ;:")
    assert "because of this" in str(made)


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        (errors.UnknownTopicOrPartitionError, "`helios topics apply`"),
        (errors.NotEnoughReplicasError, "min.insync.replicas"),
        (errors.NotEnoughReplicasAfterAppendError, "min.insync.replicas"),
        (errors.AuthenticationFailedError, "kafka.username"),
        (errors.SaslAuthenticationFailed, "kafka.username"),
        (errors.TopicAuthorizationFailedError, "ACL"),
        (errors.GroupAuthorizationFailedError, "ACL"),
        (errors.UnsupportedVersionError, "too old"),
        (errors.KafkaConnectionError, "kafka.bootstrap"),
        (errors.NodeNotReadyError, "kafka.bootstrap"),
        (errors.RequestTimedOutError, "kafka.bootstrap"),
    ],
)
def test_what_a_person_can_do_is_said(kind: type[errors.KafkaError], advice: str) -> None:
    assert advice in str(translated(kind(), "it was being done"))
