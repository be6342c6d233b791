"""What a caretaker has handed over becomes sessions that are awake."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog

from kernelsvc.errors import KernelStartFailed
from kernelsvc.kernels.inheritance import Heir, households, inherit, told_of
from kernelsvc.kernels.orphans import Orphan
from kernelsvc.models.run import Run
from kernelsvc.sessions.adopted import AdoptedSession
from kernelsvc.sessions.capacity import Capacity
from kernelsvc.sessions.going import Going
from kernelsvc.sessions.job import SERVICE_STOPPED
from kernelsvc.sessions.live import LiveSession
from kernelsvc.sessions.parts import SessionParts

_GREETINGS_SECONDS: Final = 3.0

log = structlog.get_logger()


def going_of(orphan: Orphan) -> Going | None:
    """The run that was begun there last, if any was."""
    try:
        return None if orphan.run is None else Going.model_validate_json(orphan.run)
    except ValueError:
        return None


class Adopting:
    """Done once, when a service starts; the sessions are put into `live`.

    `greetings` are those of kernels that may answer at once, by session.
    """

    def __init__(
        self,
        parts: SessionParts,
        capacity: Capacity,
        live: dict[str, LiveSession],
        on_idle: Callable[[LiveSession], None],
    ) -> None:
        self._parts = parts
        self._capacity = capacity
        self._live = live
        self._on_idle = on_idle
        self.greetings: dict[str, asyncio.Future[None]] = {}

    async def adopt(self, orphans: tuple[Orphan, ...]) -> None:
        """Return when the sessions are there, and their kernels have answered, if that is soon."""
        if not orphans:
            return
        found = sum(await asyncio.gather(*map(self._adopt, households(orphans))))
        if self.greetings:
            await asyncio.wait(self.greetings.values(), timeout=_GREETINGS_SECONDS)
        running = sum(live.state == "running" for live in self._live.values())
        lost = sum(not orphan.is_left for orphan in orphans) - found
        log.info("kernels_found_again", sessions=found, running=running, lost=lost)

    async def _adopt(self, household: list[Orphan]) -> int:
        """How many of those that are in one sandbox have their kernels again."""
        try:
            heirs = await inherit(household, self._parts.launcher)
        except (KernelStartFailed, OSError) as error:
            for orphan in household:
                await self._lose(orphan, str(error))
            return 0
        return [await self._take_over(heir) for heir in heirs].count(True)

    async def _lose(self, orphan: Orphan, why: str) -> None:
        """Nothing of it can be had again."""
        orphan.close()
        await self._parts.launcher.keeping.let_go(orphan.seat)
        session_id, going = None, going_of(orphan)
        with suppress(KernelStartFailed):
            session_id = told_of(orphan).session_id
        log.warning("kernel_not_found_again", session_id=session_id, reason=why)
        if session_id is not None and going is not None:
            await self._give_up(session_id, going)

    async def _take_over(self, heir: Heir) -> bool:
        """Whether its session has its kernel again."""
        parts, going, session_id = self._parts, going_of(heir.orphan), heir.told.session_id
        record = await parts.sessions.get(session_id)
        is_over = going is None or await self._is_over(session_id, going)
        if record is None or session_id in self._live or (is_over and not record.persistent):
            await heir.seat.close()
            return False
        live = AdoptedSession(record, parts, self._capacity, self._on_idle, heir)
        has_file = await asyncio.to_thread(live.room.find_again)
        self._live[session_id] = live
        greeting = live.adopt(going, is_over=is_over, has_file=has_file)
        if greeting is not None:
            self.greetings[session_id] = greeting
        return True

    async def _is_over(self, session_id: str, going: Going) -> bool:
        return await self._parts.runs.get(session_id, going.run_id) is not None

    async def _give_up(self, session_id: str, going: Going) -> None:
        """Finish a run whose kernel has gone: it was begun, and nobody will hear of it again."""
        record = await self._parts.sessions.get(session_id)
        if record is None or await self._is_over(session_id, going):
            return
        run = Run(
            run_id=going.run_id,
            session_id=session_id,
            language=record.language,
            status="interrupted",
            error=SERVICE_STOPPED,
            memory="lost",
            memory_detail=SERVICE_STOPPED.evalue,
            data=record.data,
            queued_at=going.queued_at,
            started_at=going.started_at,
        )
        await self._parts.runs.finish(
            run,
            record.run_count + 1,
            going.code,
            was_pending=going.is_promised,
            callback_url=going.callback_url,
        )
