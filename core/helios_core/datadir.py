"""A data directory: made when it is not there, writable, and one process's at a time."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import IO

from helios_core.errors import DataDirError


class DataDir:
    """Holds the lock of a directory until it is closed; the lock goes with the process if it dies.

    Raises:
        DataDirError: it cannot be written, or belongs to a running instance.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = (folder / "lock").open("a+")
        except OSError as error:
            raise unusable(folder, error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.seek(0)
            owner = self._lock.read().strip() or "unknown"
            self._lock.close()
            raise DataDirError(f"{folder} belongs to a running instance (process {owner}): stop it first") from error
        try:
            self._lock.truncate(0)
            self._lock.write(str(os.getpid()))
            self._lock.flush()
        except OSError as error:
            with suppress(OSError):  # what it has not written
                self._lock.close()
            raise unusable(folder, error) from error

    def close(self) -> None:
        self._lock.close()


def unusable(folder: Path, error: OSError) -> DataDirError:
    """What to say of a directory in which something cannot be written."""
    remedy = "make room there" if error.errno == errno.ENOSPC else "choose another directory"
    return DataDirError(f"{folder} cannot be used: {os.strerror(error.errno or 0)}; {remedy}")
