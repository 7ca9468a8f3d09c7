"""The client without asyncio: the same meaning, from any thread, and an orderly end."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import threading
import time

import pytest

from helios import AsyncClient, Client, ClientClosed, Denied, Event, EventRejected, RetryPolicy, SendResult, Status
from helios.testing import MemoryCollector
from helios.v1.service_pb2 import ANSWER_ACCEPTED, SendBatchRequest, SendEventsRequest, SendEventsResponse

QUICK = RetryPolicy(initial_delay_s=0.001, max_delay_s=0.002)


@pytest.fixture
def collector() -> MemoryCollector:
    return MemoryCollector()


def test_it_offers_what_the_asyncio_client_offers_with_the_same_arguments() -> None:
    def public(kind: type) -> dict[str, object]:
        names = [name for name in vars(kind) if not name.startswith("_") or name == "__init__"]
        return {name: _parameters(vars(kind)[name]) for name in names}

    def _parameters(member: object) -> object:
        return list(inspect.signature(member).parameters.values()) if callable(member) else type(member)

    asynchronous = public(AsyncClient)
    del asynchronous["stream"]  # a stream needs two sides that run at once
    assert public(Client) == asynchronous


def test_send(collector: MemoryCollector) -> None:
    collector.fail(Status.UNAVAILABLE)
    collector.reject(lambda event: "no" if event.message == "bad" else None)
    with Client(transport=collector, retry=QUICK) as client:
        assert client.send_events([Event("a"), Event("a")]) == SendResult(2)
        with pytest.raises(EventRejected):
            client.send_event(Event("a", "bad"))
        assert client.send_batch(SendBatchRequest()).answer == ANSWER_ACCEPTED
        collector.fail(Status.PERMISSION_DENIED)
        with pytest.raises(Denied):
            client.send_event(Event("a"))
    assert len(collector.events) == 2
    assert collector.closed


def test_log_from_many_threads_loses_nothing(collector: MemoryCollector) -> None:
    with Client(transport=collector) as client:
        threads = [threading.Thread(target=lambda: [client.log(Event("a")) for _ in range(500)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        client.flush()
        assert client.stats.accepted == 2_000
    assert len(collector.events) == 2_000


def test_it_needs_no_with_and_close_drains(collector: MemoryCollector) -> None:
    client = Client(transport=collector)
    client.log(Event("a"))
    client.close()
    client.close()
    assert len(collector.events) == 1
    for call in (lambda: client.send_event(Event("a")), lambda: client.log(Event("a")), client.flush):
        with pytest.raises(ClientClosed):
            call()
    assert not [thread for thread in threading.enumerate() if thread.name == "helios-client"]


def test_an_unused_client_has_no_thread(collector: MemoryCollector) -> None:
    before = threading.active_count()
    client = Client(transport=collector)
    assert repr(client) == "Client('http://localhost:4317')"
    assert client.stats.logged == 0
    client.close()
    assert threading.active_count() == before


def test_a_call_that_another_threads_close_cuts_off_says_so() -> None:
    class Silent(MemoryCollector):
        async def send_events(self, request: SendEventsRequest, *, timeout_s: float) -> SendEventsResponse:
            arrived.set()
            await never.wait()
            raise AssertionError

    arrived, never = threading.Event(), asyncio.Event()
    client = Client(transport=Silent())
    caught: list[BaseException] = []

    def send() -> None:
        try:
            client.send_event(Event("a"))
        except ClientClosed as error:
            caught.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    assert arrived.wait(5)
    client.close()
    thread.join(5)
    assert "closed by another thread" in str(caught[0])


FORK = """
import os, helios
from helios.testing import MemoryCollector
client = helios.Client(transport=MemoryCollector())
client.send_event(helios.Event("a"))
if os.fork() == 0:
    try:
        client.send_event(helios.Event("a"))
    except helios.ClientClosed as error:
        print(error, flush=True)
    client.close()
    os._exit(0)
os.wait()
client.close()
"""


def test_a_client_that_a_fork_carried_over_says_so() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=True, timeout=20)
    assert "before the process forked" in done.stdout


def test_close_waits_no_longer_than_it_is_told(collector: MemoryCollector) -> None:
    client = Client(transport=collector)
    collector.fail(Status.UNAVAILABLE, times=1_000)
    client.log(Event("a"))
    begun = time.monotonic()
    client.close(timeout_s=0.1)
    assert time.monotonic() - begun < 2
    assert client.stats.dropped == {"closed": 1}
