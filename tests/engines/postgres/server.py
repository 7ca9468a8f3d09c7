"""A real PostgreSQL server for tests: a throw-away cluster in a temporary folder, on loopback."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.engines.kafka.broker import free_port

_UP_WITHIN_S: Final = 60
_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "fsync": "on",
    "max_connections": "50",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "unix_socket_directories": "",
}


def tools() -> Path | None:
    """The folder of the server's own programs; on Debian they are under the version."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if found:
        return found[-1].parent
    on_path = shutil.which("postgres")
    return Path(on_path).resolve().parent if on_path else None


def has_timescale() -> bool:
    """The server's installation has the extension."""
    bin_folder = tools()
    if bin_folder is None:
        return False
    shared = subprocess.run([bin_folder / "pg_config", "--sharedir"], capture_output=True, text=True, check=False)
    folders = [Path(shared.stdout.strip()), Path("/usr/share/postgresql") / bin_folder.parent.name]
    return any((folder / "extension" / "timescaledb.control").exists() for folder in folders)


class Server:
    """One server. As root it runs as the user `postgres`, for it refuses to be root.

    Args:
        parent: where its folder is made; by itself among the temporary ones.
        more: of its settings.
    """

    def __init__(self, parent: Path | None = None, more: Mapping[str, str] | None = None) -> None:
        bin_folder = tools()
        if bin_folder is None:
            raise RuntimeError("no PostgreSQL: apt-get install postgresql, or set HELIOS_TEST_DSN to a running one")
        self._bin = bin_folder
        self._user = "postgres" if os.geteuid() == 0 else None
        self._folder = Path(tempfile.mkdtemp(prefix="helios-postgres-", dir=parent))
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        if self._user is not None:
            owner = pwd.getpwnam(self._user)
            os.chown(self._folder, owner.pw_uid, owner.pw_gid)
        self._run(
            "initdb", "-D", str(self._folder / "data"), "-U", "helios", "-A", "trust", "-E", "UTF8", "--no-locale"
        )
        settings = {**_SETTINGS, **(more or {}), "port": str(self.port)}
        if has_timescale():
            settings |= {"shared_preload_libraries": "timescaledb", "timescaledb.telemetry_level": "off"}
        with (self._folder / "data" / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def dsn(self, database: str = "postgres") -> str:
        return f"postgresql://helios@127.0.0.1:{self.port}/{database}"

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        with (self._folder / "out").open("ab") as out:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._folder / "data"],
                stdout=out,
                stderr=subprocess.STDOUT,
                user=self._user,
                cwd=self._folder,
            )
        deadline_s = time.monotonic() + _UP_WITHIN_S
        ready = [self._bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while subprocess.run(ready, check=False).returncode != 0:
            if time.monotonic() > deadline_s or self._process.poll() is not None:
                raise RuntimeError(f"PostgreSQL does not come up:\n{(self._folder / 'out').read_text()[-2_000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """kill -9 of the postmaster: its children notice, and end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_UP_WITHIN_S)
            self._process = None
            time.sleep(0.5)

    def stop(self) -> None:
        """Ends it, and removes its folder."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(_UP_WITHIN_S)
            self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._bin / program, *arguments], capture_output=True, user=self._user, cwd=self._folder, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr.decode(errors='replace')}")
