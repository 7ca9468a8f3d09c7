"""The configuration file of a server (`helios up`, `helios-collector`), and what of it is not safe."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

import msgspec

from helios_core.bus.kafka.settings import KafkaSettings
from helios_core.errors import ConfigError
from helios_core.keys import Keys, Scope
from helios_core.store.postgres.settings import PostgresSettings


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key: its SHA-256 in hexadecimal (`helios-collector new-key` makes both) and what it may do."""

    sha256: str
    scopes: tuple[Scope, ...] = (Scope.INGEST,)


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much a collector takes at once. What is refused is to be sent again, and is told when.

    Attributes:
        pending_bytes: of requests that are under way, as they came; one alone is always taken. In memory
            they are several times that.
        events_per_second: raw events of one client; 0 takes what comes. Two seconds' worth may come at once.
        bytes_per_second: of one client, agents too; 0 takes what comes.
    """

    pending_bytes: Annotated[int, msgspec.Meta(ge=1_024)] = 16 * 1024 * 1024
    events_per_second: Annotated[float, msgspec.Meta(ge=0)] = 0
    bytes_per_second: Annotated[float, msgspec.Meta(ge=0)] = 0


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a configuration file of a server may say.

    Attributes:
        data_dir: holds the embedded log and the store.
        grpc: `host:port` of the gRPC server; port 0 takes a free one.
        http: `host:port` of the HTTP server.
        kafka: the bus, where one machine is not enough; without it the embedded log is.
        postgres: the store, where several processes use it; without it SQLite is.
        retention_days: how long windows, events, metrics and alerts are kept; incidents stay a year.
        api_keys: who may do what; none leaves a listener on loopback open.
        limits: how much is taken at once.
    """

    data_dir: str = "helios-data"
    grpc: str = "127.0.0.1:4317"
    http: str = "127.0.0.1:8080"
    api_keys: tuple[ApiKey, ...] = ()
    limits: Limits = Limits()
    kafka: KafkaSettings | None = None
    postgres: PostgresSettings | None = None
    retention_days: Annotated[int, msgspec.Meta(ge=1, le=3_650)] = 30

    @property
    def folder(self) -> Path:
        return Path(self.data_dir)

    def keys(self) -> Keys:
        """The keys of these settings.

        Raises:
            ConfigError: a hash is none, or there are no keys and a listener is not on loopback.
        """
        for key in self.api_keys:
            if len(key.sha256) != 64 or set(key.sha256) - set("0123456789abcdef"):
                raise ConfigError(
                    f"api_keys: {key.sha256[:12]!r}… is no SHA-256: `helios-collector new-key` prints one"
                )
        if self.api_keys:
            return Keys({key.sha256: frozenset(key.scopes) for key in self.api_keys})
        exposed = [address for address in (self.grpc, self.http) if not is_loopback(address)]
        if exposed:
            raise ConfigError(
                f"{exposed[0]} can be reached from elsewhere, and there are no api_keys: add one "
                "(`helios-collector new-key`), or listen on 127.0.0.1"
            )
        return Keys(None)


def split(address: str) -> tuple[str, int]:
    """(host, port) of `host:port`; ConfigError when it is none."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65_535 or not host:
        raise ConfigError(f"{address!r} is no address: host:port, for example 127.0.0.1:4317")
    return host.strip("[]"), int(port)


def is_loopback(address: str) -> bool:
    """Nothing but this machine reaches it."""
    host, _ = split(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
