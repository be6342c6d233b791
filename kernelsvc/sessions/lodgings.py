"""Where the kernels of live copies will be, made ready while it is seen to what they are to have.

Theory of operation. A copy's kernel needs a seat, and an annex of it in the sandbox of the source's
kernel (`kernels.annex`). Both are the same whatever the copy is: so members of the pool are made
ready from the moment that copies are asked for, beside the snapshot of the memory and the copying
of the files, which are moved in then. Where the pool has no more, a copy gets a seat of its own,
once it has files. What no copy has taken is given up in the end; and only then is there time to end
the kernels that waited where there are copies now.
"""

import asyncio
from collections import deque
from typing import Self

from kernelsvc.kernels.hosted import HostedKernel, Memory
from kernelsvc.kernels.kernel import Kernel
from kernelsvc.kernels.pool import Member
from kernelsvc.kernels.seat import Seat
from kernelsvc.models.limits import Limits
from kernelsvc.sessions.seating import Seating


class Lodgings:
    """So many, each a member of the pool with an annex in the sandbox of `landlord`.

    They are begun when this is made, and used within it as a context.
    """

    def __init__(self, seating: Seating, landlord: Seat, count: int, internet: bool) -> None:
        self._seating = seating
        self.count = count
        self._without_use: list[Kernel] = []
        self._begun = deque(
            asyncio.create_task(seating.lodging(landlord, internet)) for _ in range(count)
        )

    async def take(self, seating: Seating, limits: Limits) -> Member | None:
        """One for the session of that seating, with its files; None where there is none.

        Raises NoCapacity.
        """
        member = await self._begun.popleft() if self._begun else None
        if member is not None and (member := await seating.move_in(member, limits)) is not None:
            self._without_use.append(member.kernel)
        return member

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        # Not cut short: nobody would know what has been made of one.
        for left in await asyncio.gather(*self._begun, return_exceptions=True):
            if isinstance(left, Member):
                self._seating.give_up(left)
        for kernel in self._without_use:
            self._seating.retire(kernel)


class Offer:
    """Copies of the kernel in a seat, as it was after `run`, and where they are to be.

    They are forked when this is made, and wait. With `reseed`, each has random numbers of its own.
    """

    def __init__(self, seat: Seat, memory: Memory, lodgings: Lodgings, reseed: bool) -> None:
        self.seat = seat
        self.run = memory.run
        self.lodgings = lodgings
        self.reseed = reseed
        self._waiting = [seat.inside.copy(memory) for _ in range(lodgings.count)]

    def take(self) -> HostedKernel:
        """A copy, the caller's from now on."""
        return self._waiting.pop()

    def close(self) -> None:
        """Leave nothing of the copies that nobody has taken."""
        for copy in self._waiting:
            copy.forget()
