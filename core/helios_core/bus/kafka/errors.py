"""What aiokafka raises, as errors of the bus: the one place where they are translated."""

from __future__ import annotations

from typing import Final

from aiokafka import errors

from helios_core.errors import BusError, BusRejected, BusUnavailable, BusUnreachable

# What can never be published as it is. All else may be tried again, at worst after a person has acted:
# a record that was accepted from a client is never given up because of the cluster's state.
_REJECTED: Final = (errors.MessageSizeTooLargeError, errors.RecordTooLargeError, errors.RecordListTooLargeError)
# Nobody answers.
_UNREACHABLE: Final = (
    errors.KafkaConnectionError,
    errors.KafkaTimeoutError,
    errors.NoBrokersAvailable,
    errors.NodeNotReadyError,
    errors.RequestTimedOutError,
)
# What a person can do, by error; the most particular first.
_ADVICE: Final[tuple[tuple[tuple[type[Exception], ...], str], ...]] = (
    (
        (errors.UnknownTopicOrPartitionError, errors.InvalidTopicError),
        "a topic is not there: `helios topics apply` makes them",
    ),
    (
        (errors.NotEnoughReplicasError, errors.NotEnoughReplicasAfterAppendError),
        "fewer brokers are up than min.insync.replicas asks for",
    ),
    (
        (
            errors.AuthenticationFailedError,
            errors.SaslAuthenticationFailed,
            errors.AuthenticationMethodNotSupported,
            errors.UnsupportedSaslMechanismError,
        ),
        "see kafka.username, password and mechanism",
    ),
    (
        (
            errors.TopicAuthorizationFailedError,
            errors.GroupAuthorizationFailedError,
            errors.ClusterAuthorizationFailedError,
        ),
        "this user needs an ACL for the topics and groups",
    ),
    (
        (errors.UnsupportedVersionError, errors.UnrecognizedBrokerVersion, errors.IncompatibleBrokerVersion),
        "the brokers are too old: Kafka 2.1 or newer",
    ),
    (_UNREACHABLE, "see whether the brokers of kafka.bootstrap are up and can be reached"),
)


def translated(error: errors.KafkaError, doing: str) -> BusError:
    """The bus's error for one of aiokafka's, with what was being done and what a person can do."""
    text = f"{doing}: {error or type(error).__name__}"
    if isinstance(error, _REJECTED):
        return BusRejected(text)
    advice = next((advice for kinds, advice in _ADVICE if isinstance(error, kinds)), "")
    kind = BusUnreachable if isinstance(error, _UNREACHABLE) else BusUnavailable
    return kind(f"{text}; {advice}" if advice else text)
