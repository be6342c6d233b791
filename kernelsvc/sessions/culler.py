"""Puts sessions to sleep when nothing has happened in them for long enough."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

import structlog

from kernelsvc.errors import KernelsvcError
from kernelsvc.sessions.live import LiveSession

MEMORY_SECONDS = 5.0
"""How often the machine's memory is looked at while there are sessions."""

log = structlog.get_logger()


class _Awake(Protocol):
    @property
    def is_busy(self) -> bool: ...
    @property
    def sleep_after(self) -> float: ...
    @property
    def active_at(self) -> float: ...


def due_at(session: _Awake) -> float:
    """When the session should sleep (time.monotonic()); infinity while it works."""
    return math.inf if session.is_busy else session.active_at + session.sleep_after


class Culler:
    """One task that sleeps until the earliest session is due; `reconsider` may wake it earlier.

    `relieve` puts sessions to sleep that are not due, where the machine's memory runs short.
    """

    def __init__(
        self, sessions: dict[str, LiveSession], relieve: Callable[[], Awaitable[None]]
    ) -> None:
        self._sessions = sessions
        self._relieve = relieve
        self._planned = math.inf
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._cull())

    async def stop(self) -> None:
        """End; a session that is falling asleep goes on to."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def reconsider(self, session: LiveSession) -> None:
        """The session has become idle, or its `sleep_after` has changed."""
        if due_at(session) < self._planned:
            self._changed.set()

    async def _cull(self) -> None:
        while True:
            self._changed.clear()
            self._planned = min(map(due_at, self._sessions.values()), default=math.inf)
            memory_at = time.monotonic() + MEMORY_SECONDS if self._sessions else math.inf
            await self._wait_until(min(self._planned, memory_at))
            await self._relieve()
            await asyncio.gather(*map(self._put_to_sleep, self._overdue(self._sessions.values())))

    @staticmethod
    def _overdue(sessions: Iterable[LiveSession]) -> list[LiveSession]:
        now = time.monotonic()
        return [session for session in sessions if due_at(session) <= now]

    async def _wait_until(self, moment: float) -> None:
        seconds = None if math.isinf(moment) else moment - time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _put_to_sleep(self, session: LiveSession) -> None:
        try:
            await session.sleep()
        except KernelsvcError:
            return
        except Exception:
            # One session that cannot be put to sleep must not keep the others awake.
            log.exception("cull_failed", session_id=session.record.id)
            session.active_at = time.monotonic()
        if not session.is_busy and self._sessions.get(session.record.id) is session:
            del self._sessions[session.record.id]
