"""What comes in at once is bounded over HTTP: events and OTLP are refused alike, and give back what they held."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios_collector import body as body_module
from helios_collector.admission import Admission
from helios_collector.body import Gate
from helios_collector.http import HttpIngest
from helios_collector.ingest import ServiceNames
from helios_collector.otlp.http import OtlpHttp
from helios_collector.otlp.receiver import Receiver
from helios_collector.telemetry import Telemetry
from helios_core.bus.base import Record
from helios_core.bus.memory import MemoryBus
from helios_core.clock import EventClock
from helios_core.errors import BusUnavailable
from helios_core.keys import Keys
from helios_core.settings import Limits

NOW_US = 1_772_409_600_000_000
EVENTS, LOGS = "/api/v1/events", "/v1/logs"
BOTH = pytest.mark.parametrize("path", [EVENTS, LOGS])
AWAY = BusUnavailable("the bus is away")
GOOD = {
    EVENTS: json.dumps({"service": "shop", "message": "x"}).encode(),
    LOGS: json.dumps(
        {"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": {"stringValue": "x"}}]}]}]},
    ).encode(),
}


class Bus(MemoryBus):
    """A bus that fails as often as it is told, that can be waited for, and counts how often it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.faults: list[Exception] = []
        self.go = asyncio.Event()
        self.go.set()

    async def publish(self, records: Sequence[Record]) -> None:
        self.calls += 1
        await self.go.wait()
        if self.faults:
            raise self.faults.pop()
        await super().publish(records)


class Request:
    """A request whose body comes as the test sends it.

    Attributes:
        asked: how often its body was asked for.
    """

    def __init__(self, app: Any, path: str, client: str, headers: dict[str, str]) -> None:
        sent = {"host": "localhost", "content-type": "application/json", **headers}
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "client": (client, 1),
            "headers": [(name.encode(), text.encode()) for name, text in sent.items()],
        }
        self.asked = 0
        self.status = 0
        self.headers: dict[str, str] = {}
        self._coming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        self.asked += 1
        return await self._coming.get()

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): text.decode() for name, text in message["headers"]}

    def part(self, data: bytes, *, more: bool = True) -> Request:
        self._coming.put_nowait({"type": "http.request", "body": data, "more_body": more})
        return self

    def end(self, data: bytes = b"") -> Request:
        return self.part(data, more=False)

    def go_away(self) -> Request:
        self._coming.put_nowait({"type": "http.disconnect"})
        return self

    @property
    def retry_after_s(self) -> int:
        """It is there, and an integer."""
        text = self.headers["retry-after"]
        assert text.isdecimal()
        return int(text)

    async def answered(self) -> int:
        await asyncio.wait_for(self.task, 5)
        return self.status


class Site:
    """A collector's two applications, at a time that only the test moves."""

    def __init__(self, **limits: Any) -> None:
        self.bus = Bus()
        self.gate = Gate()
        self.telemetry = Telemetry()
        self.now_s = 0.0
        self.admission = Admission(self.bus, Limits(**limits), self.telemetry, now_s=lambda: self.now_s)
        clock, keys = EventClock(NOW_US), Keys(None)
        receiver = Receiver(self.admission, clock, ServiceNames(), self.telemetry)
        self._apps = {
            EVENTS: HttpIngest(self.admission, clock, keys, self.telemetry, gate=self.gate),
            LOGS: OtlpHttp(receiver, self.admission, keys, self.gate, self.telemetry),
        }

    def ask(self, path: str, client: str = "10.0.0.1", **headers: str) -> Request:
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        return Request(self._apps[path], path, client, named)

    async def send(self, path: str, size: int = 0, client: str = "10.0.0.1") -> Request:
        """A whole request of so many bytes, when it is answered."""
        request = self.ask(path, client).end(good(path, size))
        await request.answered()
        return request

    def fail_with(self, fault: Exception, request: Request) -> None:
        self.bus.faults.append(fault)
        request.end()

    @property
    def pending(self) -> float:
        return self.telemetry.registry.get_sample_value("helios_ingest_pending_bytes") or 0

    @property
    def is_open(self) -> float | None:
        return self.telemetry.registry.get_sample_value("helios_ingest_breaker_open")

    def refused(self, reason: str) -> float:
        return self.telemetry.registry.get_sample_value("helios_ingest_refusals_total", {"reason": reason}) or 0


def good(path: str, size: int = 0) -> bytes:
    """One event, in so many bytes."""
    return GOOD[path].ljust(size)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for is in the code under test
            await asyncio.sleep(0.001)


# --- room ------------------------------------------------------------------------------------------


@BOTH
async def test_one_alone_is_taken_however_large_and_a_second_not_while_it_is_under_way(path: str) -> None:
    site = Site(pending_bytes=1_024)
    site.bus.go.clear()
    first = site.ask(path).end(good(path, 50_000))
    await until(lambda: site.bus.calls)
    for other in (EVENTS, LOGS):
        second = site.ask(other)
        assert await second.answered() == 503
        assert second.retry_after_s >= 1
        assert second.asked == 0  # before anything of it is read
    assert (site.bus.calls, site.refused("memory")) == (1, 2)
    site.bus.go.set()
    assert await first.answered() in (200, 202)
    assert site.pending == 0
    assert (await site.send(path)).status in (200, 202)


@BOTH
async def test_one_that_grows_is_refused_once_the_others_leave_no_room(path: str) -> None:
    site = Site(pending_bytes=1_024)
    first, second = site.ask(path), site.ask(path)
    first.part(good(path, 600))
    await until(lambda: site.pending == 600)
    second.part(good(path, 600))
    await until(lambda: site.pending == 1_200)
    first.part(b" " * 600)
    await until(lambda: site.pending == 1_800)
    second.part(b" ")
    assert await second.answered() == 503
    assert second.retry_after_s >= 1
    assert (site.pending, site.refused("memory")) == (1_200, 1)
    assert await first.end().answered() in (200, 202)
    assert site.pending == 0


@BOTH
async def test_what_is_under_way_counts_as_it_came(path: str) -> None:
    """`limits.pending_bytes`: of requests that are under way, as they came."""
    site = Site()
    site.bus.go.clear()
    request = site.ask(path).end(good(path, 5_000))
    await until(lambda: site.bus.calls)
    pending = site.pending
    site.bus.go.set()
    await request.answered()
    assert pending == 5_000


ENDS: dict[str, tuple[int, Callable[[Site, Request], object]]] = {
    "taken": (0, lambda _, request: request.end()),
    "no JSON": (400, lambda _, request: request.end(b"}")),
    "too large": (413, lambda _, request: request.part(b" " * 11_000_000)),
    "the client goes away": (400, lambda _, request: request.go_away()),
    "a bug": (503, lambda site, request: site.fail_with(ZeroDivisionError("a bug"), request)),
    "the bus is away": (503, lambda site, request: site.fail_with(AWAY, request)),
    "stopping": (503, lambda site, request: asyncio.ensure_future(site.gate.close())),
}


@BOTH
@pytest.mark.parametrize(("status", "end"), ENDS.values(), ids=ENDS)
async def test_memory_is_given_back_however_it_ends(
    path: str, status: int, end: Callable[[Site, Request], object]
) -> None:
    site = Site(pending_bytes=1_024)
    request = site.ask(path).part(good(path, 5_000))
    await until(lambda: site.pending == 5_000)
    end(site, request)
    answered = await request.answered()
    assert answered == status or (status, answered) in ((0, 200), (0, 202))
    assert (site.pending, site.refused("memory")) == (0, 0)
    if end is not ENDS["stopping"][1]:
        site.now_s += 60
        assert (await site.send(path, 5_000)).status in (200, 202)


@BOTH
@pytest.mark.parametrize(
    "content",
    [b"no gzip", gzip.compress(b"x" * 5_000, mtime=0)[:-9], gzip.compress(b"}" * 5_000, mtime=0)],
    ids=["none", "cut", "no JSON"],
)
async def test_memory_is_given_back_after_a_body_that_does_not_unpack(path: str, content: bytes) -> None:
    site = Site(pending_bytes=1_024)
    assert await site.ask(path, content_encoding="gzip").end(content).answered() == 400
    assert site.pending == 0


@BOTH
@pytest.mark.parametrize("when", ["reading", "publishing"])
async def test_who_is_cancelled_is_told_to_come_again_and_gives_memory_back(path: str, when: str) -> None:
    """As by a server that has waited long enough, which would say 500: senders give up then."""
    site = Site(pending_bytes=1_024)
    site.bus.go.clear()
    request = site.ask(path).part(good(path, 5_000), more=when == "reading")
    await until(lambda: site.pending if when == "reading" else site.bus.calls)
    assert site.pending >= 5_000
    request.task.cancel()
    assert await request.answered() == 503
    assert int(request.headers["retry-after"]) >= 1
    # What has joined a round is in it until that is over, and so is the memory that it takes.
    assert (site.pending == 0) is (when == "reading")
    site.bus.go.set()
    await until(lambda: site.pending == 0)
    await asyncio.wait_for(site.gate.close(), 5)  # nothing is on its way any more


@given(st.lists(st.tuples(st.sampled_from([EVENTS, LOGS]), st.integers(0, 3_000), st.sampled_from(sorted(ENDS)))))
def test_whatever_comes_and_goes_at_once_nothing_stays(plan: list[tuple[str, int, str]]) -> None:
    async def run() -> None:
        site = Site(pending_bytes=4_096)
        requests = []
        for path, size, end in plan:
            request = site.ask(path).part(good(path, size))
            requests.append(request)
            await asyncio.sleep(0)
            if end == "stopping":
                request.task.cancel()
            elif end != "too large":
                ENDS[end][1](site, request)
            site.now_s += 0.5
        for request in requests:
            request.end()
        if requests:
            await asyncio.wait([request.task for request in requests], timeout=5)
        assert all(request.task.done() for request in requests)
        assert site.pending == 0
        site.bus.faults.clear()
        site.now_s += 60
        assert (await site.send(EVENTS, 5_000)).status == 202

    asyncio.run(run())


@BOTH
async def test_a_body_that_does_not_come_in_time(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_module, "_BODY_S", 0.05)
    monkeypatch.setattr(body_module, "_STALL_S", 0.05)
    site = Site(pending_bytes=1_024)
    never, slowly = site.ask(path), site.ask(path).part(good(path, 900))
    await until(lambda: site.pending == 900)
    assert (await never.answered(), await slowly.answered()) == (503, 503)
    assert (site.pending, site.bus.calls) == (0, 0)
    assert (await site.send(path)).status in (200, 202)


# --- the bus ---------------------------------------------------------------------------------------


@BOTH
async def test_while_the_bus_is_away_nothing_is_read_and_nothing_published(path: str) -> None:
    site = Site()
    site.bus.faults = [AWAY] * 2
    for pause_s, calls in ((1, 1), (2, 2)):
        failed = await site.send(path)
        assert (failed.status, site.bus.calls, site.is_open) == (503, calls, 1)
        assert failed.retry_after_s >= 1
        began_s = site.now_s
        for share in (0, 0.5, 0.999):
            site.now_s = began_s + share * pause_s
            for other in (EVENTS, LOGS):
                refused = site.ask(other)
                assert await refused.answered() == 503
                assert pause_s * (1 - share) <= refused.retry_after_s <= 3
                assert (refused.asked, site.bus.calls) == (0, calls)
        site.now_s = began_s + pause_s
    assert (await site.send(path)).status in (200, 202)
    assert site.is_open == 0
    assert (await site.send(path)).status in (200, 202)


@BOTH
@pytest.mark.parametrize("end", ["taken", "away", "cancelled"])
async def test_after_the_pause_one_probes_while_others_are_refused(path: str, end: str) -> None:
    site = Site()
    site.bus.faults = [AWAY]
    await site.send(path)
    site.now_s = 1
    site.bus.go.clear()
    probe = site.ask(path).end(good(path))
    await until(lambda: site.bus.calls == 2)
    late = [site.ask(path) for _ in range(10)]
    assert {await request.answered() for request in late} == {503}
    assert {request.asked for request in late} == {0}
    assert site.bus.calls == 2
    if end == "cancelled":  # its client has gone: what it brought is on its way nevertheless
        probe.task.cancel()
        await asyncio.wait([probe.task])
    elif end == "away":
        site.bus.faults = [AWAY]
    site.bus.go.set()
    if end == "cancelled":
        await until(lambda: not site.is_open)
    else:
        assert (await probe.answered() == 503) is (end == "away")
    assert site.is_open == (end == "away")
    again = await site.send(path)
    assert (again.status == 503) is (end == "away")
    site.now_s = 3
    assert (await site.send(path)).status in (200, 202)


# --- rates -----------------------------------------------------------------------------------------


@BOTH
async def test_a_client_beyond_its_rate_is_told_when_and_others_are_taken(path: str) -> None:
    site = Site(events_per_second=0.25)  # two seconds' worth is half an event: one is taken, and owed for
    assert (await site.send(path)).status in (200, 202)
    refused = site.ask(path)
    assert await refused.answered() == 429
    assert (refused.asked, site.bus.calls, site.refused("rate")) == (0, 1, 1)
    assert refused.retry_after_s >= 2
    assert (await site.send(path, client="10.0.0.2")).status in (200, 202)
    site.now_s = 1.9
    assert (await site.send(path)).status == 429
    site.now_s = refused.retry_after_s
    assert (await site.send(path)).status in (200, 202)


@BOTH
async def test_bytes_are_paid_for_as_they_came(path: str) -> None:
    """7,000 bytes at 1,000 a second, of which 2,000 come at once: the rest is paid for in five seconds."""
    site = Site(bytes_per_second=1_000)
    assert (await site.send(path, 6_999)).status in (200, 202)
    refused = await site.send(path)
    assert (refused.status, refused.retry_after_s) == (429, 5)
    site.now_s = 4.99
    assert (await site.send(path)).status == 429
    site.now_s = 5
    assert (await site.send(path)).status in (200, 202)


@BOTH
async def test_without_limits_whatever_comes_is_taken(path: str) -> None:
    site = Site()
    for _ in range(20):
        assert (await site.send(path, 100_000)).status in (200, 202)
    assert (site.refused("rate"), site.refused("memory"), site.refused("bus"), site.is_open) == (0, 0, 0, 0)
