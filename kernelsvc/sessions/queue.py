"""A session's runs that wait for their turn or have it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from kernelsvc.errors import KernelsvcError, QueueFull, SessionBusy, ShuttingDown
from kernelsvc.kernels.ladder import Stop
from kernelsvc.models.run import Run, RunRequest
from kernelsvc.models.session import SessionRecord
from kernelsvc.sessions.job import Jobs, RunJob
from kernelsvc.sessions.turns import Turns

T = TypeVar("T")


class RunQueue:
    """Takes runs, and sees to it that each ends, with a result or with what kept it from one.

    `run` runs a job whose turn has come. `give_up` makes and keeps the result of one whose code
    does not run: because of an error, or, without one, because it was cancelled.
    """

    def __init__(
        self,
        turns: Turns,
        max_queued: int,
        max_output_bytes: int,
        run: Callable[[RunJob], Awaitable[Run]],
        give_up: Callable[[RunJob, KernelsvcError | None], Awaitable[Run]],
    ) -> None:
        self.jobs = Jobs(max_output_bytes)
        self._turns = turns
        self._max_queued = max_queued
        self._max_output_bytes = max_output_bytes
        self._run = run
        self._give_up = give_up
        # The runs that take up room, each with what is called when it leaves.
        self._inside: dict[RunJob, Callable[[], None]] = {}

    def __len__(self) -> int:
        return len(self._inside)

    def submit(
        self,
        record: SessionRecord,
        request: RunRequest,
        left: Callable[[], None],
        *,
        see_through: bool = False,
    ) -> RunJob:
        """Queue a run; one that is to be seen through begins when it was accepted.

        `left` is called when it takes up no room any more, however it ended.

        Raises SessionBusy (where the request will not wait) and QueueFull.
        """
        if request.if_busy == "reject" and self._inside:
            raise SessionBusy(record.id)
        if len(self._inside) > self._max_queued:
            raise QueueFull(record.id, self._max_queued)
        job = RunJob(record.id, record.language, request, self._max_output_bytes)
        self._take(job, left)
        if see_through:
            job.must_be_seen_through()
            turn = self._turns.begin(lambda: self._run(job), lambda: self._leave(job))
            job.task = asyncio.create_task(self._see_through(job, turn))
            job.task.add_done_callback(job.settle)
        else:
            self._turns.begin(lambda: self._run(job), lambda: self._leave(job), job.ended)
        return job

    def resume(self, job: RunJob) -> None:
        """Take a run that has begun under an earlier service; it has the first turn."""
        self._take(job, lambda: None)
        self._turns.begin(lambda: self._run(job), lambda: self._leave(job), job.ended)

    def _take(self, job: RunJob, left: Callable[[], None]) -> None:
        self._inside[job] = left
        self.jobs.add(job)
        job.ended.add_done_callback(lambda _: self.jobs.ended(job))

    async def between(self, session_id: str, work: Callable[[], Awaitable[T]]) -> T:
        """Do something in a turn of its own, as a run would have it; raises QueueFull."""
        if self._turns.waiting >= self._max_queued:
            raise QueueFull(session_id, self._max_queued)
        return await self._turns.do(work)

    def _leave(self, job: RunJob) -> None:
        left = self._inside.pop(job, None)
        if left is not None:
            left()

    async def _see_through(self, job: RunJob, turn: asyncio.Future[Run]) -> Run:
        """The same for a run that somebody counts on: what keeps it from running is its result."""
        try:
            return await turn
        except ShuttingDown:
            # Told when the service is there again.
            raise
        except KernelsvcError as error:
            if job.accepted is None or not job.accepted.done() or job.accepted.exception():
                raise
            return await self._give_up(job, error)

    async def cancel(self, job: RunJob) -> None:
        """Interrupt the run where its code runs; where it waits, it never begins."""
        if job.stop is not None:
            job.stop.want(Stop.INTERRUPT)
        elif job.waits and not job.is_cancelled:
            job.is_cancelled = True
            giving_up = asyncio.ensure_future(self._give_up(job, None))
            giving_up.add_done_callback(job.settle)
            await asyncio.wait({giving_up})
            self._leave(job)

    async def finish(self) -> None:
        """Return when every run that was to be seen through has been."""
        tasks = [job.task for job in self.jobs.going() if job.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
