"""A configuration file that cannot be one, and what `helios up` is told to follow: each is said in a sentence."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from helios_core.cli import up as up_module
from helios_core.config import load
from helios_core.errors import ConfigError


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No key at all."""


def fault(path: Path) -> str:
    with pytest.raises(ConfigError) as found:
        load(path, Nothing, {})
    assert str(found.value).count(str(path)) == 1
    return str(found.value)


def test_a_directory(tmp_path: Path) -> None:
    assert fault(tmp_path) == f"the configuration {tmp_path} is a directory: give the YAML file in it"


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EIO])
def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(path: Path, **named: object) -> str:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "read_text", refuse)
    path = tmp_path / "c.yaml"
    assert fault(path) == f"the configuration {path} cannot be read: {os.strerror(number)}; check its path and rights"


def test_a_binary_file(tmp_path: Path) -> None:
    path = tmp_path / "helios"
    path.write_bytes(b"\x7fELF" + bytes(range(256)))
    assert fault(path) == f"the configuration {path} is no text in UTF-8 (byte 132 is 0x80): give a YAML file"


@pytest.fixture
def up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What `helios up` says that it follows in a folder; nothing is run."""

    async def nothing(*words: Any, **named: Any) -> None:
        return None

    monkeypatch.setattr(up_module, "up", nothing)
    (tmp_path / "logs" / "inner").mkdir(parents=True)
    (tmp_path / "one").mkdir()
    for name in ("logs/a.log", "logs/b.log", "one/a.log"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    words = [word for pattern in ("logs/*", "one/*", "none/*", "logs", "logs/") for word in ("--watch", pattern)]
    result = CliRunner().invoke(up_module.up_command, words)
    assert result.exit_code == 0
    return result.output


def test_what_is_followed_is_counted_in_files(up: str) -> None:
    assert up.splitlines()[:5] == [
        "follows   logs/*: 2 files now",
        "follows   one/*: 1 file now",
        "follows   none/*: no files now",
        "follows   nothing: logs is a directory: name the files in it, for example logs/*.log",
        "follows   nothing: logs/ is a directory: name the files in it, for example logs/*.log",
    ]
