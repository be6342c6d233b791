"""Kernels that are ready before anyone asks for one.

Theory of operation. A member is a sandbox with a kernel that has run no code, in an empty directory
of its own; `take` gives it away, and whoever takes it makes it a session's (its directory, its
limits). One task, the keeper, starts new members, one after the other, while nobody waits for a
kernel of his own, and lets go of those that are too many or too old.

How many there should be of a kind follows the demand: as many as were asked for within the last
minute, at least `least` of the kinds that sessions usually want, never more than `most` of any.
"""

import asyncio
import contextlib
import math
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import structlog

from kernelsvc.errors import KernelStartFailed
from kernelsvc.kernels.kernel import Kernel
from kernelsvc.kernels.launch import Launcher
from kernelsvc.kernels.seat import Seat
from kernelsvc.models.event import Event
from kernelsvc.models.limits import Limits
from kernelsvc.sandbox.isolation import Rlimits

DEMAND_SECONDS = 60.0
_ANSWER_SECONDS = 1.0
_WARM_UP_SECONDS = 10.0
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
_NO_ROOM_SECONDS = 5.0

log = structlog.get_logger()


class Kind(NamedTuple):
    """What tells members apart that cannot stand in for each other."""

    kernelspec: str
    internet: bool


class Member(NamedTuple):
    """A kernel that waits, where it runs, and since when (time.monotonic()).

    It has been started under `rlimits`.
    """

    seat: Seat
    kernel: Kernel
    rlimits: Rlimits
    since: float


class Spares(Protocol):
    """Makes the empty directories that members wait in, and removes those nobody has taken."""

    def make_spare(self) -> Path:
        """A new one; blocks for a moment."""
        ...

    def drop_spare(self, spare: Path) -> None:
        """Remove it; blocks for a moment."""
        ...


@dataclass(frozen=True)
class PoolPolicy:
    """How many members there are of a kind; `max_age` is in seconds."""

    least: int
    most: int
    max_age: float


def wanted(claims: deque[float], now: float, least: int, most: int) -> int:
    """How many members there should be of a kind that was asked for at these times.

    Forgets those that are too long ago.
    """
    while claims and claims[0] <= now - DEMAND_SECONDS:
        claims.popleft()
    return min(max(len(claims), least), most)


class Pool:
    """`limits` are those of its members, `usual` the kinds that are kept without any demand."""

    def __init__(
        self,
        policy: PoolPolicy,
        launcher: Launcher,
        spares: Spares,
        limits: Limits,
        usual: frozenset[Kind],
    ) -> None:
        self._policy = policy
        self._launcher = launcher
        self._spares = spares
        self._limits = limits
        self._usual = usual
        self._members: dict[Kind, deque[Member]] = defaultdict(deque)
        self._claims: dict[Kind, deque[float]] = defaultdict(lambda: deque(maxlen=policy.most))
        self._changed = asyncio.Event()
        self._pause = _FIRST_PAUSE
        self._keeper: asyncio.Task[None] | None = None
        self._discards: set[asyncio.Task[None]] = set()

    # ---- its own life

    def start(self, may_start: Callable[[], Awaitable[bool]]) -> None:
        """Begin to fill it; without a sandbox, or where `most` is 0, it stays empty.

        `may_start` returns when it is a member's turn to be started, and says whether there is
        room for it.
        """
        if self._launcher.can_prepare and self._policy.most > 0:
            self._keeper = asyncio.create_task(self._keep(may_start))

    async def stop(self) -> None:
        """End every member; again, those that have been given back since."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        for members in self._members.values():
            while members:
                self.discard(members.popleft())
        while self._discards:
            await asyncio.wait(set(self._discards))

    # ---- members, given away

    @property
    def size(self) -> int:
        """How many members there are."""
        return sum(map(len, self._members.values()))

    async def take(self, kind: Kind, *, answers: bool = True) -> Member | None:
        """A member that answers, the caller's from now on; None where there is none.

        It need not, where only its seat is wanted.
        """
        self._claims[kind].append(time.monotonic())
        self._changed.set()
        members = self._members[kind]
        while members:
            member = members.popleft()
            try:
                is_well = member.seat.is_usable and (
                    not answers or await member.kernel.answers(_ANSWER_SECONDS)
                )
            except BaseException:
                self.discard(member)
                raise
            if is_well:
                return member
            log.warning("pool_member_lost", pid=member.kernel.process.pid)
            self.discard(member)
        return None

    async def shrink(self) -> bool:
        """End a member, of the kind that has most; whether there was one."""
        members = max(self._members.values(), key=len, default=None)
        if not members:
            return False
        await asyncio.shield(self.discard(members.popleft()))
        return True

    def discard(self, member: Member) -> asyncio.Task[None]:
        """End one that nobody else holds, in the background."""
        return self._in_background(self._end(member))

    def retire(self, kernel: Kernel) -> None:
        """End the kernel of one that was taken for its seat, in the background."""
        self._in_background(kernel.close())

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._discards.add(task)
        task.add_done_callback(self._discards.discard)
        return task

    async def _end(self, member: Member) -> None:
        # It has run nothing that would have to end in good order, and may not answer.
        member.seat.host.kill()
        try:
            await member.kernel.close()
        finally:
            await self._free(member.seat)

    async def _free(self, seat: Seat) -> None:
        try:
            await seat.close()
        finally:
            await asyncio.to_thread(self._spares.drop_spare, seat.place.workspace)

    # ---- the keeper

    async def _keep(self, may_start: Callable[[], Awaitable[bool]]) -> None:
        while True:
            self._changed.clear()
            now = time.monotonic()
            self._let_go(now)
            kind = self._lacking(now)
            if kind is None:
                await self._wait(self._next_change(now))
            elif not await may_start():
                await self._wait(_NO_ROOM_SECONDS)
            else:
                await self._add(kind)

    async def _wait(self, seconds: float) -> None:
        """Until something has changed, so long at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if math.isinf(seconds) else seconds):
                await self._changed.wait()

    def _wanted(self, kind: Kind, now: float) -> int:
        least = self._policy.least if kind in self._usual else 0
        return wanted(self._claims[kind], now, least, self._policy.most)

    def _lacking(self, now: float) -> Kind | None:
        for kind in self._usual | self._claims.keys():
            if len(self._members[kind]) < self._wanted(kind, now):
                return kind
        return None

    def _let_go(self, now: float) -> None:
        """The oldest go first: of each kind those that are too many, and those that are too old."""
        for kind, members in self._members.items():
            while members and (
                len(members) > self._wanted(kind, now)
                or members[0].since <= now - self._policy.max_age
            ):
                self.discard(members.popleft())

    def _next_change(self, now: float) -> float:
        """Seconds until a member is too old, or some demand too long ago to count."""
        ends = [each[0].since + self._policy.max_age for each in self._members.values() if each]
        ends += [claims[0] + DEMAND_SECONDS for claims in self._claims.values() if claims]
        return max(0.0, min(ends, default=math.inf) - now)

    async def _add(self, kind: Kind) -> None:
        try:
            member = await self._start_member(kind)
        except (KernelStartFailed, OSError) as error:
            log.warning("pool_start_failed", kernelspec=kind.kernelspec, reason=str(error))
            await asyncio.sleep(self._pause)
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        else:
            self._pause = _FIRST_PAUSE
            self._members[kind].append(member)

    async def _start_member(self, kind: Kind) -> Member:
        # Not to be cut short: then nobody would know what has been made and started of it.
        seating = asyncio.create_task(self._new_seat(kind))
        try:
            seat = await asyncio.shield(seating)
            kernel = await self._launcher.start(seat, kind.kernelspec, _nobody)
        except BaseException:
            self._in_background(self._give_up(seating))
            raise
        member = Member(seat, kernel, seat.enclosure.rlimits, time.monotonic())
        try:
            await kernel.warm_up(_WARM_UP_SECONDS)
        except BaseException:
            self.discard(member)
            raise
        seat.enclosure.hold_back(False)
        log.info("kernel_prepared", pid=kernel.process.pid, internet=kind.internet)
        return member

    async def _new_seat(self, kind: Kind) -> Seat:
        spare = await asyncio.to_thread(self._spares.make_spare)
        try:
            return await self._launcher.seat(
                kind.kernelspec, spare, self._limits, internet=kind.internet, held_back=True
            )
        except BaseException:
            await asyncio.to_thread(self._spares.drop_spare, spare)
            raise

    async def _give_up(self, seating: asyncio.Task[Seat]) -> None:
        try:
            seat = await seating
        except (KernelStartFailed, OSError):
            return
        await self._free(seat)


def _nobody(request_id: str, event: Event) -> None:
    """A member has run nothing that could still say anything."""
