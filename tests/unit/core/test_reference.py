"""docs/reference.md has every setting, environment variable and metric, and none that there is not."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import click
import msgspec
import pytest
from prometheus_client import CollectorRegistry

from helios_agent import settings as agent_settings
from helios_agent.sources import source_types
from helios_agent.sources.system import SystemSettings
from helios_core import settings as server_settings
from helios_core.errors import ConfigError

ROOT: Final = Path(__file__).resolve().parents[3]
PAGE: Final = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
PACKAGES: Final = sorted(path.parent for path in ROOT.glob("*/helios*/__init__.py"))
SOURCES: Final = {
    "file": agent_settings.FileSettings,
    "stdin": agent_settings.StdinSettings,
    "system": SystemSettings,
}
Rows = dict[str, list[str]]


def rows(heading: str) -> Rows:
    """The first table under a heading: by the name in the first cell, the others."""
    (_, _, section) = PAGE.partition(f"\n{heading}\n")
    assert section, f"docs/reference.md has no heading {heading!r}"
    section = re.split(r"^#", section, maxsplit=1, flags=re.MULTILINE)[0]
    found: Rows = {}
    for line in re.findall(r"^\| `.*$", section, re.MULTILINE):
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        assert name.strip("`") not in found, f"{name} is there twice"
        found[name.strip("`")] = cells
    return found


def fields(kind: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every key of a configuration with its default, as the page writes both."""
    for field in msgspec.structs.fields(kind):
        name = prefix + field.encode_name
        inner, many = _struct_in(field.type)
        if inner is not None:
            yield from fields(inner, f"{name}[]." if many else f"{name}.")
        else:
            yield name, _default(field)


def _struct_in(kind: Any) -> tuple[Any, bool]:
    """The struct that a field holds, and whether it holds many; None when it holds none."""
    info = msgspec.inspect.type_info(kind)
    many = isinstance(info, msgspec.inspect.VarTupleType | msgspec.inspect.ListType)
    info = info.item_type if many else info
    kinds = info.types if isinstance(info, msgspec.inspect.UnionType) else (info,)
    return next((one.cls for one in kinds if isinstance(one, msgspec.inspect.StructType)), None), many


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    if value in (None, "", (), {}):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`[{', '.join(map(str, value))}]`" if isinstance(value, tuple) else f"`{value}`"


def environment_variables() -> set[str]:
    """What is read of the environment, and what stands in for an option of a command."""
    found: set[str] = set()
    for package in PACKAGES:
        for path in package.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.keyword) and node.arg == "envvar":
                    found |= set(_texts(node.value))
                elif isinstance(node, ast.Call) and node.args and _is_environment(node.func):
                    found |= set(_texts(node.args[0]))
                elif isinstance(node, ast.Subscript) and _is_environment(node):
                    found |= set(_texts(node.slice))
    return found


def _is_environment(node: ast.expr) -> bool:
    """`environment.get`, `environment[…]`, those of `os.environ`, `os.getenv`."""
    text = ast.unparse(node)
    return bool(re.match(r"((os\.)?environ|environment)(\.(get|pop|setdefault)$|\[)|os\.getenv$", text))


def _texts(node: ast.expr) -> Iterator[str]:
    found = [one.value for one in ast.walk(node) if isinstance(one, ast.Constant)]
    return (text for text in found if isinstance(text, str))


def telemetry_modules() -> list[str]:
    return [f"{package.name}.telemetry" for package in PACKAGES if (package / "telemetry.py").exists()]


def metrics(module: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Type and labels of what a module registers, by the names that are served."""
    registry = CollectorRegistry()
    import_module(module).Telemetry(registry)
    found = {}
    for metric in set(registry._names_to_collectors.values()):
        (family,) = metric.collect()  # of a metric with labels it would not tell these
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = family.type, tuple(metric._labelnames)
    return found


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("## The agent's configuration", agent_settings.Settings),
        ("## A server's configuration", server_settings.Settings),
        *((f"### Source: `{name}`", kind) for name, kind in SOURCES.items()),
    ],
)
def test_every_setting_is_there_with_its_default(heading: str, kind: type) -> None:
    assert {name: cells[0] for name, cells in rows(heading).items()} == dict(fields(kind))


def test_every_setting_is_explained() -> None:
    for heading in re.findall(r"^##.*(?:configuration|Source: `\w+`)$", PAGE, re.MULTILINE):
        for name, cells in rows(heading).items():
            assert len(cells) == 3, name
            assert cells[2], name


def test_every_type_of_source_is_there() -> None:
    with pytest.raises(ConfigError, match="there is no source of type") as raised:
        agent_settings.Settings(sources=(agent_settings.SourceSettings("?"),)).opened()
    types = re.findall(r"\w+", str(raised.value).partition("types: ")[2])
    registered = {  # not those of other tests in this process
        name
        for package in PACKAGES
        for path in package.rglob("*.py")
        for name in re.findall(r'^@register_source\("(\w+)"\)$', path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert set(SOURCES) == (set(types) - set(source_types())) | registered
    assert set(SOURCES) == set(re.findall(r"^### Source: `(\w+)`$", PAGE, re.MULTILINE))


def test_every_environment_variable_is_there() -> None:
    there = rows("## Environment variables")
    assert set(there) == environment_variables()
    assert all(len(cells) == 2 and all(cells) for cells in there.values())
    named = set(re.findall(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)`", PAGE))
    assert named <= set(there)


@pytest.mark.parametrize("module", telemetry_modules())
def test_every_metric_is_there(module: str) -> None:
    part = module.partition(".")[0].removeprefix("helios_")
    there = rows(f"### The {part}")
    documented: dict[str, tuple[str, tuple[str, ...]]] = {}
    for name, cells in there.items():
        kind, labels, meaning, worry = cells
        assert meaning, name
        assert worry, name
        documented[name] = kind, tuple(re.findall(r"`(\w+)`", labels))
    assert documented == metrics(module)


def test_no_metric_is_named_that_there_is_not() -> None:
    served = {name for module in telemetry_modules() for name in metrics(module)}
    served.add("helios_worker_up")  # of a scrape, and of no process
    assert set(re.findall(r"\bhelios_[a-z_]+", PAGE)) == served


def test_metrics_are_made_in_the_telemetry_modules_alone() -> None:
    kinds = {"Counter", "Gauge", "Histogram", "Summary", "Info", "Enum"}
    for package in PACKAGES:
        for path in package.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module == "prometheus_client":
                    assert path.name == "telemetry.py" or not kinds & {name.name for name in node.names}, path


def test_commands_take_options_from_the_variables_that_it_says() -> None:
    """Each `--option` of the table exists in each command that it names, with that variable."""
    groups: Mapping[str, click.Command] = {
        name: import_module(module).cli
        for name, module in {
            "helios": "helios_core.cli",
            "helios-detector": "helios_detector.cli",
            "helios-reporter": "helios_reporter.cli",
        }.items()
    }
    for variable, (readers, meaning) in rows("## Environment variables").items():
        option = re.match(r"`(--[\w-]+)`", meaning)
        if option is None:
            continue
        for reader in re.findall(r"`([\w -]+)`", readers):
            program, *words = reader.split()
            command = groups[program]
            for word in words:
                assert isinstance(command, click.Group)
                command = command.commands[word]
            taken = {
                one for parameter in _parameters(command) if parameter.envvar == variable for one in parameter.opts
            }
            assert option[1] in taken, reader


def _parameters(command: click.Command) -> Iterator[click.Parameter]:
    yield from command.params
    if isinstance(command, click.Group):
        for one in command.commands.values():
            yield from _parameters(one)
