"""The agent's state directory, and an id in it that belongs to this machine."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Final

import msgspec

from helios_core.datadir import DataDir

_MACHINE_ID: Final = Path("/etc/machine-id")


class StateDir(DataDir):
    """A data directory that knows which agent it is."""

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


def _machine_id() -> str:
    try:
        return _MACHINE_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
