"""Forking a session: live copies, with all that its kernel holds.

Theory of operation. In a turn of the source's, its kernel makes a snapshot of its memory as it is
(`KernelSlot.offer`), its data is taken over from its file, and its files are copied, as for a
duplicate. While the turn lasts, no run can change what the copies are to have; so within it they
come to be sessions, each with a kernel that is forked from that snapshot, in a place that is made
ready meanwhile (`lodgings`). Where none can be forked (the session sleeps, its language has no
snapshots, there is no sandbox), they get the memory as duplicates do, by what sleep keeps. All of
them come to be, or none.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import replace

from kernelsvc import clock
from kernelsvc.errors import SessionExists
from kernelsvc.models.caller import Caller
from kernelsvc.models.fork import Fork
from kernelsvc.models.memory import KeptMemory
from kernelsvc.models.session import SessionRecord
from kernelsvc.sessions.duplicate import Duplicator, copy_of, memory_of_copy
from kernelsvc.sessions.live import LiveSession
from kernelsvc.sessions.lodgings import Offer
from kernelsvc.sessions.memory import SessionMemory
from kernelsvc.sessions.newcomers import Newcomers, new_session_id
from kernelsvc.sessions.parts import SessionParts


class Forker:
    """Makes live copies; `adopt` has a session in memory, `remove` leaves nothing of one."""

    def __init__(
        self,
        parts: SessionParts,
        newcomers: Newcomers,
        duplicator: Duplicator,
        adopt: Callable[[SessionRecord], LiveSession],
        remove: Callable[[LiveSession], Awaitable[object]],
    ) -> None:
        self._sessions = parts.sessions
        self._newcomers = newcomers
        self._duplicator = duplicator
        self._adopt = adopt
        self._remove = remove

    async def fork(self, caller: Caller, source: LiveSession, request: Fork) -> list[LiveSession]:
        """Make the copies; raises what is in the way, and then there are none."""
        ids = request.session_ids or [new_session_id() for _ in range(request.count or 1)]
        made: list[LiveSession] = []

        async def make(memory: SessionMemory) -> None:
            await self._make(source, ids, memory, made, reseed=request.reseed)

        async def fork() -> list[LiveSession]:
            with ExitStack() as coming:
                for new_id in ids:
                    coming.enter_context(self._newcomers.coming(caller, new_id))
                    if await self._sessions.get(new_id) is not None:
                        raise SessionExists(new_id)
                try:
                    await source.between_runs(make)
                except BaseException:
                    await asyncio.gather(*map(self._remove, made), return_exceptions=True)
                    raise
            return made

        return await self._duplicator.see_through(fork())

    async def _make(
        self,
        source: LiveSession,
        ids: list[str],
        memory: SessionMemory,
        made: list[LiveSession],
        *,
        reseed: bool,
    ) -> None:
        async with memory.offer(len(ids), reseed=reseed) as offer:
            await self._make_of(offer, source, ids, memory, made)

    async def _make_of(
        self,
        offer: Offer | None,
        source: LiveSession,
        ids: list[str],
        memory: SessionMemory,
        made: list[LiveSession],
    ) -> None:
        if offer is None:
            kept = await memory.save()
            kept = memory_of_copy(memory, kept, source.record, source.record.run_count)
        else:
            why = f"{copy_of(source.record.id)}, and its kernel has ended"
            kept = KeptMemory("", source.record.run_count, why)
        now = clock.now()
        for new_id in ids:
            copy = await self._duplicator.stage(source, memory=offer is None)
            record = replace(source.record, id=new_id, created_at=now, memory=kept)
            await self._duplicator.settle(copy, record, source.record.id, history=True)
            made.append(self._adopt(record))
        if offer is None:
            for live in made:
                live.begin_wake()
            return
        told = source.record.id, memory.lost
        beginning = [live.become_copy(offer, *told) for live in made]
        for ended in await asyncio.gather(*beginning, return_exceptions=True):
            if isinstance(ended, BaseException):
                raise ended
