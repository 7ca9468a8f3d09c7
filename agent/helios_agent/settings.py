"""The agent's configuration file."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from helios.endpoint import Endpoint
from helios.errors import HeliosClientError
from helios_agent.parsers.detect import check_name
from helios_agent.sources import MetricsSource, make_source, source_types
from helios_core import config
from helios_core.config import Secret
from helios_core.errors import ConfigError

DEFAULT_FILE: Final = Path("helios-agent.yaml")
EXAMPLE: Final = """\
# The configuration of helios-agent. ${NAME} is taken from the environment, ${NAME:-otherwise} with a default.

agent:
  state_dir: helios-agent        # the agent's id, and its spool: what is read and not yet acknowledged
  spool_max_bytes: 536870912     # at this size reading pauses until the collector has caught up
  log_level: info                # debug, info, warning, error
  collection_interval: 60        # seconds between two looks at a source of metrics
  batch_size: 100                # samples of metrics that are sent at once, without waiting for the next window

sources:
  - type: file
    config:
      paths: [/var/log/nginx/access.log]   # globs; ** goes into folders
      exclude: ["*.gz"]
      parser: auto               # auto looks at the first lines: json, docker, access, logfmt, plain
      service: web               # of lines that name none; without it the file's name
      start_at: beginning        # or end: of files that are there at the very first start
  # - type: stdin
  #   config: {service: myapp}
  - type: system                 # processors, memory, disks and network of this host
    enabled: true
    config: {collect_cpu: true, collect_memory: true, collect_disk: true, collect_network: true}

helios:
  endpoint: ${HELIOS_ENDPOINT:-http://localhost:4317}   # https:// for TLS
  api_key: ${HELIOS_API_KEY:-}
  # ca_file: /etc/helios/ca.pem
"""


class AgentSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`agent:`

    Attributes:
        host: what it calls its host; empty for the machine's name.
        collection_interval: seconds between two collections of a metric source.
        batch_size: that many metric samples make a cut; fewer wait for the end of the window.
        plugins: modules to import, which register metric sources of their own.
    """

    state_dir: str = "helios-agent"
    spool_max_bytes: int = 512 * 1024 * 1024
    log_level: Literal["debug", "info", "warning", "error", "DEBUG", "INFO", "WARNING", "ERROR"] = "info"
    host: str = ""
    collection_interval: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 60
    batch_size: Annotated[int, msgspec.Meta(ge=1)] = 100
    plugins: tuple[str, ...] = ()


class SourceSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of `sources:`"""

    type: str
    enabled: bool = True
    config: dict[str, Any] = {}


class FileSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `config:` of a source of type file."""

    paths: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    parser: str = "auto"
    service: str | None = None
    start_at: Literal["beginning", "end"] = "beginning"


class StdinSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `config:` of a source of type stdin."""

    parser: str = "auto"
    service: str = "stdin"


class HeliosSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`helios:`"""

    endpoint: str = "http://localhost:4317"
    api_key: str = ""
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None

    def parsed(self) -> Endpoint:
        """Where the collector is; ConfigError when that is no address of one."""
        try:
            return Endpoint.parse(self.endpoint, ca_file=self.ca_file, cert_file=self.cert_file, key_file=self.key_file)
        except HeliosClientError as error:
            raise ConfigError(f"helios.endpoint: {error}") from error


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    agent: AgentSettings = AgentSettings()
    sources: tuple[SourceSettings, ...] = ()
    helios: HeliosSettings = HeliosSettings()

    @property
    def secret(self) -> Secret:
        return Secret(self.helios.api_key)

    def opened(self) -> list[FileSettings | StdinSettings]:
        """The settings of the enabled sources of lines; ConfigError for a type, key or parser that there is not."""
        found: list[FileSettings | StdinSettings] = []
        for number, source in enumerate(self.sources):
            kind = _LINES.get(source.type)
            if kind is None and source.type not in source_types():
                kinds = [*_LINES, *source_types()]
                near = get_close_matches(source.type, kinds, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"types: {', '.join(kinds)}"
                raise ConfigError(f"sources[{number}]: there is no source of type {source.type!r}; {hint}")
            if source.enabled and kind is not None:
                made = config.convert(source.config, kind, name=f"sources[{number}].config")
                try:
                    check_name(made.parser)
                except ConfigError as error:
                    raise ConfigError(f"sources[{number}].config.parser: {error}") from error
                found.append(made)
        return found

    def metric_sources(self) -> list[tuple[str, MetricsSource]]:
        """The enabled sources of metrics with their types, not yet initialized; ConfigError for a wrong key."""
        made = []
        for number, source in enumerate(self.sources):
            if source.enabled and source.type in source_types() and source.type not in _LINES:
                try:
                    made.append((source.type, make_source(source.type, source.config)))
                except ConfigError as error:
                    raise ConfigError(f"sources[{number}]: {error}") from error
                except Exception as error:  # the edge to code of others
                    raise ConfigError(
                        f"sources[{number}]: a source of type {source.type!r} cannot be made of its config: {error!r}"
                    ) from error
        return made


_LINES: Final[dict[str, type[FileSettings] | type[StdinSettings]]] = {"file": FileSettings, "stdin": StdinSettings}


def load(path: Path | None, environment: Mapping[str, str]) -> Settings:
    """The configuration: the given file, that of HELIOS_CONFIG_FILE, or ./helios-agent.yaml.

    HELIOS_ENDPOINT and HELIOS_API_KEY stand above the file.

    Raises:
        ConfigError: there is none, or it is wrong.
    """
    chosen = path or Path(environment.get("HELIOS_CONFIG_FILE", DEFAULT_FILE))
    if not chosen.exists():
        raise ConfigError(f"there is no configuration {chosen}: `helios-agent init` writes one")
    settings = config.load(chosen, Settings, environment)
    given = {"endpoint": environment.get("HELIOS_ENDPOINT"), "api_key": environment.get("HELIOS_API_KEY")}
    helios = config.override(settings.helios, {name: value for name, value in given.items() if value})
    settings = config.override(settings, {"helios": helios})
    helios.parsed()
    for plugin in settings.agent.plugins:
        try:
            import_module(plugin)
        except ConfigError as error:
            raise ConfigError(f"agent.plugins: {plugin}: {error}") from error
        except Exception as error:  # the edge to code of others
            why = error if isinstance(error, ImportError) else repr(error)
            raise ConfigError(f"agent.plugins: {plugin} cannot be imported: {why}") from error
    if taken := _LINES.keys() & set(source_types()):
        raise ConfigError(f"agent.plugins: the type {min(taken)!r} is the agent's own: register the source by another")
    settings.opened()
    settings.metric_sources()
    return settings
