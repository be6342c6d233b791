"""One thing at a time, in order of arrival."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from kernelsvc.errors import KernelStartFailed

T = TypeVar("T")


def _nothing() -> None:
    """What is called when nobody wants to know."""


class Turns:
    """Gives turns, and owns the tasks that wait for one.

    `check` is called when a turn begins and raises where nothing is to be done any more; `on_end`
    is called when one has ended.
    """

    def __init__(self, check: Callable[[], None], on_end: Callable[[], None]) -> None:
        self._check = check
        self._on_end = on_end
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def is_busy(self) -> bool:
        """Whether a turn is being taken or waited for."""
        return self._turn.locked() or self._waiting > 0

    @property
    def waiting(self) -> int:
        """How many wait for a turn."""
        return self._waiting

    def begin(
        self,
        work: Callable[[], Awaitable[T]],
        left: Callable[[], None] = _nothing,
        told: asyncio.Future[T] | None = None,
    ) -> asyncio.Future[T]:
        """Do it in a task of its own when its turn has come; `left` is called when it is over.

        What is returned, or given as `told`, only tells how it ended: who cancels it, sets it or
        lets it be changes nothing.
        """
        told = told or asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._take(work, left, told))
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._ended(task, told))
        return told

    async def do(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do it when its turn has come; it goes on where the caller is cancelled."""
        return await self.begin(work)

    async def _take(
        self, work: Callable[[], Awaitable[T]], left: Callable[[], None], told: asyncio.Future[T]
    ) -> None:
        self._waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
        try:
            self._check()
            try:
                result = await work()
            except KernelStartFailed:
                # It may have been cut short by what lets nothing more be done.
                self._check()
                raise
        finally:
            self._turn.release()
            left()
            self._on_end()
        # Told from here rather than when the task has ended, which is two of the loop's rounds on.
        if not told.done():
            told.set_result(result)

    def _ended(self, task: asyncio.Task[None], told: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        if told.done():
            return
        if task.cancelled():
            told.cancel()
        elif (error := task.exception()) is not None:
            told.set_exception(error)
            # Who asked may have gone away; nobody else looks at it then.
            told.exception()

    async def finish(self) -> None:
        """Return when nothing is going on or waits."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))
