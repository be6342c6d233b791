"""A session that is awake: its queue, its run, its kernel.

Theory of operation. One *turn* at a time, in order of arrival (asyncio's Lock is fair): a run, a
wake, a restart, a sleep. What takes a turn is a task of this object, not of the request that asked,
so a client that goes away changes nothing. An interrupt, a restart and a delete do not wait for the
turn of a run that is going on: they reach it through its `StopSignal`.

`_change` is what has become of the session's memory since the last answer, until an answer has told
it.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import structlog

from kernelsvc.errors import KernelsvcError, SessionBusy, SessionNotFound, ShuttingDown
from kernelsvc.kernels.ladder import Ending, Stop, StopSignal
from kernelsvc.kernels.languages import kernelspec_of
from kernelsvc.kernels.launch import Seat
from kernelsvc.models.limits import LimitExceeded, Limits
from kernelsvc.models.run import Run, RunRequest
from kernelsvc.models.session import SessionRecord, SessionState
from kernelsvc.sessions import result
from kernelsvc.sessions.background import BackgroundOutput
from kernelsvc.sessions.capacity import Capacity
from kernelsvc.sessions.data import DataSync
from kernelsvc.sessions.executing import execute
from kernelsvc.sessions.job import Jobs, RunJob, log_finished
from kernelsvc.sessions.parts import SessionParts
from kernelsvc.sessions.queue import RunQueue
from kernelsvc.sessions.result import Change
from kernelsvc.sessions.room import Room
from kernelsvc.sessions.slot import KernelSlot
from kernelsvc.sessions.spent import Meter
from kernelsvc.sessions.turns import Turns

_ASLEEP = Change("lost", "the session was asleep")
_RESTARTED = Change("lost", "the kernel was restarted")
_NOT_PERSISTENT = Change(
    "lost", "the session is not persistent: every run begins with an empty memory"
)

log = structlog.get_logger()


class LiveSession:
    """An awake session. `on_idle` is called when a turn has ended and nothing waits for one."""

    def __init__(
        self,
        record: SessionRecord,
        parts: SessionParts,
        capacity: Capacity,
        on_idle: Callable[["LiveSession"], None],
    ) -> None:
        self.active_at = time.monotonic()
        self.owner = record.owner
        self._record = record
        self._policy = parts.policy
        self._sessions, self._runs = parts.sessions, parts.runs
        self._metrics = parts.metrics
        self._on_idle = on_idle
        self._turns = Turns(self._check_open, self._turn_ended)
        self._queue = RunQueue(
            self._turns,
            parts.policy.max_queued_runs,
            parts.policy.max_output_bytes,
            self._run,
            self._give_up,
        )
        self._current: StopSignal | None = None
        self._closed = self._deleted = False
        self._change = _ASLEEP if record.run_count else None
        workspace, owner = parts.workspaces.path(record.id), parts.workspaces.owner
        self._data = DataSync(record.data, workspace, parts.policy.max_data_bytes, owner)
        self._background = BackgroundOutput(parts.runs, parts.policy.background_bytes)
        limits = record.limits.over(parts.policy.limits)
        self.room = Room(parts.workspaces, record.id, limits.disk)
        self._slot = KernelSlot(
            record.id,
            kernelspec=kernelspec_of(record.language),
            room=self.room,
            limits=limits,
            internet=record.allow_internet_access,
            launcher=parts.launcher,
            pool=parts.pool,
            capacity=capacity,
            metrics=parts.metrics,
            on_late=self._background.add,
            on_death=self._kernel_died,
        )

    # ---- what it is, and what it is doing

    @property
    def record(self) -> SessionRecord:
        """What lasts of it, as it is now."""
        return replace(self._record, data=self._data.value)

    @property
    def state(self) -> SessionState:
        """What the session is doing just now."""
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
        """Whether a turn is being taken or waited for."""
        return self._turns.is_busy or len(self._queue) > 0

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
        """Where its kernel runs now; None where it has none."""
        return self._slot.seat

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
            await self._slot.ensure()

    async def wake(self) -> None:
        """Return when the session has a kernel; raises KernelStartFailed."""
        if self._slot.kernel is None:
            await self.begin_wake()

    def interrupt(self) -> None:
        """Interrupt the run that is going on; none is fine too."""
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
        self._change = _RESTARTED
        await self._wake()

    async def sleep(self) -> None:
        """End the kernel, keep everything else; raises SessionBusy during a run or a queued one."""
        if len(self._queue):
            raise SessionBusy(self._record.id)
        await self._turns.do(self._fall_asleep)

    async def _fall_asleep(self) -> None:
        if len(self._queue):
            raise SessionBusy(self._record.id)
        await self._end_kernel()
        await self._slot.free()
        self._change = _ASLEEP if self._record.run_count else None

    async def _end_kernel(self) -> None:
        """End the kernel politely, and keep what it has left behind."""
        if self._slot.kernel is not None:
            await self._slot.leave(self._policy.grace)
            await self._data.take()
            await self._sessions.change(self._record.id, {"data": self._data.value})
            log.info("session_slept", session_id=self._record.id)
        await self._background.save()

    def stop_for(self, exceeded: LimitExceeded) -> None:
        """Kill the kernel, which has taken too much."""
        self._slot.stop_for(exceeded)

    def _kernel_died(self, returncode: int) -> None:
        """A kernel has ended by itself; during a run, that is the run's to tell."""
        if self._current is None and not self._closed:
            how = result.how_it_ended(returncode)
            exceeded = self._slot.exceeded()
            why = (
                f"between runs, {exceeded.message}; the kernel was killed and replaced"
                if exceeded
                else f"the kernel {how} between runs and was replaced"
            )
            log.warning("kernel_died", session_id=self._record.id, how=how)
            self._turns.begin(lambda: self._replace(why))

    async def _replace(self, why: str) -> None:
        """Put another kernel in the place of one that has ended, with its memory where possible."""
        self._change = result.change(why, await self._slot.restore())
        await self._wake()

    # ---- changes from outside

    async def patch(self, changes: dict[str, Any]) -> None:
        """Change the record, here and in the store; raises SessionNotFound.

        Here first: what a run writes at its end is what is here, and the store keeps the order.
        """
        before, record = self.record, {k: v for k, v in changes.items() if k != "data"}
        self._record = replace(self._record, **record)
        self._slot.internet = self._record.allow_internet_access
        if "data" in changes:
            self._data.patch(changes["data"])
        self.active_at = time.monotonic()
        try:
            if not await self._sessions.change(self._record.id, changes):
                raise SessionNotFound(self._record.id)
        except BaseException:
            self._record = replace(self._record, **{name: getattr(before, name) for name in record})
            self._slot.internet = self._record.allow_internet_access
            if "data" in changes:
                self._data.patch(before.data)
            raise

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
        self._slot.close(kill=delete)
        await self.finish()
        if not delete:
            await self._end_kernel()
        await self._slot.free()

    # ---- runs

    def submit(
        self, request: RunRequest, left: Callable[[], None], *, see_through: bool = False
    ) -> RunJob:
        """Queue a run; one that is to be seen through begins when it was accepted.

        `left` is called when it takes up no room any more, however it ended.

        Raises SessionBusy (where the request will not wait) and QueueFull.
        """
        self._check_open()
        return self._queue.submit(self._record, request, left, see_through=see_through)

    async def cancel(self, job: RunJob) -> None:
        """Interrupt the run where its code runs; where it waits, it never begins."""
        await self._queue.cancel(job)

    async def _give_up(self, job: RunJob, error: KernelsvcError | None) -> Run:
        if error is None:
            run = job.cancelled(self._change, self._data.value)
        else:
            run = job.failed(error, self._data.value)
        await self._keep(run, job)
        return run

    async def _run(self, job: RunJob) -> Run:
        if job.accepted is not None:
            await job.accepted
        if job.is_cancelled:
            return await job.ended
        if not self._record.persistent:
            await self._clear()
        await self._slot.ensure()
        await self._data.put()
        if job.is_cancelled:
            return await job.ended
        self._current = job.begin()
        started = time.monotonic()
        meter = Meter(self._slot.pid())
        try:
            kernel, follow = await self._slot.ensure(), self._background.follow
            ending = await execute(kernel, job, self._record, self._policy, self._current, follow)
        finally:
            spent = meter.stop()
            self._current = job.stop = None
        if ending.returncode is not None:
            # This run tells of the kernel's end; nobody is to tell of it again.
            self._slot.expect_end()
        else:
            self._slot.completed(ending.request_id)
        duration = time.monotonic() - started
        exceeded = None if ending.timed_out or ending.stopped else self._slot.exceeded()
        change, self._change = self._change, None
        if ending.returncode is not None:
            change = await self._after_the_end(ending, exceeded)
        data_detail = await self._data.take()
        collected = job.collector.collected()
        run = job.result(
            usage=job.usage(duration, spent, collected.size + collected.cut_bytes),
            duration=f"{duration:.3f}s",
            data=self._data.value,
            data_detail=data_detail,
            **result.fields(ending, collected, change, exceeded),
        )
        self._metrics.run_finished(run.status, duration)
        await self._keep(run, job)
        if not self._record.persistent:
            await self._clear()
        elif ending.returncode is not None and not self._closed:
            self.begin_wake()
        return run

    async def _after_the_end(self, ending: Ending, exceeded: LimitExceeded | None) -> Change:
        """Replace the kernel that a run has cost by one with its memory, if anybody wants that."""
        why = result.why_it_ended(ending, exceeded)
        if self._closed or ending.stopped is not None or not self._record.persistent:
            await self._slot.drop()
            return Change("lost", why)
        return result.change(why, await self._slot.restore())

    async def _keep(self, run: Run, job: RunJob) -> None:
        """Store the run and what it changed; what is answered has been stored."""
        number = self._record.run_count + 1
        last_run_at = run.started_at or run.queued_at
        self._record = replace(self._record, run_count=number, last_run_at=last_run_at)
        await self._runs.finish(
            run,
            number,
            job.request.code,
            was_pending=job.accepted is not None,
            callback_url=job.request.callback_url,
        )
        log_finished(run)

    async def _clear(self) -> None:
        """Begin afresh: an empty workspace, no kernel, no sandbox that has been used."""
        await self._slot.free()
        await asyncio.to_thread(self.room.renew)
        self._data.begin_afresh()
        self._change = _NOT_PERSISTENT
