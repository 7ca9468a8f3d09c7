"""OTLP over HTTP: `POST /v1/logs`, `/v1/traces`, `/v1/metrics`, in protobuf and in JSON."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import Sequence
from typing import Any as AnyType
from typing import Final

from google.protobuf import json_format
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError, Message

from helios_collector.admission import Admission
from helios_collector.body import BodyError, Gate, plain, read
from helios_collector.faults import http_answer
from helios_collector.ingest import client_of
from helios_collector.otlp.receiver import KINDS, Kind, Receiver
from helios_collector.telemetry import Telemetry
from helios_core.errors import BusUnavailable
from helios_core.exposed import headers_of, refusal
from helios_core.keys import Keys, Scope
from helios_core.routes import HttpScope, Receive, Send, respond

PATHS: Final = tuple(f"/v1/{name}" for name in KINDS)
_PROTOBUF: Final = "application/x-protobuf"
_JSON: Final = "application/json"
_IDS: Final = frozenset({"traceId", "spanId", "parentSpanId"})
_MAX_REASON_CHARS: Final = 500


class OtlpHttp:
    """The ASGI application for PATHS."""

    def __init__(self, receiver: Receiver, admission: Admission, keys: Keys, gate: Gate, telemetry: Telemetry) -> None:
        self._receiver = receiver
        self._admission = admission
        self._keys = keys
        self._gate = gate
        self._telemetry = telemetry
        self._unpacking = asyncio.Lock()  # what unpacks is not known to be small before it is there

    async def __call__(self, scope: HttpScope, receive: Receive, send: Send) -> None:
        """Errors are a google.rpc.Status in the encoding of the request, as the protocol wants it."""
        if scope["type"] != "http":
            return
        headers = headers_of(scope["headers"])
        form = headers.get("content-type", "").partition(";")[0].strip().lower()
        extra: list[tuple[bytes, bytes]] = []
        status, message = 200, ""
        body: AnyType = b""
        try:
            taken = await self._answer(scope, headers, form, receive)
        except _Refused as error:
            status, message, extra = error.status, error.message, error.headers
        except BodyError as error:
            status, message = error.status, str(error)
        except asyncio.CancelledError:  # the server has waited long enough, and would say 500
            status, message, extra = http_answer(BusUnavailable("the collector is stopping"), self._telemetry)
        except Exception as error:  # noqa: BLE001 -- the edge of the process; for 500 a sender drops its data
            status, message, extra = http_answer(error, self._telemetry)
        else:
            body = json_format.MessageToDict(taken) if form == _JSON else taken.SerializeToString()
        if status != 200:
            # Any has its bytes where google.rpc.Status has its message; the two are alike on the wire.
            body = {"message": message} if form == _JSON else Any(value=message.encode()).SerializeToString()
        path = scope["path"].rstrip("/")
        self._telemetry.requests.labels(path if path in PATHS else "other", str(status)).inc()
        await respond(send, status, body, extra, kind=(_JSON if form == _JSON else _PROTOBUF).encode())

    async def _answer(self, scope: HttpScope, headers: dict[str, str], form: str, receive: Receive) -> Message:
        path = scope["path"].rstrip("/")
        kind = KINDS.get(path.removeprefix("/v1/"))
        if kind is None:
            raise _Refused(404, f"there is no {path}; OTLP goes to {', '.join(PATHS)}")
        if scope["method"] != "POST":
            raise _Refused(405, f"{scope['method']} {path}: use POST", [(b"allow", b"POST")])
        refused = refusal(self._keys, headers, Scope.INGEST)
        if refused is not None:
            raise _Refused(refused[0], refused[1]["error"], refused[2])
        if form not in (_PROTOBUF, _JSON):
            raise _Refused(415, f"Content-Type {form!r}: {_PROTOBUF} or {_JSON}")
        peer = (scope.get("client") or ("",))[0]
        client = client_of(self._keys, headers.get("authorization", ""), headers.get("x-api-key", ""), peer)
        with self._admission.entered(client) as visit:
            body = await read(headers, receive, self._gate, visit)
            self._gate.check()
            encoding = headers.get("content-encoding", "").strip().lower()
            with self._gate.passing():
                async with self._unpacking:
                    data = await asyncio.to_thread(plain, body, encoding)
                    if data is not body:
                        visit.hold(len(data))
                request = await asyncio.to_thread(_request, kind, data, form)
                response: Message = await self._receiver.take(kind, request, client, visit)
            return response


class _Refused(Exception):
    """What ends a request before it is taken."""

    def __init__(self, status: int, message: str, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = list(headers)


def _request(kind: Kind, data: bytes, form: str) -> Message:
    """BodyError for what is none."""
    try:
        if form == _PROTOBUF:
            return kind.request.FromString(data)
        found = json.loads(data)
        if isinstance(found, dict):
            return json_format.ParseDict(_with_binary_ids(found), kind.request(), ignore_unknown_fields=True)
    except (
        DecodeError,
        json_format.ParseError,
        ValueError,
        OverflowError,
        TypeError,
        RecursionError,
        SystemError,  # what protobuf makes of half a surrogate pair
    ) as error:
        # It may say all of what it could not read, and that may be no text.
        reason = str(error)[:_MAX_REASON_CHARS].encode("utf-8", "replace").decode()
        raise BodyError(f"the body is no request for {kind.name}: {reason}") from error
    raise BodyError(f"the body is no request for {kind.name}: JSON, but no object")


def _with_binary_ids(value: AnyType) -> AnyType:
    """OTLP writes ids in hexadecimal where Protocol Buffers' own JSON has base64."""
    if isinstance(value, list):
        return [_with_binary_ids(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: b64encode(bytes.fromhex(item)).decode()
        if key in _IDS and isinstance(item, str)
        else _with_binary_ids(item)
        for key, item in value.items()
    }
