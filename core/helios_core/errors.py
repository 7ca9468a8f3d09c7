"""The errors of Helios, as one tree; an error knows whether trying again can help.

HeliosError
├── ConfigError        a setting is wrong: a person must change it
├── MissingExtra       a library is not installed: the message has the command
├── InputError         bytes that are not what they should be; good input beside them goes on
│   └── WireError      a message of the contract that cannot be decoded or breaks its limits
├── BusError           the bus
│   ├── BusUnavailable     retryable: busy, full, or in need of a person
│   │   └── BusUnreachable     nobody answers: a start waits for it
│   └── BusRejected        this record can never be published as it is
├── StoreError         the store
│   ├── StoreUnavailable   retryable: locked, full, or in need of a person
│   │   └── StoreUnreachable   nobody answers: a start goes on without it
│   └── StoreMismatch      its schema is older or newer than the code
└── DataDirError       the data directory: not writable, or belongs to a running instance
"""

from __future__ import annotations


class HeliosError(Exception):
    """Base of all errors that Helios raises on purpose. The message says what to do."""

    retryable = False


class ConfigError(HeliosError):
    """A setting is wrong."""


class MissingExtra(HeliosError):
    """A library that this part needs is not installed.

    Args:
        library: the module that could not be imported.
        extra: the extra of the distribution that brings it.
    """

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(f"{library} is not installed: pip install 'helios-observability[{extra}]'")


class InputError(HeliosError):
    """Bytes that are not what they should be."""


class WireError(InputError):
    """A message of the contract that cannot be decoded or breaks a limit of it."""


class BusError(HeliosError):
    """Something about the bus."""


class BusUnavailable(BusError):
    """The bus cannot take or give records now."""

    retryable = True


class BusUnreachable(BusUnavailable):
    """Nobody answers where the bus should be; who answers and refuses is another matter."""


class BusRejected(BusError):
    """The bus can never take this record as it is."""


class StoreError(HeliosError):
    """Something about the store."""


class StoreUnavailable(StoreError):
    """The store cannot take or give rows now."""

    retryable = True


class StoreUnreachable(StoreUnavailable):
    """Nobody answers where the store should be, or not yet; who answers and refuses is another matter."""


class StoreMismatch(StoreError):
    """The store's schema is not the one that this code was written for."""


class DataDirError(HeliosError):
    """The data directory cannot be used."""
