"""A session that is awake: its queue, its run, its kernel.

Theory of operation. One *turn* at a time, in order of arrival (asyncio's Lock is fair): a run, a
wake, a restart, a sleep. What takes a turn is a task of this object, not of the request that asked,
so a client that goes away changes nothing. An interrupt, a restart and a delete do not wait for the
turn of a run that is going on: they reach it through its `StopSignal`. A setup has the first turn.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog

from kernelsvc.errors import KernelsvcError, SessionBusy, SessionNotFound, ShuttingDown
from kernelsvc.kernels.ladder import Ending, Stop, StopSignal
from kernelsvc.kernels.seat import Seat
from kernelsvc.models.limits import LimitExceeded, Limits
from kernelsvc.models.run import Run, RunRequest
from kernelsvc.models.session import SessionRecord, SessionState
from kernelsvc.sessions import result
from kernelsvc.sessions.background import BackgroundOutput
from kernelsvc.sessions.capacity import Capacity
from kernelsvc.sessions.data import DataSync
from kernelsvc.sessions.executing import execute
from kernelsvc.sessions.job import Jobs, RunJob, log_finished
from kernelsvc.sessions.lasting import Lasting
from kernelsvc.sessions.leaving import Leaving
from kernelsvc.sessions.lodgings import Offer
from kernelsvc.sessions.memory import NOT_PERSISTENT, SessionMemory, Woken
from kernelsvc.sessions.parts import SessionParts
from kernelsvc.sessions.queue import RunQueue
from kernelsvc.sessions.room import Room
from kernelsvc.sessions.setting_up import SettingUp
from kernelsvc.sessions.slot import KernelSlot
from kernelsvc.sessions.spent import Meter, Spent
from kernelsvc.sessions.turns import Turns
from kernelsvc.sessions.visits import Visits

T = TypeVar("T")

log = structlog.get_logger()


class LiveSession:
    """An awake session. `on_idle` is called when a turn has ended and nothing waits for one.

    `absence` says why its memory has to be restored, where that is not because it was asleep.
    """

    def __init__(
        self,
        record: SessionRecord,
        parts: SessionParts,
        capacity: Capacity,
        on_idle: Callable[["LiveSession"], None],
        absence: str | None = None,
    ) -> None:
        self.active_at = time.monotonic()
        self.owner = record.owner
        self._policy = parts.policy
        self._runs = parts.runs
        self._metrics = parts.metrics
        self._on_idle = on_idle
        self.visits = Visits(self._turn_ended)
        self._turns = Turns(self._check_open, self._turn_ended)
        self._queue = RunQueue(
            self._turns,
            parts.policy.max_queued_runs,
            parts.policy.max_output_bytes,
            self._run,
            self.give_up,
        )
        self._current: StopSignal | None = None
        self._closed = self._deleted = False
        workspace, owner = parts.workspaces.path(record.id), parts.workspaces.owner
        self._data = DataSync(record.data, workspace, parts.policy.max_data_bytes, owner)
        self._lasting = Lasting(record, self._data, parts.sessions)
        self._background = BackgroundOutput(parts.runs, parts.policy.background_bytes)
        limits = record.limits.over(parts.policy.limits)
        self._languages = parts.languages
        self.room = Room(parts.workspaces, record.id, limits.disk)
        self._slot = KernelSlot(
            record,
            parts,
            room=self.room,
            limits=limits,
            capacity=capacity,
            on_late=self._background.add,
            on_death=self._kernel_died,
        )
        self._memory = SessionMemory(self._lasting, parts, self.room, self._slot, absence)
        grace = parts.policy.grace
        self._leaving = Leaving(self._lasting, self._slot, self._memory, self._background, grace)
        self.setup = SettingUp(self._lasting.change)
        self.setup.begin(record, parts.setups, limits, capacity, self._turns)

    # ---- what it is, and what it is doing

    @property
    def record(self) -> SessionRecord:
        """What lasts of it, as it is now."""
        return self._lasting.record

    @property
    def _record(self) -> SessionRecord:
        return self._lasting.settings

    @property
    def state(self) -> SessionState:
        """What the session is doing just now."""
        if self.setup.is_going_on:
            return "setting_up"
        if self._current is not None:
            return "running"
        if self._slot.is_starting:
            return "starting"
        if self._slot.failure is not None:
            return "failed"
        if self._slot.kernel is not None or not self._record.persistent:
            return "idle"
        return "sleeping"

    @property
    def state_detail(self) -> str | None:
        """Why the session is in state `failed`."""
        return self._slot.failure

    @property
    def is_busy(self) -> bool:
        """Whether a turn is being taken or waited for, or somebody visits."""
        return self._turns.is_busy or len(self._queue) > 0 or self.visits.are_open

    @property
    def has_kernel(self) -> bool:
        """Whether there is a kernel that could be put to sleep."""
        return self._slot.kernel is not None

    @property
    def is_deleted(self) -> bool:
        """Whether the session is being deleted."""
        return self._deleted

    @property
    def limits(self) -> Limits:
        """What its code may use."""
        return self._slot.limits

    @property
    def seat(self) -> Seat | None:
        """Where its kernel or its setup runs now; None where neither does."""
        return self.setup.seat or self._slot.seat

    @property
    def woken(self) -> Woken:
        """Which variables it woke with; none while it sleeps."""
        return self._memory.woken

    @property
    def sleep_after(self) -> float:
        """Seconds of inactivity after which the session sleeps; infinity for never."""
        own = self._record.sleep_after
        return self._policy.sleep_after if own is None else own

    @property
    def jobs(self) -> Jobs:
        """Its runs that wait or go on, and the latest that have ended."""
        return self._queue.jobs

    def background(self, run_id: str) -> str:
        """What a run's threads and tasks have printed since it ended."""
        return self._background.text(run_id)

    # ---- turns

    def _check_open(self) -> None:
        if self._deleted:
            raise SessionNotFound(self._record.id)
        if self._closed:
            raise ShuttingDown

    def _turn_ended(self) -> None:
        self.active_at = time.monotonic()
        if not self.is_busy:
            self._on_idle(self)

    def begin_wake(self) -> asyncio.Future[None]:
        """Start a kernel in the background where there is none; a failure shows in `state`."""
        return self._turns.begin(self._wake)

    async def _wake(self) -> None:
        if self._record.persistent:
            await self._memory.ready()

    async def wake(self) -> None:
        """Return when the session has a kernel; raises KernelStartFailed."""
        if self._slot.kernel is None:
            await self.begin_wake()

    def interrupt(self) -> None:
        """Interrupt the run or the setup that is going on; none is fine too."""
        self.setup.stop("it was interrupted")
        if self._current is not None:
            self._current.want(Stop.INTERRUPT)

    async def restart(self) -> None:
        """Replace the kernel; a run that is going on ends with 130, runs behind it wait."""
        if self._current is not None:
            self._current.want(Stop.END)
            await self.begin_wake()
        else:
            await self._turns.do(self._restart)

    async def _restart(self) -> None:
        await self._slot.drop(self._policy.grace)
        self._memory.lose("the kernel was restarted")
        await self._wake()

    async def sleep(self) -> None:
        """End the kernel, keep all else; raises SessionBusy during setup, runs and visits."""
        self._check_may_sleep()
        await self._turns.do(self._fall_asleep)

    def _check_may_sleep(self) -> None:
        if len(self._queue) or self.visits.are_open or self.setup.is_going_on:
            raise SessionBusy(self._record.id)

    async def _fall_asleep(self) -> None:
        self._check_may_sleep()
        await self._leaving.end_kernel(lambda: len(self._queue) > 0 and not self._closed)
        await self._slot.free()
        self._memory.fell_asleep(self._record.run_count)

    def stop_for(self, exceeded: LimitExceeded) -> None:
        """Kill the kernel or the setup, which has taken too much."""
        self.setup.stop(exceeded.message)
        self._slot.stop_for(exceeded)

    def _kernel_died(self, returncode: int) -> None:
        """A kernel has ended by itself; during a run, that is the run's to tell."""
        if self._current is None and not self._closed:
            why = result.why_between_runs(returncode, self._slot.exceeded())
            log.warning("kernel_died", session_id=self._record.id, why=why)
            self.begin_wake()

    # ---- changes from outside

    async def patch(self, changes: dict[str, Any]) -> None:
        """Change the record, here and in the store; raises SessionNotFound."""
        self.active_at = time.monotonic()
        await self._lasting.patch(changes, self._take_over)

    def _take_over(self) -> None:
        self._slot.internet = self._record.allow_internet_access

    async def become_copy(self, offer: Offer, source: str, lost: str | None) -> None:
        """Begin with a kernel that is a copy of the session `source`'s; raises what prevents it."""
        await self._turns.do(lambda: self._memory.become_copy(offer, source, lost))

    async def between_runs(self, work: Callable[[SessionMemory], Awaitable[T]]) -> T:
        """Do something with files, data and the memory while no run goes on; raises QueueFull.

        It waits as a run does. What the code's threads do meanwhile cannot be known.
        """

        async def do() -> T:
            await self._data.take()
            return await work(self._memory)

        return await self._queue.between(self._record.id, do)

    async def retire(self, by: float) -> None:
        """Sleep once nothing goes on; the memory must have been saved by then (monotonic)."""
        self._memory.save_by = by
        await self.finish()
        await self.sleep()

    async def finish(self) -> None:
        """Return when nothing is going on or queued."""
        await self._turns.finish()
        await self._queue.finish()

    async def close(self, *, delete: bool = False) -> None:
        """End whatever is going on and free the kernel; nothing runs here afterwards.

        A session that is deleted ends at once; else its code may save what it wants to.
        """
        self._closed = True
        self._deleted = self._deleted or delete
        if self._current is not None:
            self._current.want(Stop.KILL if delete else Stop.END)
        self.setup.close()
        self._slot.close(kill=delete)
        await self.finish()
        if not delete:
            await self._leaving.end_kernel(lambda: False)
        await self._slot.free()

    # ---- runs

    def submit(
        self, request: RunRequest, left: Callable[[], None], *, see_through: bool = False
    ) -> RunJob:
        """Queue a run; one that is to be seen through begins when it was accepted.

        `left` is called when it takes up no room any more, however it ended.

        Raises SessionBusy (where the request will not wait), QueueFull, and InvalidRequest for
        variables that the session's language cannot be given.
        """
        self._check_open()
        if request.if_busy == "reject" and self.setup.is_going_on:
            raise SessionBusy(self._record.id)
        self._languages.check_env(self._record.language, request.env)
        job = self._queue.submit(self._record, request, left, see_through=see_through)
        self._memory.hurry()
        return job

    async def cancel(self, job: RunJob) -> None:
        """Interrupt the run where its code runs; where it waits, it never begins."""
        await self._queue.cancel(job)

    async def give_up(self, job: RunJob, error: KernelsvcError | None = None) -> Run:
        """Make and keep the result of a run that never begins, because of the error, if any."""
        run = job.not_begun(error, await self._memory.outlook(), self._data.value)
        await self._keep(run, job)
        return run

    def presume_begun(self) -> None:
        """Nobody knows which runs had begun before: what is not kept of the memory is lost."""
        self._memory.fell_asleep(self._record.run_count + 1)

    async def _run(self, job: RunJob) -> Run:
        if job.accepted is not None:
            await job.accepted
        if job.is_cancelled:
            return await job.ended
        if not self._record.persistent:
            await self._clear()
        await self._memory.ready()
        await self._data.put()
        if not job.is_cancelled:
            await self._memory.diverge()
        if job.is_cancelled:
            return await job.ended
        self._current, job.data_seen = job.begin(), self._data.seen
        started = time.monotonic()
        meter = Meter(self._slot.pid())
        try:
            kernel, job.has_news = await self._memory.ready(), self._memory.change is not None
            told = self._background.follow, self._slot.note
            ending = await execute(kernel, job, self._record, self._policy, self._current, *told)
        finally:
            spent = meter.stop()
            self._current = job.stop = None
        return await self._conclude(job, ending, time.monotonic() - started, spent)

    async def _conclude(self, job: RunJob, ending: Ending, duration: float, spent: Spent) -> Run:
        """Make and keep the result of a run whose code has ended, and go on from there."""
        exceeded = None if ending.timed_out or ending.stopped else self._slot.exceeded()
        if ending.returncode is None:
            self._slot.completed(ending.request_id)
        else:
            wanted = ending.stopped in (None, Stop.INTERRUPT)
            why = result.why_it_ended(ending, exceeded)
            await self._memory.replace(why, wanted=wanted, going=job.going)
        data_detail = await self._data.take()
        collected = job.collector.collected()
        run = job.result(
            usage=job.usage(duration, spent, collected.size + collected.cut_bytes),
            duration=f"{duration:.3f}s",
            data=self._data.value,
            data_detail=data_detail,
            **result.fields(ending, collected, self._memory.take_news(), exceeded),
        )
        self._metrics.run_finished(run.status, duration)
        await self._keep(run, job)
        if not self._record.persistent:
            await self._clear()
        elif ending.returncode is not None and not self._closed:
            self.begin_wake()
        return run

    async def _keep(self, run: Run, job: RunJob) -> None:
        """Store the run and what it changed; what is answered has been stored."""
        number = self._lasting.count_run(run.started_at or run.queued_at)
        if run.started_at is None:
            self._memory.recount(number)
        pending, url = job.accepted is not None, job.request.callback_url
        await self._runs.finish(run, number, job.code, was_pending=pending, callback_url=url)
        log_finished(run)

    async def _clear(self) -> None:
        """Begin afresh: an empty workspace, no kernel, no sandbox that has been used."""
        await self._slot.free()
        await asyncio.to_thread(self.room.renew)
        self._data.begin_afresh()
        self._memory.lose(NOT_PERSISTENT)
