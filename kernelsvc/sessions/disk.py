"""Holds sessions to the room that they may take on the disk.

Theory of operation. Nothing stops a process from writing, short of a file system with quotas; so
what each session with a kernel keeps is measured, and the kernel of one that keeps too much is
killed. To measure is to walk a tree, which is done only where it can tell something new: when the
file system's own count of what is free, read several times a second while runs are going on, has
fallen by half of what the session may still take; and now and then, in case others have freed what
it took. Deleted files that a process still has open, and the directory of the kernel's sockets,
which the code can write to, count too.
"""

import asyncio
import contextlib
import math
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from kernelsvc.files.beneath import directory_by_path
from kernelsvc.files.charge import charged
from kernelsvc.kernels.seat import Seat
from kernelsvc.models.limits import LimitExceeded, readable_size
from kernelsvc.sessions.live import LiveSession

T = TypeVar("T")

_BUSY_SECONDS = 0.25
_IDLE_SECONDS = 2.0
_AGAIN_SECONDS = 10.0
log = structlog.get_logger()


@dataclass(frozen=True)
class _Free:
    """What the file system has left: bytes, and how many files it may still hold."""

    size: int
    files: int


@dataclass(frozen=True)
class _Measured:
    """What a session kept, and when that was; `seat` is where its kernel ran."""

    seat: Seat
    used: int
    free: _Free
    at: float


class DiskWatch:
    """One task that looks after every session that is awake. `root` is where workspaces are."""

    def __init__(self, sessions: Mapping[str, LiveSession], root: Path) -> None:
        self._sessions = sessions
        self._root = root
        self._measured: dict[str, _Measured] = {}
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="disk")
        self._needed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._threads.shutdown(wait=False)

    def reconsider(self) -> None:
        """A session has woken up."""
        self._needed.set()

    async def _watch(self) -> None:
        while True:
            if not self._sessions:
                self._measured.clear()
                self._needed.clear()
                await self._needed.wait()
            is_busy = any(live.is_busy for live in self._sessions.values())
            await asyncio.sleep(_BUSY_SECONDS if is_busy else _IDLE_SECONDS)
            try:
                await self._look()
            except OSError:
                log.exception("disk_not_measured")

    async def _look(self) -> None:
        free = await self._in_thread(partial(_free, self._root))
        for gone in self._measured.keys() - self._sessions.keys():
            del self._measured[gone]
        await asyncio.gather(
            *(self._check(live, seat, free)
              for live in list(self._sessions.values())
              if (seat := live.seat) is not None and self._may_be_over(live, seat, free))
        )  # fmt: skip

    def _may_be_over(self, live: LiveSession, seat: Seat, free: _Free) -> bool:
        last = self._measured.get(live.record.id)
        if last is None or last.seat is not seat:
            return True
        half = (live.room.ceiling - last.used) / 2
        fallen = last.free.size - free.size > half or ((last.free.files - free.files) * 4096 > half)
        is_old = live.is_busy and time.monotonic() - last.at > _AGAIN_SECONDS
        return fallen or is_old

    async def _check(self, live: LiveSession, seat: Seat, free: _Free) -> None:
        session_id, limit, ceiling = live.record.id, live.limits.disk, live.room.ceiling
        if limit is None:
            return
        used = await self._in_thread(partial(disk_used, seat, ceiling))
        self._measured[session_id] = _Measured(seat, used, free, time.monotonic())
        if used > ceiling and live.seat is seat:
            log.warning("disk_limit_exceeded", session_id=session_id, limit=limit)
            what = f"the session's files took more of the disk than {readable_size(limit)}"
            live.stop_for(LimitExceeded("DiskLimitExceeded", what))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def disk_used(seat: Seat, enough: float = math.inf) -> int:
    """What a session with a kernel takes of the disk, in bytes; blocks.

    Where that is more than `enough`, not all of it is counted.
    """
    total = 0
    for directory in (seat.place.workspace, seat.place.runtime):
        with contextlib.suppress(OSError), directory_by_path(os.fsencode(directory)) as top:
            total += charged(top, enough - total)
    return total + seat.unnamed_bytes() if total <= enough else total


def _free(path: Path) -> _Free:
    found = os.statvfs(path)
    return _Free(found.f_bavail * found.f_frsize, found.f_favail)
