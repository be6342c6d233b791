"""Copying a session.

Theory of operation. In a turn of the source's, so that none of its runs goes on, its data is taken
over from its file, its memory saved as before a sleep, and its files are copied, the memory's among
them, to where nobody else is (the staging directory). Only then the copy is moved to its place, and
its row stored last: a crash before that leaves what the next start clears away, an empty staging
directory and no workspace without a row. Nobody else makes a session of that id meanwhile
(`Newcomers`). The copy's first kernel restores the memory, as one does that wakes.
"""

import asyncio
import errno
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from kernelsvc import clock
from kernelsvc.errors import FileNotAccessible, SessionExists, SessionNotFound, StorageFull
from kernelsvc.files.session_data import DataFile
from kernelsvc.models.caller import Caller
from kernelsvc.models.memory import KeptMemory
from kernelsvc.models.session import SessionRecord
from kernelsvc.sessions.live import LiveSession
from kernelsvc.sessions.memory import SessionMemory
from kernelsvc.sessions.newcomers import Newcomers
from kernelsvc.sessions.parts import SessionParts

T = TypeVar("T")


def copy_of(source: str) -> str:
    """What a session is, in words."""
    return f"the session is a copy of {source}"


def memory_of_copy(
    memory: SessionMemory, kept: KeptMemory | None, source: SessionRecord, run_count: int
) -> KeptMemory | None:
    """What to note of a copy that counts so many runs, where `kept` is what its source has kept.

    What its first answer has to tell of must last until then, however often the service ends.
    """
    if kept is None and (source.run_count or memory.lost):
        kept = KeptMemory("", run_count, copy_of(source.id))
    elif kept is not None and kept.lost is not None:
        kept = replace(kept, lost=f"{copy_of(source.id)}: {kept.lost}")
    return kept and replace(kept, run_count=run_count)


class Duplicator:
    """Makes copies of sessions, each in a task, which goes on if the caller goes away."""

    def __init__(self, parts: SessionParts, newcomers: Newcomers) -> None:
        self._sessions = parts.sessions
        self._workspaces = parts.workspaces
        self._limits = parts.policy.limits
        self._max_data_bytes = parts.policy.max_data_bytes
        self._newcomers = newcomers
        self._tasks: set[asyncio.Task[Any]] = set()

    async def see_through(self, making: Coroutine[Any, Any, T]) -> T:
        """Have it done in a task of its own, whatever becomes of the caller."""
        task = asyncio.create_task(making)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def finish(self) -> None:
        """Return when no copy is being made any more."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def duplicate(
        self, caller: Caller, source: LiveSession, new_id: str, data: dict[str, Any] | None
    ) -> SessionRecord:
        """Make the copy, with other `data` where that is not None; raises what is in the way."""
        return await self.see_through(self._duplicate(caller, source, new_id, data))

    async def _duplicate(
        self, caller: Caller, source: LiveSession, new_id: str, data: dict[str, Any] | None
    ) -> SessionRecord:
        async def copy(memory: SessionMemory) -> tuple[SessionRecord, Path]:
            kept = await memory.save()
            record = source.record
            copied = replace(
                record,
                id=new_id,
                created_at=clock.now(),
                last_run_at=None,
                run_count=0,
                memory=memory_of_copy(memory, kept, record, 0),
                data=record.data if data is None else data,
            )
            return copied, await self.stage(source)

        with self._newcomers.coming(caller, new_id):
            if await self._sessions.get(new_id) is not None:
                raise SessionExists(new_id)
            record, staged = await source.between_runs(copy)
            await self.settle(staged, record, source.record.id)
        return record

    async def stage(self, source: LiveSession, *, memory: bool = True) -> Path:
        """A copy of its files in the staging directory, with `memory` of what is kept of that."""
        record = source.record
        limit = record.limits.over(self._limits).disk or 0

        def check() -> None:
            if source.is_deleted:
                raise SessionNotFound(record.id)

        def begin() -> Path:
            return self._workspaces.begin_copy(record.id, limit, check, memory=memory)

        with _as_ours():
            return await asyncio.to_thread(begin)

    async def settle(
        self, staged: Path, record: SessionRecord, source: str, *, history: bool = False
    ) -> None:
        """Make what is staged the workspace of a new session, a copy of `source`, and store it."""
        try:
            with _as_ours():
                await asyncio.to_thread(self._place, staged, record)
            await self._sessions.add(record, copy_of=source, history=history)
        except BaseException:
            await asyncio.to_thread(self._clear_away, staged, record.id)
            raise

    def _place(self, staged: Path, record: SessionRecord) -> None:
        DataFile(staged, self._max_data_bytes, self._workspaces.owner).write(record.data)
        self._workspaces.place_copy(staged, record.id)

    def _clear_away(self, staged: Path, new_id: str) -> None:
        self._workspaces.drop_copy(staged)
        self._workspaces.remove(new_id)


@contextmanager
def _as_ours() -> Iterator[None]:
    """Say of what the file system refuses what the caller can act on."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull from error
        raise FileNotAccessible(".", error.strerror or "its directory is in use") from error
