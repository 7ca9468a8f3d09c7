"""The collector as a service: it listens on gRPC, answers its paths over HTTP, and writes the store."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import structlog

from helios_collector.admission import Admission
from helios_collector.body import Gate
from helios_collector.http import EVENTS_PATHS, HttpIngest
from helios_collector.ingest import ServiceNames
from helios_collector.otlp.http import PATHS as OTLP_PATHS
from helios_collector.otlp.http import OtlpHttp
from helios_collector.otlp.receiver import Receiver
from helios_collector.servicer import serve
from helios_collector.telemetry import Telemetry
from helios_collector.writer import StoreWriter
from helios_core.errors import ConfigError
from helios_core.service import Context
from helios_core.settings import split

_GRACE_S: Final = 20
_log = structlog.get_logger(__name__)


async def run(context: Context) -> None:
    """Takes what comes until it is told to drain; what was accepted by then is in the store.

    In this order: no new requests; those under way are answered; the writer drains the bus.

    Raises:
        ConfigError: the address cannot be used.
    """
    telemetry = Telemetry(context.metrics, is_live=not context.files)
    names = ServiceNames()
    gate = Gate()
    admission = Admission(context.bus, context.limits, telemetry)
    receiver = Receiver(admission, context.clock, names, telemetry)
    if context.routes is not None:
        ingest = HttpIngest(admission, context.clock, context.keys, telemetry, names, gate)
        for path in EVENTS_PATHS:
            context.routes.mount(path, ingest)
    otlp = OtlpHttp(receiver, admission, context.keys, gate, telemetry)
    for routes in filter(None, (context.routes, context.otlp_routes)):
        for path in OTLP_PATHS:
            routes.mount(path, otlp)
    writer = StoreWriter(context.bus, context.store, telemetry, clock=context.clock, retention_us=context.retention_us)
    try:
        server = await serve(
            admission, context.clock, context.grpc, context.keys, telemetry, names, receiver, context.certificate
        )
    except OSError as error:
        raise ConfigError(f"{error}; choose another with --grpc, or end what listens there") from error
    drained = asyncio.Event()
    writing = asyncio.create_task(writer.run(drained))
    draining = asyncio.create_task(context.drain.wait())

    def say() -> dict[str, Any]:
        return {
            "grpc_port": server.port,
            "open": context.keys.are_open,
            **telemetry.status(),
            "overflowed": list(names.overflowed),
            "clock_skew_s": telemetry.skew.worst(),
        }

    context.parts["collector"] = say
    try:
        host = split(context.grpc)[0]
        context.collector.set_result(f"{f'[{host}]' if ':' in host else host}:{server.port}")
        await asyncio.wait({writing, draining}, return_when=asyncio.FIRST_COMPLETED)
        await gate.close()
        await server.stop(_GRACE_S)
        drained.set()
        await writing
    finally:
        for task in (writing, draining):
            task.cancel()
        await server.stop(None)
