"""How a session comes by a seat for its kernels: one of the pool's, or one that is started."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from kernelsvc.errors import KernelStartFailed
from kernelsvc.files.handover import NotHandedOver
from kernelsvc.kernels.kernel import Kernel
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
        member = await self._take(internet)
        return None if member is None else await self.move_in(member, limits)

    async def lodging(self, landlord: Seat, internet: bool) -> Member | None:
        """A member of the pool for a copy of the session, which is to `move_in`; or `give_up` it.

        It has an annex in the sandbox of another seat. None for none to be had; raises NoCapacity.
        """
        member = await self._take(internet, answers=False)
        if member is None:
            return None
        with self._refusing(member):
            await self._launcher.lodge(member.seat, landlord, self._kernelspec)
            return member
        return None

    async def _take(self, internet: bool, *, answers: bool = True) -> Member | None:
        """A member of the pool, which takes up room from now on."""
        member = await self._pool.take(Kind(self._kernelspec, internet), answers=answers)
        if member is None:
            return None
        try:
            await self._capacity.take()
        except BaseException:
            self._pool.discard(member)
            raise
        return member

    async def move_in(self, member: Member, limits: Limits) -> Member | None:
        """Have the session's files and limits in a member's place; None where that cannot be."""
        with self._refusing(member):
            await asyncio.to_thread(self._move_to, member.seat, limits)
            return member
        return None

    def _move_to(self, seat: Seat, limits: Limits) -> None:
        self._launcher.limit(seat, limits)
        self._room.move_to(seat.place.workspace)
        seat.has_moved(self._room.path)

    def give_up(self, member: Member) -> None:
        """End a member that has been taken."""
        self._capacity.give_back()
        self._pool.discard(member)

    def retire(self, kernel: Kernel) -> None:
        """End the kernel of a member whose seat goes on to have another."""
        self._pool.retire(kernel)

    @contextmanager
    def _refusing(self, member: Member) -> Iterator[None]:
        """Give the member up where what is within fails; what lies in the member is no error."""
        try:
            yield
        except BaseException as error:
            self.give_up(member)
            if not isinstance(error, NotHandedOver | OSError | KernelStartFailed):
                raise
            log.info("pool_member_refused", session_id=self._session_id, reason=str(error))

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
