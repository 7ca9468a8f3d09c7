"""What the collector answered about events, as types, and how many events go into one request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from helios.errors import CollectorFailed
from helios.event import Event
from helios.v1 import service_pb2

# gRPC refuses messages above 4 MiB; the margin is for what surrounds the events.
MAX_REQUEST_BYTES: Final = 4 * 1024 * 1024 - 64 * 1024


@dataclass(frozen=True, slots=True)
class RejectedItem:
    """An event that the collector refused and keeps, with the reason, in its dead letter.

    Attributes:
        index: its position among the events that were handed to the client, from 0.
    """

    index: int
    event_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class SendResult:
    """What became of the events: each is safe with the collector, as accepted or as rejected."""

    accepted: int
    rejected: tuple[RejectedItem, ...] = ()


def request_bytes(event: Event) -> int:
    """What the event adds to a request: its message, one byte of tag and the length."""
    size = event.size_bytes
    return size + 1 + max(1, (size.bit_length() + 6) // 7)


def split(events: Sequence[Event], max_bytes: int = MAX_REQUEST_BYTES) -> Iterator[tuple[int, Sequence[Event]]]:
    """(position of the first, events) of each request, in order; an event is never above the limit alone."""
    start = size = 0
    for index, event in enumerate(events):
        added = request_bytes(event)
        if size + added > max_bytes and index > start:
            yield start, events[start:index]
            start, size = index, 0
        size += added
    if start < len(events):
        yield start, events[start:]


def result_of(answer: service_pb2.SendEventsResponse, events: Sequence[Event], first: int) -> SendResult:
    """What the answer says about `events`, the first of which has the position `first`.

    Raises:
        CollectorFailed: the answer does not account for each event once.
    """
    reasons: dict[int, str] = {}
    for rejection in answer.rejected:
        positions = range(len(events)) if rejection.whole else (rejection.index,)
        reasons.update(dict.fromkeys(positions, rejection.reason))
    if answer.accepted + len(reasons) != len(events) or any(index >= len(events) for index in reasons):
        raise CollectorFailed(
            f"the collector accepted {answer.accepted} and rejected {len(reasons)} of {len(events)} events: "
            "its answer does not account for each of them once"
        )
    rejected = (RejectedItem(first + index, events[index].id, reasons[index]) for index in sorted(reasons))
    return SendResult(answer.accepted, tuple(rejected))
