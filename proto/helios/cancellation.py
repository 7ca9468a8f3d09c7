"""A cancellation that gRPC loses is found again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import grpc


@contextmanager
def heeded() -> Iterator[None]:
    """Around a call over `grpc.aio`, in the task that may be cancelled.

    Who waits for a call that is only beginning waits for a task of gRPC's, which takes the cancellation
    as its own and ends in good order (`_prepare_rpc` of `grpc/aio/_call.py`, seen with 1.85.1). When the
    call fails at that moment, its status is raised in place of the CancelledError, and who tries again
    then would never end.

    Raises:
        CancelledError: the task was cancelled within, whatever became of the call.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        yield
    except grpc.aio.AioRpcError as error:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError from error
        raise
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError
