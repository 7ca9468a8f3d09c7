"""The errors of the client, as one tree; an error knows whether sending again can help.

HeliosClientError
├── ConfigError           a setting of the client is wrong: endpoint, key, time or limit
├── ClientClosed          the client is not open: not yet entered, closed, or carried over a fork
├── Unavailable           retryable: the collector cannot take it now
│   └── ConnectionFailed  retryable: there is no connection, or it was lost
├── DeadlineExceeded      retryable: no answer within the time
├── Denied                the key, its rights, or the version of the contract
├── InvalidRequest        what was sent can never be taken as it is
│   ├── InvalidEvent      found by the client, before anything was sent
│   └── EventRejected     found by the collector, which keeps the event in its dead letter
└── CollectorFailed       the collector failed, or its answer is not one of the contract

What a status of gRPC becomes is decided in one place, `helios.retry.error_from_status`.
"""

from __future__ import annotations


class HeliosClientError(Exception):
    """Base of all errors that the client raises on purpose.

    Attributes:
        retryable: sending the same again may succeed, and does no harm.
        retry_after_s: how long the collector asks to wait before that; None when it did not say.
    """

    retryable = False
    retry_after_s: float | None = None


class ConfigError(HeliosClientError):
    """A setting of the client is wrong."""


class ClientClosed(HeliosClientError):
    """The client is not open."""


class Unavailable(HeliosClientError):
    """The collector cannot take it now."""

    retryable = True

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ConnectionFailed(Unavailable):
    """There is no connection to the collector, or it was lost before the answer came."""


class DeadlineExceeded(HeliosClientError):
    """No answer came within the time; whether it arrived is not known."""

    retryable = True


class Denied(HeliosClientError):
    """The collector does not take anything from this sender: its key, its rights or its version."""


class InvalidRequest(HeliosClientError):
    """What was sent can never be taken as it is."""


class InvalidEvent(InvalidRequest):
    """An event that breaks the contract; the message names the field and its value."""


class EventRejected(InvalidRequest):
    """The collector refused the event and keeps it, with the reason, in its dead letter."""


class CollectorFailed(HeliosClientError):
    """The collector failed in a way that sending again is not known to help."""
