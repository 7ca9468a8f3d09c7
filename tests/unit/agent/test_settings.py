"""The agent's configuration: what is wrong with it, and with the plugins that it names, is said in a sentence."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helios_agent.settings import EXAMPLE, Settings, load
from helios_agent.sources import base
from helios_core.errors import ConfigError

PLUGIN = """
from helios_agent.sources import CollectionResult, MetricSample, MetricsSource, register_source

@register_source("queue")
class Queue(MetricsSource):
    def __init__(self, config):
        super().__init__(config)
        self.length = float(config["length"])

    def collect(self):
        return CollectionResult(samples=[MetricSample("queue.length", self.length, {"queue": "mail"})])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """On the path of modules; what is imported and registered from it is gone afterwards."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        patch.setattr(base, "_TYPES", dict(base._TYPES))
        yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def loaded(folder: Path, text: str, plugin: str | None = None) -> Settings:
    if plugin is not None:
        (folder / "own_sources.py").write_text(plugin)
    (folder / "agent.yaml").write_text(text)
    return load(folder / "agent.yaml", {})


def fault(folder: Path, text: str, plugin: str | None = None) -> str:
    with pytest.raises(ConfigError) as found:
        loaded(folder, text, plugin)
    assert "\n" not in str(found.value)
    return str(found.value)


def test_the_example_is_a_good_one(folder: Path) -> None:
    settings = loaded(folder, EXAMPLE)
    assert [name for name, _ in settings.metric_sources()] == ["system"]
    assert (settings.agent.collection_interval, settings.agent.batch_size) == (60, 100)


def test_a_plugin_on_the_path_registers_its_sources(folder: Path) -> None:
    settings = loaded(
        folder,
        "agent: {plugins: [own_sources]}\n"
        "sources: [{type: queue, config: {length: 3}}, {type: queue, config: {length: 4}}, {type: system},"
        " {type: queue, enabled: false, config: {nonsense: 1}}]",
        PLUGIN,
    )
    assert [name for name, _ in settings.metric_sources()] == ["queue", "queue", "system"]
    values = [source.collect().samples[0].value for name, source in settings.metric_sources() if name == "queue"]
    assert values == [3, 4]
    assert settings.opened() == []


@pytest.mark.parametrize(
    ("plugin", "said"),
    [
        (None, "agent.plugins: own_sources cannot be imported: No module named 'own_sources'"),
        ("import not_there", "own_sources cannot be imported: No module named 'not_there'"),
        ("def broken(:", "own_sources cannot be imported: SyntaxError("),
        ("1 / 0", "own_sources cannot be imported: ZeroDivisionError('division by zero')"),
        (PLUGIN.replace('"queue")', '"system")'), "agent.plugins: own_sources: there are two sources of type 'system'"),
        (PLUGIN.replace('"queue")', '"file")'), "agent.plugins: the type 'file' is the agent's own"),
        (PLUGIN.replace('"queue")', '"stdin")'), "agent.plugins: the type 'stdin' is the agent's own"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_named(folder: Path, plugin: str | None, said: str) -> None:
    assert said in fault(folder, "agent: {plugins: [own_sources]}", plugin)


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        ("{type: queu}", "sources[0]: there is no source of type 'queu'; did you mean 'queue'?"),
        ("{type: zzz}", "types: file, stdin, queue, system"),
        ("{type: queue}", "sources[0]: a source of type 'queue' cannot be made of its config: KeyError('length')"),
        (
            "{type: queue, config: {length: many}}",
            "sources[0]: a source of type 'queue' cannot be made of its config: ValueError(",
        ),
        (
            "{type: stdin}, {type: system, config: {collect_ram: true}}",
            "sources[1]: the config of a source of type system: unknown key 'collect_ram'; did you mean 'collect_",
        ),
        (
            "{type: system}, {type: file, config: {paths: [a.log], parser: plane}}",
            "sources[1].config.parser: there is no parser 'plane'; did you mean plain? (auto, docker,",
        ),
        ("{type: stdin, config: {parser: xml}}", "sources[0].config.parser: there is no parser 'xml' (auto, docker,"),
    ],
)
def test_a_source_that_cannot_be_made_is_named(folder: Path, sources: str, said: str) -> None:
    assert said in fault(folder, f"agent: {{plugins: [own_sources]}}\nsources: [{sources}]", PLUGIN)


@pytest.mark.parametrize(
    ("key", "value"),
    [("collection_interval", value) for value in ("0", "-1", ".nan", ".inf", "soon")]
    + [("batch_size", value) for value in ("0", "-5", "1.5")],
)
def test_a_number_that_cannot_work_is_refused(folder: Path, key: str, value: str) -> None:
    assert f"agent.{key}" in fault(folder, f"agent: {{{key}: {value}}}")


@pytest.mark.parametrize("value", ["10", "0", "-1", "30"])
def test_the_width_of_a_window_is_no_setting(folder: Path, value: str) -> None:
    """The detector decides windows of ten seconds, and would never decide others."""
    assert "unknown key 'window_s' in agent" in fault(folder, f"agent: {{window_s: {value}}}")
