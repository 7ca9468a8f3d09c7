"""The port through which a client reaches a collector. Adapters: `grpc_transport`, and `testing` in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol

from helios.v1.service_pb2 import SendBatchRequest, SendBatchResponse, SendEventsRequest, SendEventsResponse


class Transport(Protocol):
    """One attempt each: a transport neither retries nor judges an answer.

    A call that fails raises what `helios.retry.error_from_status` makes of its status, with the
    foreign error as the cause; nothing else of the transport gets out.
    """

    async def send_events(self, request: SendEventsRequest, *, timeout_s: float) -> SendEventsResponse:
        """The collector's answer within `timeout_s`; DeadlineExceeded when it takes longer."""
        ...

    async def send_batch(self, request: SendBatchRequest, *, timeout_s: float) -> SendBatchResponse:
        """The collector's answer within `timeout_s`, whichever of the three it is."""
        ...

    def stream(self, requests: AsyncIterator[SendBatchRequest]) -> AsyncGenerator[SendBatchResponse, None]:
        """The answers to the batches, in their order, until `requests` ends or the stream breaks."""
        ...

    async def close(self) -> None:
        """Lets go of the connection; what is still under way fails. May be called twice."""
        ...
