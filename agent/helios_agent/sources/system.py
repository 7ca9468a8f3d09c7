"""The source `system`: the host's processors, memory, disks and network, through psutil.

The names are those of OpenTelemetry's semantic conventions for system metrics where there is one;
what these count since the start of the machine is told here as a rate since the last collection.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import ModuleType
from typing import Any, Final

import msgspec

from helios_agent.sources.base import CollectionResult, MetricsSource, register_source
from helios_core import config as configuration
from helios_core.errors import MissingExtra
from helios_core.model import MetricSample

_LOADS: Final = ("1m", "5m", "15m")
_MIN_ELAPSED_S: Final = 0.05  # a rate over less says nothing
_NO_HARDWARE: Final = ("lo", "ram", "zram")  # lo and loop, and memory that stands for disks
# What a machine makes up: nothing of it can be full.
_UNREAL: Final = frozenset({"squashfs", "iso9660", "overlay", "tmpfs", "devtmpfs", "ramfs"})


class SystemSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `config:` of a source of type system."""

    collect_cpu: bool = True
    collect_memory: bool = True
    collect_disk: bool = True
    collect_network: bool = True


@register_source("system")
class SystemSource(MetricsSource):
    """See the module."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self._settings = configuration.convert(
            dict(config), SystemSettings, name="the config of a source of type system"
        )
        self._psutil: ModuleType | None = None
        self._last: dict[str, Any] = {}
        self._last_s = 0.0

    def initialize(self) -> None:
        """MissingExtra without psutil."""
        try:
            import psutil
        except ImportError as error:
            raise MissingExtra("psutil", "agent") from error
        self._psutil = psutil
        self._last, self._last_s = self._counters([]), time.monotonic()

    def collect(self) -> CollectionResult:
        """Rates are of the time since the last collection; there are none when that was just now."""
        result = CollectionResult()
        counters, now_s = self._counters(result.errors), time.monotonic()
        elapsed_s, before = now_s - self._last_s, self._last
        self._last, self._last_s = counters, now_s
        settings = self._settings
        if settings.collect_cpu:
            result.samples.extend(self._cpu(before, counters, elapsed_s))
        if settings.collect_memory:
            result.samples.extend(self._memory())
        if settings.collect_disk:
            result.samples.extend(self._filesystems(result.errors))
        if elapsed_s >= _MIN_ELAPSED_S:
            result.samples.extend(_rates(before, counters, elapsed_s))
        return result

    def health_check(self) -> None:
        self.initialize()

    def _counters(self, errors: list[str]) -> dict[str, Any]:
        """What only ever grows, for the rates. A sandbox may hide some of it."""
        psutil, settings = self._module, self._settings
        readers: dict[str, Callable[[], Any]] = {}
        if settings.collect_cpu:
            readers["cpu"] = psutil.cpu_times
        if settings.collect_disk:
            readers["disk"] = partial(psutil.disk_io_counters, perdisk=True, nowrap=True)
        if settings.collect_network:
            readers["network"] = partial(psutil.net_io_counters, pernic=True, nowrap=True)
        found = {}
        for family, read in readers.items():
            try:
                found[family] = read() or {}
            except (OSError, NotImplementedError) as error:
                errors.append(f"{family}: {error}")
        return found

    @property
    def _module(self) -> ModuleType:
        if self._psutil is None:
            raise RuntimeError("collect before initialize")
        return self._psutil

    def _cpu(self, before: Mapping[str, Any], now: Mapping[str, Any], elapsed_s: float) -> Iterator[MetricSample]:
        """Busy is what is neither idle nor waiting for a disk; guests are part of user and nice."""
        for name, value in zip(_LOADS, self._module.getloadavg(), strict=True):
            yield MetricSample(f"system.cpu.load_average.{name}", value)
        if elapsed_s < _MIN_ELAPSED_S or not (before.get("cpu") and now.get("cpu")):
            return
        spent = {
            mode: max(0.0, getattr(now["cpu"], mode) - getattr(before["cpu"], mode))
            for mode in now["cpu"]._fields
            if mode not in ("guest", "guest_nice")
        }
        total = sum(spent.values())
        if total:
            yield MetricSample("system.cpu.utilization", 1 - (spent["idle"] + spent.get("iowait", 0.0)) / total)
            for mode in ("user", "system", "iowait", "steal"):
                if mode in spent:
                    yield MetricSample("system.cpu.mode.utilization", spent[mode] / total, {"cpu.mode": mode})

    def _memory(self) -> Iterator[MetricSample]:
        memory = self._module.virtual_memory()
        yield MetricSample("system.memory.utilization", 1 - memory.available / memory.total)
        for state in ("used", "available"):
            yield MetricSample("system.memory.usage", float(getattr(memory, state)), {"system.memory.state": state})
        swap = self._module.swap_memory()
        if swap.total:
            yield MetricSample("system.paging.utilization", swap.used / swap.total)

    def _filesystems(self, errors: list[str]) -> Iterator[MetricSample]:
        """Each device once, at its first place; utilization is of what a user may fill."""
        devices: set[str] = set()
        for part in self._module.disk_partitions(all=False):
            if part.fstype in _UNREAL or part.device in devices:
                continue
            devices.add(part.device)
            try:
                usage = self._module.disk_usage(part.mountpoint)
            except OSError as error:
                errors.append(f"{part.mountpoint}: {error.strerror}")
                continue
            labels = {"system.device": part.device, "system.filesystem.mountpoint": part.mountpoint}
            yield MetricSample("system.filesystem.utilization", usage.percent / 100, labels)
            yield MetricSample("system.filesystem.free", float(usage.free), labels)


_RATES: Final = (
    ("disk", "system.disk.io.rate", "disk.io.direction", {"read": "read_bytes", "write": "write_bytes"}),
    ("disk", "system.disk.operations.rate", "disk.io.direction", {"read": "read_count", "write": "write_count"}),
    ("network", "system.network.io.rate", "network.io.direction", {"receive": "bytes_recv", "transmit": "bytes_sent"}),
    ("network", "system.network.errors.rate", "network.io.direction", {"receive": "errin", "transmit": "errout"}),
    ("network", "system.network.dropped.rate", "network.io.direction", {"receive": "dropin", "transmit": "dropout"}),
)  # fmt: skip


def _rates(before: Mapping[str, Any], now: Mapping[str, Any], elapsed_s: float) -> Iterator[MetricSample]:
    """Bytes, operations and packets a second of each device that was there before, and was ever used."""
    for family, name, label, fields in _RATES:
        for device, counters in now.get(family, {}).items():
            known = before.get(family, {}).get(device)
            if known is None or not any(counters) or device.startswith(_NO_HARDWARE):
                continue
            for direction, field in fields.items():
                grown = max(0, getattr(counters, field) - getattr(known, field))
                yield MetricSample(name, grown / elapsed_s, {"system.device": device, label: direction})
