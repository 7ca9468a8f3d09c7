"""More services than are followed: the rest is followed as one, and each slice still counts once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from helios_core import wire
from helios_core.batches import BatchId, Slice
from helios_core.bus.base import Record
from helios_core.bus.memory import MemoryBus
from helios_core.clock import EventClock
from helios_core.model import OVERFLOW_SERVICE, Event, EventRecord, Level
from helios_core.records import events_record, slice_record
from helios_core.service import IDLE_AFTER_US, Context
from helios_core.windows import WindowDelta
from helios_detector import watermarks
from helios_detector.service import DetectorService
from helios_detector.watermarks import Watermarks

S = 1_000_000
T0_US = 1_772_409_600 * S
A, B = b"a" * 16, b"b" * 16


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watermarks, "MAX_SERVICES", 6)
    monkeypatch.setattr(watermarks, "MAX_SERVICES_PER_CLIENT", 3)


def heard(of: Watermarks, agent: bytes, *services: str) -> list[str]:
    names = [of.under(service, agent) for service in services]
    for name in names:
        of.heard(name, agent, "h", T0_US, T0_US)
    return names


def test_each_agent_and_all_together_are_bounded() -> None:
    made = Watermarks(IDLE_AFTER_US)
    of_a = [heard(made, A, name)[0] for name in ("a1", "a2", "a3", "a4", "a2")]
    assert of_a == ["a1", "a2", "a3", OVERFLOW_SERVICE, "a2"]
    of_b = [heard(made, B, name)[0] for name in ("a1", "b1", "b2", "b3", "a2", "b1")]
    assert of_b == ["a1", "b1", "b2", OVERFLOW_SERVICE, OVERFLOW_SERVICE, "b1"]
    assert [made.under(name) for name in ("a3", "raw", OVERFLOW_SERVICE)] == ["a3", OVERFLOW_SERVICE, OVERFLOW_SERVICE]
    assert made.overflowed == ["a4", "b3", "a2", "raw"]
    assert made.of(OVERFLOW_SERVICE, T0_US).watermark_us == T0_US


def test_there_is_always_room_for_what_is_beyond() -> None:
    made = Watermarks(IDLE_AFTER_US)
    heard(made, A, "a1", "a2", "a3")
    heard(made, B, "b1", "b2", "b3")
    assert heard(made, B, "b4") == [OVERFLOW_SERVICE]
    assert made.of(OVERFLOW_SERVICE, T0_US).watermark_us == T0_US


def test_the_list_of_names_is_bounded() -> None:
    made = Watermarks(IDLE_AFTER_US)
    heard(made, A, *(f"a{i}" for i in range(6)))
    for i in range(1_000):
        made.under(f"{i} {'x' * 256}")
    assert len(made.overflowed) == 100
    assert max(map(len, made.overflowed)) == 80


def slice_(agent: bytes, sequence: int, service: str, window: int, events: int = 10) -> Record:
    delta = WindowDelta(T0_US + window * 10 * S, service, "h")
    delta.levels[Level.INFO] = events
    data = wire.slice_to_proto(Slice(service, delta.end_us, deltas=[delta])).SerializeToString()
    return slice_record(BatchId(agent, 1, sequence), service, data, "h")


async def ran(bus: MemoryBus, clock: EventClock, folder: Path) -> DetectorService:
    context = Context(
        data_dir=folder,
        clock=clock,
        bus=bus,
        store=None,  # type: ignore[arg-type]  # the detector does not use it
        collector=asyncio.get_running_loop().create_future(),
        idle_after_us=IDLE_AFTER_US,
    )
    context.drain.set()
    service = DetectorService(context)
    await service.run()
    return service


async def test_what_is_beyond_counts_under_one_name_and_once(tmp_path: Path) -> None:
    """Two slices of one batch are then of one name, and a batch that comes again is no news."""
    clock = EventClock(T0_US)
    bus = MemoryBus(clock)
    for window in range(6):
        clock.advance_to(T0_US + (window + 1) * 10 * S)
        batch = [slice_(A, window + 1, f"a{i}", window) for i in range(5)]
        batch += [slice_(B, window + 1, f"b{i}", window) for i in range(3)]
        await bus.publish([*batch, *batch])
        events = [Event(T0_US + window * 10 * S, "raw", Level.INFO, "x")] * 7
        await bus.publish([events_record(EventRecord("raw", clock.now_us(), events))])
    service = await ran(bus, clock, tmp_path)
    assert service.engine.services() == [OVERFLOW_SERVICE, "a0", "a1", "a2", "b0", "b1"]
    metric = service._context.metrics.get_sample_value
    assert metric("helios_detection_events_processed_total") == 6 * (8 * 10 + 7)
    assert metric("helios_overflow_events_total") == 6 * (3 * 10 + 7)
    assert service.status()["overflowed"] == ["a3", "a4", "b2", "raw"]
    assert service.engine.decided == 6 * 5  # each but the last window, that still waits for what may be late
    again = await ran(bus, clock, tmp_path)
    assert again.engine.services() == service.engine.services()
    assert again.status()["overflowed"] == service.status()["overflowed"]
