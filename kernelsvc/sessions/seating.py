"""How a session comes by a seat for its kernels: one of the pool's, or one that is started."""

import asyncio

import structlog

from kernelsvc.files.handover import NotHandedOver
from kernelsvc.kernels.pool import Kind, Member
from kernelsvc.kernels.seat import Seat
from kernelsvc.models.limits import Limits
from kernelsvc.sessions.capacity import Capacity
from kernelsvc.sessions.parts import SessionParts
from kernelsvc.sessions.room import Room

log = structlog.get_logger()


class Seating:
    """For one session. A seat takes up room in `capacity` until `give_back` is called there."""

    def __init__(
        self,
        session_id: str,
        kernelspec: str,
        room: Room,
        parts: SessionParts,
        capacity: Capacity,
    ) -> None:
        self._session_id = session_id
        self._kernelspec = kernelspec
        self._room = room
        self._launcher = parts.launcher
        self._pool = parts.pool
        self._capacity = capacity

    async def from_pool(self, limits: Limits, internet: bool) -> Member | None:
        """A member of the pool, with the session's files in its place; None for none to be had."""
        member = await self._pool.take(Kind(self._kernelspec, internet))
        if member is None:
            return None
        try:
            await self._capacity.take()
            try:
                await asyncio.to_thread(self._move_to, member.seat, limits)
            except BaseException:
                self._capacity.give_back()
                raise
        except BaseException as error:
            self._pool.discard(member)
            if not isinstance(error, NotHandedOver | OSError):
                raise
            log.info("pool_member_refused", session_id=self._session_id, reason=str(error))
            return None
        return member

    def _move_to(self, seat: Seat, limits: Limits) -> None:
        self._launcher.limit(seat, limits)
        self._room.move_to(seat.place.workspace)
        seat.has_moved(self._room.path)

    def needs_a_new_one(self) -> bool:
        """Whether there are files that a kernel must find when it starts; blocks."""
        names = self._launcher.reads_at_start(self._kernelspec)
        return len(names) > 0 and self._room.has_any(names)

    async def new(self, limits: Limits, internet: bool) -> Seat:
        """A seat that is started; raises KernelStartFailed."""
        await self._capacity.take()
        try:
            async with self._capacity.start():
                return await self._launcher.seat(
                    self._kernelspec, self._room.path, limits, internet=internet
                )
        except BaseException:
            self._capacity.give_back()
            raise
