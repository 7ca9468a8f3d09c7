"""The transport over gRPC: the one module of the client that imports it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from helios import cancellation
from helios.endpoint import Endpoint
from helios.errors import ClientClosed, ConfigError, HeliosClientError
from helios.hints import hint_of
from helios.retry import Status, error_from_status
from helios.retry_info import TRAILER, retry_after_s
from helios.v1.service_pb2 import SendBatchRequest, SendBatchResponse, SendEventsRequest, SendEventsResponse
from helios.v1.service_pb2_grpc import HeliosStub

# gRPC's own wait before it connects anew starts at 1 s and grows to 2 min: the client's is the one
# that counts, and a collector that is back is to be found soon.
_RECONNECT_OPTIONS: Final = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


class GrpcTransport:
    """One channel to one collector, opened at the first call, on the event loop of that call.

    Args:
        api_key: sent as `authorization: Bearer <key>`; never shown, not even in an error.

    Raises:
        ConfigError: the key has characters that metadata cannot carry.
    """

    def __init__(self, endpoint: Endpoint, *, api_key: str | None = None) -> None:
        if api_key is not None and not (api_key and api_key.isascii() and api_key.isprintable() and " " not in api_key):
            raise ConfigError("the api_key is empty or has characters other than printable ASCII: check for a line end")
        self._endpoint = endpoint
        self._metadata = _Metadata() if api_key is None else _Metadata((("authorization", f"Bearer {api_key}"),))
        self._channel: Any = None  # grpcio ships no types
        self._calls: Any = None
        self._closed = False

    def __repr__(self) -> str:
        return f"GrpcTransport({self._endpoint})"

    async def send_events(self, request: SendEventsRequest, *, timeout_s: float) -> SendEventsResponse:
        answer: SendEventsResponse = await self._unary("SendEvents", request, timeout_s)
        return answer

    async def send_batch(self, request: SendBatchRequest, *, timeout_s: float) -> SendBatchResponse:
        answer: SendBatchResponse = await self._unary("SendBatch", request, timeout_s)
        return answer

    async def stream(self, requests: AsyncIterator[SendBatchRequest]) -> AsyncGenerator[SendBatchResponse, None]:
        failure: list[Exception] = []

        async def watched() -> AsyncIterator[SendBatchRequest]:
            try:
                async for request in requests:
                    yield request
            except Exception as error:
                failure.append(error)
                raise

        call = self._open().Stream(watched(), metadata=self._metadata)
        try:
            with cancellation.heeded():
                async for answer in call:
                    yield answer
        except grpc.aio.AioRpcError as error:
            raise self._translate(error) from error
        except asyncio.CancelledError:
            if failure:  # gRPC cancels the call when the caller's own iterator raises
                raise failure[0] from None
            raise
        finally:
            call.cancel()

    async def close(self) -> None:
        self._closed = True
        if self._channel is not None:
            await self._channel.close()

    async def _unary(self, method: str, request: object, timeout_s: float) -> Any:
        try:
            with cancellation.heeded():
                return await getattr(self._open(), method)(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise self._translate(error, timeout_s) from error

    def _open(self) -> Any:
        if self._closed:
            raise ClientClosed(f"the connection to {self._endpoint} is closed")
        if self._channel is None:
            options = list(_RECONNECT_OPTIONS)
            if self._endpoint.is_loopback:
                options.append(("grpc.enable_http_proxy", 0))  # a proxy of the environment cannot reach it
            if self._endpoint.tls:
                credentials = _credentials(self._endpoint)
                self._channel = grpc.aio.secure_channel(self._endpoint.target, credentials, options)
            else:
                self._channel = grpc.aio.insecure_channel(self._endpoint.target, options)
            self._calls = HeliosStub(self._channel)
        return self._calls

    def _translate(self, error: Any, timeout_s: float | None = None) -> HeliosClientError:
        status = Status(error.code().value[0])
        wait_s = None
        for name, value in error.trailing_metadata() or ():  # dict() of it fails with gRPC 1.76
            if name == TRAILER and isinstance(value, bytes):
                wait_s = retry_after_s(value)
        # A status that a server sent comes over a connection that stands.
        connected = self._channel.get_state() is grpc.ChannelConnectivity.READY
        what = f"the collector at {self._endpoint} answered {status.name}"
        if status is Status.UNAVAILABLE and not connected:
            what = f"cannot reach the collector at {self._endpoint}"
            hint = hint_of(error.details() or "", tls=self._endpoint.tls)
            what = f"{what} ({hint})" if hint else what
        elif status is Status.DEADLINE_EXCEEDED and timeout_s is not None:
            what = f"no answer from the collector at {self._endpoint} within {timeout_s:.3g} s"
        return error_from_status(status, f"{what}: {error.details()}", retry_after_s=wait_s, connected=connected)


class _Metadata(tuple[tuple[str, str], ...]):
    """Metadata that does not show what it carries."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<masked>"


def _credentials(endpoint: Endpoint) -> Any:
    """ConfigError when a file cannot be read or used: gRPC would only say that it cannot connect."""
    ca, chain, key = (
        _read(name, path)
        for name, path in (
            ("ca_file", endpoint.ca_file),
            ("cert_file", endpoint.cert_file),
            ("key_file", endpoint.key_file),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if endpoint.ca_file is not None:
            context.load_verify_locations(endpoint.ca_file)
    except ssl.SSLError as error:
        raise ConfigError(f"ca_file {endpoint.ca_file!r} has no certificates in PEM: {error}") from error
    try:
        if endpoint.cert_file is not None:
            # The empty password keeps it from asking for one on the terminal.
            context.load_cert_chain(endpoint.cert_file, endpoint.key_file, password="")
    except ssl.SSLError as error:
        raise ConfigError(
            f"cert_file {endpoint.cert_file!r} and key_file {endpoint.key_file!r} are not a certificate "
            f"and its key, without a password, in PEM: {error}"
        ) from error
    return grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=chain)


def _read(name: str, path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{name} {path!r} cannot be read: {error.strerror or error}") from error
