"""A process of services: what is not safe is refused before anything is opened, and signals end it in order."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

import helios_core.up
from helios_core import flow
from helios_core.datadir import DataDir
from helios_core.errors import ConfigError, DataDirError, HeliosError
from helios_core.keys import Grant, Keys, Scope, hash_of
from helios_core.routes import HttpScope, Receive, Send, respond
from helios_core.service import IDLE_AFTER_US, Context, Run
from helios_core.settings import ApiKey, Settings
from helios_core.up import Listening, process, stopping_on_signals, up

NOBODY = 65_534


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """A signal that nobody waits for ends no test run."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def settings(folder: Path, **changed: object) -> Settings:
    fields: dict[str, object] = {"data_dir": str(folder), "grpc": "127.0.0.1:0", "http": "127.0.0.1:0"}
    return Settings(**(fields | changed))  # type: ignore[arg-type]


Log = list[str]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    """What the services `quick` and `stuck` (which does not drain) do."""
    lines: Log = []

    def service(name: str, *, stuck: bool = False) -> Run:
        async def run(context: Context) -> None:
            lines.append(f"{name} starts")
            context.collector.set_result("127.0.0.1:4317")
            try:
                await context.drain.wait()
                lines.append(f"{name} drains")
                if stuck:
                    await asyncio.Event().wait()
            except asyncio.CancelledError:
                lines.append(f"{name} is ended")
                raise

        return run

    async def failing(context: Context) -> None:
        raise HeliosError("the reporter cannot start")

    found = {"collector": service("quick"), "detector": service("stuck", stuck=True), "reporter": failing}
    monkeypatch.setattr(flow, "services", lambda: found)
    return lines


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - a test looks from outside
            await asyncio.sleep(0.01)


# --- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "helios.example:0"])
@pytest.mark.parametrize("name", ["grpc", "http"])
async def test_an_address_that_others_reach_needs_keys(tmp_path: Path, log: Log, name: str, address: str) -> None:
    folder = tmp_path / "data"
    with pytest.raises(ConfigError) as raised:
        await up(settings(folder, **{name: address}), ["collector"])
    assert address in str(raised.value)
    assert "helios keys create" in str(raised.value)
    assert not folder.exists()
    assert log == []


async def test_a_key_that_is_no_hash_is_refused_without_being_shown(tmp_path: Path, log: Log) -> None:
    secret = "this is the key itself and not its hash"
    with pytest.raises(ConfigError) as raised:
        await up(settings(tmp_path, api_keys=(ApiKey(secret),)), ["collector"])
    assert secret not in str(raised.value)
    assert "helios keys create" in str(raised.value)


async def test_with_keys_any_address_is_taken(tmp_path: Path, log: Log) -> None:
    made = settings(tmp_path / "data", http="0.0.0.0:0", api_keys=(ApiKey(hash_of("k")),))
    async with process(made) as (context, _):
        assert not context.keys.are_open


async def test_a_data_directory_in_use_is_refused_and_says_by_whom(tmp_path: Path, log: Log) -> None:
    lock = DataDir(tmp_path)
    try:
        with pytest.raises(DataDirError, match=rf"process {os.getpid()}"):
            await up(settings(tmp_path), ["collector"])
    finally:
        lock.close()
    assert log == []


@pytest.fixture
def unwritable() -> Iterator[Path]:
    """A directory of another user; we are nobody, when we are root."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        is_root = os.geteuid() == 0
        folder.chmod(0o755 if is_root else 0o555)
        if is_root:
            os.seteuid(NOBODY)
        try:
            yield folder
        finally:
            if is_root:
                os.seteuid(0)
            folder.chmod(stat.S_IRWXU)


@pytest.mark.parametrize("inner", ["", "data"])
async def test_a_data_directory_that_cannot_be_written_is_refused(unwritable: Path, log: Log, inner: str) -> None:
    folder = unwritable / inner
    with pytest.raises(DataDirError) as raised:
        await up(settings(folder), ["collector"])
    assert str(folder) in str(raised.value)
    assert "Permission denied" in str(raised.value)
    assert log == []


async def test_a_data_directory_that_is_a_file_is_refused(tmp_path: Path, log: Log) -> None:
    file = tmp_path / "data"
    file.write_text("")
    with pytest.raises(DataDirError, match="cannot be used"):
        await up(settings(file), ["collector"])


async def test_a_port_that_is_taken_is_refused_and_lets_go_of_the_data(tmp_path: Path, log: Log) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="--http"):
            await up(settings(tmp_path, http=f"127.0.0.1:{taken.getsockname()[1]}"), ["collector"])
    assert log == []
    DataDir(tmp_path).close()


async def test_a_service_that_is_not_installed_is_refused_before_anything_is_opened(tmp_path: Path, log: Log) -> None:
    folder = tmp_path / "data"
    with pytest.raises(HeliosError, match="forecaster is not installed"):
        await up(settings(folder), ["collector", "forecaster"])
    assert not folder.exists()


async def test_a_service_that_fails_ends_the_process_with_its_error(tmp_path: Path, log: Log) -> None:
    with pytest.raises(HeliosError, match="the reporter cannot start"):
        await asyncio.wait_for(up(settings(tmp_path), ["collector", "reporter"]), 10)
    DataDir(tmp_path).close()


# --- signals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_first_signal_drains(tmp_path: Path, log: Log, number: signal.Signals) -> None:
    said: list[Listening] = []
    running = asyncio.create_task(up(settings(tmp_path), ["collector"], ready=said.append))
    await until(lambda: bool(said))
    (listening,) = said
    assert (listening.grpc, listening.access[:4]) == ("127.0.0.1:4317", "open")
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"{listening.http}/")).status_code == 404
    signal.raise_signal(number)
    await asyncio.wait_for(running, 5)
    assert log == ["quick starts", "quick drains"]
    DataDir(tmp_path).close()


@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)])
async def test_a_second_signal_ends_it_at_once(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch, numbers: tuple[signal.Signals, signal.Signals]
) -> None:
    """But not one that comes at the same moment: a terminal sends one to each process of a group."""
    monkeypatch.setattr(helios_core.up, "_ONE_PRESS_S", 0.3)
    running = asyncio.create_task(up(settings(tmp_path), ["detector"]))
    await until(lambda: log == ["stuck starts"])
    signal.raise_signal(numbers[0])
    await until(lambda: "stuck drains" in log)
    signal.raise_signal(numbers[1])
    await asyncio.sleep(0.4)
    assert not running.done()
    signal.raise_signal(numbers[1])
    await asyncio.wait({running}, timeout=5)
    assert running.cancelled()
    assert log[-1] == "stuck is ended"
    DataDir(tmp_path).close()


async def test_signals_are_given_back() -> None:
    stop = asyncio.Event()
    with stopping_on_signals(stop):
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(stop.wait(), 1)
    loop = asyncio.get_running_loop()
    assert not loop.remove_signal_handler(signal.SIGTERM)
    assert not loop.remove_signal_handler(signal.SIGINT)


# --- what services are given -----------------------------------------------------------------------


async def test_a_process_serves_what_is_mounted_and_knows_idle_sources(tmp_path: Path) -> None:
    async def app(scope: HttpScope, receive: Receive, send: Send) -> None:
        await respond(send, 200, {})

    async with process(settings(tmp_path), watch=["*.log"]) as (context, http):
        assert context.routes is not None
        context.routes.mount("/health", app)
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"http://{http}/health")).status_code == 200
        assert context.idle_after_us == IDLE_AFTER_US
        assert context.watch == ("*.log",)
        assert context.data_dir == tmp_path
    DataDir(tmp_path).close()


def test_an_own_key_is_good_for_sending_and_for_nothing_else() -> None:
    given = {hash_of("k"): Grant(frozenset({Scope.READ}))}
    keys = Keys(given)
    own = keys.own()
    assert len(own) >= 32
    assert keys.own() == own
    assert keys.fault(f"Bearer {own}", "", Scope.INGEST) is None
    assert keys.fault("", own, Scope.INGEST) is None
    for scope in (Scope.METRICS, Scope.READ, Scope.ADMIN):
        fault = keys.fault(f"Bearer {own}", "", scope)
        assert fault is not None
        assert fault.known
    assert keys.fault("Bearer k", "", Scope.READ) is None
    assert given == {hash_of("k"): Grant(frozenset({Scope.READ}))}
    assert not keys.are_open


def test_each_process_has_another_own_key() -> None:
    given = {hash_of("k"): Grant(frozenset({Scope.READ}))}
    one, other = Keys(given), Keys(given)
    assert one.own() != other.own()
    assert other.fault(f"Bearer {one.own()}", "", Scope.INGEST) is not None


def test_where_everything_is_open_every_key_is_taken() -> None:
    keys = Keys(None)
    assert keys.are_open
    assert keys.fault(f"Bearer {keys.own()}", "", Scope.ADMIN) is None
    assert keys.fault("", "", Scope.ADMIN) is None


def test_a_key_that_was_never_made_is_not_known() -> None:
    keys = Keys({hash_of("k"): Grant(frozenset({Scope.INGEST}))})
    for wrong in ("", "x", "k ", " ", hash_of("k")):
        fault = keys.fault("", wrong, Scope.INGEST)
        assert fault is not None
        assert not fault.known
