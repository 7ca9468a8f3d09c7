"""A disk of its own for a part, small enough to be filled."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

_BLOCK: Final = b"\0" * 65_536


class Disk:
    """A file system in memory, mounted on a folder; only root can. Without it the folder is a folder.

    Args:
        folder: made when it is not there.
        size_mb: of the file system.
    """

    def __init__(self, folder: Path, size_mb: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.can_be_filled = False
        if os.geteuid() == 0:
            mount = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m,mode=755", "helios-chaos", str(folder)]
            self.can_be_filled = subprocess.run(mount, check=False, capture_output=True).returncode == 0

    def fill(self) -> None:
        """Nothing more goes onto it, until `free`."""
        with (self.folder / "ballast").open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(_BLOCK)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def free(self) -> None:
        (self.folder / "ballast").unlink(missing_ok=True)

    def keep(self) -> None:
        """A copy beside the folder, of a part that has ended."""
        shutil.copytree(self.folder, self.folder.with_name(f"{self.folder.name}-kept"), symlinks=True)

    def close(self) -> None:
        """After everything that uses it has ended."""
        if self.can_be_filled:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=False)
