"""Work that many bring and that is done together: what comes while a round is under way goes in the next.

There is no waiting for more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

_AT_ONCE: Final = 2  # one may wait for its last answer while the next is sent
_T = TypeVar("_T")


@dataclass(slots=True)
class _Round(Generic[_T]):
    done: asyncio.Future[None]
    items: list[_T] = field(default_factory=list)


class Rounds(Generic[_T]):
    """Rounds of one kind of work, at most two of them under way.

    Args:
        run: does the work of a round, whose items are in the order in which they came.
    """

    def __init__(self, run: Callable[[Sequence[_T]], Awaitable[None]]) -> None:
        self._run = run
        self._next: _Round[_T] | None = None
        self._running: set[asyncio.Task[None]] = set()

    def join(self, item: _T) -> asyncio.Future[None]:
        """What is done when the work is, for all who have joined: not to be cancelled. An error is that of them all."""
        if self._next is None:
            self._next = _Round(asyncio.get_running_loop().create_future())
            if len(self._running) < _AT_ONCE:  # with everything that this turn of the loop brings
                asyncio.get_running_loop().call_soon(self._begin)
        self._next.items.append(item)
        return self._next.done

    def _begin(self) -> None:
        if self._next is not None and len(self._running) < _AT_ONCE:
            begun, self._next = self._next, None
            task = asyncio.create_task(self._one(begun))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._begin()

    async def _one(self, begun: _Round[_T]) -> None:
        try:
            await self._run(begun.items)
        except Exception as error:  # noqa: BLE001 -- it is told to all who wait, and handled there
            begun.done.set_exception(error)
            begun.done.exception()  # all of them may have gone
        except BaseException:
            begun.done.cancel()
            raise
        else:
            begun.done.set_result(None)
