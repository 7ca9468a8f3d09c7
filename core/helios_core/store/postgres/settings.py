"""Where a PostgreSQL database is."""

from __future__ import annotations

from typing import Annotated

import msgspec


class PostgresSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`postgres:` of a server's configuration.

    Attributes:
        dsn: `postgresql://user:password@host:port/database?sslmode=verify-full&sslrootcert=…`; what it
            leaves out comes from the environment of libpq (PGHOST, PGPASSWORD, PGSSLMODE, …).
        connections: at most so many at once.
    """

    dsn: str
    connections: Annotated[int, msgspec.Meta(ge=2, le=100)] = 8
