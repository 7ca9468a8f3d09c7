"""The poller: whatever a source does, it is asked again, counted, and holds nobody else back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.unit.agent.metric_sources import Hanging, Told, raises

from helios_agent import polling
from helios_agent.polling import Poller
from helios_agent.sources import CollectionResult, MetricSample
from helios_agent.status import MetricsStatus
from helios_core.clock import EventClock

NOW_US = 1_772_409_600_000_000
SAMPLE = MetricSample("queue.length", 17, {"queue": "mail"})
Made = Callable[..., Poller]


@pytest.fixture
def made() -> Iterator[Made]:
    """Makes pollers, and stops them."""
    pollers: list[Poller] = []

    def make(*sources: Told, interval_s: float = 0.002) -> Poller:
        named = [(f"told-{number}", source) for number, source in enumerate(sources)]
        pollers.append(Poller(named, host="host-1", interval_s=interval_s, clock=EventClock(NOW_US)))
        return pollers[-1]

    yield make
    for poller in pollers:
        poller.stop()


def until(is_so: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


def once(poller: Poller) -> list[MetricSample]:
    """What one collection of every source gives."""
    poller.start(once=True)
    until(lambda: not poller.is_collecting())
    return poller.take()


def only(poller: Poller) -> MetricsStatus:
    (status,) = poller.status()
    return status


def test_sources_are_asked_again_and_again_and_closed_at_the_end(made: Made) -> None:
    source = Told(SAMPLE)
    poller = made(source)
    poller.start()
    until(lambda: source.calls.count("collect") >= 3)
    poller.stop()
    collections = source.calls.count("collect")
    assert source.calls == ["initialize", *["collect"] * collections, "close"]
    assert len(poller.take()) == collections
    assert only(poller) == MetricsStatus(type="told-0", collections=collections, samples=collections)


def test_each_source_has_a_thread_of_its_own(made: Made) -> None:
    sources = [Told(SAMPLE), Told(SAMPLE)]
    poller = made(*sources)
    assert len(poller) == 2
    poller.start()
    until(lambda: all("collect" in source.calls for source in sources))
    poller.stop()
    assert [len(source.threads) for source in sources] == [1, 1]
    assert sources[0].threads.isdisjoint(sources[1].threads)
    assert threading.get_ident() not in sources[0].threads | sources[1].threads


def test_the_interval_is_kept(made: Made) -> None:
    source = Told(SAMPLE)
    poller = made(source, interval_s=60)
    poller.start()
    until(lambda: source.calls)
    time.sleep(0.01)
    began_s = time.monotonic()
    poller.stop()
    assert time.monotonic() - began_s < 1  # it does not wait for the next turn
    assert source.calls == ["initialize", "close"]


def test_what_a_slow_source_has_missed_is_not_made_up_for(made: Made) -> None:
    source = Told(SAMPLE)
    source.on_collect = raises(*[None] * 1_000)
    source.on_initialize = lambda: time.sleep(0.1)
    poller = made(source, interval_s=0.02)
    poller.start()
    until(lambda: source.calls.count("collect") == 1)
    time.sleep(0.01)
    assert source.calls.count("collect") == 1  # not five
    poller.stop()


def test_once_asks_every_source_once(made: Made) -> None:
    sources = [Told(SAMPLE), Told(replace(SAMPLE, value=18))]
    assert sorted(sample.value for sample in once(made(*sources))) == [17, 18]
    assert [source.calls for source in sources] == [["initialize", "collect", "close"]] * 2


def test_samples_get_the_time_and_the_host_that_they_lack(made: Made) -> None:
    own = replace(SAMPLE, time_us=5_000_000, host="other", service="mail")
    assert once(made(Told(SAMPLE, own))) == [replace(SAMPLE, time_us=NOW_US, host="host-1"), own]


# ---- sources that raise


def test_a_source_that_cannot_be_initialized_is_tried_again(made: Made) -> None:
    source = Told(SAMPLE)
    source.on_initialize = raises(OSError("no route"), OSError("no route"))
    poller = made(source)
    with capture_logs() as logs:
        poller.start()
        until(lambda: poller.waiting)
        poller.stop()
    assert source.calls[:4] == ["initialize", "initialize", "initialize", "collect"]
    assert (only(poller).failures, only(poller).error) == (2, "")
    said = [entry for entry in logs if entry["event"] == "metrics_source_not_initialized"]
    assert [(entry["source"], entry["error"], entry["log_level"]) for entry in said] == [
        ("told-0", "no route", "warning")
    ]


def test_a_source_that_is_never_initialized_is_closed_all_the_same(made: Made) -> None:
    source = Told(SAMPLE)
    source.on_initialize = raises(OSError("no route"))
    poller = made(source, interval_s=60)
    poller.start()
    until(lambda: only(poller).failures)
    assert only(poller).error == "no route"
    poller.stop()
    assert source.calls == ["initialize", "close"]


@pytest.mark.parametrize(("error", "said"), [(ValueError("odd"), "odd"), (KeyError(), "KeyError")])
def test_a_source_that_raises_is_asked_again(made: Made, error: Exception, said: str) -> None:
    source = Told(SAMPLE)
    source.on_collect = raises(error)
    poller = made(source, interval_s=0.02)
    with capture_logs() as logs:
        poller.start()
        until(lambda: only(poller).failures)
        assert only(poller).error == said
        until(lambda: only(poller).collections)
    assert (only(poller).failures, only(poller).error) == (1, "")
    assert [entry["error"] for entry in logs if entry["event"] == "metrics_not_collected"] == [said]


def test_a_source_that_goes_on_failing_is_not_logged_each_time(made: Made) -> None:
    source = Told()
    source.on_collect = raises(*[OSError("down")] * 10_000)
    poller = made(source)
    with capture_logs() as logs:
        poller.start()
        until(lambda: only(poller).failures >= 5)
        poller.stop()
    assert len(logs) == 1


@pytest.mark.parametrize("how", ["on", "once"])
def test_a_source_that_cannot_be_closed_harms_nobody(made: Made, how: str) -> None:
    source = Told(SAMPLE)
    source.on_close = raises(OSError("gone"))
    poller = made(source)
    poller.start(once=how == "once")
    until(lambda: poller.waiting)
    poller.stop()
    until(lambda: only(poller).failures)
    assert only(poller).error == "gone"
    assert poller.take()


def test_errors_are_said_and_samples_beside_them_count(made: Made) -> None:
    source = Told()
    source.result = CollectionResult([SAMPLE], ["/mnt: no such device", "/opt: busy"])
    poller = made(source)
    assert len(once(poller)) == 1
    assert (only(poller).failures, only(poller).error) == (0, "/mnt: no such device; /opt: busy")
    source.result = CollectionResult([], ["x" * 10_000])
    poller = made(source)
    once(poller)
    assert len(only(poller).error) == 500


# ---- sources that give what is no sample

BAD: list[Any] = [
    replace(SAMPLE, value=float("nan")),
    replace(SAMPLE, value=float("inf")),
    replace(SAMPLE, value="17"),  # type: ignore[arg-type]
    replace(SAMPLE, value=None),  # type: ignore[arg-type]
    replace(SAMPLE, value=10**400),
    replace(SAMPLE, name=""),
    replace(SAMPLE, name="n" * 257),
    replace(SAMPLE, name="\ud800"),
    replace(SAMPLE, labels={f"label-{number}": "" for number in range(33)}),
    replace(SAMPLE, labels={"queue": "q" * 257}),
    replace(SAMPLE, labels={"queue": 1}),  # type: ignore[dict-item]
    replace(SAMPLE, labels={"queue": "\udcff"}),  # a path of undecodable bytes
    replace(SAMPLE, labels=17),  # type: ignore[arg-type]
    replace(SAMPLE, time_us=-1),
    replace(SAMPLE, time_us=1.5),  # type: ignore[arg-type]
    replace(SAMPLE, time_us=10**18),
    replace(SAMPLE, host="h" * 257),
    replace(SAMPLE, service="s" * 257),
    replace(SAMPLE, service="two\nlines"),
    ("queue.length", 17),
    None,
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: str(bad)[:60].encode("ascii", "replace").decode())
def test_a_bad_sample_is_counted_and_takes_no_other_along(made: Made, bad: Any) -> None:
    poller = made(Told(SAMPLE, bad, SAMPLE))
    assert [sample.value for sample in once(poller)] == [17, 17]
    assert poller.dropped == {"overflow": 0, "bad_sample": 1}
    assert (only(poller).samples, only(poller).failures) == (2, 0)
    assert only(poller).error  # it says why


def test_what_the_contract_still_takes_is_taken(made: Made) -> None:
    fine = [
        replace(SAMPLE, value=-0.5),
        replace(SAMPLE, value=True),
        replace(SAMPLE, name="n" * 256),
        replace(SAMPLE, labels={f"label-{number:03}": "x" * 256 for number in range(32)}),
        replace(SAMPLE, service="s" * 256),
    ]
    poller = made(Told(*fine))
    assert len(once(poller)) == len(fine)
    assert (only(poller).error, poller.dropped.total()) == ("", 0)


@pytest.mark.parametrize("result", [None, [SAMPLE], CollectionResult(samples=None)], ids=str)  # type: ignore[arg-type]
def test_what_is_no_result_is_a_failure(made: Made, result: Any) -> None:
    source = Told()
    source.result = result
    poller = made(source)
    poller.start()
    until(lambda: only(poller).failures >= 2)  # it is asked again
    assert only(poller).error
    assert poller.take() == []


# ---- sources that do not return


def test_a_source_that_does_not_return_holds_back_itself_alone(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "_JOIN_S", 0.05)
    hanging, other = Hanging(), Told(SAMPLE)
    poller = made(hanging, other)
    poller.start()
    until(lambda: "collect" in hanging.calls and other.calls.count("collect") >= 5)
    assert poller.status()[0].error.startswith("it has not answered for ")
    assert poller.status()[1].error == ""
    began_s = time.monotonic()
    poller.stop()
    assert time.monotonic() - began_s < 1
    assert {sample.name for sample in poller.take()} == {"queue.length"}
    assert hanging.calls == ["initialize", "collect"]
    hanging.let_go.set()


def test_once_does_not_wait_forever(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "_ONCE_S", 0.05)
    monkeypatch.setattr(polling, "_JOIN_S", 0.05)
    hanging = Hanging()
    poller = made(hanging, Told(SAMPLE), interval_s=60)
    poller.start(once=True)
    until(lambda: not poller.is_collecting())
    assert [sample.name for sample in poller.take()] == ["queue.length"]
    until(lambda: poller.status()[0].error == "it has not answered for 0 s")
    poller.stop()
    hanging.let_go.set()


# ---- when nobody takes them


def test_of_too_many_the_oldest_go_and_are_counted(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "MAX_WAITING", 5)
    source = Told(*(replace(SAMPLE, value=number) for number in range(7)))
    poller = made(source)
    assert [sample.value for sample in once(poller)] == [2, 3, 4, 5, 6]
    assert poller.dropped == {"overflow": 2, "bad_sample": 0}
    assert only(poller).samples == 7


def test_the_oldest_are_those_of_earlier_collections(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "MAX_WAITING", 4)
    source = Told()
    numbers = iter(range(1, 100))

    def next_three() -> None:
        turn = next(numbers)
        source.result = CollectionResult([replace(SAMPLE, value=10 * turn + part) for part in range(3)])

    source.on_collect = next_three
    poller = made(source)
    poller.start()
    until(lambda: source.calls.count("collect") >= 3)
    poller.stop()
    turn = only(poller).collections
    last = [10 * (turn - 1) + 2, *(10 * turn + part for part in range(3))]
    assert [sample.value for sample in poller.take()] == last
    assert poller.dropped["overflow"] == 3 * turn - 4
    assert poller.take() == []
    assert poller.waiting == 0
