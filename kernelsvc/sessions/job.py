"""A run from when it is asked for until it has ended, and for a while after."""

import asyncio
import secrets
import time
from collections import OrderedDict
from datetime import datetime

from kernelsvc import clock
from kernelsvc.kernels.ladder import Stop, StopSignal
from kernelsvc.models.run import Run, RunRequest, RunSummary
from kernelsvc.outputs.collector import OutputCollector
from kernelsvc.outputs.log import EventLog

_MOST_ENDED = 16


class RunJob:
    """One run. It waits until `begin`; `ended` is its result, or what kept it from having one."""

    def __init__(self, session_id: str, language: str, request: RunRequest, max_bytes: int) -> None:
        self.run_id = "run_" + secrets.token_hex(12)
        self.session_id = session_id
        self.language = language
        self.request = request
        self.queued_at = clock.now()
        self.started_at: datetime | None = None
        self.queue_seconds = 0.0
        self.collector = OutputCollector(max_bytes)
        self.events = EventLog(max_bytes, self.collector.add)
        self.stop: StopSignal | None = None
        self.ended: asyncio.Future[Run] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[Run] | None = None
        self._queued = time.monotonic()

    def begin(self) -> StopSignal:
        """The kernel gets the code now."""
        self.started_at, self.queue_seconds = clock.now(), time.monotonic() - self._queued
        self.stop = StopSignal()
        return self.stop

    @property
    def waits(self) -> bool:
        """Whether its turn has not come yet."""
        return self.started_at is None and not self.ended.done()

    def cancel(self) -> None:
        """Interrupt it where its code runs; elsewhere, whoever owns it lets it not begin."""
        if self.stop is not None:
            self.stop.want(Stop.INTERRUPT)

    def settle(self, task: "asyncio.Task[Run]") -> None:
        """Its task has ended: so has it, unless it was told to before."""
        if not self.ended.done():
            if task.cancelled():
                self.ended.cancel()
            elif (error := task.exception()) is not None:
                self.ended.set_exception(error)
                # The client may have gone away; nobody else looks at the error then.
                self.ended.exception()
            else:
                self.ended.set_result(task.result())
        self.events.end()
        self.collector = OutputCollector(0)

    def shown(self) -> Run:
        """What can be told of it before its end, the output so far included."""
        collected = self.collector.collected()
        return Run(
            run_id=self.run_id,
            session_id=self.session_id,
            language=self.language,
            status="queued" if self.waits else "running",
            stdout=collected.stdout,
            stderr=collected.stderr,
            outputs=collected.outputs,
            text=collected.text,
            truncated=collected.cut_bytes > 0,
            truncated_bytes=collected.cut_bytes,
            queued_at=self.queued_at,
            started_at=self.started_at,
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
            code=self.request.code,
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
