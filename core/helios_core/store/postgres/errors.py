"""What asyncpg raises, as errors of the store: the one place where they are translated."""

from __future__ import annotations

import asyncio
from typing import Final

import asyncpg

from helios_core.errors import StoreMismatch, StoreUnavailable

# What is raised while a database cannot be used: in all of these nothing was applied.
UNAVAILABLE: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
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
_ADVICE: Final[tuple[tuple[type[Exception], str], ...]] = (
    (asyncpg.InvalidAuthorizationSpecificationError, "see user and password of postgres.dsn"),
    (asyncpg.InvalidCatalogNameError, "the database of postgres.dsn is not there: createdb makes it"),
    (asyncpg.InsufficientPrivilegeError, "the user of postgres.dsn needs rights on the tables"),
    (asyncpg.ReadOnlySQLTransactionError, "the database is read-only: is it a standby, or is its disk full?"),
    (asyncpg.DiskFullError, "the database's disk is full"),
    (asyncpg.TooManyConnectionsError, "the server has no connection left: lower postgres.connections"),
    (asyncio.TimeoutError, "it does not answer in time"),
    (OSError, "see whether the server of postgres.dsn is up and can be reached"),
)


def translated(error: Exception) -> StoreUnavailable | StoreMismatch | ValueError:
    """The store's error for one of UNAVAILABLE or of PostgreSQL's; ValueError for what it can never store."""
    text = str(error) or type(error).__name__
    if isinstance(error, asyncpg.DataError | asyncpg.IntegrityConstraintViolationError) and not isinstance(
        error, UNAVAILABLE
    ):
        return ValueError(f"PostgreSQL cannot store it: {text}")
    if isinstance(error, asyncpg.UndefinedTableError | asyncpg.UndefinedColumnError | asyncpg.UndefinedFunctionError):
        return StoreMismatch(
            f"the schema is not the one of this Helios ({text}): `helios db migrate` brings it up to date"
        )
    advice = next((advice for kind, advice in _ADVICE if isinstance(error, kind)), "")
    return StoreUnavailable(f"PostgreSQL cannot be used: {text}{'; ' if advice else ''}{advice}")
