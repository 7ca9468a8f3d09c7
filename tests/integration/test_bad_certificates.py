"""Certificates that are over, not yet valid or for another name, of either side: refused, and the reason is said."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from tests.contract import test_client_tls
from tests.unit.core import test_tls

from helios import AsyncClient, ConnectionFailed, Endpoint, Event
from helios_collector.admission import Admission
from helios_collector.servicer import serve
from helios_core.bus.memory import MemoryBus
from helios_core.clock import SystemClock
from helios_core.http import serving
from helios_core.keys import Keys
from helios_core.routes import Routes
from helios_core.tls import Certificate, Pem

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="install the command `openssl` to run it")
pki = test_client_tls.pki
files = test_tls.files

DAY = timedelta(days=1)
NOW = datetime.now(UTC)
TIMES = {"old": (NOW - 3 * DAY, NOW - DAY), "early": (NOW + DAY, NOW + 3 * DAY), "good": (NOW - DAY, NOW + 60 * DAY)}
CONFIGURATION = """
[ca]
default_ca = d
[d]
database = index.txt
serial = serial
new_certs_dir = .
default_md = sha256
policy = p
unique_subject = no
[p]
commonName = supplied
"""


def issue(files: Path, name: str, when: str, host: str = "localhost") -> None:
    """`NAME.pem` and `NAME.key`, signed by the authority `ca`, for a time and a host."""
    made = ("-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
    test_tls.openssl(files, "req", *made)
    (files / "ca.cnf").write_text(CONFIGURATION)
    (files / "names").write_text(f"subjectAltName=DNS:{host}" + (",IP:127.0.0.1\n" if host == "localhost" else "\n"))
    (files / "index.txt").write_text("")
    if not (files / "serial").exists():
        (files / "serial").write_text("1001\n")
    first, last = (f"{at:%Y%m%d%H%M%S}Z" for at in TIMES[when])
    signed = ("-keyfile", "ca.key", "-cert", "ca.pem", "-in", f"{name}.csr", "-out", f"{name}.pem", "-notext")
    test_tls.openssl(
        files, "ca", "-batch", "-config", "ca.cnf", *signed, "-extfile", "names", "-startdate", first, "-enddate", last
    )


@asynccontextmanager
async def listening(files: Path, name: str, *, mutual: bool = False) -> AsyncIterator[tuple[str, str]]:
    """HTTP and gRPC of Helios, with a certificate that was good when it was loaded."""
    issue(files, "loaded", "good")
    certificate = Certificate(test_tls.settings(files, mutual=mutual, cert_file="loaded.pem", key_file="loaded.key"))
    # As when it has run on: what is not valid now is refused at a start and at a renewal.
    chain, key = ((files / f"{name}{end}").read_bytes() for end in (".pem", ".key"))
    certificate.pem = Pem(chain, key, certificate.pem.client_ca)
    certificate.context.current.load_cert_chain(files / f"{name}.pem", files / f"{name}.key")
    routes = Routes()
    routes.mount("/", test_tls.app)
    server = await serve(Admission(MemoryBus()), SystemClock(), "127.0.0.1:0", Keys(None), certificate=certificate)
    try:
        async with serving(routes, "127.0.0.1:0", certificate.context) as http:
            yield f"https://{http}", f"https://127.0.0.1:{server.port}"
    finally:
        await server.stop(None)


async def get(url: str, files: Path, name: str = "") -> int:
    context = ssl.create_default_context(cafile=str(files / "ca.pem"))
    if name:
        context.load_cert_chain(files / f"{name}.pem", files / f"{name}.key")
    async with httpx.AsyncClient(verify=context) as client:
        return (await client.get(url)).status_code


async def send(url: str, files: Path, name: str = "") -> None:
    own = {"cert_file": str(files / f"{name}.pem"), "key_file": str(files / f"{name}.key")} if name else {}
    endpoint = Endpoint.parse(url, ca_file=str(files / "ca.pem"), **own)
    async with AsyncClient(endpoint, timeout_s=2) as client:
        await client.send_event(Event("shop", "hello"))


@pytest.mark.parametrize(
    ("when", "host", "said"),
    [
        ("old", "localhost", "expired"),
        ("early", "localhost", "not yet valid"),
        ("good", "elsewhere.test", "127.0.0.1"),
    ],
)
async def test_a_server_whose_certificate_is_not_for_now_or_not_for_here(
    files: Path, when: str, host: str, said: str
) -> None:
    issue(files, "bad", when, host)
    async with listening(files, "bad") as (http, grpc_url):
        with pytest.raises(httpx.ConnectError, match=said):
            await get(http, files)
        with pytest.raises(ConnectionFailed) as raised:
            await send(grpc_url, files)
    assert "certificate" in str(raised.value).lower() or "name" in str(raised.value).lower(), str(raised.value)


@pytest.mark.parametrize("when", ["old", "early"])
async def test_a_client_whose_certificate_is_not_valid_now(files: Path, when: str) -> None:
    """Under mutual TLS it does not get in; one beside it, whose certificate is good, does."""
    issue(files, "bad", when)
    issue(files, "fine", "good")
    async with listening(files, "loaded", mutual=True) as (http, grpc_url):
        for _ in range(2):
            with pytest.raises(httpx.HTTPError):
                await get(http, files, "bad")
            with pytest.raises(ConnectionFailed):
                await send(grpc_url, files, "bad")
            assert await get(http, files, "fine") == 200
            await send(grpc_url, files, "fine")
