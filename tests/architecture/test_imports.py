"""Who may import whom (docs/architecture.md): read from the imports themselves."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "helios": "proto/helios",
    "helios_core": "core/helios_core",
    "helios_agent": "agent/helios_agent",
    "helios_collector": "collector/helios_collector",
    "helios_detector": "detector/helios_detector",
    "helios_reporter": "reporter/helios_reporter",
    "helios_sql": "sql/helios_sql",
}
OURS = frozenset(FOLDERS)
MAY_IMPORT = {
    "helios": set(),
    "helios_sql": set(),
    "helios_core": {"helios", "helios_sql"},
    "helios_agent": {"helios", "helios_core"},
    "helios_collector": {"helios", "helios_core"},
    "helios_detector": {"helios_core"},
    "helios_reporter": {"helios_core"},
}
# What only some modules of core may reach.
ONLY_FROM = {
    "helios": ("helios_core.wire",),
    "helios_sql": ("helios_core.store.",),
    "numpy": ("helios_core.features",),
}
HEAVY = ("helios_core.bus", "helios_core.store", "helios_core.features")


def modules() -> Iterator[tuple[str, str, Path]]:
    """(package, module, file) of every module of ours, generated ones left out."""
    for package, folder in FOLDERS.items():
        base = ROOT / folder
        for path in sorted(base.rglob("*.py")):
            if "_pb2" in path.name:
                continue
            parts = (package, *path.relative_to(base).with_suffix("").parts)
            name = ".".join(part for part in parts if part != "__init__")
            yield package, name, path


@cache
def imports(path: Path) -> frozenset[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


ALL = list(modules())


@pytest.mark.parametrize(("package", "module", "path"), ALL, ids=[module for _, module, _ in ALL])
def test_a_module_imports_only_what_its_package_may(package: str, module: str, path: Path) -> None:
    imported = imports(path)
    ours = {name.split(".")[0] for name in imported} & OURS
    assert ours <= MAY_IMPORT[package] | {package}
    if package == "helios_core":
        for target, allowed in ONLY_FROM.items():
            if any(name.split(".")[0] == target for name in imported):
                assert module.startswith(allowed), f"{module} reaches {target}"
    if package == "helios_agent":
        assert not {name for name in imported if name.startswith(HEAVY)}


def test_core_reaches_its_ports_adapters_libraries_only_from_the_adapters() -> None:
    for _, module, path in ALL:
        if not module.startswith("helios_core.store.") and module != "helios_core.bus.embedded":
            assert "sqlite3" not in imports(path), module


def test_the_light_part_of_core_brings_no_scientific_stack() -> None:
    """What the agent imports, transitively, stays small."""
    known = {module: imports(path) for _, module, path in ALL}
    todo = [module for module in known if module.startswith("helios_agent")]
    seen: set[str] = set()
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo += [name for name in known.get(module, ()) if name.split(".")[0] in OURS]
    third_party = {name.split(".")[0] for module in seen for name in known.get(module, ())} - OURS
    third_party -= set(sys.stdlib_module_names)
    # psutil: half a megabyte, imported by the source that needs it.
    assert third_party <= {"click", "google", "grpc", "msgspec", "prometheus_client", "psutil", "structlog", "yaml"}


def test_each_folder_holds_one_package_and_its_readme() -> None:
    for folder in FOLDERS.values():
        entries = {path.name for path in (ROOT / folder).parent.iterdir() if path.name != "__pycache__"}
        assert entries <= {Path(folder).name, "README.md"}, folder
