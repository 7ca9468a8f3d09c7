"""Splitting into requests below the limit of gRPC, and what an answer says about each event."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helios import CollectorFailed, Event, RejectedItem, SendResult
from helios.event import MAX_EVENT_BYTES
from helios.results import MAX_REQUEST_BYTES, request_bytes, result_of, split
from helios.v1.service_pb2 import Rejection, SendEventsRequest, SendEventsResponse

EVENTS = [Event("a", id=str(i)) for i in range(4)]


def request(events: list[Event]) -> SendEventsRequest:
    return SendEventsRequest(events=[event.to_proto() for event in events])


@settings(deadline=None)
@given(st.lists(st.integers(0, 20_000), max_size=40), st.integers(21_000, 60_000))
def test_each_request_is_below_the_limit_and_no_event_is_lost_or_moved(sizes: list[int], max_bytes: int) -> None:
    events = [Event("a", "x" * size, id=str(i)) for i, size in enumerate(sizes)]
    parts = list(split(events, max_bytes))
    assert [event for _, part in parts for event in part] == events
    for first, part in parts:
        assert part
        assert events[first] == part[0]
        assert request(list(part)).ByteSize() <= max_bytes
    for (_, part), (_, following) in pairwise(parts):
        assert request([*part, following[0]]).ByteSize() > max_bytes  # none is smaller than it need be


@pytest.mark.parametrize("size", [0, 100, 127, 128, 16_383, 16_384, 200_000])
def test_the_size_in_a_request_is_exact(size: int) -> None:
    event = Event("a", "x" * size)
    assert request_bytes(event) == request([event]).ByteSize()


def test_the_largest_event_fits_many_times() -> None:
    room = MAX_EVENT_BYTES - Event("a").size_bytes - 8
    events = [Event("a", "x" * room) for _ in range(40)]
    parts = list(split(events))
    assert [len(part) for _, part in parts] == [15, 15, 10]
    assert all(request(list(part)).ByteSize() <= MAX_REQUEST_BYTES < 4 * 1024 * 1024 for _, part in parts)


def test_no_events_make_no_request() -> None:
    assert list(split([])) == []


def test_rejections_get_the_position_that_the_caller_knows() -> None:
    answer = SendEventsResponse(
        accepted=2, rejected=[Rejection(index=3, reason="late"), Rejection(index=1, reason="bad")]
    )
    assert result_of(answer, EVENTS, 10) == SendResult(2, (RejectedItem(11, "1", "bad"), RejectedItem(13, "3", "late")))


def test_a_request_that_was_rejected_whole_rejects_each_event() -> None:
    answer = SendEventsResponse(rejected=[Rejection(whole=True, reason="cannot be decoded")])
    result = result_of(answer, EVENTS, 0)
    assert (result.accepted, len(result.rejected)) == (0, 4)


@pytest.mark.parametrize(
    "answer",
    [
        SendEventsResponse(),
        SendEventsResponse(accepted=3),
        SendEventsResponse(accepted=5),
        SendEventsResponse(accepted=3, rejected=[Rejection(index=4, reason="beyond")]),
        SendEventsResponse(accepted=2, rejected=[Rejection(index=1), Rejection(index=1)]),
    ],
)
def test_an_answer_that_does_not_add_up_is_a_failure(answer: SendEventsResponse) -> None:
    with pytest.raises(CollectorFailed, match="account for each of them once"):
        result_of(answer, EVENTS, 0)
