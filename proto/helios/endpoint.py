"""Where the collector listens: what a user writes, parsed once and checked. It opens no connection."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final

from helios.errors import ConfigError

DEFAULT_PORT: Final = 4317
DEFAULT_ENDPOINT: Final = "http://localhost:4317"
# Ports of Helios that speak HTTP only: pointing gRPC at one of them fails in ways that say nothing.
_HTTP_PORTS: Final = {8080: "the collector's HTTP port", 8000: "the detector's port", 8001: "the reporter's port"}
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9_.])?")
_ADDRESS = re.compile(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<host>[^:\[\]]*))(?::(?P<port>[^:]*))?")
_FORMS: Final = "write host:port, http://host:port or https://host:port"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The collector's address. `Endpoint.parse` makes one from what a user writes.

    Attributes:
        host: a name or an address; an IPv6 address without brackets.
        tls: whether the connection is encrypted.
        ca_file: PEM file of the authorities to trust; None for those that gRPC brings.
        cert_file: PEM file of the client's certificate chain, for mutual TLS, with `key_file`.
        key_file: PEM file of the client's private key.
    """

    host: str
    port: int = DEFAULT_PORT
    tls: bool = False
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None

    def __post_init__(self) -> None:
        if self.port in _HTTP_PORTS:
            raise ConfigError(
                f"{self} is {_HTTP_PORTS[self.port]}: the client speaks gRPC, which the collector serves on "
                f"port {DEFAULT_PORT}"
            )
        if bool(self.cert_file) != bool(self.key_file):
            raise ConfigError("a client certificate needs both cert_file and key_file")
        if not self.tls and (self.ca_file or self.cert_file):
            raise ConfigError(f"{self} is not encrypted, so that its certificate files do nothing: write https://")

    def __str__(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.target}"

    @property
    def target(self) -> str:
        """`host:port`, as gRPC takes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        return self.host in ("localhost", "::1") or re.fullmatch(r"127(\.[0-9]+){3}", self.host) is not None

    @classmethod
    def parse(
        cls, text: str, *, ca_file: str | None = None, cert_file: str | None = None, key_file: str | None = None
    ) -> Endpoint:
        """From `host:port` or a URL whose scheme sets TLS; without a port it is 4317.

        Raises:
            ConfigError: it is not such a text, or it names a port that speaks HTTP only.
        """
        scheme, separator, rest = text.strip().rpartition("://")
        scheme = scheme.lower()
        if separator and scheme not in ("http", "https"):
            raise ConfigError(f"the endpoint {text!r} has the scheme {scheme!r}: {_FORMS}")
        authority = rest.rstrip("/") if separator else rest
        if "@" in authority:
            raise ConfigError("the endpoint has a user name or password: give the key as api_key")
        if odd := re.search(r"[/?#\s]", authority):
            raise ConfigError(f"the endpoint {text!r} has {odd[0]!r} after its host: {_FORMS}, and no path")
        host, port = _split(authority, text)
        return cls(host, port, tls=scheme == "https", ca_file=ca_file, cert_file=cert_file, key_file=key_file)


def _split(authority: str, text: str) -> tuple[str, int]:
    found = _ADDRESS.fullmatch(authority)
    if found is None:
        hint = "write an IPv6 address in brackets, as in [::1]:4317" if authority.count(":") > 1 else _FORMS
        raise ConfigError(f"the endpoint {text!r} cannot be read: {hint}")
    if found["v6"] is not None:
        host = _ipv6(found["v6"], text)
    elif _HOST.fullmatch(found["host"]):
        host = found["host"]
    else:
        what = f"a host named {found['host']!r}" if found["host"] else "no host"
        raise ConfigError(f"the endpoint {text!r} has {what}: {_FORMS}")
    if found["port"] is None:
        return host, DEFAULT_PORT
    if not re.fullmatch(r"[0-9]{1,5}", found["port"]) or not 0 < int(found["port"]) < 65_536:
        raise ConfigError(f"the endpoint {text!r} has the port {found['port']!r}: 1 to 65535, usually {DEFAULT_PORT}")
    return host, int(found["port"])


def _ipv6(address: str, text: str) -> str:
    try:
        return str(IPv6Address(address))
    except ValueError as error:
        raise ConfigError(f"the endpoint {text!r} has no IPv6 address in its brackets: {error}") from None
