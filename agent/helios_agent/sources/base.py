"""The port of the metric sources: something that is asked for its values every so often."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from helios_core.errors import ConfigError
from helios_core.model import MetricSample

_Kind = TypeVar("_Kind", bound="type[MetricsSource]")


@dataclass(frozen=True, slots=True)
class CollectionResult:
    """What one collection gave.

    Attributes:
        samples: values. A sample without a time is of now, one without a host of the agent's.
        errors: what could not be read, for a person; the samples count all the same.
    """

    samples: list[MetricSample] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class MetricsSource(ABC):
    """Made with the `config:` of its entry; all else is called on a thread that is the source's own.

    `initialize` comes first, again after `collection_interval` while it raises. Then `collect` is called
    every `collection_interval`; what it raises is counted, and it is asked again. `close` comes last.
    A call that does not return holds back this source alone.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        """ConfigError for a key or value that it does not know."""
        self.config = config

    def initialize(self) -> None:  # noqa: B027 -- a source may have nothing to open
        """Opens what `collect` needs. Raising means: not now."""

    @abstractmethod
    def collect(self) -> CollectionResult:
        """The values of now. Raising means that there are none."""

    def health_check(self) -> None:  # noqa: B027 -- nor anything to check
        """Raises with the reason when the source could not be asked; for `helios-agent validate`."""

    def close(self) -> None:  # noqa: B027 -- nor to close
        """Lets go of what `initialize` has opened, if it has."""


_TYPES: Final[dict[str, type[MetricsSource]]] = {}


def register_source(name: str) -> Callable[[_Kind], _Kind]:
    """Makes a class a source that `sources[].type` can name; ConfigError when the name is another's."""

    def register(kind: _Kind) -> _Kind:
        other = _TYPES.setdefault(name, kind)
        if other is not kind and (other.__module__, other.__qualname__) != (kind.__module__, kind.__qualname__):
            raise ConfigError(f"there are two sources of type {name!r}: {other.__module__} and {kind.__module__}")
        _TYPES[name] = kind
        return kind

    return register


def source_types() -> list[str]:
    """The names that are registered."""
    return sorted(_TYPES)


def make_source(name: str, config: Mapping[str, Any]) -> MetricsSource:
    """A source that is not yet initialized; KeyError for a type that is not registered."""
    return _TYPES[name](config)
