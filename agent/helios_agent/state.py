"""The agent's state directory: one process at a time, and an id that belongs to this machine."""

from __future__ import annotations

import fcntl
import os
import uuid
from pathlib import Path
from typing import IO, Final

import msgspec

from helios_core.errors import DataDirError

_MACHINE_ID: Final = Path("/etc/machine-id")


class StateDir:
    """Holds the lock of a state directory until it is closed.

    Raises:
        DataDirError: it cannot be written, or belongs to a running agent.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = (folder / "lock").open("a+")
        except OSError as error:
            raise DataDirError(f"{folder} cannot be used: {os.strerror(error.errno or 0)}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.seek(0)
            owner = self._lock.read().strip() or "unknown"
            self._lock.close()
            raise DataDirError(f"{folder} belongs to a running instance (process {owner}): stop it first") from error
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()

    def agent_id(self) -> bytes:
        """The 16 bytes of its UUID; a new one when there is none, or when the disk was cloned to another machine."""
        path = self.folder / "agent.json"
        machine = _machine_id()
        if path.exists():
            saved = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
            if saved.get("machine_id") == machine:
                return uuid.UUID(saved["agent_id"]).bytes
        fresh = uuid.uuid4()
        temporary = path.with_suffix(".new")
        temporary.write_bytes(msgspec.json.encode({"agent_id": str(fresh), "machine_id": machine}))
        temporary.replace(path)
        return fresh.bytes

    def close(self) -> None:
        self._lock.close()


def _machine_id() -> str:
    try:
        return _MACHINE_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
