"""The client over TLS and mutual TLS, with certificates that are made for the test."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from helios import AsyncClient, ConfigError, ConnectionFailed, DeadlineExceeded, Endpoint, Event
from helios.v1.service_pb2 import SendEventsRequest, SendEventsResponse
from helios.v1.service_pb2_grpc import HeliosServicer, add_HeliosServicer_to_server

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="install the command `openssl` to run it")


class Yes(HeliosServicer):
    async def SendEvents(self, request: SendEventsRequest, context: Any) -> SendEventsResponse:
        return SendEventsResponse(accepted=len(request.events))


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca, server, client and a stranger that no authority knows: each a .pem and a .key."""
    folder = tmp_path_factory.mktemp("pki")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "rsa:2048", "-nodes")
    for name in ("ca", "stranger"):
        openssl(
            "req", "-x509", *new, "-days", "2", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem"
        )
    (folder / "extensions").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name in ("server", "client"):
        openssl("req", *new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        authority = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
        openssl(
            "x509",
            "-req",
            "-in",
            f"{name}.csr",
            *authority,
            "-days",
            "2",
            "-extfile",
            "extensions",
            "-out",
            f"{name}.pem",
        )
    return folder


@asynccontextmanager
async def serving(pki: Path, *, mutual: bool) -> AsyncIterator[str]:
    server = grpc.aio.server()
    add_HeliosServicer_to_server(Yes(), server)  # type: ignore[abstract]  # it answers one method
    credentials = grpc.ssl_server_credentials(
        [((pki / "server.key").read_bytes(), (pki / "server.pem").read_bytes())],
        root_certificates=(pki / "ca.pem").read_bytes(),
        require_client_auth=mutual,
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield f"https://127.0.0.1:{port}"
    finally:
        await server.stop(None)


def files(pki: Path, **names: str) -> dict[str, str]:
    return {argument: str(pki / name) for argument, name in names.items()}


async def send(endpoint: Endpoint, timeout_s: float = 5.0) -> None:
    async with AsyncClient(endpoint, timeout_s=timeout_s) as client:
        await client.send_event(Event("checkout"))


async def test_tls_with_the_right_authority(pki: Path) -> None:
    async with serving(pki, mutual=False) as url:
        await send(Endpoint.parse(url, **files(pki, ca_file="ca.pem")))


async def test_tls_with_another_authority_is_no_connection(pki: Path) -> None:
    async with serving(pki, mutual=False) as url:
        with pytest.raises((ConnectionFailed, DeadlineExceeded)):
            await send(Endpoint.parse(url, **files(pki, ca_file="stranger.pem")), timeout_s=0.5)


async def test_plain_text_to_a_port_with_tls_is_no_connection(pki: Path) -> None:
    async with serving(pki, mutual=False) as url:
        with pytest.raises((ConnectionFailed, DeadlineExceeded)):
            await send(Endpoint.parse(url.replace("https", "http")), timeout_s=0.5)


async def test_mutual_tls_takes_the_known_and_no_other(pki: Path) -> None:
    async with serving(pki, mutual=True) as url:
        own = files(pki, ca_file="ca.pem", cert_file="client.pem", key_file="client.key")
        await send(Endpoint.parse(url, **own))
        for other in (
            files(pki, ca_file="ca.pem"),
            files(pki, ca_file="ca.pem", cert_file="stranger.pem", key_file="stranger.key"),
        ):
            with pytest.raises((ConnectionFailed, DeadlineExceeded)):
                await send(Endpoint.parse(url, **other), timeout_s=0.5)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"ca_file": "extensions"}, "ca_file .* has no certificates"),
        ({"ca_file": "missing.pem"}, "ca_file .* cannot be read: No such file"),
        ({"cert_file": "client.pem", "key_file": "server.key"}, "are not a certificate and its key"),
        ({"cert_file": "client.pem", "key_file": "missing.key"}, "key_file .* cannot be read"),
    ],
    ids=str,
)
async def test_files_that_cannot_work_are_named(pki: Path, names: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        await send(Endpoint.parse("https://localhost", **files(pki, **names)))
