"""The place in a session where its kernel is: started on demand, replaced, freed."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from typing import Any

import structlog

from kernelsvc.errors import KernelStartFailed, WorkspaceFull
from kernelsvc.kernels.hosted import Memory
from kernelsvc.kernels.kernel import Kernel, LateSink
from kernelsvc.kernels.ladder import Grace, end, wait_event
from kernelsvc.kernels.pids import pid_outside
from kernelsvc.kernels.seat import Seat
from kernelsvc.models.limits import LimitExceeded, Limits, readable_size
from kernelsvc.models.session import SessionRecord
from kernelsvc.sessions.capacity import Capacity
from kernelsvc.sessions.going import Going
from kernelsvc.sessions.lodgings import Lodgings, Offer
from kernelsvc.sessions.outliving import Outliving
from kernelsvc.sessions.parts import SessionParts
from kernelsvc.sessions.result import Lost, Restored
from kernelsvc.sessions.room import Room
from kernelsvc.sessions.seating import Seating

_ATTEMPTS = 3
_MOST_OOMS = 3
"""Memory that has run out so often, with no run completed in between, gets a new sandbox."""
_SNAPSHOT_SECONDS = 10.0
_AT_ONCE = Grace(0, 0)

log = structlog.get_logger()


class KernelSlot:
    """At most one kernel, and the host that it and its successors run on.

    The methods that change the kernel are called by one task at a time (the session's turn).
    `on_death` is called when a kernel has ended that nobody ended through this object. `internet`
    holds from the next start of a kernel.
    """

    def __init__(
        self,
        record: SessionRecord,
        parts: SessionParts,
        *,
        room: Room,
        limits: Limits,
        capacity: Capacity,
        on_late: LateSink,
        on_death: Callable[[int], None],
    ) -> None:
        self.kernel: Kernel | None = None
        self.is_starting = False
        self.failure: str | None = None
        self._session_id = record.id
        self._kernelspec = parts.languages.kernelspec(record.language)
        self._has_snapshots = parts.languages.have_snapshots(record.language)
        self._room = room
        self.limits = limits
        self.internet = record.allow_internet_access
        self._launcher = parts.launcher
        self.outliving = Outliving(record.id, self._kernelspec, parts.launcher)
        self._seating = Seating(record.id, self._kernelspec, room, parts, capacity)
        self._capacity = capacity
        self._metrics = parts.metrics
        self._on_late = on_late
        self._on_death = on_death
        self._seat: Seat | None = None
        self._pid: tuple[Kernel, int | None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._closed = False
        self._oom_kills = 0
        self._used_up = False
        self._stopped_for: LimitExceeded | None = None
        self._completed: str | None = None
        self._ooms = 0

    async def ensure(self) -> Kernel:
        """A kernel that runs, started where there is none; raises KernelStartFailed."""
        if self.kernel is not None and not self.kernel.ended.is_set():
            return self.kernel
        self.is_starting = True
        try:
            self.kernel = kernel = await self._start_patiently()
        finally:
            self.is_starting = False
        self._watch = asyncio.create_task(self._watch_for_death(kernel))
        return kernel

    async def _start_patiently(self) -> Kernel:
        """Start a kernel; one that dies while it starts is tried again on another host."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                kernel = await self._start()
            except WorkspaceFull as error:
                self.failure = str(error)
                raise
            except KernelStartFailed as error:
                await self.free()
                self._metrics.kernel_start_failed()
                reason = str(error)
                log.warning(
                    "kernel_start_failed",
                    session_id=self._session_id,
                    attempt=attempt,
                    reason=reason,
                )
                if attempt == _ATTEMPTS or self._closed:
                    self.failure = reason
                    raise
            else:
                self.failure = None
                return kernel
        raise AssertionError("the last attempt returns or raises")

    async def _start(self) -> Kernel:
        await self.drop(_AT_ONCE)
        seat = self._seat
        if seat and (
            self._used_up
            or seat.is_for_copy
            or not seat.is_usable
            or seat.internet != self.internet
        ):
            await self.free()
        self._used_up, self._stopped_for, self._completed, self._ooms = False, None, None, 0
        began = time.monotonic()
        await asyncio.to_thread(self._room.prepare)
        kernel = None
        if self._seat is None:
            how, kernel = "claimed", await self._claim()
        if kernel is None:
            how = "started" if self._seat is None else "forked"
            kernel = await self._start_own()
        self._has_started(kernel, how, began)
        return kernel

    @property
    def completed_run(self) -> str | None:
        """What is to be restored: the memory after this run; None where it cannot be."""
        return self._completed

    def completed(self, run: str) -> None:
        """A run has ended and the kernel lives: what it holds now is what is to be restored.

        `run` is what the kernel calls it: the id of the request, or what was given it as one.
        """
        self._completed, self._ooms = run, 0

    async def restore(self, *, wanted: bool, are_taken: bool) -> Restored | Lost:
        """In place of a kernel that has ended: one with the memory as of the last completed run.

        Where there is none, or it is not wanted, there is no kernel, until the next `ensure`;
        `are_taken` says whether the session is to have snapshots.
        """
        completed, self._completed = self._completed, None
        self._ooms += self._used_up
        self.expect_end()
        await self.drop()
        seat = self._seat
        if not wanted or self._closed or not self._has_snapshots:
            return Lost()
        if not are_taken:
            return Lost("snapshots are off for this session")
        if completed is None:
            return Lost("no run had completed in it")
        if seat is None or not seat.is_usable or self._stopped_for:
            return Lost("it went with its sandbox")
        if seat.internet != self.internet:
            return Lost("allowInternetAccess has changed, which takes a new sandbox")
        if self._ooms >= _MOST_OOMS:
            return Lost("memory has run out too often in a row")
        began = time.monotonic()
        self.is_starting = True
        try:
            self.kernel = kernel = await self._launcher.restore(
                seat, self._kernelspec, self._on_late, completed
            )
        except KernelStartFailed as error:
            return Lost(error.reason)
        finally:
            self.is_starting = False
        self._completed, self._used_up = completed, False
        self._has_started(kernel, "restored", began)
        self._watch = asyncio.create_task(self._watch_for_death(kernel))
        return Restored(tuple(kernel.process.without))

    @asynccontextmanager
    async def offer(self, copies: int, *, reseed: bool) -> AsyncIterator[Offer | None]:
        """Within, its kernel's memory as it is for so many copies; None where none can be made."""
        kernel, seat = self.kernel, self.seat
        can_copy = self._has_snapshots and self._launcher.can_prepare
        if kernel is None or seat is None or not can_copy:
            yield None
            return
        lodgings = Lodgings(self._seating, seat, copies, self.internet)
        with self._capacity.hurry():
            async with lodgings:
                try:
                    run = self._completed = await kernel.snapshot(_SNAPSHOT_SECONDS)
                except TimeoutError:
                    yield None
                    return
                offer = Offer(seat, Memory(kernel.process, run), lodgings, reseed)
                with closing(offer):
                    yield offer

    async def copy(self, offer: Offer) -> Sequence[str]:
        """Have a copy of the kernel that is offered; what that one had which this has not.

        Raises KernelStartFailed, NoCapacity and WorkspaceFull.
        """
        began = time.monotonic()
        self.is_starting = True
        process = offer.take()
        try:
            with self._capacity.hurry():
                seat = await self._lodge(offer)
                self.kernel = await self._launcher.copy(
                    seat, self._kernelspec, self._on_late, process, reseed=offer.reseed
                )
        except BaseException:
            process.forget()
            await self.free()
            raise
        finally:
            self.is_starting = False
        self._completed = offer.run
        self._has_started(self.kernel, "copied", began)
        self._watch = asyncio.create_task(self._watch_for_death(self.kernel))
        return self.kernel.process.without

    async def _lodge(self, offer: Offer) -> Seat:
        """Have a seat with an annex beside the kernel that is to be copied."""
        await asyncio.to_thread(self._room.prepare)
        member = await offer.lodgings.take(self._seating, self.limits)
        if member is None:
            seat = await self._own_seat()
            await self._launcher.lodge(seat, offer.seat, self._kernelspec)
            return seat
        self._seat = member.seat
        return self._seat

    def _has_started(self, kernel: Kernel, how: str, began: float) -> None:
        assert self._seat is not None
        self._oom_kills = self._seat.enclosure.oom_kills()
        pid = kernel.process.pid
        self._metrics.kernel_started(how, time.monotonic() - began)
        log.info("kernel_started", session_id=self._session_id, pid=pid, how=how)

    async def _claim(self) -> Kernel | None:
        """The kernel of a member of the pool, with its seat; None where none can be had."""
        if await asyncio.to_thread(self._seating.needs_a_new_one):
            return None
        member = await self._seating.from_pool(self.limits, self.internet)
        if member is None:
            return None
        self._seat = member.seat
        if member.seat.enclosure.rlimits == member.rlimits:
            member.kernel.on_late = self._on_late
            return member.kernel
        # A process never gets back what it has been limited to.
        await member.kernel.close()
        return await self._launcher.start(member.seat, self._kernelspec, self._on_late)

    async def _start_own(self) -> Kernel:
        """A kernel on the session's seat, which is started, too, where there is none."""
        seat = self._seat or await self._own_seat()
        async with self._capacity.start():
            if self._closed:
                # Nothing runs there yet that would want to end in good order.
                seat.give_up()
                raise KernelStartFailed("the session is being closed")
            return await self._launcher.start(seat, self._kernelspec, self._on_late)

    async def _own_seat(self) -> Seat:
        self._seat = await self._seating.new(self.limits, self.internet)
        return self._seat

    def take_over(self, seat: Seat, kernel: Kernel | None, completed: str | None) -> None:
        """Have a seat of an earlier service, with the kernel; None for one that has ended.

        `completed` is as for the method of that name.
        """
        self._capacity.take_over()
        self._seat, self.kernel, self._completed = seat, kernel, completed
        self._oom_kills = seat.enclosure.oom_kills()
        if kernel is not None:
            self._watch = asyncio.create_task(self._watch_for_death(kernel))

    async def keep(self, more: Callable[[], Mapping[str, Any]], run: bytes | None = None) -> None:
        """See to it that the kernel outlives the service; `more` and `run` are for the next one."""
        await self.outliving.keep(self._seat, self.kernel, more, run)

    def note(self, going: Going) -> None:
        """A run is about to begin."""
        self.outliving.note(self._seat, going.line(self._completed))

    @property
    def seat(self) -> Seat | None:
        """Where a kernel runs now; None where none does."""
        return self._seat if self.kernel and not self.kernel.ended.is_set() else None

    @property
    def returncode(self) -> int | None:
        """That of a kernel which has ended, and was not replaced yet; else None."""
        has_ended = self.kernel is not None and self.kernel.ended.is_set()
        return self.kernel.process.exited.result() if self.kernel and has_ended else None

    def pid(self) -> int | None:
        """The kernel's process on this machine; None where that is not known."""
        kernel, seat = self.kernel, self._seat
        if kernel is None or seat is None or kernel.process.pid is None:
            return None
        if self._pid is None or self._pid[0] is not kernel:
            # Looked up once a kernel: inside of a sandbox it has another.
            self._pid = kernel, pid_outside(seat.inside.pid, kernel.process.pid)
        return self._pid[1]

    def stop_for(self, exceeded: LimitExceeded) -> None:
        """Kill the kernel, which has taken too much; the next one gets a sandbox of its own."""
        if self.kernel is not None:
            self._used_up, self._stopped_for = True, exceeded
            self.kernel.process.kill()

    def exceeded(self) -> LimitExceeded | None:
        """Which limit the kernel that has just ended was killed for; None where it was not."""
        kernel, seat = self.kernel, self._seat
        if kernel is None or seat is None or not kernel.ended.is_set():
            return None
        if self._stopped_for is not None:
            return self._stopped_for
        out_of_memory = seat.enclosure.oom_kills() > self._oom_kills
        if kernel.process.exited.result() != -signal.SIGKILL or not out_of_memory:
            return None
        # What else is in the sandbox, files in its /tmp too, may be what took the memory.
        self._used_up = True
        assert self.limits.memory is not None
        may_use = readable_size(self.limits.memory)
        return LimitExceeded("OutOfMemory", f"the session ran out of memory: it may use {may_use}")

    async def _watch_for_death(self, kernel: Kernel) -> None:
        await kernel.ended.wait()
        self._watch = None
        self._on_death(kernel.process.exited.result())

    def close(self, *, kill: bool) -> None:
        """From outside the turn: try no start again; with `kill`, SIGKILL the kernel now.

        With it goes one that is only being started, and may never come to be ready.
        """
        self._closed = True
        if kill and self.kernel is not None:
            self.kernel.process.kill()
        elif kill and self._seat is not None:
            self._seat.give_up()

    async def drop(self, grace: Grace = _AT_ONCE) -> None:
        """End the kernel, if there is one, and free it; its host stays for the next."""
        kernel, self.kernel = self.kernel, None
        self.expect_end()
        if kernel is not None:
            await end(kernel, grace)
            await kernel.close()

    def expect_end(self) -> None:
        """The kernel is about to be ended, or its end has been told: `on_death` need not."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()

    async def free(self) -> None:
        """End the kernel and its host."""
        await self.drop()
        seat, self._seat = self._seat, None
        if seat is not None:
            try:
                await seat.close()
            finally:
                self._capacity.give_back()

    async def leave(self, grace: Grace) -> None:
        """End the kernel politely: exit handlers run, then a SIGTERM handler, then SIGKILL."""
        if self.kernel is not None:
            self.expect_end()
            if self._seat is not None:
                await self._seat.let_go()
            self.kernel.ask_to_leave()
            await wait_event(self.kernel.ended, grace.terminate)
            await self.drop(grace)
