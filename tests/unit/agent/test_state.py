"""The state directory: one agent's at a time, and an id that belongs to the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helios_agent import state as state_module
from helios_agent.state import StateDir
from helios_core.errors import DataDirError


def agent_id(folder: Path) -> bytes:
    state = StateDir(folder)
    try:
        return state.agent_id()
    finally:
        state.close()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "machine-id"
    path.write_text("one machine\n", encoding="ascii")
    monkeypatch.setattr(state_module, "_MACHINE_ID", path)
    return path


def test_an_agent_keeps_its_id(tmp_path: Path, machine: Path) -> None:
    first = agent_id(tmp_path / "deep" / "state")
    assert len(first) == 16
    assert agent_id(tmp_path / "deep" / "state") == first
    assert agent_id(tmp_path / "other") != first


def test_a_cloned_disk_gets_a_new_id(tmp_path: Path, machine: Path) -> None:
    first = agent_id(tmp_path / "state")
    machine.write_text("another machine\n", encoding="ascii")
    second = agent_id(tmp_path / "state")
    assert second != first
    assert agent_id(tmp_path / "state") == second


def test_without_a_machine_id_the_id_stays(tmp_path: Path, machine: Path) -> None:
    machine.unlink()
    first = agent_id(tmp_path / "state")
    assert agent_id(tmp_path / "state") == first


@pytest.mark.parametrize(
    "damage",
    [
        b"", b"{", b"\0" * 90, b"[]", b"{}", b'{"machine_id": "one machine"}', b"\xff",
        b'{"machine_id": "one machine", "agent_id": "x"}',
    ],
)  # fmt: skip
def test_a_damaged_id_is_replaced(tmp_path: Path, machine: Path, damage: bytes) -> None:
    """As after a power failure: what was spooled has its identity in itself."""
    first = agent_id(tmp_path / "state")
    (tmp_path / "state" / "agent.json").write_bytes(damage)
    second = agent_id(tmp_path / "state")
    assert second != first
    assert agent_id(tmp_path / "state") == second


def test_the_id_is_on_disk_before_it_is_used(tmp_path: Path, machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    original = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).read_bytes())
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    state = StateDir(tmp_path / "state")
    state.agent_id()
    state.close()
    assert (tmp_path / "state" / "agent.json").read_bytes() in synced


def test_a_directory_belongs_to_one_process(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    with pytest.raises(DataDirError, match=f"{tmp_path} belongs to a running instance .process {os.getpid()}."):
        StateDir(tmp_path)
    state.close()
    StateDir(tmp_path).close()


def test_the_lock_goes_with_the_process(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, sys; from helios_agent.state import StateDir; "
        "held = StateDir(pathlib.Path(sys.argv[1])); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False).returncode == 9
    StateDir(tmp_path).close()


def test_a_directory_that_cannot_be_used_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataDirError, match=f"{folder} cannot be used: .*choose another directory"):
            StateDir(folder)
