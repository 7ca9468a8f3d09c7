"""Where a Kafka cluster is, and how to speak to it."""

from __future__ import annotations

import re
import ssl
from typing import Any, Final, Literal

import msgspec

from helios_core.config import Secret
from helios_core.errors import ConfigError

_ADDRESS: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):[0-9]{1,5}")


class KafkaSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`kafka:` of a server's configuration.

    Attributes:
        bootstrap: `host:port` of some brokers, with commas between them.
        prefix: before the names of the topics and groups, so that several installations share a cluster.
        compression: of what is published.
        tls: the connection is encrypted; `ca_file` when the brokers' certificate is not a public one, the
            other two for a certificate of our own.
        mechanism: how to log in, when there is a `username`.
    """

    bootstrap: str
    prefix: str = ""
    compression: Literal["zstd", "lz4", "snappy", "gzip", "none"] = "zstd"
    tls: bool = False
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    username: str = ""
    password: str = ""

    def connection(self) -> dict[str, Any]:
        """What every client of aiokafka is made with; ConfigError when an address is none or a file cannot be read."""
        servers = [server.strip() for server in self.bootstrap.split(",")]
        for server in servers:
            if not _ADDRESS.fullmatch(server):
                raise ConfigError(f"kafka: bootstrap: {server!r} is no address: host:port, for example broker1:9092")
        made: dict[str, Any] = {
            "bootstrap_servers": servers,
            "client_id": "helios",
            "security_protocol": ("SASL_" if self.username else "") + ("SSL" if self.tls else "PLAINTEXT"),
        }
        if self.username:
            made |= {
                "sasl_mechanism": self.mechanism,
                "sasl_plain_username": self.username,
                "sasl_plain_password": Secret(self.password).reveal(),
            }
        if self.tls:
            try:
                context = ssl.create_default_context(cafile=self.ca_file)
                if self.cert_file:
                    context.load_cert_chain(self.cert_file, self.key_file)
            except OSError as error:  # ssl.SSLError is one
                files = ", ".join(filter(None, (self.ca_file, self.cert_file, self.key_file)))
                raise ConfigError(f"kafka: {files} cannot be used: {error.strerror or error}") from error
            made["ssl_context"] = context
        return made
