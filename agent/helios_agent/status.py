"""What the agent says of itself: a small file in its state directory, written while it runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

from helios_core.errors import DataDirError

_FILE: Final = "status.json"


class FileStatus(msgspec.Struct, frozen=True):
    """One followed file."""

    path: str
    offset: int
    backlog_bytes: int


class MetricsStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One metric source: how often it was asked, how often in vain and why the last time, and what it gave."""

    type: str
    collections: int = 0
    failures: int = 0
    samples: int = 0
    error: str = ""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The counting law: lines = events + continued + unparsed + the sum of dropped.

    Attributes:
        at: when this was written, RFC 3339.
        process: the agent's process id.
        mended: values of events that could not be used, by reason.
        overflowed: the beginnings of service names beyond the bound.
        files_left_out: how many files could not be opened at the last look, because too many are; they take turns.
        metrics_dropped: metric samples that were not taken, by reason.
        spool_batches, spool_bytes: what the collector has not acknowledged.
        paused: the spool is full, so that nothing is read.
    """

    at: str
    process: int
    lines: int = 0
    bytes: int = 0
    events: int = 0
    continued: int = 0
    unparsed: int = 0
    dropped: dict[str, int] = {}
    mended: dict[str, int] = {}
    overflowed: list[str] = []
    files: list[FileStatus] = []
    metrics: list[MetricsStatus] = []
    metrics_dropped: dict[str, int] = {}
    files_left_out: int = 0
    truncated_without_copy: int = 0
    spool_batches: int = 0
    spool_bytes: int = 0
    sent_batches: int = 0
    sent_bytes: int = 0
    acknowledged_batches: int = 0
    rejected_items: int = 0
    paused: bool = False


def write_status(folder: Path, status: Status) -> None:
    """A reader sees the old one or the new one. A full disk is no reason to stop: it stays as it was."""
    fresh = folder / f"{_FILE}.new"
    try:
        fresh.write_bytes(msgspec.json.encode(status))
        fresh.replace(folder / _FILE)
    except OSError:
        fresh.unlink(missing_ok=True)


def read_status(folder: Path) -> Status:
    """DataDirError when no agent has written one there."""
    try:
        return msgspec.json.decode((folder / _FILE).read_bytes(), type=Status)
    except FileNotFoundError as error:
        raise DataDirError(f"no agent has run with the state directory {folder}: `helios-agent run`") from error
    except (OSError, msgspec.DecodeError) as error:
        raise DataDirError(f"{folder / _FILE} cannot be read: {error}") from error


def is_running(status: Status) -> bool:
    """The agent's process is there."""
    try:
        os.kill(status.process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
