"""A run from when it is asked for until it has ended, and for a while after."""

import asyncio
import time
from collections import OrderedDict
from datetime import datetime
from typing import Any, Self

import structlog

from kernelsvc import clock
from kernelsvc.errors import KernelsvcError
from kernelsvc.files.session_data import Signature
from kernelsvc.kernels.ladder import StopSignal
from kernelsvc.models.run import Run, RunError, RunRequest, RunSummary, RunUsage, new_run_id
from kernelsvc.outputs.collector import OutputCollector
from kernelsvc.outputs.log import EventLog
from kernelsvc.sessions.going import Going
from kernelsvc.sessions.result import INTERRUPTED, Change
from kernelsvc.sessions.spent import Spent
from kernelsvc.store.accepted import Accepted

_MOST_ENDED = 4
MISSING = "the service was killed during the run: what it had put out by then is missing"
"""Of one that was found going on."""
SERVICE_STOPPED = RunError(
    ename="ServiceStopped",
    evalue="the service was stopped before the run had ended",
    traceback=[],
)
"""Of one that no service has seen through."""
_CANCELLED = "the run was cancelled before its code began"

log = structlog.get_logger()


class RunJob:
    """One run. It waits until `begin`; `ended` is its result, or what kept it from having one."""

    def __init__(self, session_id: str, language: str, request: RunRequest, max_bytes: int) -> None:
        self.run_id = new_run_id()
        self.session_id = session_id
        self.language = language
        self.request = request
        # Where the request had none, the session's was put in its place.
        self.code = request.code or ""
        self.queued_at = clock.now()
        self.started_at: datetime | None = None
        self.queue_seconds = 0.0
        self.collector = OutputCollector(max_bytes)
        self.events = EventLog(max_bytes, self.collector.add)
        self.stop: StopSignal | None = None
        self.ended: asyncio.Future[Run] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[Run] | None = None
        # Whether it must be seen through, and when that has been written down.
        self.accepted: asyncio.Future[None] | None = None
        self.is_cancelled = False
        self.missing: str | None = None
        # What the session's data file was like when it began.
        self.data_seen: Signature | None = None
        # Whether its answer has to tell of the memory.
        self.has_news = False
        # What a next service would have to know of it, once it has begun.
        self.going: Going | None = None
        self._queued = time.monotonic()

    @classmethod
    def resumed(cls, session_id: str, language: str, going: Going, max_bytes: int) -> Self:
        """One that has begun under an earlier service, which was killed."""
        # Checked once, under rules that may have changed.
        request = RunRequest().model_copy(
            update={
                "code": going.code,
                "background": going.background,
                "callback_url": going.callback_url,
            }
        )
        job = cls(session_id, language, request, max_bytes)
        job.run_id, job.queued_at, job.started_at = going.run_id, going.queued_at, going.started_at
        job.queue_seconds = going.queue_seconds
        job.missing = MISSING
        job.going = going
        if going.is_promised:
            job._was_accepted()
        return job

    @classmethod
    def left(cls, accepted: Accepted, language: str) -> Self:
        """One that an earlier service had taken, and that never begins."""
        update = {"code": accepted.code, "callback_url": accepted.callback_url}
        job = cls(accepted.session_id, language, RunRequest().model_copy(update=update), 0)
        job.run_id, job.queued_at = accepted.run_id, accepted.queued_at
        job._was_accepted()
        return job

    def begin(self) -> StopSignal:
        """The kernel gets the code now."""
        self.started_at, self.queue_seconds = clock.now(), time.monotonic() - self._queued
        self.stop = StopSignal()
        return self.stop

    @property
    def waits(self) -> bool:
        """Whether its turn has not come yet."""
        return self.started_at is None and not self.ended.done()

    def must_be_seen_through(self) -> None:
        """It is to begin when `accepted` is done, and to be in the history however it ends."""
        self.accepted = asyncio.get_running_loop().create_future()

    def _was_accepted(self) -> None:
        self.must_be_seen_through()
        assert self.accepted is not None
        self.accepted.set_result(None)

    def settle(self, task: "asyncio.Task[Run]") -> None:
        """The task that sees it through has ended: so has it, unless it had before."""
        if self.ended.done():
            return
        if task.cancelled():
            self.ended.cancel()
        elif (error := task.exception()) is not None:
            self.ended.set_exception(error)
            # The client may have gone away; nobody else looks at the error then.
            self.ended.exception()
        else:
            self.ended.set_result(task.result())

    def close(self) -> None:
        """It has ended: let go of what only one that goes on needs."""
        self.events.end()
        self.collector = OutputCollector(0)

    def usage(self, wall_seconds: float, spent: Spent, output_bytes: int) -> RunUsage:
        """What it took."""
        return RunUsage(
            queue_seconds=round(self.queue_seconds, 6),
            wall_seconds=round(wall_seconds, 6),
            cpu_seconds=spent.cpu_seconds,
            peak_memory_bytes=spent.peak_memory_bytes,
            output_bytes=output_bytes,
        )

    def result(self, **fields: Any) -> Run:
        """Its result, from what only the end tells."""
        if self.missing is not None:
            fields |= {"missing": self.missing, "truncated": True}
        return Run(
            run_id=self.run_id,
            session_id=self.session_id,
            language=self.language,
            queued_at=self.queued_at,
            started_at=self.started_at,
            **fields,
        )

    def not_begun(
        self, error: KernelsvcError | None, change: Change | None, data: dict[str, Any]
    ) -> Run:
        """Its result where its code never ran.

        That is because of an `error` of ours, or because it was cancelled, or else because the
        service that took it was stopped. `change` is what is to be told of the memory, if anything.
        """
        memory, detail = change or ("kept", None)
        told = {"memory": memory, "memory_detail": detail, "data": data}
        if error is not None:
            why = RunError(ename=error.code, evalue=str(error), traceback=[])
            return self.result(status="failed", error=why, stderr=f"{error}\n", **told)
        if not self.is_cancelled:
            return self.result(status="interrupted", error=SERVICE_STOPPED, **told)
        why = RunError(ename="Cancelled", evalue=_CANCELLED, traceback=[])
        return self.result(
            status="interrupted", exit_code=INTERRUPTED, error=why, stderr=f"{_CANCELLED}\n", **told
        )

    def shown(self) -> Run:
        """What can be told of it before its end, the output so far included."""
        collected = self.collector.collected()
        return self.result(
            status="queued" if self.waits else "running",
            stdout=collected.stdout,
            stderr=collected.stderr,
            outputs=collected.outputs,
            text=collected.text,
            truncated=collected.cut_bytes > 0 or self.missing is not None,
            missing=self.missing,
            truncated_bytes=collected.cut_bytes,
        )

    def summary(self) -> RunSummary:
        """Its entry in the history before its end."""
        return RunSummary(
            run_id=self.run_id,
            status="queued" if self.waits else "running",
            exit_code=None,
            duration=None,
            queued_at=self.queued_at,
            started_at=self.started_at,
            code=self.code,
        )


class Jobs:
    """A session's runs that wait or go on, and the latest that have ended, by id.

    Of those that have ended as many are held as `max_bytes` have room for.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._going: dict[str, RunJob] = {}
        self._ended: OrderedDict[str, RunJob] = OrderedDict()

    def add(self, job: RunJob) -> None:
        """Take a new run."""
        self._going[job.run_id] = job

    def ended(self, job: RunJob) -> None:
        """The run has ended; one that came to nothing is forgotten."""
        job.close()
        del self._going[job.run_id]
        if job.ended.cancelled() or job.ended.exception() is not None:
            return
        self._ended[job.run_id] = job
        held = sum(each.events.size for each in self._ended.values())
        while len(self._ended) > 1 and (held > self._max_bytes or len(self._ended) > _MOST_ENDED):
            _, forgotten = self._ended.popitem(last=False)
            held -= forgotten.events.size

    def get(self, run_id: str) -> RunJob | None:
        """The run, where it is held."""
        return self._going.get(run_id) or self._ended.get(run_id)

    def going(self) -> list[RunJob]:
        """Those that have not ended, oldest first."""
        return list(self._going.values())


def log_finished(run: Run) -> None:
    """Note that a run has ended, and how."""
    log.info(
        "run_finished",
        session_id=run.session_id,
        run_id=run.run_id,
        status=run.status,
        exit_code=run.exit_code,
        duration=run.duration,
        memory=run.memory,
    )
