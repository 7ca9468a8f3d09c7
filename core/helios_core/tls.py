"""The certificate of a server: checked before it is used, and read again when it is renewed."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from helios_core.errors import ConfigError

_LOOK_S: Final = 10.0
_SOON: Final = timedelta(days=14)
_TRIES: Final = 3
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


class _Newest(ssl.SSLContext):
    """What stands for the newest context: to a context that is in use OpenSSL only adds, and never takes away.

    asyncio asks it to wrap each connection. (Changing the context in a callback of the handshake would let in
    who resumes a session of the old one.)
    """

    current: ssl.SSLContext

    def wrap_bio(self, *words: Any, **names: Any) -> ssl.SSLObject:
        return self.current.wrap_bio(*words, **names)


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
        self._fault = ""
        self._warned = datetime.min.replace(tzinfo=UTC)
        self.context = _Newest(ssl.PROTOCOL_TLS_SERVER)
        self._seen = self._stat()
        self.pem, self.context.current, self.expires = self._read()
        self._warn()

    async def follow(self) -> None:
        """Reads them again when they change, for as long as it is not cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                self.renew()
            except Exception:  # noqa: BLE001 -- the edge of a task that must not end
                _log.exception("certificate_not_renewed")

    def renew(self) -> None:
        """Reads them again if they have changed; what cannot be used is said, and the old is kept."""
        self._warn()
        seen = self._stat()
        if seen == self._seen and not self._fault:
            return
        self._seen = seen
        try:
            self.pem, self.context.current, self.expires = self._read()
        except ConfigError as error:
            if str(error) != self._fault:
                _log.error("certificate_not_renewed", error=str(error), remedy="the one of before is used on")
            self._fault = str(error)
        else:
            self._fault = ""
            _log.info("certificate_renewed", expires=self.expires.isoformat())

    def _warn(self) -> None:
        """Once a day, when it is over soon."""
        now = datetime.now(UTC)
        if now >= self.expires - _SOON and now >= self._warned + timedelta(days=1):
            self._warned = now
            event = "certificate_has_expired" if now >= self.expires else "certificate_expires_soon"
            _log.warning(event, file=self._settings.cert_file, expires=self.expires.isoformat())

    def _stat(self) -> tuple[tuple[int, ...] | None, ...]:
        found: list[tuple[int, ...] | None] = []
        for name in msgspec.structs.astuple(self._settings):
            try:
                stat = Path(name).stat()
                found.append((stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino))
            except (OSError, ValueError):
                found.append(None)
        return tuple(found)

    def _read(self) -> tuple[Pem, ssl.SSLContext, datetime]:
        """All of one moment: while somebody writes the files, what is read of them need not fit together."""
        for _ in range(_TRIES):
            pem = self._contents()
            context, expires = _server_context(self._settings), _expires(self._settings)
            if pem == self._contents():
                return pem, context, expires
        raise ConfigError(f"tls: {self._settings.cert_file} and its key change all the time")

    def _contents(self) -> Pem:
        settings = self._settings
        try:
            certificate, key = (Path(name).read_bytes() for name in (settings.cert_file, settings.key_file))
            client_ca = Path(settings.client_ca_file).read_bytes() if settings.client_ca_file else None
        except OSError as error:
            raise ConfigError(f"tls: {error.filename} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise ConfigError(f"tls: a path that is none: {error}") from error
        return Pem(certificate, key, client_ca)


def _server_context(settings: TlsSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load_chain(context, settings)
    if settings.client_ca_file:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(settings.client_ca_file)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(
                f"tls.client_ca_file: {settings.client_ca_file} has no certificate of an authority in PEM"
            ) from error
    return context


def _load_chain(context: ssl.SSLContext, settings: TlsSettings) -> None:
    try:
        context.load_cert_chain(settings.cert_file, settings.key_file, password=lambda: b"")
    except (ssl.SSLError, OSError) as error:
        reason = (getattr(error, "reason", None) or str(error)).replace("_", " ").lower()
        raise ConfigError(
            f"tls: {settings.cert_file} and {settings.key_file} are no certificate with its key, in PEM and without "
            f"a password: {reason}"
        ) from error


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
            said = error.verify_message
            raise ConfigError(f"tls.cert_file: {settings.cert_file} is not valid now: {said}") from error
        except (ssl.SSLError, ValueError) as error:
            said = (getattr(error, "reason", None) or str(error)).replace("_", " ").lower()
            raise ConfigError(f"tls.cert_file: no connection can be made with {settings.cert_file}: {said}") from error
    found = asking.getpeercert()
    until = found["notAfter"] if found else ""
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(until)), UTC)
