"""The configuration file of a server (`helios up`, `helios-collector`), and what of it is not safe."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from helios_core import keyfile
from helios_core.bus.kafka.settings import KafkaSettings
from helios_core.errors import ConfigError
from helios_core.keyfile import ApiKey, KeyFile, grants_of
from helios_core.keys import Keys
from helios_core.store.postgres.settings import PostgresSettings
from helios_core.tls import TlsSettings

Role: TypeAlias = Literal["ingest", "store"]
ROLES: Final[tuple[Role, ...]] = ("ingest", "store")


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
        otlp_http: `host:port` where OTLP over HTTP is taken beside the HTTP server, for senders that know 4318 only.
        kafka: the bus, where one machine is not enough; without it the embedded log is.
        postgres: the store, where several processes use it; without it SQLite is.
        retention_days: how long windows, events, metrics and alerts are kept; incidents stay a year.
        api_keys: who may do what; none leaves a listener on loopback open.
        api_keys_file: more of them, which `helios keys` keeps; by itself in the data directory.
        tls: certificates; without them connections are in the clear.
        limits: how much is taken at once.
        roles: what a collector as a process of its own does: take what comes in, write the store, or both.
        workers: how many processes of a collector of its own share its ports; they need Kafka, and PostgreSQL to store.
            `limits.pending_bytes` is shared out among them; the rates of a client are each one's own.
    """

    data_dir: str = "helios-data"
    grpc: str = "127.0.0.1:4317"
    http: str = "127.0.0.1:8080"
    otlp_http: str = ""
    api_keys: tuple[ApiKey, ...] = ()
    api_keys_file: str = ""
    tls: TlsSettings | None = None
    limits: Limits = Limits()
    roles: tuple[Role, ...] = ROLES
    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    kafka: KafkaSettings | None = None
    postgres: PostgresSettings | None = None
    retention_days: Annotated[int, msgspec.Meta(ge=1, le=3_650)] = 30

    @property
    def folder(self) -> Path:
        return Path(self.data_dir)

    def keys(self) -> Keys:
        """The keys of these settings.

        Raises:
            ConfigError: a hash is none, the file of keys cannot be used, or there are no keys and a listener is not
            on loopback.
        """
        file = self.key_file()
        fixed = grants_of(self.api_keys)
        grants_of(file.read())  # what is wrong with it is said before anything is opened
        is_keyed = bool(fixed) or file.exists()
        listeners = filter(None, (self.grpc, self.http, self.otlp_http))
        exposed = [address for address in listeners if not is_loopback(address)]
        is_mutual = self.tls is not None and bool(self.tls.client_ca_file)
        if exposed and not is_keyed and not is_mutual:
            raise ConfigError(
                f"{exposed[0]} can be reached from elsewhere, and there are no API keys: make one "
                "(`helios keys create`), ask for certificates (`tls.client_ca_file`), or listen on 127.0.0.1"
            )
        return Keys(fixed if is_keyed else None, file.grants, is_local=not is_mutual)

    def key_file(self) -> KeyFile:
        """Where `helios keys` keeps them."""
        return KeyFile(Path(self.api_keys_file) if self.api_keys_file else self.folder / keyfile.NAME)


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
