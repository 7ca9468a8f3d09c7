"""docs/contract.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import helios
from helios import Batching, RetryPolicy
from helios.client import DEFAULT_TIMEOUT_S
from helios.event import MAX_EVENT_BYTES, MAX_LATENCY_US, MAX_SERVICE_BYTES
from helios.retry import RETRY_TABLE, Status, error_from_status
from helios.retry_info import MAX_RETRY_AFTER_S, TRAILER
from helios.v1 import service_pb2
from helios_core.batches import MAX_SLICE_BYTES, MAX_UNACKNOWLEDGED
from helios_core.sketches.templates import MAX_TEMPLATES

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "contract.md").read_text(encoding="utf-8")


def test_the_retry_table_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| ([^|]+?) \| (?:`(\w+)` )?\|$", PAGE, re.MULTILINE)
    expected = [
        (status.name, RETRY_TABLE[status].value, type(error_from_status(status, "")).__name__ if status else "")
        for status in Status
    ]
    assert rows == expected


def test_every_name_on_it_exists() -> None:
    named = set(re.findall(r"`([A-Z][a-z]\w+)`", PAGE))
    service = service_pb2.DESCRIPTOR.services_by_name["Helios"]
    known = {*helios.__all__, *service.methods_by_name, *service_pb2.DESCRIPTOR.message_types_by_name}
    assert named - known == {"BlockingIOError", "False", "PollerCompletionQueue"}


def test_the_limits_are_those_of_the_code() -> None:
    for number in (MAX_EVENT_BYTES, MAX_SLICE_BYTES, 4 * 1024 * 1024, MAX_LATENCY_US, Batching().max_buffer_events):
        assert f"{number:,}" in PAGE
    assert f"1 to {MAX_SERVICE_BYTES} bytes" in PAGE
    assert f"less {MAX_UNACKNOWLEDGED}," in PAGE
    assert f"| {MAX_TEMPLATES}, those" in PAGE
    assert Batching().max_buffer_bytes == 16 * 1024 * 1024
    assert "16 MiB unless" in PAGE


def test_the_waits_are_those_of_the_code() -> None:
    policy = RetryPolicy()
    assert (
        f"up to {policy.initial_delay_s:g} s after the first failure, doubling up to {policy.max_delay_s:g} s" in PAGE
    )
    assert f"({DEFAULT_TIMEOUT_S:g} s unless told otherwise)" in PAGE
    assert f"at most {MAX_RETRY_AFTER_S:g} s" in PAGE
    assert f"`{TRAILER}`" in PAGE
