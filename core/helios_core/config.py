"""Configuration files: YAML with `${NAME}` from the environment, into frozen types, once at the process's edge.

An unknown key is an error that names the nearest known one. Nothing below reads the environment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import yaml

from helios_core.errors import ConfigError

_T = TypeVar("_T")
_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(?P<field>[^`]*)`(?: - at `\$(?P<path>[^`]*)`)?")


class Secret(str):
    """A text that does not show itself in logs and errors; `reveal` gives it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'" if self else "''"

    __str__ = __repr__

    def reveal(self) -> str:
        return str.__str__(self)


def load(path: Path, kind: type[_T], environment: Mapping[str, str]) -> _T:
    """The file as `kind` (a frozen msgspec struct that forbids unknown fields).

    Raises:
        ConfigError: it cannot be read, is no YAML, names a variable that is not set, or does not fit.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except IsADirectoryError as error:
        raise ConfigError(f"the configuration {path} is a directory: give the YAML file in it") from error
    except OSError as error:
        raise ConfigError(
            f"the configuration {path} cannot be read: {error.strerror}; check its path and rights"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"the configuration {path} is no text in UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x}): "
            "give a YAML file"
        ) from error
    return parse(text, kind, environment, name=str(path))


def parse(text: str, kind: type[_T], environment: Mapping[str, str], *, name: str = "the configuration") -> _T:
    """Like `load`, of a text; `name` stands in messages."""
    try:
        raw = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a day that is none is a ValueError
        raise ConfigError(f"{name} is not YAML: {' '.join(str(error).split())}") from error
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{name} must be a mapping of keys to values, not a {type(raw).__name__}")
    return convert(_expanded(raw, environment, name), kind, name=name)


def override(settings: _T, given: Mapping[str, Any]) -> _T:
    """The settings with some fields replaced: a command's options over its file."""
    return msgspec.structs.replace(settings, **given)  # type: ignore[type-var]  # settings are structs


def convert(raw: Any, kind: type[_T], *, name: str) -> _T:
    """Plain values as `kind`; ConfigError with the place and the nearest known key when they do not fit."""
    try:
        return msgspec.convert(raw, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {_explained(str(error), kind)}") from error


def _expanded(value: Any, environment: Mapping[str, str], name: str) -> Any:
    """`${NAME}` and `${NAME:-otherwise}` replaced in all texts."""
    if isinstance(value, dict):
        return {key: _expanded(item, environment, name) for key, item in value.items()}
    if isinstance(value, list):
        return [_expanded(item, environment, name) for item in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        found = environment.get(match[1])
        if found is None and match[2] is None:
            raise ConfigError(
                f"{name}: the variable {match[1]} is not set; set it, or write ${{{match[1]}:-otherwise}}"
            )
        return match[2] if found is None else found

    return _VARIABLE.sub(replace, value)


def _explained(message: str, kind: type[Any]) -> str:
    match = _UNKNOWN.match(message)
    if match is None:
        return message.replace("`$.", "`").replace("`$`", "the top")
    where = (match["path"] or "").lstrip(".")
    known = sorted(_fields_at(kind, where))
    near = get_close_matches(match["field"], known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
    return f"unknown key {match['field']!r}{f' in {where}' if where else ''}; {hint}"


def _fields_at(kind: type[Any], where: str) -> set[str]:
    """The names of the fields of the struct at a path like `agent` or `sources[0].config`."""
    current: Any = msgspec.inspect.type_info(kind)
    for step in filter(None, re.split(r"[.\[]", where)):
        current = _unwrapped(current)
        if isinstance(current, msgspec.inspect.StructType):
            current = next((f.type for f in current.fields if f.encode_name == step), None)
        elif isinstance(current, msgspec.inspect.ListType | msgspec.inspect.VarTupleType):
            current = current.item_type
    current = _unwrapped(current)
    if isinstance(current, msgspec.inspect.ListType | msgspec.inspect.VarTupleType):
        current = _unwrapped(current.item_type)
    return {f.encode_name for f in current.fields} if isinstance(current, msgspec.inspect.StructType) else set()


def _unwrapped(current: Any) -> Any:
    if isinstance(current, msgspec.inspect.UnionType):
        return next((t for t in current.types if isinstance(t, msgspec.inspect.StructType)), current.types[0])
    return current
