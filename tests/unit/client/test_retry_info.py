"""google.rpc.RetryInfo, compared with messages that protobuf itself builds from the published definitions."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, duration_pb2, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st

from helios.retry_info import MAX_RETRY_AFTER_S, retry_after_s, retry_details

Field = descriptor_pb2.FieldDescriptorProto


def google_rpc() -> tuple[Any, Any]:
    """The classes Status and RetryInfo of google.rpc (googleapis, google/rpc/*.proto), in a pool of their own."""
    pool = descriptor_pool.DescriptorPool()
    for module in (any_pb2, duration_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(name="google/rpc/test.proto", package="google.rpc", syntax="proto3")
    file.dependency.extend([any_pb2.DESCRIPTOR.name, duration_pb2.DESCRIPTOR.name])
    status = file.message_type.add(name="Status")
    status.field.add(name="code", number=1, type=Field.TYPE_INT32, label=Field.LABEL_OPTIONAL)
    status.field.add(name="message", number=2, type=Field.TYPE_STRING, label=Field.LABEL_OPTIONAL)
    message = Field.TYPE_MESSAGE
    status.field.add(
        name="details", number=3, type=message, type_name=".google.protobuf.Any", label=Field.LABEL_REPEATED
    )
    info = file.message_type.add(name="RetryInfo")
    info.field.add(
        name="retry_delay", number=1, type=message, type_name=".google.protobuf.Duration", label=Field.LABEL_OPTIONAL
    )
    pool.Add(file)
    names = ("google.rpc.Status", "google.rpc.RetryInfo")
    first, second = (message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in names)
    return first, second


STATUS, RETRY_INFO = google_rpc()


def trailer(*details: Any, prefix: str = "type.googleapis.com") -> bytes:
    status = STATUS(code=14, message="später")
    for detail in details:
        packed = status.details.add()
        packed.type_url = f"{prefix}/{detail.DESCRIPTOR.full_name}"
        packed.value = detail.SerializeToString()
    data: bytes = status.SerializeToString()
    return data


def retry_info(seconds: int, nanos: int = 0) -> Any:
    info = RETRY_INFO()
    info.retry_delay.seconds = seconds
    info.retry_delay.nanos = nanos
    return info


@settings(deadline=None)
@given(seconds=st.integers(0, 299), nanos=st.integers(0, 999_999_999))
def test_what_protobuf_writes_is_read(seconds: int, nanos: int) -> None:
    assert retry_after_s(trailer(retry_info(seconds, nanos))) == pytest.approx(seconds + nanos / 1e9)


def test_it_is_found_behind_other_details_and_under_any_prefix() -> None:
    assert retry_after_s(trailer(duration_pb2.Duration(seconds=9), retry_info(4), prefix="example.org/x")) == 4.0


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", None),
        (trailer(), None),
        (trailer(duration_pb2.Duration(seconds=9)), None),
        (trailer(RETRY_INFO()), 0.0),
        (trailer(retry_info(-5)), 0.0),
        (trailer(retry_info(10**9)), MAX_RETRY_AFTER_S),
        (trailer(retry_info(4))[:-1], None),
        (b"\x1b", None),
        (b"\xff" * 12, None),
        (b"\x09abcdefgh\x15abcd" + trailer(retry_info(4)), 4.0),
    ],
)
def test_what_is_missing_or_broken_is_no_wait(data: bytes, expected: float | None) -> None:
    assert retry_after_s(data) == expected


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_break_it(data: bytes) -> None:
    found = retry_after_s(data)
    assert found is None or 0 <= found <= MAX_RETRY_AFTER_S


@settings(deadline=None)
@given(code=st.integers(0, 16), message=st.text(max_size=300), delay_ms=st.integers(0, 300_000))
def test_what_is_written_is_what_protobuf_reads(code: int, message: str, delay_ms: int) -> None:
    data = retry_details(code, message, delay_ms / 1_000)
    status = STATUS.FromString(data)
    assert (status.code, status.message, len(status.details)) == (code, message, 1)
    info = RETRY_INFO()
    assert status.details[0].Unpack(info)
    assert info.retry_delay.ToMilliseconds() == delay_ms
    assert retry_after_s(data) == pytest.approx(delay_ms / 1_000)
