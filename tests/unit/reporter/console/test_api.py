"""The HTTP API: what is stored comes out as JSON, and what is asked wrongly says how to ask."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from tests.unit.reporter.console.conftest import MakeConsole

from helios_core.alerts import AlertState, Family
from helios_core.errors import StoreUnavailable
from helios_core.store.base import Statement
from helios_core.store.sqlite import SqliteStore

HOSTILE = "<img src=x onerror=alert(1)>\"'</script>"
T = "2026-03-02T00:"  # T0


async def get(client: httpx.AsyncClient, path: str, status: int = 200) -> Any:
    answer = await client.get(f"/api/v1{path}")
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


async def test_health_says_that_the_process_answers(client: httpx.AsyncClient) -> None:
    assert await get(client, "/health") == {"status": "ok"}


async def test_detailed_health_has_the_store_the_feed_and_the_parts(
    client: httpx.AsyncClient, parts: dict[str, Any]
) -> None:
    parts["detector"] = {"decided": 123}
    found = await get(client, "/health/detailed")
    assert found["status"] == "ok"
    assert found["store"] == {"reachable": True}
    assert found["parts"] == {"detector": {"decided": 123}}
    assert found["live"]["clients"] == 0
    assert found["now"] == "2026-03-02T01:00:00.000Z"


async def test_a_store_that_is_away_is_503_with_retry_after(
    client: httpx.AsyncClient, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("the disk is full")

    monkeypatch.setattr(store, "query", away)
    for path in ("/incidents", "/incidents/x", "/services", "/services/web/windows", "/stats", "/health/detailed"):
        answer = await client.get(f"/api/v1{path}")
        assert answer.status_code == 503, path
        assert answer.headers["retry-after"] == "2"
    assert answer.json()["store"] == {"reachable": False, "error": "the disk is full"}
    assert (await get(client, "/incidents", 503))["error"] == "the disk is full"


async def test_incidents_stand_with_their_title_and_times(client: httpx.AsyncClient, report: Any, alert: Any) -> None:
    await report([alert("web", 60), alert("web", 600, AlertState.RESOLVED)])
    (found,) = (await get(client, "/incidents"))["incidents"]
    assert found["title"] == "web: more errors"
    assert found["headline"].startswith("On web the error rate rose from 1 % to 40 %")
    assert (found["severity"], found["state"], found["revision"], found["generator"]) == (
        "high",
        "resolved",
        2,
        "rules",
    )
    assert (found["services"], found["families"], found["alerts"], found["open_alerts"]) == (["web"], ["errors"], 2, 0)
    assert (found["onset"], found["opened"], found["resolved"]) == (
        f"{T}00:00.000Z",
        f"{T}01:00.000Z",
        f"{T}10:00.000Z",
    )


async def test_incidents_are_filtered_and_paged(client: httpx.AsyncClient, report: Any, alert: Any) -> None:
    names = [f"s{i}" for i in range(5)]
    await report([alert(name, 60 + i) for i, name in enumerate(names)] + [alert("s0", 90, AlertState.RESOLVED)])
    assert [i["services"][0] for i in (await get(client, "/incidents?state=resolved"))["incidents"]] == ["s0"]
    assert len((await get(client, "/incidents?state=open"))["incidents"]) == 4
    assert len((await get(client, "/incidents?service=s3"))["incidents"]) == 1
    assert (await get(client, "/incidents?service=none")) == {"incidents": [], "next": None}
    seen: list[str] = []
    path = "/incidents?limit=2"
    while True:
        page = await get(client, path)
        seen += [i["services"][0] for i in page["incidents"]]
        if page["next"] is None:
            break
        path = f"/incidents?limit=2&before={page['next']}"
    assert seen == names[::-1]


async def test_incidents_of_one_moment_are_paged_without_loss(
    client: httpx.AsyncClient, report: Any, alert: Any
) -> None:
    await report([alert(f"s{i}", 60) for i in range(5)])
    first = await get(client, "/incidents?limit=3")
    second = await get(client, f"/incidents?limit=3&before={first['next']}")
    assert len({i["id"] for i in first["incidents"] + second["incidents"]}) == 5
    assert second["next"] is None


async def test_an_incident_has_its_report_with_claims_and_evidence(
    client: httpx.AsyncClient, report: Any, alert: Any, apply: Any, delta: Any
) -> None:
    await apply([delta("web", second, infos=60, errors=40) for second in range(-600, 60, 10)])
    await report([alert("web", 60)])
    (listed,) = (await get(client, "/incidents"))["incidents"]
    found = await get(client, f"/incidents/{listed['id']}")
    assert found["members"][0]["onset"] == f"{T}00:00.000Z"
    assert found["members"][0]["alerts"][0]["horizon_s"] == 300
    assert found["report"]["revision"] == 1
    assert found["report"]["started"] == f"{T}00:00.000Z"
    assert found["report"]["ended"] is None
    assert found["report"]["summary"][0]["evidence"] == ["E1"]
    first = found["evidence"][0]
    assert (first["id"], first["value_text"], first["baseline_text"]) == ("E1", "40 %", "1 %")
    assert {"from", "to", "source", "service", "kind"} <= set(first)
    assert not [key for item in found["evidence"] for key in item if key.endswith("_us")]


async def test_the_markdown_is_that_of_the_newest_report(client: httpx.AsyncClient, report: Any, alert: Any) -> None:
    await report([alert("web", 60)])
    (listed,) = (await get(client, "/incidents"))["incidents"]
    answer = await client.get(f"/api/v1/incidents/{listed['id']}/report.md")
    assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
    assert answer.text.startswith("# [HIGH] web: more errors")
    assert (await get(client, "/incidents/none/report.md", 404))["error"] == "there is no report of an incident 'none'"


async def test_a_document_of_another_form_is_shown_as_far_as_it_goes(
    client: httpx.AsyncClient, store: SqliteStore
) -> None:
    row = {"id": "odd", "state": "triggered", "severity": "low", "opened_us": 1, "updated_us": 1, "resolved_us": None}
    await store.transact([Statement("upsert_incident", {**row, "document": '{"members": 5}'})])
    report = {
        "incident_id": "odd",
        "revision": 1,
        "created_us": 1,
        "generator": "llm",
        "markdown": "",
        "document": "[]",
    }
    await store.transact([Statement("upsert_report", report)])
    found = await get(client, "/incidents/odd")
    assert (found["title"], found["services"], found["members"], found["evidence"]) == ("odd", [], 5, [])
    assert found["report"]["generator"] == "llm"


async def test_services_say_what_they_do_now(
    client: httpx.AsyncClient, parts: dict[str, Any], report: Any, alert: Any, apply: Any, delta: Any
) -> None:
    parts["detector"] = {"learning": {"web": [312, 8640]}}
    recent = [delta("web", 3_400, infos=50, errors=10), delta("web", 3_420, infos=40, host="b")]
    await apply([delta("old", 0, infos=3), *recent, delta("web", 100, infos=999)])
    await report([alert("web", 60), alert("web", 70, family=Family.LATENCY)])
    old, web = (await get(client, "/services"))["services"]
    assert (old["name"], old["events_5m"], old["open_alerts"], old["learning"]) == ("old", 0, 0, None)
    assert old["last_window"] == f"{T}00:10.000Z"
    assert (web["name"], web["events_5m"], web["errors_5m"]) == ("web", 100, 10)
    assert (web["open_alerts"], web["learning"]) == (2, [312, 8640])
    assert web["last_window"] == f"{T}57:10.000Z"


@pytest.mark.parametrize("odd", [None, 5, {"learning": 7}, {}])
async def test_parts_of_another_form_are_no_error(client: httpx.AsyncClient, parts: dict[str, Any], odd: Any) -> None:
    parts["detector"] = odd
    assert (await get(client, "/services"))["services"] == []


async def test_stats_count_the_last_hour_and_the_incidents(
    client: httpx.AsyncClient, report: Any, alert: Any, apply: Any, delta: Any
) -> None:
    await apply([delta("web", -10, infos=7), delta("web", 20, infos=5, errors=2), delta("api", 20, infos=1)])
    await report([alert("web", 60)])
    found = await get(client, "/stats")
    assert found["last_hour"] == {"events": 8, "errors": 2, "unparsed": 0, "services": 2}
    assert found["incidents"] == {"triggered": 1}


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/incidents?limit=0", "limit='0'"),
        ("/incidents?limit=many", "limit='many'"),
        ("/incidents?limit=501", "less than or equal to 500"),
        ("/incidents?state=odd", "'open', 'triggered'"),
        ("/incidents?before=none", "take `next` of the page before"),
        ("/services/web/windows?from=yesterday", "2026-03-02T10:15:03Z"),
        ("/services/web/windows?from=2026-03-02T10:15:03", "has no time zone"),
        ("/services/web/windows?to=99999999999999999999", "epoch seconds"),
        ("/services/web/windows?from=2000&to=1000", "from is before to"),
        ("/services/web/windows?from=0&to=1772409600", "31 days at most"),
        ("/services/web/windows?step=-1", "step='-1'"),
    ],
)
async def test_a_bad_parameter_is_400_and_says_what_to_do(client: httpx.AsyncClient, path: str, said: str) -> None:
    if "no time zone" in said:
        said = "a time such as"
    assert said in (await get(client, path, 400))["error"]


@pytest.mark.parametrize("path", ["/nothing", "/incidents/none", "/services/web", "/"])
async def test_what_is_not_there_is_404_in_json(client: httpx.AsyncClient, path: str) -> None:
    assert "there is no" in (await get(client, path, 404))["error"]


async def test_a_method_that_is_not_offered_is_405(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/v1/incidents")
    assert answer.status_code == 405
    assert "not offered" in answer.json()["error"]


async def test_the_openapi_document_is_there_and_no_page_of_another_origin(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert "/api/v1/services/{name}/windows" in document["paths"]
    assert (await client.get("/docs")).status_code == 404
    assert (await client.get("/redoc")).status_code == 404


async def test_hostile_text_stays_text(
    client: httpx.AsyncClient, report: Any, alert: Any, apply: Any, delta: Any
) -> None:
    await apply([delta(HOSTILE, 3_500, infos=5)])
    await report([alert(HOSTILE, 60, family=Family.PATTERN, detail=HOSTILE)])
    (listed,) = (await get(client, "/incidents"))["incidents"]
    assert listed["services"] == [HOSTILE]
    assert [s["name"] for s in (await get(client, "/services"))["services"]] == [HOSTILE]
    detail = await get(client, f"/incidents/{listed['id']}")
    assert HOSTILE in detail["members"][0]["alerts"][0]["findings"][0]["detail"]
    quoted = httpx.URL(f"http://x/{HOSTILE.replace('/', '%2F')}").raw_path.decode()
    found = await get(client, f"/services{quoted}/windows")
    assert found["service"] == HOSTILE
    assert (await get(client, f"/incidents?{httpx.QueryParams(service=HOSTILE)}"))["incidents"] == [listed]


async def test_a_lifespan_is_answered(make_console: MakeConsole) -> None:
    received = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return received.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await make_console()({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_an_error_of_our_own_is_500_without_a_traceback(
    make_console: MakeConsole, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(store, "query", broken)
    transport = httpx.ASGITransport(app=make_console(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.get("/api/v1/incidents")
    assert answer.status_code == 500
    assert answer.json() == {"error": "this is an error of the console: see its log"}
    assert "content-security-policy" in answer.headers
