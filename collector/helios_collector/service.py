"""The collector as a service: it takes what comes in over gRPC and HTTP, and writes the store; or one of the two."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Final

import structlog

from helios_collector.admission import Admission
from helios_collector.body import Gate
from helios_collector.http import EVENTS_PATHS, HttpIngest
from helios_collector.ingest import ServiceNames
from helios_collector.otlp.http import PATHS as OTLP_PATHS
from helios_collector.otlp.http import OtlpHttp
from helios_collector.otlp.receiver import Receiver
from helios_collector.servicer import Server, serve
from helios_collector.telemetry import Telemetry
from helios_collector.writer import StoreWriter
from helios_core.errors import ConfigError
from helios_core.service import Context
from helios_core.settings import split

_GRACE_S: Final = 20
_log = structlog.get_logger(__name__)


class Intake:
    """Everything that takes what comes in."""

    def __init__(self, server: Server, gate: Gate, names: ServiceNames, address: str) -> None:
        self._server = server
        self._gate = gate
        self._names = names
        self.address = address

    @classmethod
    async def open(cls, context: Context, telemetry: Telemetry) -> Intake:
        """Mounts its paths, and listens on gRPC.

        Raises:
            ConfigError: the address cannot be used.
        """
        names = ServiceNames()
        gate = Gate()
        admission = Admission(context.bus, context.limits, telemetry)
        receiver = Receiver(admission, context.clock, names, telemetry)
        if context.routes is not None:
            ingest = HttpIngest(admission, context.clock, context.keys, telemetry, names, gate)
            for path in EVENTS_PATHS:
                context.routes.mount(path, ingest, partial(ingest.direct, path))
        otlp = OtlpHttp(receiver, admission, context.keys, gate, telemetry)
        for routes in filter(None, (context.routes, context.otlp_routes)):
            for path in OTLP_PATHS:
                routes.mount(path, otlp)
        try:
            server = await serve(
                admission,
                context.clock,
                context.grpc,
                context.keys,
                telemetry,
                names,
                receiver,
                context.certificate,
                shared=context.worker is not None,
            )
        except OSError as error:
            raise ConfigError(f"{error}; choose another with --grpc, or end what listens there") from error
        host = split(context.grpc)[0]
        return cls(server, gate, names, f"{f'[{host}]' if ':' in host else host}:{server.port}")

    async def close(self, grace_s: float | None) -> None:
        """No new requests; those under way are answered."""
        if grace_s is None:
            self._gate.shut()
        else:
            await self._gate.close()
        await self._server.stop(grace_s)

    def status(self) -> dict[str, Any]:
        return {"grpc_port": self._server.port, "overflowed": list(self._names.overflowed)}


async def run(context: Context) -> None:
    """Takes what comes until it is told to drain; what was accepted by then is in the store.

    In this order: no new requests; those under way are answered; the writer drains the bus. Of these it does what
    its roles say.

    Raises:
        ConfigError: the address cannot be used.
    """
    telemetry = Telemetry(context.metrics, is_live=not context.files)
    intake = await Intake.open(context, telemetry) if "ingest" in context.roles else None
    drained = asyncio.Event()
    draining = asyncio.create_task(context.drain.wait())
    writing: asyncio.Task[None] | None = None
    if "store" in context.roles:
        writer = StoreWriter(
            context.bus, context.store, telemetry, clock=context.clock, retention_us=context.retention_us
        )
        writing = asyncio.create_task(writer.run(drained))

    def say() -> dict[str, Any]:
        return {
            "open": context.keys.are_open,
            **telemetry.status(),
            **(intake.status() if intake is not None else {}),
            "clock_skew_s": telemetry.skew.worst(),
        }

    context.parts["collector"] = say
    tasks = [task for task in (draining, writing) if task is not None]
    try:
        context.collector.set_result(intake.address if intake is not None else "")
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if intake is not None:
            await intake.close(_GRACE_S)
        drained.set()
        if writing is not None:
            await writing
    finally:
        for task in tasks:
            task.cancel()
        if intake is not None:
            await intake.close(None)
