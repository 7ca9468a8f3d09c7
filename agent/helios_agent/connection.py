"""How the agent comes to the collector: the certificates, the API key, the channel, and whether all that is right."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import grpc
from grpc import aio

from helios.endpoint import Endpoint
from helios.errors import Denied, HeliosClientError
from helios.hints import hint_of
from helios.retry import Status, error_from_status
from helios.v1 import service_pb2, service_pb2_grpc
from helios_agent.settings import HeliosSettings
from helios_core.config import Secret
from helios_core.errors import ConfigError

_MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
Metadata = tuple[tuple[str, str], ...]


def metadata(key: Secret) -> Metadata:
    """What goes with each call; ConfigError for a key that metadata cannot carry."""
    text = key.reveal()
    if not text:
        return ()
    if not (text.isascii() and text.isprintable() and " " not in text):
        raise ConfigError("helios.api_key has characters other than printable ASCII: check it for blanks and line ends")
    return (("authorization", f"Bearer {text}"),)


def credentials(endpoint: Endpoint) -> grpc.ChannelCredentials | None:
    """For TLS; None for a connection in the clear. ConfigError when a file cannot be read."""
    if not endpoint.tls:
        return None
    try:
        ca, key, certificate = (
            Path(path).read_bytes() if path else None
            for path in (endpoint.ca_file, endpoint.key_file, endpoint.cert_file)
        )
    except OSError as error:
        raise ConfigError(f"helios: {error.filename} cannot be read: {error.strerror}") from error
    return grpc.ssl_channel_credentials(ca, key, certificate)


def channel(target: str, secured: grpc.ChannelCredentials | None) -> aio.Channel:
    """To a collector at `host:port`; it connects at the first call."""
    options = [("grpc.max_send_message_length", _MAX_MESSAGE_BYTES), ("grpc.keepalive_time_ms", 30_000)]
    if secured is not None:
        return aio.secure_channel(target, secured, options=options)
    return aio.insecure_channel(target, options=options)


def meaning(error: aio.AioRpcError) -> HeliosClientError:
    """What the contract's table makes of a status."""
    return error_from_status(Status(error.code().value[0]), error.details() or error.code().name)


async def fault(settings: HeliosSettings, key: Secret, timeout_s: float) -> str:
    """Why nothing can be sent, found by sending nothing; empty when the collector takes it."""
    try:
        endpoint = settings.parsed()
        sent_with, secured = metadata(key), credentials(endpoint)
    except ConfigError as error:
        return str(error)
    async with channel(endpoint.target, secured) as opened:
        try:
            stub = service_pb2_grpc.HeliosStub(opened)
            await stub.SendEvents(service_pb2.SendEventsRequest(), metadata=sent_with, timeout=timeout_s)
        except aio.AioRpcError as error:
            said = meaning(error)
            if isinstance(said, Denied):
                setting = "endpoint" if error.code() is grpc.StatusCode.UNIMPLEMENTED else "api_key"
                return f"helios.{setting}: the collector at {endpoint} refuses: {said}"
            if opened.get_state() is grpc.ChannelConnectivity.READY:
                return f"helios.endpoint: the collector at {endpoint} takes nothing now: {said}"
            hint = hint_of(error.details() or "", tls=endpoint.tls)
            if hint:
                return f"helios.endpoint: no connection to {endpoint}: {hint} ({said})"
            return f"helios.endpoint: nothing answers at {endpoint}: {said}"
    return ""
