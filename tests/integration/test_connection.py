"""How the agent comes to a real collector: what is wrong with the way there is said, when asked and when it ships."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from structlog.testing import capture_logs
from tests.contract import test_client_tls as tls
from tests.integration import test_shipping as shipping_tests

from helios.retry import RETRY_TABLE, Retry, Status
from helios.v1 import service_pb2_grpc
from helios_agent import connection
from helios_agent import shipper as shipper_module
from helios_agent.cut import Cutter
from helios_agent.settings import HeliosSettings
from helios_agent.shipper import Denied, Shipper
from helios_agent.spool import Spool
from helios_collector.admission import Admission
from helios_collector.servicer import serve
from helios_core.bus.base import Topic
from helios_core.bus.memory import MemoryBus
from helios_core.clock import SystemClock
from helios_core.config import Secret
from helios_core.errors import ConfigError
from helios_core.keys import Grant, Keys, Scope, hash_of

pki = tls.pki
spool = shipping_tests.spool
with_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="install the command `openssl` to run it")
KEYS = Keys({hash_of("good"): Grant(frozenset({Scope.INGEST})), hash_of("reads"): Grant(frozenset({Scope.READ}))})
DENIED = {Status.UNAUTHENTICATED, Status.PERMISSION_DENIED, Status.UNIMPLEMENTED, Status.FAILED_PRECONDITION}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipper_module, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(shipper_module, "_LONGEST_PAUSE_S", 0.02)


@asynccontextmanager
async def collector(keys: Keys | None = None) -> AsyncIterator[tuple[str, MemoryBus]]:
    """Where a real one listens, and its bus."""
    bus = MemoryBus()
    server = await serve(Admission(bus), SystemClock(), "127.0.0.1:0", keys or Keys(None))
    try:
        yield f"http://127.0.0.1:{server.port}", bus
    finally:
        await server.stop(None)


async def fault(url: str, key: str = "", timeout_s: float = 5, **files: str) -> str:
    return await connection.fault(HeliosSettings(endpoint=url, **files), Secret(key), timeout_s)


async def test_a_collector_that_takes_all_is_fine_and_gets_nothing() -> None:
    async with collector() as (url, bus):
        assert await fault(url) == ""
        consumer = await bus.subscribe("test", list(Topic))
        assert await consumer.poll(max_records=10, timeout_s=0) == []


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("good", ""),
        ("other", "refuses: this API key is not known here"),
        ("reads", "refuses: this API key is not for ingest"),
        ("", "refuses: an API key is needed"),
        ("good\n", "helios.api_key has characters other than printable ASCII"),
    ],
)
async def test_the_key_is_tried(key: str, said: str) -> None:
    async with collector(KEYS) as (url, _):
        found = await fault(url, key)
    assert said in found
    assert (found == "") == (said == "")
    assert found.startswith("helios.api_key") or not found
    assert key.strip() not in found.split() or not key


async def test_nobody_there() -> None:
    async with collector() as (url, _):
        pass
    found = await fault(url)
    assert found.startswith(f"helios.endpoint: nothing answers at {url}: ")
    assert "Connection refused" in found


class Answering(service_pb2_grpc.HeliosServicer):
    """Ends every call with a status."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code
        self.calls = 0

    async def SendEvents(self, request: Any, context: Any) -> Any:
        await context.abort(self._code, "as told")

    async def Stream(self, request_iterator: Any, context: Any) -> Any:
        self.calls += 1
        await context.abort(self._code, "as told")
        yield  # a stream, if one without an answer


@asynccontextmanager
async def answering(servicer: Answering | None) -> AsyncIterator[int]:
    """A server; without a servicer one of gRPC that knows nothing of Helios."""
    server = aio.server()
    if servicer is not None:
        service_pb2_grpc.add_HeliosServicer_to_server(servicer, server)  # type: ignore[abstract,unused-ignore]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


async def test_somebody_else_is_there() -> None:
    async with answering(None) as port:
        found = await fault(f"http://127.0.0.1:{port}")
    assert found.startswith(f"helios.endpoint: the collector at http://127.0.0.1:{port} refuses: ")


async def test_a_collector_that_stops() -> None:
    async with answering(Answering(grpc.StatusCode.UNAVAILABLE)) as port:
        found = await fault(f"http://127.0.0.1:{port}")
    assert found == f"helios.endpoint: the collector at http://127.0.0.1:{port} takes nothing now: as told"


# ---- TLS


@with_openssl
async def test_a_healthy_collector_behind_tls_is_fine(pki: Path) -> None:
    async with tls.serving(pki, mutual=False) as url:
        assert await fault(url, **tls.files(pki, ca_file="ca.pem")) == ""
    async with tls.serving(pki, mutual=True) as url:
        own = tls.files(pki, ca_file="ca.pem", cert_file="client.pem", key_file="client.key")
        assert await fault(url, **own) == ""


@with_openssl
async def test_a_stranger_behind_tls_is_none(pki: Path) -> None:
    async with tls.serving(pki, mutual=False) as url:
        found = await fault(url, timeout_s=0.5, **tls.files(pki, ca_file="stranger.pem"))
        assert found.startswith(
            f"helios.endpoint: no connection to {url}: its authority is not known here: set ca_file ("
        )
        plain = url.replace("https", "http")
        said = await fault(plain, timeout_s=0.5)
        assert said.startswith(f"helios.endpoint: no connection to {plain}: it may speak TLS: try https:// (")


async def test_a_certificate_that_is_not_there(tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    found = await fault("https://127.0.0.1:1", ca_file=str(missing))
    assert found == f"helios: {missing} cannot be read: No such file or directory"


def test_a_key_that_cannot_be_sent_does_not_show() -> None:
    assert connection.metadata(Secret("")) == ()
    assert connection.metadata(Secret("k-1")) == (("authorization", "Bearer k-1"),)
    with pytest.raises(ConfigError) as found:
        connection.metadata(Secret("hunter2\n"))
    assert "hunter2" not in str(found.value)


# ---- shipping


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
async def test_a_status_is_a_refusal_or_tried_again_as_the_contract_says(spool: Spool, code: grpc.StatusCode) -> None:
    """Now and then gRPC has INTERNAL for it, when a write fails before the status has come: then it is tried again."""
    shipping_tests.fill(spool, Cutter(shipping_tests.AGENT, "host-1"), 3)
    servicer = Answering(code)

    def is_tried_again() -> bool:
        said = [(entry["code"], entry["error"]) for entry in logs if entry["event"] == "collector_unreachable"]
        return said.count((code.name, "as told")) > 1

    async with answering(servicer) as port:
        with capture_logs() as logs:
            running = asyncio.create_task(Shipper(spool, f"127.0.0.1:{port}").run(asyncio.Event()))
            try:
                await shipping_tests.until(lambda: running.done() or is_tried_again())
            finally:
                running.cancel()
                (end,) = await asyncio.gather(running, return_exceptions=True)
    if Status(code.value[0]) in DENIED:
        assert isinstance(end, Denied)
        assert str(end) == f"the collector at 127.0.0.1:{port} refuses: as told"
        assert not is_tried_again()
    else:
        assert isinstance(end, asyncio.CancelledError)
    assert len(spool) == 3


def test_what_is_a_refusal_is_never_sent_again() -> None:
    assert {RETRY_TABLE[status] for status in DENIED} == {Retry.NO}
