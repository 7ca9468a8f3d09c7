"""Who cancels a call is heeded, also when gRPC keeps the cancellation to itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import pytest

from helios import cancellation

METADATA = grpc.aio.Metadata()


def error() -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, METADATA, METADATA, "away")


def nothing() -> None:
    return None


def failing() -> None:
    raise error()


async def losing(end: Callable[[], None]) -> None:
    """As a call that takes the cancellation of who waits for it as its own."""
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        end()


@pytest.mark.parametrize("end", [nothing, failing])
async def test_a_cancellation_that_the_call_loses_is_raised(end: Callable[[], None]) -> None:
    async def call() -> None:
        while True:  # as who tries again
            try:
                with cancellation.heeded():
                    await losing(end)
            except grpc.aio.AioRpcError:
                pass

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    task.cancel()
    async with asyncio.timeout(5):
        (ended,) = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(ended, asyncio.CancelledError)


async def test_a_timeout_stays_one() -> None:
    async def call() -> None:
        async with asyncio.timeout(0):
            with cancellation.heeded():
                await losing(failing)

    with pytest.raises(TimeoutError):
        await call()


async def test_what_fails_uncancelled_fails_as_it_did() -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="away"), cancellation.heeded():
        failing()
    with pytest.raises(ValueError, match="other"), cancellation.heeded():
        raise ValueError("other")


async def test_who_sends_a_last_word_after_its_cancellation_may_fail_and_try_again() -> None:
    async def call() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            try:
                with cancellation.heeded():
                    failing()
            except grpc.aio.AioRpcError:
                return "tried again"
        return ""

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "tried again"
