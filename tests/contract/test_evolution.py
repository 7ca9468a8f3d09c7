"""The contract only grows: what an agent or client in the field knows of it stays as it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from helios.v1 import batch_pb2, events_pb2, service_pb2, windows_pb2

KNOWN = Path(__file__).with_name("helios.v1.txt")
_KINDS = {
    number: name.removeprefix("TYPE_").lower() for name, number in vars(FieldDescriptor).items() if name[:5] == "TYPE_"
}


def _field(field: FieldDescriptor) -> str:
    of = field.message_type or field.enum_type
    kind = of.full_name if of is not None else _KINDS[field.type]
    many = "repeated " if field.is_repeated else "optional " if field.has_presence and of is None else ""
    return f"{field.full_name} = {field.number}: {many}{kind}"


def _message(message: Descriptor) -> Iterator[str]:
    for field in message.fields:
        yield _field(field)
    for nested in message.nested_types:
        yield from _message(nested)


def spoken() -> set[str]:
    """Each field, value and call of the contract, as one line."""
    lines: set[str] = set()
    for module in (events_pb2, windows_pb2, batch_pb2, service_pb2):
        file = module.DESCRIPTOR
        for message in file.message_types_by_name.values():
            lines.update(_message(message))
        for enum in file.enum_types_by_name.values():
            lines.update(f"{enum.full_name}.{value.name} = {value.number}" for value in enum.values)
        for service in file.services_by_name.values():
            for method in service.methods:
                up, down = (
                    "stream " if streams else "" for streams in (method.client_streaming, method.server_streaming)
                )
                call = f"{up}{method.input_type.full_name} -> {down}{method.output_type.full_name}"
                lines.add(f"{method.full_name}: {call}")
    return lines


def test_nothing_that_was_spoken_has_changed() -> None:
    known = set(KNOWN.read_text(encoding="utf-8").splitlines())
    gone = sorted(known - spoken())
    assert not gone, "removed, renumbered or of another type; add a new field instead:\n" + "\n".join(gone)


def test_what_is_new_is_written_down() -> None:
    known = set(KNOWN.read_text(encoding="utf-8").splitlines())
    fresh = sorted(spoken() - known)
    assert not fresh, f"from now on this cannot change; add it to {KNOWN.name}:\n" + "\n".join(fresh)


def test_the_check_sees_a_change() -> None:
    assert "helios.v1.BatchId.sequence = 3: uint64" in spoken()
    assert "helios.v1.Event.latency_us = 5: optional int64" in spoken()
    assert "helios.v1.Slice.deltas = 4: repeated helios.v1.WindowDelta" in spoken()
    assert "helios.v1.Answer.ANSWER_DENIED = 3" in spoken()
    assert (
        "helios.v1.Helios.Stream: stream helios.v1.SendBatchRequest -> stream helios.v1.SendBatchResponse" in spoken()
    )
