"""What asyncpg raises, as errors of the store: the one place where they are translated."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import asyncpg

from helios_core.errors import ConfigError, StoreMismatch, StoreUnavailable, StoreUnreachable

# What is raised while a database cannot be used: in all of these nothing was applied.
UNAVAILABLE: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # of a connection that broke between two messages
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.TransactionRollbackError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.LockNotAvailableError,
    asyncpg.UniqueViolationError,  # another writer was quicker: the next try sees what it did
    asyncpg.CheckViolationError,  # the partition of a day was pruned: the next try makes it
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.PostgresSystemError,
    asyncpg.InternalServerError,
    OSError,
    asyncio.TimeoutError,
)
# Of these, what says that nobody answers, or not yet: a start does not fail because of it.
_UNREACHABLE: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.InternalClientError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    OSError,
    asyncio.TimeoutError,
)
# What no try can store. The second line is raised before anything is sent, by COPY.
_NEVER: Final = (
    asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError,
    OverflowError, UnicodeEncodeError,
)  # fmt: skip
RAISED: Final = (asyncpg.PostgresError, *UNAVAILABLE, *_NEVER)
_ADVICE: Final[tuple[tuple[type[Exception], str], ...]] = (
    (asyncpg.InvalidAuthorizationSpecificationError, "see user and password of postgres.dsn"),
    (asyncpg.InvalidCatalogNameError, "the database of postgres.dsn is not there: createdb makes it"),
    (asyncpg.InsufficientPrivilegeError, "the user of postgres.dsn needs rights on the tables"),
    (asyncpg.ReadOnlySQLTransactionError, "the database is read-only: is it a standby, or is its disk full?"),
    (asyncpg.DiskFullError, "the database's disk is full"),
    (asyncpg.OutOfMemoryError, "raise its max_locks_per_transaction when rows of very many days come at once"),
    (asyncpg.TooManyConnectionsError, "the server has no connection left: lower postgres.connections"),
    (asyncpg.QueryCanceledError, "it does not answer in time"),
    (asyncio.TimeoutError, "it does not answer in time"),
    (OSError, "see whether the server of postgres.dsn is up and can be reached"),
)


def translated(error: Exception) -> StoreUnavailable | StoreMismatch | ValueError:
    """The store's error for one of RAISED; ValueError for what it can never store."""
    text = text_of(error)
    if _is_about_a_value(error):
        return ValueError(f"PostgreSQL cannot store it: {text}")
    if isinstance(error, asyncpg.UndefinedTableError | asyncpg.UndefinedColumnError | asyncpg.UndefinedFunctionError):
        return StoreMismatch(
            f"the schema is not the one of this Helios ({text}): `helios db migrate` brings it up to date"
        )
    advice = next((advice for kind, advice in _ADVICE if isinstance(error, kind)), "")
    is_away = isinstance(error, _UNREACHABLE) and not isinstance(error, ssl.SSLError)
    kind = StoreUnreachable if is_away else StoreUnavailable
    return kind(f"PostgreSQL cannot be used: {text}{'; ' if advice else ''}{advice}")


def text_of(error: Exception) -> str:
    """What it says, with PostgreSQL's details and hints in the same line."""
    return "; ".join(str(error).splitlines()) or type(error).__name__


@contextmanager
def connecting() -> Iterator[None]:
    """Errors of connecting as those of Helios; what a DSN is refused with may hold a part of its password."""
    try:
        yield
    except (asyncpg.PostgresError, *UNAVAILABLE, ValueError) as error:
        if isinstance(error, ValueError) and not isinstance(error, OSError):  # a wrong certificate is both
            raise ConfigError(
                "postgres.dsn cannot be read: postgresql://user:password@host:port/database, with %2F for / in the "
                "password, %23 for #, %3F for ?, %40 for @, %3A for :"
            ) from None
        raise translated(error) from error


def _is_about_a_value(error: Exception) -> bool:
    if isinstance(error, UNAVAILABLE):  # asyncpg's own InterfaceError is one, its subclass for values is none
        return isinstance(error, asyncpg.InterfaceError) and (
            isinstance(error, ValueError) and not isinstance(error, asyncpg.ClientConfigurationError)
        )
    return isinstance(error, _NEVER)
