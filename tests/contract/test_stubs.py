"""The committed stubs are those of the protos, and state the floor that pyproject states."""

from __future__ import annotations

import re
from pathlib import Path

from google.protobuf import descriptor_pb2

from helios.v1 import batch_pb2, events_pb2, service_pb2, views_pb2, windows_pb2

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "proto" / "helios" / "v1"


def test_every_field_of_the_protos_is_in_the_stubs() -> None:
    for module in (batch_pb2, events_pb2, service_pb2, views_pb2, windows_pb2):
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        source = (PROTOS / Path(module.DESCRIPTOR.name).name).read_text(encoding="utf-8")
        written = set(re.findall(r"^\s+(?:repeated |optional )?[\w.<>, ]+ (\w+) = (\d+);", source, re.MULTILINE))
        written = {(name, int(number)) for name, number in written}
        generated = {(field.name, field.number) for message in file.message_type for field in message.field}
        generated |= {(value.name, value.number) for enum in file.enum_type for value in enum.value}
        written |= {(name, int(number)) for name, number in re.findall(r"^\s+([A-Z_]+) = (\d+);", source, re.MULTILINE)}
        assert written == generated, module.DESCRIPTOR.name


def test_the_stubs_were_generated_with_the_floor_that_is_stated() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    protobuf = re.search(r'"protobuf>=([\d.]+)', pyproject)
    grpcio = re.search(r'"grpcio>=([\d.]+)', pyproject)
    assert protobuf
    assert grpcio
    stub = (PROTOS / "batch_pb2.py").read_text(encoding="utf-8")
    assert f"Protobuf Python Version: {protobuf[1]}" in stub
    service = (PROTOS / "service_pb2_grpc.py").read_text(encoding="utf-8")
    assert f"GRPC_GENERATED_VERSION = '{grpcio[1]}" in service
