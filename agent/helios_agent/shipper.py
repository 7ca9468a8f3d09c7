"""The shipper: spooled batches up the stream, acknowledgements down; an acknowledged batch leaves the spool.

It keeps at most MAX_UNACKNOWLEDGED batches open, resends them byte-identical after a break, and waits
with growing, jittered pauses while the collector cannot be reached or asks for time. A stream on which
no answer comes is broken, too.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import grpc
import structlog
from grpc import aio

from helios import cancellation, errors
from helios.retry_info import MAX_RETRY_AFTER_S
from helios.v1 import service_pb2, service_pb2_grpc
from helios_agent import connection
from helios_agent.spool import Spool
from helios_core.batches import MAX_UNACKNOWLEDGED
from helios_core.errors import HeliosError

_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 15.0
_ANSWER_TIMEOUT_S: Final = 60.0
_Key = tuple[int, int]  # incarnation, sequence
_Call: TypeAlias = aio.StreamStreamCall[service_pb2.SendBatchRequest, service_pb2.SendBatchResponse]
_log = structlog.get_logger(__name__)


class Denied(HeliosError):
    """The collector does not want this agent's batches (authentication, version): a person must act."""


@dataclass(slots=True)
class ShippingCounts:
    """What was shipped, for `status` and metrics."""

    sent: int = 0
    sent_bytes: int = 0
    acknowledged: int = 0
    rejected_items: int = 0
    retries: int = 0


class _Unacknowledged:
    """The batches of one stream that wait for their answers: MAX_UNACKNOWLEDGED at most, and none for ever.

    Args:
        silence: is over when one has waited for _ANSWER_TIMEOUT_S and no answer has come.
    """

    def __init__(self, silence: asyncio.Timeout) -> None:
        self._silence = silence
        self._room = asyncio.Semaphore(MAX_UNACKNOWLEDGED)
        self._keys: set[_Key] = set()

    async def add(self, key: _Key) -> None:
        """When there is room."""
        await self._room.acquire()
        if not self._keys:
            self._silence.reschedule(asyncio.get_running_loop().time() + _ANSWER_TIMEOUT_S)
        self._keys.add(key)

    def remove(self, key: _Key) -> bool:
        """It is answered; False for one that is not there."""
        if key not in self._keys:
            return False
        self._keys.remove(key)
        self._room.release()
        now_s = asyncio.get_running_loop().time()
        self._silence.reschedule(now_s + _ANSWER_TIMEOUT_S if self._keys else None)
        return True


class Shipper:
    """Ships a spool to a collector.

    Args:
        spool: where the batches are.
        target: `host:port` of the collector.
        metadata: sent with each call: the API key.
        credentials: for TLS; None for a connection in the clear.
    """

    def __init__(
        self,
        spool: Spool,
        target: str,
        *,
        metadata: Sequence[tuple[str, str]] = (),
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._spool = spool
        self._target = target
        self._metadata = tuple(metadata)
        self._credentials = credentials
        self._news = asyncio.Event()
        self.counts = ShippingCounts()

    async def run(self, drain: asyncio.Event) -> None:
        """Ships until `drain` is set and the spool is empty.

        Raises:
            Denied: the collector refuses; nothing is lost, the spool keeps it.
        """
        loop = asyncio.get_running_loop()
        self._spool.on_append = lambda: _tell(loop, self._news)
        pause_s = _FIRST_PAUSE_S
        while not (drain.is_set() and not len(self._spool)):
            before = self.counts.acknowledged
            asked_s = 0.0
            try:
                async with connection.channel(self._target, self._credentials) as channel:
                    with cancellation.heeded():
                        asked_s = await self._stream(channel, drain)
            except aio.AioRpcError as error:
                said = connection.meaning(error)
                if isinstance(said, errors.Denied):
                    raise Denied(f"the collector at {self._target} refuses: {said}") from error
                _log.warning(
                    "collector_unreachable",
                    target=self._target,
                    code=error.code().name,
                    error=error.details(),
                    pause_s=pause_s,
                )
            except TimeoutError:
                _log.warning("collector_silent", target=self._target, for_s=_ANSWER_TIMEOUT_S, pause_s=pause_s)
            if drain.is_set() and not len(self._spool):
                return
            if self.counts.acknowledged > before:
                pause_s = _FIRST_PAUSE_S
            self.counts.retries += 1
            jittered_s = random.uniform(pause_s / 2, pause_s)  # noqa: S311 - no secret
            await asyncio.sleep(max(asked_s, jittered_s))
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    async def _stream(self, channel: aio.Channel, drain: asyncio.Event) -> float:
        """One stream until it ends; returns the pause in seconds that the collector asked for.

        Raises:
            TimeoutError: the collector does not answer.
        """
        stub = service_pb2_grpc.HeliosStub(channel)
        call = stub.Stream(metadata=self._metadata)
        try:
            async with asyncio.timeout(None) as silence:
                unacknowledged = _Unacknowledged(silence)
                sending = asyncio.create_task(self._send(call, unacknowledged, drain))
                try:
                    return await self._receive(call, unacknowledged)
                finally:
                    sending.cancel()
                    await asyncio.gather(sending, return_exceptions=True)
        finally:
            call.cancel()

    async def _receive(self, call: _Call, unacknowledged: _Unacknowledged) -> float:
        async for response in call:
            if response.answer == service_pb2.ANSWER_ACCEPTED:
                key = (response.id.incarnation, response.id.sequence)
                if not unacknowledged.remove(key):
                    _log.warning("answer_for_no_batch", sequence=response.id.sequence)
                    continue
                self._spool.acknowledge(key)
                self.counts.acknowledged += 1
                self.counts.rejected_items += len(response.rejected)
                for item in response.rejected:
                    _log.error("item_rejected", sequence=response.id.sequence, reason=item.reason)
                self._news.set()
            elif response.answer == service_pb2.ANSWER_DENIED:
                raise Denied(f"the collector at {self._target} refuses: {response.detail}")
            else:
                return min(float(response.retry_after_ms) / 1_000, MAX_RETRY_AFTER_S)
        return 0.0

    async def _send(self, call: _Call, unacknowledged: _Unacknowledged, drain: asyncio.Event) -> None:
        last = None
        while True:
            self._news.clear()
            try:
                batches = self._spool.after(last, MAX_UNACKNOWLEDGED)
            except OSError as error:
                _log.error("spool_cannot_be_read", error=str(error))
                await call.done_writing()  # the stream ends with its answers, and another is tried
                return
            for key, batch in batches:
                await unacknowledged.add(key)
                await call.write(batch)
                last = key
                self.counts.sent += 1
                self.counts.sent_bytes += len(batch.batch)
            if batches:
                continue
            if drain.is_set() and not len(self._spool):
                await call.done_writing()
                return
            try:
                async with asyncio.timeout(0.5):  # a bound on how late a drain is noticed
                    await self._news.wait()
            except TimeoutError:
                continue


def _tell(loop: asyncio.AbstractEventLoop, news: asyncio.Event) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(news.set)
