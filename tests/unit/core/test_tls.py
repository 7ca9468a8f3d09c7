"""The certificate of a server: what is wrong with it is said, and a renewed one is taken while the server runs."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs
from tests.contract import test_client_tls

from helios import AsyncClient, ConnectionFailed, Endpoint, Event
from helios_collector.admission import Admission
from helios_collector.servicer import serve
from helios_core import tls
from helios_core.bus.memory import MemoryBus
from helios_core.clock import SystemClock
from helios_core.errors import ConfigError
from helios_core.http import serving
from helios_core.keys import Keys
from helios_core.routes import Routes, respond
from helios_core.settings import Settings
from helios_core.tls import Certificate, TlsSettings
from helios_core.up import up

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="install the command `openssl` to run it")
pki = test_client_tls.pki


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def files(pki: Path, tmp_path: Path) -> Path:
    """A folder of the test's own with all certificates."""
    return Path(shutil.copytree(pki, tmp_path / "pki"))


def settings(files: Path, *, mutual: bool = False, **names: str) -> TlsSettings:
    given = {"cert_file": "server.pem", "key_file": "server.key"} | names
    given |= {"client_ca_file": "ca.pem"} if mutual and "client_ca_file" not in names else {}
    return TlsSettings(**{name: str(files / file) for name, file in given.items()})


RSA = ("rsa:2048",)
ECDSA = ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")


def renewed(files: Path, name: str = "server", kind: Sequence[str] = RSA, called: str = "renewed") -> None:
    """Another certificate of the same authority, with another key."""
    made = ("-newkey", *kind, "-nodes", "-subj", f"/CN={called}", "-keyout", "n.key", "-out", "n.csr")
    openssl(files, "req", *made)
    authority = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "extensions")
    openssl(files, "x509", "-req", "-in", "n.csr", *authority, "-days", "20", "-out", "n.pem")
    (files / "n.key").replace(files / f"{name}.key")
    (files / "n.pem").replace(files / f"{name}.pem")


# ---- the files


def test_when_it_expires_is_known(files: Path) -> None:
    left = Certificate(settings(files)).expires - datetime.now(UTC)
    assert timedelta(days=1, hours=23) < left < timedelta(days=2, hours=1)


def test_one_that_expires_soon_is_said(files: Path) -> None:
    with capture_logs() as said:
        Certificate(settings(files))
    assert [one["event"] for one in said] == ["certificate_expires_soon"]
    renewed(files)
    with capture_logs() as said:
        Certificate(settings(files))
    assert said == []


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"cert_file": "none.pem"}, "none.pem cannot be read: No such file or directory"),
        ({"key_file": "none.key"}, "none.key cannot be read"),
        ({"key_file": "client.key"}, "key values mismatch"),
        ({"cert_file": "server.key"}, "no certificate with its key"),
        ({"key_file": "locked.key"}, "without a password"),
        ({"client_ca_file": "server.key"}, "tls.client_ca_file: "),
        ({"cert_file": "old.pem", "key_file": "ca.key"}, "old.pem is not valid now: certificate has expired"),
        ({"cert_file": "early.pem", "key_file": "ca.key"}, "early.pem is not valid now: certificate is not yet valid"),
    ],
)
def test_what_cannot_be_used_is_said(files: Path, names: dict[str, str], said: str) -> None:
    openssl(files, "rsa", "-aes128", "-passout", "pass:secret", "-in", "server.key", "-out", "locked.key")
    for name, first, last in (("old", "20200101", "20200201"), ("early", "20990101", "20990201")):
        openssl(files, "req", "-new", "-key", "ca.key", "-subj", "/CN=localhost", "-out", "x.csr")
        (files / "ca.cnf").write_text(
            "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\n"
            "policy=p\nunique_subject=no\n[p]\ncommonName=supplied\n"
        )
        (files / "index.txt").write_text("")
        (files / "serial").write_text("1001\n")
        words = ("-batch", "-selfsign", "-keyfile", "ca.key", "-in", "x.csr", "-out", f"{name}.pem", "-notext")
        openssl(files, "ca", "-config", "ca.cnf", *words, "-startdate", f"{first}000000Z", "-enddate", f"{last}000000Z")
    with pytest.raises(ConfigError, match="tls") as raised:
        Certificate(settings(files, **names))
    assert said in str(raised.value)


async def test_a_server_does_not_start_with_one_that_cannot_be_used(files: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    given = Settings(data_dir=str(folder), http="127.0.0.1:0", tls=settings(files, key_file="client.key"))
    with pytest.raises(ConfigError, match="mismatch"):
        await up(given, ["collector"])
    assert not folder.exists()


async def test_an_agent_of_the_same_process_is_refused(files: Path, tmp_path: Path) -> None:
    given = Settings(data_dir=str(tmp_path / "data"), http="127.0.0.1:0", tls=settings(files))
    with pytest.raises(ConfigError, match="helios-agent"):
        await up(given, ["collector", "agent"], watch=["*.log"])


def test_who_is_let_in_by_certificate_needs_no_key(files: Path, tmp_path: Path) -> None:
    given = {"data_dir": str(tmp_path), "http": "0.0.0.0:0"}
    with pytest.raises(ConfigError, match="can be reached from elsewhere"):
        Settings(**given, tls=settings(files)).keys()  # type: ignore[arg-type]
    keys = Settings(**given, tls=settings(files, mutual=True)).keys()  # type: ignore[arg-type]
    assert (keys.are_open, keys.are_local) == (True, False)


# ---- the listeners


async def app(scope: Any, receive: Any, send: Any) -> None:
    await respond(send, 200, {"scheme": scope["scheme"]})


@asynccontextmanager
async def listening(certificate: Certificate) -> AsyncIterator[tuple[str, str]]:
    """The URLs of HTTP and of gRPC."""
    routes = Routes()
    routes.mount("/", app)
    server = await serve(Admission(MemoryBus()), SystemClock(), "127.0.0.1:0", Keys(None), certificate=certificate)
    try:
        async with serving(routes, "127.0.0.1:0", certificate.context) as http:
            yield f"https://{http}", f"https://127.0.0.1:{server.port}"
    finally:
        await server.stop(None)


async def common_name(url: str, files: Path) -> str:
    """Of whoever answers there."""
    context = ssl.create_default_context(cafile=str(files / "ca.pem"))
    host, port = url.removeprefix("https://").split(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    names = writer.get_extra_info("peercert")["subject"]
    writer.close()
    return str(names[0][0][1])


async def sent(url: str, files: Path, **names: str) -> None:
    certificates = {name: str(files / file) for name, file in names.items()}
    endpoint = Endpoint.parse(url, ca_file=str(files / "ca.pem"), **certificates)
    async with AsyncClient(endpoint, timeout_s=1) as client:
        await client.send_event(Event("shop", "hello"))


async def test_both_speak_tls_and_nothing_else(files: Path) -> None:
    async with listening(Certificate(settings(files))) as (http, grpc_url):
        async with httpx.AsyncClient(verify=ssl.create_default_context(cafile=str(files / "ca.pem"))) as client:
            assert (await client.get(http)).json() == {"scheme": "https"}
        await sent(grpc_url, files)
        async with httpx.AsyncClient() as client:
            with pytest.raises(httpx.HTTPError):
                await client.get(http.replace("https", "http"))
        async with AsyncClient(grpc_url.replace("https", "http"), timeout_s=1) as plain:
            with pytest.raises(ConnectionFailed):
                await plain.send_event(Event("shop", "hello"))


async def test_with_mutual_tls_nobody_gets_in_without_a_certificate_of_the_authority(files: Path) -> None:
    async with listening(Certificate(settings(files, mutual=True))) as (http, grpc_url):
        await sent(grpc_url, files, cert_file="client.pem", key_file="client.key")
        for names in ({}, {"cert_file": "stranger.pem", "key_file": "stranger.key"}):
            with pytest.raises(ConnectionFailed):
                await sent(grpc_url, files, **names)
        context = ssl.create_default_context(cafile=str(files / "ca.pem"))
        async with httpx.AsyncClient(verify=context) as client:
            with pytest.raises(httpx.HTTPError):
                await client.get(http)
        context.load_cert_chain(files / "client.pem", files / "client.key")
        async with httpx.AsyncClient(verify=context) as client:
            assert (await client.get(http)).status_code == 200


async def test_a_renewed_certificate_is_taken_while_it_runs(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "_LOOK_S", 0.02)
    certificate = Certificate(settings(files))
    following = asyncio.create_task(certificate.follow())
    try:
        async with listening(certificate) as urls:
            assert [await common_name(url, files) for url in urls] == ["server"] * 2
            pem = certificate.pem
            (files / "server.pem").write_text("half a fi")  # as while somebody writes it
            with capture_logs() as said:
                await asyncio.sleep(0.1)
            assert [one["event"] for one in said] == ["certificate_not_renewed"]
            assert [await common_name(url, files) for url in urls] == ["server"] * 2
            renewed(files)
            async with asyncio.timeout(5):
                while certificate.pem is pem:  # noqa: ASYNC110 - of another task
                    await asyncio.sleep(0.01)
            assert [await common_name(url, files) for url in urls] == ["renewed"] * 2
            await sent(urls[1], files)
    finally:
        following.cancel()


async def test_a_renewed_one_may_have_a_key_of_another_kind(files: Path) -> None:
    certificate = Certificate(settings(files))
    async with listening(certificate) as urls:
        for number, kind in enumerate((ECDSA, RSA, ECDSA)):
            renewed(files, kind=kind, called=f"number {number}")
            certificate.renew()
            assert [await common_name(url, files) for url in urls] == [f"number {number}"] * 2


async def test_an_authority_that_is_taken_away_lets_nobody_in(files: Path) -> None:
    shutil.copy(files / "ca.pem", files / "clients.pem")
    certificate = Certificate(settings(files, mutual=True, client_ca_file="clients.pem"))
    context = ssl.create_default_context(cafile=str(files / "ca.pem"))
    context.load_cert_chain(files / "client.pem", files / "client.key")
    names = {"cert_file": "client.pem", "key_file": "client.key"}
    async with listening(certificate) as (http, grpc_url):
        async with httpx.AsyncClient(verify=context) as client:
            assert (await client.get(http)).status_code == 200
        await sent(grpc_url, files, **names)
        shutil.copy(files / "stranger.pem", files / "clients.pem")
        certificate.renew()
        async with httpx.AsyncClient(verify=context) as client:
            with pytest.raises(httpx.HTTPError):
                await client.get(http)
        with pytest.raises(ConnectionFailed):
            await sent(grpc_url, files, **names)


def test_what_could_not_be_read_is_tried_again(files: Path) -> None:
    certificate = Certificate(settings(files))
    kept = (files / "server.key").read_bytes()
    (files / "server.key").unlink()
    with capture_logs() as said:
        for _ in range(3):
            certificate.renew()
    assert [one["event"] for one in said] == ["certificate_not_renewed"]
    renewed(files)
    assert kept != (files / "server.key").read_bytes()
    certificate.renew()
    assert certificate.pem.key == (files / "server.key").read_bytes()


def test_one_of_a_kind_that_nobody_speaks_is_said(files: Path) -> None:
    renewed(files, kind=("ec", "-pkeyopt", "ec_paramgen_curve:secp256k1"))
    with pytest.raises(ConfigError, match="no connection can be made"):
        Certificate(settings(files))


async def test_what_to_do_about_a_connection_that_cannot_be_made_is_said(files: Path) -> None:
    async with listening(Certificate(settings(files, mutual=True))) as (http, grpc_url):
        for url, names, hint in (
            (grpc_url, {"ca_file": "ca.pem"}, "cert_file and key_file"),
            (grpc_url, {"ca_file": "stranger.pem"}, "set ca_file"),
            (grpc_url.replace("https", "http"), {}, "https://"),
            (http, {"ca_file": "ca.pem", "cert_file": "client.pem", "key_file": "client.key"}, "4317"),
        ):
            endpoint = Endpoint.parse(url, **{name: str(files / file) for name, file in names.items()})
            async with AsyncClient(endpoint, timeout_s=1) as client:
                with pytest.raises(ConnectionFailed, match=hint):
                    await client.send_event(Event("shop", "hello"))
