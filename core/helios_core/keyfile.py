"""The file in which `helios keys` keeps API keys, and that running servers read again when it changes."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import structlog
import yaml

from helios_core import config
from helios_core.errors import ConfigError
from helios_core.keys import Grant, Grants, Scope

NAME: Final = "api-keys.yaml"
_HEX: Final = frozenset("0123456789abcdef")
_log = structlog.get_logger(__name__)


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key: its SHA-256 in hexadecimal (`helios keys create` makes both), what it may do, and until when.

    Attributes:
        id: by which it is revoked.
        name: whose it is, for people.
        created, expires: RFC 3339.
    """

    sha256: str
    scopes: tuple[Scope, ...] = (Scope.INGEST,)
    id: str = ""
    name: str = ""
    created: datetime | None = None
    expires: datetime | None = None


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    api_keys: tuple[ApiKey, ...] = ()


def grants_of(keys: tuple[ApiKey, ...]) -> Grants:
    """What keys may do; ConfigError for a hash that is none, or a time without a zone."""
    for key in keys:
        if len(key.sha256) != 64 or set(key.sha256) - _HEX:
            raise ConfigError(f"api_keys: {key.sha256[:12]!r}… is no SHA-256: `helios keys create` prints one")
        if key.expires is not None and key.expires.tzinfo is None:
            raise ConfigError(f"api_keys: expires {key.expires} has no time zone: write it as 2027-01-31T00:00:00Z")
    return {
        key.sha256: Grant(frozenset(key.scopes), key.expires.timestamp() if key.expires is not None else None)
        for key in keys
    }


class KeyFile:
    """A file of keys. It need not be there.

    Args:
        path: where; its folder is made when the first key is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, ...] | None = None
        self._grants: Grants = {}

    def read(self) -> tuple[ApiKey, ...]:
        """The keys in it; ConfigError when it cannot be read or does not fit."""
        try:
            self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return ()
        except OSError as error:
            raise ConfigError(
                f"{self.path} cannot be read: {error.strerror}; choose another directory, or mend its rights"
            ) from error
        return config.load(self.path, _Content, {}).api_keys

    def add(self, key: ApiKey) -> ApiKey:
        """Puts a key in; returns it with the id that it got."""
        with self._changing() as keys:
            taken = {one.id for one in keys}
            id_ = next(id_ for id_ in iter(lambda: secrets.token_hex(4), "") if id_ not in taken)
            added = msgspec.structs.replace(key, id=id_, created=datetime.now(UTC).replace(microsecond=0))
            keys.append(added)
        return added

    def revoke(self, id_: str) -> ApiKey:
        """Takes a key out; ConfigError when there is none with this id."""
        with self._changing() as keys:
            found = next((key for key in keys if key.id == id_), None)
            if found is None:
                raise ConfigError(f"{self.path} has no key {id_!r}: `helios keys list` shows those that it has")
            keys.remove(found)
        return found

    def grants(self) -> Grants:
        """What its keys may do now, for a server that runs; what it was while the file cannot be used."""
        seen = self._stat()
        if seen != self._seen:
            try:
                self._grants = grants_of(self.read())
            except ConfigError as error:
                _log.error("api_keys_not_read", error=str(error), remedy="the keys of before stay valid")
            else:
                if self._seen is not None:
                    _log.info("api_keys_read", keys=len(self._grants))
            self._seen = seen
        return self._grants

    def _stat(self) -> tuple[int, ...]:
        try:
            found = self.path.stat()
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_size, found.st_ino

    @contextmanager
    def _changing(self) -> Iterator[list[ApiKey]]:
        """The keys, to be changed; one command at a time, and the file is whole at every moment."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                keys = list(self.read())
                yield keys
                self._write(keys)
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be written: {error.strerror}") from error

    def _write(self, keys: list[ApiKey]) -> None:
        content = msgspec.to_builtins(_Content(tuple(keys)), builtin_types=(datetime,))
        fresh = self.path.with_suffix(".new")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write("# Made by `helios keys`. Hashes only: nobody gets in with what stands here.\n")
            yaml.safe_dump(content, file, sort_keys=False)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.path)
