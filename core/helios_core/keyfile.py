"""The file in which `helios keys` keeps API keys, and that running servers read again when it changes."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import structlog

from helios_core import config
from helios_core.errors import ConfigError
from helios_core.keys import Grant, Grants, Scope

NAME: Final = "api-keys.json"
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
            raise ConfigError(f"api_keys: expires {key.expires} has no time zone: write 2027-01-31T00:00:00Z")
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
        self._fault = ""

    def read(self) -> tuple[ApiKey, ...]:
        """The keys in it; ConfigError when it cannot be read or does not fit."""
        try:
            raw = msgspec.json.decode(self.path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return ()
        except OSError as error:
            raise ConfigError(
                f"{self.path} cannot be read: {error.strerror}; choose another directory, or mend its rights"
            ) from error
        except (msgspec.DecodeError, RecursionError) as error:
            raise ConfigError(f"{self.path} is no JSON: {error}") from error
        if not isinstance(raw, dict):
            raise ConfigError(f'{self.path} must be {{"api_keys": [...]}}, not a {type(raw).__name__}')
        return config.convert(raw, _Content, name=str(self.path)).api_keys

    def exists(self) -> bool:
        """Keys are kept, if only those of nobody."""
        return os.path.lexists(self.path)

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

    def grants(self) -> Grants | None:
        """What its keys may do now, for a server that runs; what it was while the file cannot be used.

        None while there is no file.
        """
        seen = self._stat()
        if seen != self._seen or self._fault:
            try:
                self._grants = grants_of(self.read())
            except ConfigError as error:
                if str(error) != self._fault:
                    _log.error("api_keys_not_read", error=str(error), remedy="the keys of before stay valid")
                self._fault = str(error)
            else:
                if self._seen is not None:
                    _log.info("api_keys_read", keys=len(self._grants))
                self._fault = ""
            self._seen = seen
        return self._grants if self.exists() else None

    def _stat(self) -> tuple[int, ...]:
        try:
            found = self.path.stat()
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino

    @contextmanager
    def _changing(self) -> Iterator[list[ApiKey]]:
        """The keys, to be changed; one command at a time, and the file is whole at every moment."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._beside(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                keys = list(self.read())
                yield keys
                self._write(keys)
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be written: {error.strerror}") from error

    def _write(self, keys: list[ApiKey]) -> None:
        content = msgspec.json.format(msgspec.json.encode(_Content(tuple(keys))), indent=2)
        fresh = self._beside(".new")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            self._own(file.fileno())
            file.write(content + b"\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.path)

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(f"{self.path.name}{suffix}")

    def _own(self, file: int) -> None:
        """As the file of before; a new one as its folder: the server reads it, whoever makes keys."""
        with suppress(OSError):
            like = (self.path if self.path.exists() else self.path.parent).stat()
            if (like.st_uid, like.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(file, like.st_uid, like.st_gid)
            if self.path.exists():
                os.fchmod(file, like.st_mode & 0o777)
