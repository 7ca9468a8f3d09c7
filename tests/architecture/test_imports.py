"""Who may import whom (docs/architecture.md): read from the imports themselves."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
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


def modules() -> Iterator[tuple[str, str, set[str]]]:
    """(package, module, imported modules) of every module of ours, generated ones left out."""
    for package, folder in FOLDERS.items():
        base = ROOT / folder
        for path in sorted(base.rglob("*.py")):
            if "_pb2" in path.name:
                continue
            parts = (package, *path.relative_to(base).with_suffix("").parts)
            name = ".".join(part for part in parts if part != "__init__")
            yield package, name, imports(path)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


ALL = list(modules())


@pytest.mark.parametrize(("package", "module", "imported"), ALL, ids=[module for _, module, _ in ALL])
def test_a_module_imports_only_what_its_package_may(package: str, module: str, imported: set[str]) -> None:
    ours = {name.split(".")[0] for name in imported} & OURS
    assert ours <= MAY_IMPORT[package] | {package}
    if package == "helios_core":
        for target, allowed in ONLY_FROM.items():
            if any(name.split(".")[0] == target for name in imported):
                assert module.startswith(allowed), f"{module} reaches {target}"
    if package == "helios_agent":
        assert not {name for name in imported if name.startswith(HEAVY)}


def test_core_reaches_its_ports_adapters_libraries_only_from_the_adapters() -> None:
    for _, module, imported in ALL:
        if not module.startswith("helios_core.store.") and module != "helios_core.bus.embedded":
            assert "sqlite3" not in imported, module


def test_the_light_part_of_core_brings_no_scientific_stack() -> None:
    """What the agent imports, transitively, stays small."""
    known = {module: imported for _, module, imported in ALL}
    todo = [module for module in known if module.startswith("helios_agent")]
    seen: set[str] = set()
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo += [name for name in known.get(module, ()) if name.split(".")[0] in OURS]
    third_party = {name.split(".")[0] for module in seen for name in known.get(module, ())} - OURS
    third_party -= set(sys.stdlib_module_names)
    assert third_party <= {"click", "google", "grpc", "msgspec", "prometheus_client", "structlog", "yaml"}


def test_each_folder_holds_one_package_and_its_readme() -> None:
    for folder in FOLDERS.values():
        entries = {path.name for path in (ROOT / folder).parent.iterdir() if path.name != "__pycache__"}
        assert entries <= {Path(folder).name, "README.md"}, folder
