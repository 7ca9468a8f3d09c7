"""The one place that turns Helios's types into the messages of the contract, and back.

Decoding checks what the contract limits and raises WireError; nothing past it need check again.
"""

from __future__ import annotations

from typing import Final

from helios_core.wire.batches import (
    batch_from_bytes,
    batch_to_bytes,
    content_hash,
    id_from_proto,
    id_to_proto,
    open_request,
    slice_from_bytes,
    slice_from_proto,
    slice_to_proto,
    view_slice,
)
from helios_core.wire.checks import check_service, level_to_proto
from helios_core.wire.events import (
    check_event_size,
    event_field,
    event_from_proto,
    event_to_bytes,
    event_to_proto,
    metric_from_proto,
    metric_record_from_bytes,
    metric_record_to_bytes,
    metric_to_proto,
    record_from_bytes,
    record_of,
    record_to_bytes,
)
from helios_core.wire.merging import merged_distincts, merged_latencies
from helios_core.wire.stored import stored_deltas, stored_from_bytes, stored_slice
from helios_core.wire.windows import (
    delta_from_proto,
    delta_to_proto,
    distinct_from_bytes,
    distinct_from_proto,
    distinct_to_bytes,
    distinct_to_proto,
    latency_from_bytes,
    latency_from_proto,
    latency_to_bytes,
    latency_to_proto,
)

CONTRACT_VERSION: Final = 1

__all__ = [
    "CONTRACT_VERSION",
    "batch_from_bytes",
    "batch_to_bytes",
    "check_event_size",
    "check_service",
    "content_hash",
    "delta_from_proto",
    "delta_to_proto",
    "distinct_from_bytes",
    "distinct_from_proto",
    "distinct_to_bytes",
    "distinct_to_proto",
    "event_field",
    "event_from_proto",
    "event_to_bytes",
    "event_to_proto",
    "id_from_proto",
    "id_to_proto",
    "latency_from_bytes",
    "latency_from_proto",
    "latency_to_bytes",
    "latency_to_proto",
    "level_to_proto",
    "merged_distincts",
    "merged_latencies",
    "metric_from_proto",
    "metric_record_from_bytes",
    "metric_record_to_bytes",
    "metric_to_proto",
    "open_request",
    "record_from_bytes",
    "record_of",
    "record_to_bytes",
    "slice_from_bytes",
    "slice_from_proto",
    "slice_to_proto",
    "stored_deltas",
    "stored_from_bytes",
    "stored_slice",
    "view_slice",
]
