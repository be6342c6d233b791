"""What a caretaker has handed over becomes sessions that are awake."""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from kernelsvc.errors import KernelStartFailed
from kernelsvc.kernels.inheritance import Heir, told_of
from kernelsvc.kernels.orphans import Orphan
from kernelsvc.models.run import Run, RunError
from kernelsvc.sessions.adopted import AdoptedSession
from kernelsvc.sessions.capacity import Capacity
from kernelsvc.sessions.going import Going
from kernelsvc.sessions.live import LiveSession
from kernelsvc.sessions.parts import SessionParts
from kernelsvc.store.runs import STOPPED

_GREETINGS_SECONDS: Final = 3.0

log = structlog.get_logger()


def going_of(orphan: Orphan) -> Going | None:
    """The run that was begun there last, if any was."""
    try:
        return None if orphan.run is None else Going.model_validate_json(orphan.run)
    except ValueError:
        return None


class Adopting:
    """Done once, when a service starts; the sessions are put into `live`."""

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
        self._greetings: list[asyncio.Future[None]] = []

    async def adopt(self, orphans: tuple[Orphan, ...]) -> None:
        """Return when the sessions are there, and their kernels have answered, if that is soon."""
        if not orphans:
            return
        found = await asyncio.gather(*map(self._adopt, orphans))
        if self._greetings:
            await asyncio.wait(self._greetings, timeout=_GREETINGS_SECONDS)
        running = sum(live.state == "running" for live in self._live.values())
        log.info(
            "kernels_found_again", sessions=sum(found), running=running, lost=found.count(False)
        )

    async def _adopt(self, orphan: Orphan) -> bool:
        """Whether its session has its kernel again."""
        parts, going = self._parts, going_of(orphan)
        session_id = None
        try:
            session_id = told_of(orphan).session_id
            heir = await Heir.of(orphan, parts.launcher)
        except (KernelStartFailed, OSError) as error:
            orphan.close()
            await parts.launcher.keeping.let_go(orphan.seat)
            log.warning("kernel_not_found_again", session_id=session_id, reason=str(error))
            if session_id is not None and going is not None:
                await self._give_up(session_id, going)
            return False
        record = await parts.sessions.get(session_id)
        is_over = going is None or await self._is_over(session_id, going)
        if record is None or session_id in self._live or (is_over and not record.persistent):
            await parts.launcher.keeping.let_go(orphan.seat)
            heir.seat.host.kill()
            await heir.seat.close()
            return False
        live = AdoptedSession(record, parts, self._capacity, self._on_idle, heir)
        has_file = await asyncio.to_thread(live.room.find_again)
        self._live[session_id] = live
        greeting = live.adopt(going, is_over=is_over, has_file=has_file)
        if greeting is not None:
            self._greetings.append(greeting)
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
            error=RunError(ename="ServiceStopped", evalue=STOPPED, traceback=[]),
            memory="lost",
            memory_detail=STOPPED,
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
