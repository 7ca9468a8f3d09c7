"""Events over HTTP: what is good is on the bus before it is acknowledged, what is wrong is named by its index."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import httpx
import pytest

from helios_collector.admission import Admission
from helios_collector.http import HttpIngest
from helios_collector.telemetry import Telemetry
from helios_core import wire
from helios_core.bus.base import Topic
from helios_core.bus.memory import MemoryBus
from helios_core.clock import EventClock
from helios_core.errors import BusUnavailable
from helios_core.exposed import PATHS, Exposed, scraped
from helios_core.keys import Grant, Keys, Scope, hash_of
from helios_core.model import Event, Level
from helios_core.routes import Headers, Request, Routes

NOW_US = 1_772_409_600_000_000  # 2026-03-02T00:00:00Z
URL = "/api/v1/events"


class Site:
    """The application with its bus.

    Attributes:
        is_direct: requests come whole, and are answered as `routes.Direct` says where that takes them.
        directly: how many were.
    """

    is_direct = False

    def __init__(self, keys: Keys | None = None) -> None:
        self.bus = MemoryBus()
        self.directly = 0
        telemetry = Telemetry()
        app = Routes()
        self._ingest = HttpIngest(Admission(self.bus), EventClock(NOW_US), keys or Keys(None), telemetry)
        app.mount("/", self._ingest)
        for path in PATHS:
            app.mount(path, Exposed(keys or Keys(None), scraped(telemetry.registry)))
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")

    async def post(self, body: Any, **headers: str) -> httpx.Response:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {k.replace("_", "-"): v for k, v in headers.items()}
        if self.is_direct:
            answer = await self._direct(httpx.Request("POST", f"http://localhost{URL}", content=data, headers=named))
            if answer is not None:
                self.directly += 1
                return answer
        return await self.client.post(URL, content=data, headers=named)

    async def _direct(self, request: httpx.Request) -> httpx.Response | None:
        """None where it is not for the direct way."""
        answered: asyncio.Future[httpx.Response] = asyncio.get_running_loop().create_future()
        raw = [(name.lower(), value) for name, value in request.headers.raw]

        def answer(status: int, body: bytes, headers: Headers) -> None:
            answered.set_result(httpx.Response(status, content=body, headers=list(headers)))

        if not self._ingest.direct(URL, Request(raw, request.content, "127.0.0.1"), answer):
            assert not answered.done()
            return None
        return await asyncio.wait_for(answered, 5)

    async def events(self) -> list[Event]:
        consumer = await self.bus.subscribe("test", [Topic.EVENTS])
        received = await consumer.poll(max_records=1_000, timeout_s=0)
        return [event for record in received for event in wire.record_from_bytes(record.value).events]

    async def dead(self) -> list[str]:
        consumer = await self.bus.subscribe("test", [Topic.DEAD_LETTER])
        return [r.headers["reason"] for r in await consumer.poll(max_records=1_000, timeout_s=0)]


@pytest.fixture(autouse=True, params=["application", "direct"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever holds for one way holds for the other."""
    monkeypatch.setattr(Site, "is_direct", request.param == "direct")


GOOD = {
    "timestamp": "2026-03-02T00:00:01.5Z",
    "service": "shop",
    "level": "error",
    "message": "no stock",
    "metadata": {"latency_ms": 12.5, "endpoint": "/items/17", "request_id": "r1"},
    "trace_id": "ab" * 16,
}


async def test_one_event() -> None:
    site = Site()
    answer = await site.post(GOOD)
    assert (answer.status_code, answer.json()) == (202, {"accepted": 1, "rejected": 0, "errors": []})
    (event,) = await site.events()
    assert event == Event(
        time_us=NOW_US + 1_500_000,
        service="shop",
        level=Level.ERROR,
        message="no stock",
        latency_us=12_500,
        endpoint="/items/17",
        trace_id="ab" * 16,
        attributes={"request_id": "r1"},
    )


@pytest.mark.parametrize("form", ["array", "ndjson", "gzip"])
async def test_many_events(form: str) -> None:
    site = Site()
    many = [{**GOOD, "message": str(i)} for i in range(1_200)]
    if form == "ndjson":
        answer = await site.post("\n".join(map(json.dumps, many)).encode())
    elif form == "gzip":
        answer = await site.post(gzip.compress(json.dumps(many).encode()), content_encoding="gzip")
    else:
        answer = await site.post(many)
    assert answer.json()["accepted"] == 1_200
    assert [event.message for event in await site.events()] == [str(i) for i in range(1_200)]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({**GOOD, "service": ""}, "service is missing"),
        ({**GOOD, "service": "x" * 10_240}, "service name of 10240 bytes"),
        ({**GOOD, "timestamp": "yesterday"}, "is no time"),
        ({**GOOD, "metadata": {"latency_ms": -5}}, "latency_ms -5"),
        ({**GOOD, "metadata": {"latency_ms": "fast"}}, "latency_ms 'fast'"),
        ({**GOOD, "message": 5}, "not an event"),
        ([1], "not an event"),
        ({**GOOD, "message": "x" * 300_000}, "at most 262144"),
        ({"service": "shop", "id": "a"}, "timestamp is missing"),
        ({**GOOD, "id": "a", "timestamp": "1999-01-01T00:00:00Z"}, "needs a plausible one"),
    ],
)
async def test_a_bad_event_is_named_and_the_good_beside_it_go_on(bad: Any, reason: str) -> None:
    site = Site()
    answer = await site.post([GOOD, bad, GOOD])
    assert answer.status_code == 202
    assert answer.json()["accepted"] == 2
    ((index, said),) = [(error["index"], error["reason"]) for error in answer.json()["errors"]]
    assert index == 1
    assert reason in said
    assert len(await site.events()) == 2
    assert await site.dead() == [said]


# Four bytes each as JSON has them, and eighteen as they are stored.
LARGE = json.dumps({**GOOD, "metadata": {"numbers": [1e15] * 35_000}}).replace("1000000000000000.0", "1e15")
DEEP = json.dumps({**GOOD, "metadata": {"deep": 1}}).replace(": 1}", f": {'[' * 900}{']' * 900}}}")
NEARLY = json.dumps({**GOOD, "message": "x" * 261_800})


@pytest.mark.parametrize(
    ("bad", "key", "reason"),
    [(LARGE, "", "at most 262144"), (NEARLY, "k" * 256, "at most 262144"), (DEEP, "", "")],
    ids=["larger inside", "its id", "deep"],
)
async def test_a_record_is_read_whatever_was_in_it(bad: str, key: str, reason: str) -> None:
    """What is accepted shares a record with what others send: it must be read again."""
    site = Site()
    headers = {"idempotency_key": key} if key else {}
    answer = await site.post(f"[{json.dumps(GOOD)},{bad},{json.dumps(GOOD)}]".encode(), **headers)
    said = answer.json()
    assert answer.status_code == 202
    assert len(await site.events()) == said["accepted"]
    if reason:
        assert said["accepted"] == 2
        assert reason in said["errors"][0]["reason"]


async def test_a_latency_beyond_all_numbers_is_the_longest() -> None:
    site = Site()
    body = json.dumps([GOOD, GOOD]).replace("12.5", "1e306", 1)
    assert (await site.post(body.encode())).json()["accepted"] == 2
    assert sorted(event.latency_us or 0 for event in await site.events()) == [12_500, 3_600_000_000]


async def test_an_event_that_fails_for_a_reason_of_ours_takes_none_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()
    read = site._ingest._reader.event

    def fails(raw: bytes, **more: Any) -> Any:
        if b"bug" in raw:
            raise ZeroDivisionError
        return read(raw, **more)

    monkeypatch.setattr(site._ingest._reader, "event", fails)
    answer = await site.post([GOOD, {**GOOD, "message": "bug"}, GOOD])
    assert (answer.status_code, answer.json()["accepted"], answer.json()["rejected"]) == (202, 2, 1)
    assert "ZeroDivisionError" in answer.json()["errors"][0]["reason"]
    assert len(await site.dead()) == 1


async def test_of_very_many_bad_ones_the_first_are_named() -> None:
    site = Site()
    answer = await site.post(b"[" + b"0," * 20_000 + json.dumps(GOOD).encode() + b"]")
    said = answer.json()
    assert (answer.status_code, said["accepted"], said["rejected"]) == (202, 1, 20_000)
    assert [error["index"] for error in said["errors"]] == list(range(1_000))
    assert len(await site.events()) == 1


async def test_nothing_but_bad_events_is_400() -> None:
    answer = await Site().post({"service": ""})
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["index"] == 0


@pytest.mark.parametrize(
    ("body", "headers", "status", "said"),
    [
        (b"", {}, 400, "the body is empty"),
        (b"{broken", {}, 400, "not JSON"),
        (b"not gzip", {"content_encoding": "gzip"}, 400, "gzip body is damaged"),
        (gzip.compress(b"{}" * 99, mtime=0)[:-9], {"content_encoding": "gzip"}, 400, "ends too early"),
        (gzip.compress(b" " * 60_000_000, mtime=0), {"content_encoding": "gzip"}, 413, "unpacks to more than"),
        (b"x" * 11_000_000, {}, 413, "at most 10485760"),
        (b"{}", {"content_encoding": "br"}, 415, "gzip or none"),
        (
            gzip.compress(b"[" + b"0," * 1_000_001 + b"0]", mtime=0),
            {"content_encoding": "gzip"},
            413,
            "send less at once",
        ),
        (gzip.compress(b"0\n" * 1_000_002, mtime=0), {"content_encoding": "gzip"}, 413, "send less"),
        (b"[" * 20_000 + b"]" * 20_000, {}, 400, "not JSON"),
        (b"[1,\n2", {}, 400, "not JSON"),
        (b"{}", {"idempotency_key": "k" * 257}, 400, "Idempotency-Key of 257 bytes"),
    ],
    ids=[
        "empty",
        "broken",
        "no gzip",
        "half gzip",
        "gzip bomb",
        "11 MB",
        "brotli",
        "a million values",
        "a million lines",
        "deep",
        "half an array",
        "a long key",
    ],
)
async def test_a_body_that_cannot_be_used(body: bytes, headers: dict[str, str], status: int, said: str) -> None:
    answer = await Site().post(body, **headers)
    assert answer.status_code == status
    assert said in answer.json()["error"]


async def test_an_idempotency_key_gives_events_their_ids() -> None:
    site = Site()
    for _ in range(2):
        await site.post([GOOD, {**GOOD, "id": "own"}], idempotency_key="k7")
    assert [event.id for event in await site.events()] == ["k7/0", "own"] * 2


@pytest.mark.parametrize(
    ("written", "kept"), [("1999-01-01T00:00:00Z", False), (NOW_US + 700_000_000, False), (NOW_US, True)]
)
async def test_an_implausible_time_is_counted_at_receipt(written: str | int, kept: bool) -> None:
    site = Site()
    answer = await site.post({**GOOD, "timestamp": written})
    assert [warning["index"] for warning in answer.json().get("warnings", [])] == ([] if kept else [0])
    (event,) = await site.events()
    assert event.time_us == NOW_US
    assert ("helios.timestamp_replaced" in event.attributes) is not kept


async def test_a_bus_that_is_full_says_when_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()

    async def full(records: object) -> None:
        raise BusUnavailable("the topic events is full")

    monkeypatch.setattr(site.bus, "publish", full)
    answer = await site.post(GOOD)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] in ("1", "2")
    assert "full" in answer.json()["error"]


KEYS = Keys({hash_of("in"): Grant(frozenset({Scope.INGEST})), hash_of("see"): Grant(frozenset({Scope.METRICS}))})


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (URL, {}, 401),
        (URL, {"authorization": "Bearer wrong"}, 401),
        (URL, {"authorization": "Bearer see"}, 403),
        (URL, {"authorization": "Bearer in"}, 202),
        (URL, {"x-api-key": "in"}, 202),
        ("/metrics", {"authorization": "Bearer in"}, 403),
        ("/metrics", {"authorization": "Bearer see"}, 200),
        ("/health", {}, 200),
    ],
)
async def test_who_may_do_what(path: str, headers: dict[str, str], status: int) -> None:
    site = Site(KEYS)
    if path == URL:
        answer = await site.client.post(path, content=json.dumps(GOOD), headers=headers)
    else:
        answer = await site.client.get(path, headers=headers)
    assert answer.status_code == status


async def test_many_large_events_are_spread_over_records() -> None:
    site = Site()
    answer = await site.post([{**GOOD, "message": "x" * 200_000} for _ in range(20)])
    assert answer.json()["accepted"] == 20
    assert len(await site.events()) == 20


async def test_other_paths_and_methods() -> None:
    site = Site()
    assert (await site.client.get("/nowhere")).status_code == 404
    assert (await site.client.get(URL)).headers["allow"] == "POST"
    assert (await site.client.post(URL + "/ingest", content=json.dumps(GOOD))).status_code == 202


async def test_the_metrics_count_what_came() -> None:
    site = Site()
    await site.post([GOOD, {"service": ""}])
    text = (await site.client.get("/metrics")).text
    assert 'helios_events_accepted_total{protocol="http"} 1.0' in text
    assert 'helios_events_rejected_total{protocol="http"} 1.0' in text
    assert 'helios_http_requests_total{path="/api/v1/events",status="202"} 1.0' in text


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"host": "evil.example"},
        {"host": "localhost.evil.example"},
    ],
)
async def test_without_keys_only_this_machine_is_answered(headers: dict[str, str]) -> None:
    """A page of another site, also one whose name was made to resolve to loopback."""
    site = Site()
    assert (await site.client.post("/api/v1/events", json=GOOD, headers=headers)).status_code == 403
    assert (await site.client.get("/metrics", headers=headers)).status_code == 403
    for good in ({"origin": "http://localhost:8080"}, {"host": "127.0.0.1:8080"}, {"host": "[::1]:8080"}):
        assert (await site.client.post("/api/v1/events", json=GOOD, headers=good)).status_code == 202


async def test_a_fault_of_ours_is_to_be_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()

    async def broken(records: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(site.bus, "publish", broken)
    answer = await site.post(GOOD)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] in ("1", "2")
    assert "ZeroDivisionError" in answer.json()["error"]


async def test_what_is_small_and_plain_goes_the_direct_way() -> None:
    site = Site()
    await site.post(GOOD)
    await site.post([GOOD, {**GOOD, "service": ""}])
    assert site.directly == (2 if site.is_direct else 0)
    await site.post([GOOD] * 500)  # it would hold up everybody else
    await site.post(gzip.compress(json.dumps(GOOD).encode()), content_encoding="gzip")
    assert site.directly == (2 if site.is_direct else 0)
    assert len(await site.events()) == 1 + 1 + 500 + 1
