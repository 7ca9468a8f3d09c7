"""The port of the metric sources, the registry, and the source `system` against the real psutil."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from helios_agent.sources import (
    CollectionResult,
    MetricSample,
    MetricsSource,
    base,
    make_source,
    register_source,
    source_types,
)
from helios_agent.sources import system as system_module
from helios_agent.sources.checks import checked
from helios_agent.sources.system import SystemSource
from helios_core.errors import ConfigError, MissingExtra

FAMILIES = ("cpu", "memory", "disk", "network")
# name: (family, labels, least, most)
RATIO, AMOUNT = (0.0, 1.0), (0.0, float("inf"))
CONTRACT: dict[str, tuple[str, set[str], tuple[float, float]]] = {
    "system.cpu.load_average.1m": ("cpu", set(), AMOUNT),
    "system.cpu.load_average.5m": ("cpu", set(), AMOUNT),
    "system.cpu.load_average.15m": ("cpu", set(), AMOUNT),
    "system.cpu.utilization": ("cpu", set(), RATIO),
    "system.cpu.mode.utilization": ("cpu", {"cpu.mode"}, RATIO),
    "system.memory.utilization": ("memory", set(), RATIO),
    "system.memory.usage": ("memory", {"system.memory.state"}, AMOUNT),
    "system.paging.utilization": ("memory", set(), RATIO),
    "system.filesystem.utilization": ("disk", {"system.device", "system.filesystem.mountpoint"}, RATIO),
    "system.filesystem.free": ("disk", {"system.device", "system.filesystem.mountpoint"}, AMOUNT),
    "system.disk.io.rate": ("disk", {"system.device", "disk.io.direction"}, AMOUNT),
    "system.disk.operations.rate": ("disk", {"system.device", "disk.io.direction"}, AMOUNT),
    "system.network.io.rate": ("network", {"system.device", "network.io.direction"}, AMOUNT),
    "system.network.errors.rate": ("network", {"system.device", "network.io.direction"}, AMOUNT),
    "system.network.dropped.rate": ("network", {"system.device", "network.io.direction"}, AMOUNT),
}


def only_of(*families: str) -> dict[str, bool]:
    return {f"collect_{name}": name in families for name in FAMILIES}


def collected(config: dict[str, Any], pause_s: float = 0.06) -> CollectionResult:
    """What it gives, so long after its first look."""
    source = make_source("system", config)
    source.initialize()
    time.sleep(pause_s)
    result = source.collect()
    source.close()
    return result


# ---- the port


@pytest.fixture
def registry() -> Iterator[None]:
    """What a test registers is gone afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "_TYPES", dict(base._TYPES))
        yield


class Queue(MetricsSource):
    def collect(self) -> CollectionResult:
        return CollectionResult([MetricSample("queue.length", float(self.config["length"]))])


def test_a_registered_class_is_made_by_its_name(registry: None) -> None:
    assert register_source("queue")(Queue) is Queue
    assert source_types() == ["queue", "system"]
    source = make_source("queue", {"length": 3})
    source.initialize()
    source.health_check()
    assert source.collect().samples == [MetricSample("queue.length", 3.0)]
    source.close()


def test_two_classes_cannot_have_one_name(registry: None) -> None:
    register_source("queue")(Queue)
    register_source("queue")(Queue)  # the same once more, as when its module is loaded again
    with pytest.raises(ConfigError, match=r"there are two sources of type 'queue': .*test_sources and .*test_sources"):

        @register_source("queue")
        class Other(Queue):
            pass

    assert type(make_source("queue", {})) is Queue


def test_a_type_that_is_not_there() -> None:
    with pytest.raises(KeyError):
        make_source("sytem", {})


def test_a_source_has_to_collect() -> None:
    with pytest.raises(TypeError, match="collect"):
        MetricsSource({})  # type: ignore[abstract]


def test_why_a_sample_is_bad_is_said() -> None:
    bad = [
        MetricSample("a", float("nan")),
        MetricSample("a", "5"),  # type: ignore[arg-type]
        MetricSample("a", 1, dict.fromkeys(map(str, range(40)), "")),
        MetricSample("a", 1, {"k": "x" * 300}),
        MetricSample("a", 1, service="x" * 300),
    ]
    good, faults = checked(CollectionResult(bad), now_us=5, host="h")
    assert good == []
    assert "the metric 'a' with the value nan" in faults[0]
    assert "is no sample: must be real number, not str" in faults[1]
    assert faults[2] == "the metric 'a' has 40 labels: at most 32"
    assert faults[3] == "the metric 'a' has a text of 300 characters: at most 256"
    assert "a service name of 300 bytes" in faults[4]
    assert all(len(fault) < 300 for fault in faults)


# ---- the host's own


def test_every_name_is_one_of_the_contract_with_its_labels_and_within_its_range() -> None:
    result = collected({})
    assert result.errors == []
    seen: defaultdict[str, set[tuple[tuple[str, str], ...]]] = defaultdict(set)
    for sample in result.samples:
        _, labels, (least, most) = CONTRACT[sample.name]
        assert isinstance(sample.value, float)
        assert least <= sample.value <= most, sample
        assert set(sample.labels) == labels, sample
        assert (sample.time_us, sample.host, sample.service) == (0, "", "")
        place = tuple(sorted(sample.labels.items()))
        assert place not in seen[sample.name], f"{sample} comes twice"
        seen[sample.name].add(place)
    always = {"system.cpu.load_average.1m", "system.memory.utilization", "system.memory.usage"}
    assert always <= set(seen)
    good, faults = checked(result, now_us=1, host="h")
    assert (len(good), faults) == (len(result.samples), [])


def test_the_values_are_those_of_the_machine() -> None:
    values = {(s.name, *s.labels.values()): s.value for s in collected(only_of("memory", "cpu")).samples}
    memory = psutil.virtual_memory()
    used = values["system.memory.usage", "used"]
    available = values["system.memory.usage", "available"]
    assert used + available <= memory.total * 1.05
    assert values["system.memory.utilization",] == pytest.approx(1 - available / memory.total, abs=0.01)
    assert values["system.cpu.load_average.1m",] == pytest.approx(psutil.getloadavg()[0], abs=2)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_alone_and_none(family: str) -> None:
    result = collected(only_of(family))
    assert {CONTRACT[sample.name][0] for sample in result.samples} <= {family}
    rest = collected(only_of(*(name for name in FAMILIES if name != family)))
    assert family not in {CONTRACT[sample.name][0] for sample in rest.samples}


def test_with_all_of_it_turned_off_there_is_nothing() -> None:
    assert collected(only_of()) == CollectionResult()


def test_there_are_no_rates_of_no_time() -> None:
    names = {sample.name for sample in collected({}, pause_s=0).samples}
    assert names
    assert not any(name.endswith(".rate") or name.startswith("system.cpu.util") for name in names)


def test_what_is_counted_is_told_as_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_s = 100.0
    bytes_sent = 5_000
    counters = type(psutil.net_io_counters())

    def net_io_counters(*, pernic: bool, nowrap: bool) -> dict[str, Any]:
        made = counters(*[0] * len(counters._fields))._replace(bytes_sent=bytes_sent, errin=3)
        return {"eth0": made, "lo": made, "eth1": counters(*[0] * len(counters._fields))}

    monkeypatch.setattr(psutil, "net_io_counters", net_io_counters)
    monkeypatch.setattr(system_module.time, "monotonic", lambda: clock_s)
    source = make_source("system", only_of("network"))
    source.initialize()
    clock_s, bytes_sent = 110.0, 25_000
    rates = {(s.name, *sorted(s.labels.values())): s.value for s in source.collect().samples}
    assert rates["system.network.io.rate", "eth0", "transmit"] == 2_000
    assert rates["system.network.errors.rate", "eth0", "receive"] == 0
    assert {key[1] for key in rates} == {"eth0"}  # no loopback, and nothing of what was never used
    clock_s, bytes_sent = 120.0, 100  # the card was reset
    rates = {(s.name, *sorted(s.labels.values())): s.value for s in source.collect().samples}
    assert rates["system.network.io.rate", "eth0", "transmit"] == 0


def test_busy_is_what_is_neither_idle_nor_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_s = 100.0
    times = psutil.cpu_times()
    zero = type(times)(*[0.0] * len(times))
    now = zero
    monkeypatch.setattr(psutil, "cpu_times", lambda: now)
    monkeypatch.setattr(system_module.time, "monotonic", lambda: clock_s)
    source = make_source("system", only_of("cpu"))
    source.initialize()
    clock_s, now = 110.0, zero._replace(user=3.0, guest=3.0, system=1.0, idle=4.0, iowait=2.0)
    values = {(s.name, *s.labels.values()): s.value for s in source.collect().samples}
    assert values["system.cpu.utilization",] == pytest.approx(0.4)
    assert values["system.cpu.mode.utilization", "user"] == pytest.approx(0.3)
    assert values["system.cpu.mode.utilization", "iowait"] == pytest.approx(0.2)


def _raising(error: Exception) -> Callable[..., Any]:
    def call(*args: object, **named: object) -> Any:
        raise error

    return call


@pytest.mark.parametrize(
    ("function", "error"),
    [
        ("disk_io_counters", NotImplementedError("/proc/diskstats not available on this system")),
        ("net_io_counters", OSError(13, "Permission denied")),
    ],
)
def test_what_a_sandbox_hides_is_said_and_the_rest_is_there(
    monkeypatch: pytest.MonkeyPatch, function: str, error: Exception
) -> None:
    monkeypatch.setattr(psutil, function, _raising(error))
    result = collected({})
    assert len(result.errors) == 1
    assert str(error) in result.errors[0]
    assert "system.memory.utilization" in {sample.name for sample in result.samples}


def test_a_filesystem_that_cannot_be_asked_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    part = type("Part", (), {"device": "/dev/sdz1", "mountpoint": "/mnt/gone", "fstype": "ext4"})
    monkeypatch.setattr(psutil, "disk_partitions", lambda *, all: [part])  # noqa: A006 -- psutil's own name
    monkeypatch.setattr(psutil, "disk_usage", _raising(OSError(5, "Input/output error")))
    result = collected(only_of("disk"))
    assert result.errors == ["/mnt/gone: Input/output error"]


def test_a_device_that_is_mounted_twice_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def part(device: str, mountpoint: str, fstype: str = "ext4") -> object:
        return type("Part", (), {"device": device, "mountpoint": mountpoint, "fstype": fstype})

    parts = [part("/dev/sda1", "/"), part("/dev/sda1", "/srv"), part("/dev/loop0", "/snap/core", "squashfs")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda *, all: parts)  # noqa: A006 -- psutil's own name
    usage = type("Usage", (), {"percent": 25.0, "free": 7})
    monkeypatch.setattr(psutil, "disk_usage", lambda path: usage)
    found = [s for s in collected(only_of("disk")).samples if s.name.startswith("system.filesystem")]
    place = {"system.device": "/dev/sda1", "system.filesystem.mountpoint": "/"}
    assert found == [
        MetricSample("system.filesystem.utilization", 0.25, place),
        MetricSample("system.filesystem.free", 7.0, place),
    ]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"collect_cpus": True}, "unknown key 'collect_cpus'; did you mean 'collect_cpu'?"),
        ({"zzz": 1}, "known keys: collect_cpu, collect_disk, collect_memory, collect_network"),
        ({"collect_cpu": "perhaps"}, "collect_cpu"),
    ],
)
def test_a_wrong_key_or_value_is_named(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as found:
        make_source("system", config)
    assert said in str(found.value)


def test_without_psutil_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    source = make_source("system", {})
    for ask in (source.initialize, source.health_check):
        with pytest.raises(MissingExtra) as found:
            ask()
        assert str(found.value) == "psutil is not installed: pip install 'helios-observability[agent]'"


def test_to_collect_before_it_is_initialized_is_a_mistake() -> None:
    with pytest.raises(RuntimeError, match="before initialize"):
        SystemSource({}).collect()
