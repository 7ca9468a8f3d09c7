"""Several processes of one service: started, replaced, stopped, and scraped as one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from helios_core.errors import ConfigError
from helios_core.workers import Reserved, Siblings, Worker, supervise


def waits(folder: Path, worker: Worker, ready: Callable[[], None]) -> int:
    """A worker that says who it is, dies where it is told to, and ends when it is asked to."""
    (folder / f"{worker.number}-{os.getpid()}").touch()
    ready()
    while not (folder / "end").exists():
        if (folder / f"kill-{worker.number}").exists():
            (folder / f"kill-{worker.number}").unlink()
            os._exit(9)
        time.sleep(0.01)
    return 0


def refuses(worker: Worker, ready: Callable[[], None]) -> int:
    return 7


def started(folder: Path, number: int) -> int:
    return len(list(folder.glob(f"{number}-*")))


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_all_end_together(tmp_path: Path) -> None:
    script = (
        "import sys; from functools import partial; from pathlib import Path\n"
        "from tests.unit.core.test_workers import waits\n"
        "from helios_core.workers import supervise\n"
        "folder = Path(sys.argv[1])\n"
        "sys.exit(supervise(partial(waits, folder), 2, said=(folder / 'said').touch))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=Path(__file__).parents[3])
    try:
        deadline_s = time.monotonic() + 60

        def until(is_so: Callable[[], object]) -> None:
            while not is_so():
                assert time.monotonic() < deadline_s
                assert process.poll() is None
                time.sleep(0.02)

        until((tmp_path / "said").exists)
        assert (started(tmp_path, 0), started(tmp_path, 1)) == (1, 1)
        (tmp_path / "kill-1").touch()
        until(lambda: started(tmp_path, 1) == 2)
        process.terminate()
        assert process.wait(60) == 0
        for path in tmp_path.glob("[01]-*"):
            assert not Path(f"/proc/{path.name.partition('-')[2]}").exists()
    finally:
        process.kill()


@pytest.mark.slow
def test_workers_that_cannot_begin_end_the_whole_with_their_code() -> None:
    assert threading.current_thread() is threading.main_thread()
    assert supervise(refuses, 2) == 7


def test_a_reserved_address_is_shared_by_who_says_so_and_refused_to_others() -> None:
    reserved = Reserved()
    address = reserved.take("127.0.0.1:0")
    host, _, port = address.rpartition(":")
    try:
        with socket.socket() as ours, socket.socket() as theirs:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            ours.bind((host, int(port)))
            ours.listen()
            socket.create_connection((host, int(port)), 5).close()
            with pytest.raises(OSError, match="in use"):
                theirs.bind((host, int(port)))
    finally:
        reserved.close()


def test_an_address_that_is_taken_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        reserved = Reserved()
        with pytest.raises(ConfigError, match="choose another"):
            reserved.take(address)
        reserved.close()


async def test_a_scrape_of_one_worker_shows_all_of_them(tmp_path: Path) -> None:
    siblings = []
    for number in (0, 1):
        registry = CollectorRegistry()
        Counter("taken", "What was taken.", ["kind"], registry=registry).labels("a b").inc(10 + number)
        Gauge("lag", "What is left.", registry=registry).set(number)
        siblings.append(Siblings(Worker(number, 3, tmp_path), registry))
    for one in siblings:
        await one.open()
    try:
        for one in siblings:
            lines = (await one.metrics()).decode().splitlines()
            assert [line for line in lines if line.startswith("helios_worker_up{")] == [
                'helios_worker_up{worker="0"} 1.0',
                'helios_worker_up{worker="1"} 1.0',
                'helios_worker_up{worker="2"} 0.0',
            ]
            assert [line for line in lines if line.startswith("taken_total")] == [
                'taken_total{kind="a b",worker="0"} 10.0',
                'taken_total{kind="a b",worker="1"} 11.0',
            ]
            assert lines.count("# TYPE lag gauge") == 1
            assert 'lag{worker="1"} 1.0' in lines
    finally:
        for one in siblings:
            await one.close()


async def test_a_worker_takes_the_place_of_one_that_has_died(tmp_path: Path) -> None:
    make = partial(Siblings, Worker(0, 1, tmp_path))
    first, second = make(CollectorRegistry()), make(CollectorRegistry())
    await first.open()
    await second.open()  # the socket of the first is still there
    assert b'helios_worker_up{worker="0"} 1.0' in await second.metrics()
    await first.close()
    await second.close()
