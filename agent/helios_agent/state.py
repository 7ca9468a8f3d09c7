"""The agent's state directory, and an id in it that belongs to this machine."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Final

import msgspec
import structlog

from helios_core.datadir import DataDir, unusable

_MACHINE_ID: Final = Path("/etc/machine-id")
_log = structlog.get_logger(__name__)


class StateDir(DataDir):
    """A data directory that knows which agent it is."""

    def agent_id(self) -> bytes:
        """The 16 bytes of its UUID; a new one when there is none, or when the disk was cloned to another machine.

        One that cannot be read is replaced, too: what is spooled has its identity in itself.
        """
        path = self.folder / "agent.json"
        machine = _machine_id()
        if path.exists():
            try:
                saved = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
                if saved["machine_id"] == machine:
                    return uuid.UUID(saved["agent_id"]).bytes
                _log.warning("agent_id_renewed", reason="the directory comes from another machine")
            except (msgspec.DecodeError, ValueError, KeyError) as error:
                _log.warning("agent_id_renewed", reason=f"{path} is damaged: {error}")
        fresh = uuid.uuid4()
        temporary = path.with_suffix(".new")
        try:
            with temporary.open("wb") as file:
                file.write(msgspec.json.encode({"agent_id": str(fresh), "machine_id": machine}))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            raise unusable(self.folder, error) from error
        return fresh.bytes


def _machine_id() -> str:
    try:
        return _MACHINE_ID.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
