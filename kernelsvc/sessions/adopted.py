"""A session that is awake with a kernel of an earlier service's, which was killed.

Theory of operation. What that service had written down says which run was begun last (`going`).
Where the history has it, the kernel waits for the next one. Else it may go on: then it is a run as
any other from here, under the timeout that it had from its beginning. The kernel is asked whether
it is at work on it, or how it has ended. What was put out until this service listened nobody has
received, and the result says so.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from kernelsvc import clock
from kernelsvc.errors import KernelStartFailed
from kernelsvc.kernels.execution import Execution
from kernelsvc.kernels.inheritance import Heir
from kernelsvc.kernels.kernel import Kernel
from kernelsvc.kernels.ladder import Ending, Stop, StopSignal, end, run_to_end
from kernelsvc.models.event import Idle
from kernelsvc.models.fields import OnTimeout
from kernelsvc.models.run import Run
from kernelsvc.models.session import SessionRecord
from kernelsvc.sessions.capacity import Capacity
from kernelsvc.sessions.going import Going
from kernelsvc.sessions.job import SERVICE_STOPPED, RunJob
from kernelsvc.sessions.live import LiveSession
from kernelsvc.sessions.parts import SessionParts
from kernelsvc.sessions.spent import Spent

ENDED_MEANWHILE = "the run ended while the service was away: its output is missing"
_DIED = "the kernel ended while the service was away"
_SILENT = "the service was killed, and the kernel did not answer the next one"
_GREETING_SECONDS = 10.0
_ASKING_SECONDS = 2.0


class AdoptedSession(LiveSession):
    """Made by a service that has just started; `adopt` is called at once."""

    def __init__(
        self,
        record: SessionRecord,
        parts: SessionParts,
        capacity: Capacity,
        on_idle: Callable[[LiveSession], None],
        heir: Heir,
    ) -> None:
        super().__init__(record, parts, capacity, on_idle)
        self._heir = heir
        self._found: tuple[RunJob, Going, Execution] | None = None
        self._launcher = parts.launcher
        self._inherited: Kernel | None = None

    def adopt(
        self, going: Going | None, *, is_over: bool, has_file: bool
    ) -> asyncio.Future[None] | None:
        """Take over the kernel and the run that was begun last, unless that `is_over`.

        What is returned is done when the kernel has answered, or has turned out not to. None where
        a run may be going on: nobody knows when that will let the kernel answer.
        """
        is_news = going is None or ((going.has_news or going.is_replaced) and not is_over)
        self._memory.take_over(self._heir.told.more, is_news=is_news, has_file=has_file)
        if going is not None:
            self._background.follow(going.request_id, going.run_id)
        completed: str | None = self._heir.told.more["completed"]
        if going is not None and not going.is_replaced:
            completed = going.request_id if is_over else going.completed
        if not self._heir.has_kernel:
            self._slot.take_over(self._heir.seat, None, completed)
            return self._turns.begin(lambda: self._replace(None if is_over else going))
        kernel = self._inherited = self._heir.kernel(self._launcher, self._background.add)
        if going is not None and not is_over:
            self._take_up(kernel, going)
        kernel.attach()
        self._slot.take_over(self._heir.seat, kernel, completed)
        if self._found is not None:
            self._queue.resume(self._found[0])
            return None
        greeting = self._turns.begin(lambda: self._greet(kernel))
        greeting.add_done_callback(lambda _: self._be_idle_since_the_last_run())
        return greeting

    def _be_idle_since_the_last_run(self) -> None:
        """Being found again is no use of the session."""
        last = self._record.last_run_at or self._record.created_at
        self.active_at = time.monotonic() - max(0.0, (clock.now() - last).total_seconds())
        if not self.is_busy:
            self._on_idle(self)

    async def _greet(self, kernel: Kernel) -> None:
        """Make sure that it is heard, and kept; one that is not is given up."""
        try:
            async with asyncio.timeout(_GREETING_SECONDS):
                await kernel.until_heard()
        except (TimeoutError, KernelStartFailed):
            if not kernel.ended.is_set():
                # Of one that has ended, it is told anyway.
                await self._slot.free()
                self._memory.lose(_SILENT)
            return
        await self._slot.keep(self._memory.told, self._heir.orphan.run)
        if self._heir.told.more["is_offered"]:
            # Copies were about to be made: of which memory there is a snapshot, nobody knows.
            async with self._memory.offer(copies=0, reseed=False):
                pass

    async def _replace(self, going: Going | None) -> None:
        """The kernel has ended, and a run with it; its snapshot may be there."""
        await self._memory.replace(_DIED, going=going)
        if going is not None:
            most = self._policy.max_output_bytes
            job = RunJob.resumed(self._record.id, self._record.language, going, most)
            await self._conclude_unknown(job, clock.boottime() - going.began)
        self.begin_wake()

    # ---- a run that may be going on

    def _take_up(self, kernel: Kernel, going: Going) -> None:
        record = self._record
        most = self._policy.max_output_bytes
        job = RunJob.resumed(record.id, record.language, going, most)
        started_at = asyncio.get_running_loop().time() - (clock.boottime() - going.began)
        execution = kernel.take_up(going.request_id, job.events.add, started_at)
        self._found = job, going, execution
        self._data.resume(going.data_seen)
        self._current = job.stop = StopSignal()

    async def _run(self, job: RunJob) -> Run:
        if self._found is None or job is not self._found[0]:
            return await super()._run(job)
        (_, going, execution), self._found = self._found, None
        kernel, stop = self._inherited, job.stop
        assert kernel is not None
        assert stop is not None
        asking = asyncio.create_task(self._ask(kernel, execution, job))
        try:
            # One that has ended long ago must not be taken for one that has run out of time.
            await asyncio.wait({asking}, timeout=_ASKING_SECONDS)
            ending = await run_to_end(
                kernel,
                execution,
                timeout=going.timeout,
                on_timeout=going.on_timeout,
                started_at=going.began,
                stop=stop,
                grace=self._policy.grace,
            )
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            self._current = job.stop = None
        if job.missing == ENDED_MEANWHILE and _is_interrupted(ending):
            ending = await self._as_it_was_meant(kernel, going, ending)
        duration = clock.boottime() - going.began
        if _is_known(ending):
            return await self._conclude(job, ending, duration, Spent())
        return await self._conclude_unknown(job, duration)

    async def _ask(self, kernel: Kernel, execution: Execution, job: RunJob) -> None:
        """Find out what the kernel knows of the run; raises KernelStartFailed where it is gone."""
        await kernel.until_heard()
        await self._slot.keep(self._memory.told, self._heir.orphan.run)
        latest = await kernel.latest()
        if latest.going == execution.request_id:
            return
        job.missing = ENDED_MEANWHILE
        if latest.ended == execution.request_id and latest.reply is not None:
            execution.hear(Idle(latest.reply))
        else:
            execution.end()

    async def _as_it_was_meant(self, kernel: Kernel, going: Going, ending: Ending) -> Ending:
        """The ending that a service had begun to bring about when it was killed."""
        if clock.boottime() < going.began + going.timeout:
            return replace(ending, stopped=Stop.INTERRUPT)
        if going.on_timeout is OnTimeout.RESTART:
            await end(kernel, self._policy.grace)
        returncode = kernel.process.exited.result() if kernel.ended.is_set() else None
        return replace(ending, timed_out=True, returncode=returncode)

    async def _conclude_unknown(self, job: RunJob, duration: float) -> Run:
        """The kernel lives, and knows nothing of the run."""
        memory, detail = self._memory.take_news() or ("kept", None)
        await self._data.take()
        run = job.result(
            status="interrupted",
            error=SERVICE_STOPPED,
            duration=f"{duration:.3f}s",
            memory=memory,
            memory_detail=detail or "the kernel lived on, but how the run ended is not known",
            data=self._data.value,
        )
        await self._keep(run, job)
        return run


def _is_interrupted(ending: Ending) -> bool:
    reply = ending.reply
    return reply is not None and reply.ename in ("KeyboardInterrupt", "CancelledError")


def _is_known(ending: Ending) -> bool:
    """Whether anybody knows how the run has ended."""
    ended = ending.reply is not None or ending.returncode is not None
    return ended or ending.timed_out or ending.stopped is not None
