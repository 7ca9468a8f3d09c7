"""The certificate of a server: checked before it is used, and read again when it is renewed."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import structlog

from helios_core.errors import ConfigError

_LOOK_S: Final = 10.0
_SOON_S: Final = 14 * 86_400
_log = structlog.get_logger(__name__)


class TlsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """With them a server speaks TLS only, over gRPC and HTTP.

    Attributes:
        cert_file: PEM of the server's certificate, and of those between it and its authority.
        key_file: PEM of its key, without a password.
        client_ca_file: PEM of authorities; with it clients must show a certificate of one of these.
    """

    cert_file: str
    key_file: str
    client_ca_file: str = ""


@dataclass(frozen=True, slots=True)
class Pem:
    """The contents of the files; `client_ca` is None where clients show no certificate."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None


class Certificate:
    """The files of the settings, as they are now.

    Attributes:
        pem: what is in them.
        context: for an HTTP server; it stays the same object when the certificate is renewed.
        expires: when the certificate does.

    Raises:
        ConfigError: they cannot be read or used, or the certificate has expired.
    """

    def __init__(self, settings: TlsSettings) -> None:
        self._settings = settings
        self._seen = self._stat()
        self.pem, self.expires = self._read()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._load()

    async def follow(self) -> None:
        """Reads them again when they change, for as long as it is not cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            self.renew()

    def renew(self) -> None:
        """Reads them again if they have changed; what cannot be used is said, and the old is kept."""
        seen = self._stat()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self.pem, self.expires = self._read()
            self._load()
        except ConfigError as error:
            _log.error("certificate_not_renewed", error=str(error), remedy="the one of before is used on")
        else:
            _log.info("certificate_renewed", expires=self.expires.isoformat())

    def _stat(self) -> tuple[tuple[int, int, int] | None, ...]:
        found: list[tuple[int, int, int] | None] = []
        for name in msgspec.structs.astuple(self._settings):
            try:
                stat = Path(name).stat()
                found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
            except OSError:
                found.append(None)
        return tuple(found)

    def _read(self) -> tuple[Pem, datetime]:
        settings = self._settings
        try:
            contents = [
                Path(name).read_bytes() if name else None
                for name in (settings.cert_file, settings.key_file, settings.client_ca_file)
            ]
        except OSError as error:
            raise ConfigError(f"tls: {error.filename} cannot be read: {error.strerror}") from error
        certificate, key, client_ca = contents
        expires = _expires(settings)
        if client_ca is not None:
            _load_authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), settings.client_ca_file)
        if (expires - datetime.now(UTC)).total_seconds() < _SOON_S:
            _log.warning("certificate_expires_soon", file=settings.cert_file, expires=expires.isoformat())
        return Pem(certificate or b"", key or b"", client_ca), expires

    def _load(self) -> None:
        _load_chain(self.context, self._settings)
        if self._settings.client_ca_file:
            self.context.verify_mode = ssl.CERT_REQUIRED
            _load_authorities(self.context, self._settings.client_ca_file)


def _load_chain(context: ssl.SSLContext, settings: TlsSettings) -> None:
    try:
        context.load_cert_chain(settings.cert_file, settings.key_file, password=lambda: b"")
    except (ssl.SSLError, OSError) as error:
        reason = (getattr(error, "reason", None) or str(error)).replace("_", " ").lower()
        raise ConfigError(
            f"tls: {settings.cert_file} and {settings.key_file} are no certificate with its key, in PEM and without "
            f"a password: {reason}"
        ) from error


def _load_authorities(context: ssl.SSLContext, file: str) -> None:
    try:
        context.load_verify_locations(file)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"tls.client_ca_file: {file} has no certificate of an authority in PEM") from error


def _expires(settings: TlsSettings) -> datetime:
    """When the certificate expires; ConfigError when it has, or is not valid yet.

    Python reads a certificate only from a handshake: this one goes through memory, and trusts it by itself.
    """
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _load_chain(server, settings)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(settings.cert_file)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking, answering = client.wrap_bio(down, up), server.wrap_bio(up, down, server_side=True)
    for side in (asking, answering, asking):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLCertVerificationError as error:
            raise ConfigError(
                f"tls.cert_file: {settings.cert_file} is not valid now: {error.verify_message}"
            ) from error
    found = asking.getpeercert()
    until = found["notAfter"] if found else ""
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(until)), UTC)
