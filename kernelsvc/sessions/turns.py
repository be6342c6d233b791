"""One thing at a time, in order of arrival."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")


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

    def begin(self, work: Callable[[], Awaitable[T]]) -> asyncio.Task[T]:
        """Do it in a task of its own when its turn has come."""
        task = asyncio.create_task(self._take(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def do(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do it when its turn has come; it goes on where the caller is cancelled."""
        return await asyncio.shield(self.begin(work))

    async def _take(self, work: Callable[[], Awaitable[T]]) -> T:
        self._waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
        try:
            self._check()
            return await work()
        finally:
            self._turn.release()
            self._on_end()

    async def finish(self) -> None:
        """Return when nothing is going on or waits."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))
