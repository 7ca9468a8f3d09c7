"""What asyncpg raises, as errors of the store: what may be tried again, and what never can be stored."""

from __future__ import annotations

import ssl

import asyncpg
import pytest

from helios_core.errors import ConfigError, StoreMismatch, StoreUnavailable, StoreUnreachable
from helios_core.store.postgres.errors import RAISED, connecting, translated

# asyncpg has two of that name: the server's, and its own for what it cannot encode.
NOT_ENCODED = next(kind for kind in asyncpg.InterfaceError.__subclasses__() if kind.__name__ == "DataError")


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (asyncpg.ConnectionDoesNotExistError("closed"), StoreUnreachable, "PostgreSQL cannot be used: closed"),
        (asyncpg.InterfaceError("pool is closing"), StoreUnavailable, "pool is closing"),
        (asyncpg.InternalClientError("cannot switch to state 15"), StoreUnreachable, "state 15"),
        (asyncpg.CannotConnectNowError("starting up"), StoreUnreachable, "starting up"),
        (asyncpg.DeadlockDetectedError("deadlock"), StoreUnavailable, "deadlock"),
        (asyncpg.UniqueViolationError("duplicate key"), StoreUnavailable, "duplicate key"),
        (asyncpg.CheckViolationError("no partition"), StoreUnavailable, "no partition"),
        (asyncpg.DiskFullError("no space"), StoreUnavailable, "; the database's disk is full"),
        (asyncpg.TooManyConnectionsError("too many"), StoreUnreachable, "lower postgres.connections"),
        (asyncpg.OutOfMemoryError("out of shared memory"), StoreUnavailable, "max_locks_per_transaction"),
        (asyncpg.QueryCanceledError("timeout"), StoreUnavailable, "; it does not answer in time"),
        (asyncpg.InvalidPasswordError("failed"), StoreUnavailable, "see user and password of postgres.dsn"),
        (asyncpg.ReadOnlySQLTransactionError("no"), StoreUnavailable, "is it a standby"),
        (TimeoutError(), StoreUnreachable, "TimeoutError; it does not answer in time"),
        (ConnectionRefusedError(111, "refused"), StoreUnreachable, "see whether the server of postgres.dsn is up"),
        # These two are ValueErrors of connecting: what is to be stored has no part in them.
        (ssl.SSLCertVerificationError("expired"), StoreUnavailable, "expired"),
        (asyncpg.ClientConfigurationError("no such file"), StoreUnavailable, "no such file"),
        (NOT_ENCODED("value out of int64 range"), ValueError, "cannot store it: value out of int64 range"),
        (asyncpg.NumericValueOutOfRangeError("too large"), ValueError, "too large"),
        (asyncpg.NotNullViolationError("null"), ValueError, "null"),
        (asyncpg.ProgramLimitExceededError("index row size"), ValueError, "index row size"),
        (OverflowError("value out of int16 range"), ValueError, "int16"),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), ValueError, "surrogates"),
        (asyncpg.UndefinedTableError("no windows"), StoreMismatch, "`helios db migrate` brings it up to date"),
        (asyncpg.DuplicateTableError("there\nHINT: none"), StoreUnavailable, "there; HINT: none"),
    ],
)
def test_each_error_is_translated(error: Exception, kind: type[Exception], text: str) -> None:
    assert isinstance(error, RAISED)
    found = translated(error)
    assert type(found) is kind
    assert text in str(found)
    assert "\n" not in str(found)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("invalid literal for int(): 'hunter2'"), ConfigError),
        (asyncpg.ClientConfigurationError("hunter2"), ConfigError),
        (ssl.SSLCertVerificationError("expired"), StoreUnavailable),
        (asyncpg.InvalidPasswordError("failed"), StoreUnavailable),
        (OSError("unreachable"), StoreUnavailable),
    ],
)
def test_an_address_that_is_none_is_a_matter_of_the_configuration(error: Exception, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught, connecting():
        raise error
    assert "hunter2" not in str(caught.value)
    assert (caught.value.__cause__ is None) == (kind is ConfigError)
