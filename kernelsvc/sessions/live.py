"""A session that is awake: its kernel, its queue, its run.

Theory of operation. One *turn* at a time, in order of arrival (asyncio's Lock is fair): a run, a
wake, a restart, a sleep. What takes a turn is a task of this object, not of the request that asked,
so a client that goes away changes nothing. An interrupt, a restart and a delete do not wait for the
turn of a run that is going on: they reach it through its `StopSignal`.

`_lost` says why the session's memory is gone since the last answer, until an answer has told it.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

import structlog

from kernelsvc import clock
from kernelsvc.errors import (
    KernelStartFailed,
    QueueFull,
    SessionBusy,
    SessionNotFound,
    ShuttingDown,
)
from kernelsvc.files.session_data import DataFile
from kernelsvc.files.workspace import Workspaces
from kernelsvc.kernels.kernel import Kernel
from kernelsvc.kernels.ladder import Ending, Grace, Stop, StopSignal, end, run_to_end, wait_event
from kernelsvc.kernels.languages import find_language
from kernelsvc.kernels.launch import Launcher, Seat
from kernelsvc.models.event import Event
from kernelsvc.models.run import Run, RunError, RunRequest
from kernelsvc.models.session import SessionRecord, SessionState
from kernelsvc.outputs.collector import OutputCollector
from kernelsvc.sessions import result
from kernelsvc.sessions.background import BackgroundOutput
from kernelsvc.sessions.policy import SessionPolicy
from kernelsvc.store.runs import RunStore
from kernelsvc.store.sessions import SessionStore

T = TypeVar("T")

_START_ATTEMPTS = 3

log = structlog.get_logger()


class LiveSession:
    """An awake session. `on_idle` is called when a turn has ended and nothing waits for one."""

    def __init__(
        self,
        record: SessionRecord,
        *,
        policy: SessionPolicy,
        launcher: Launcher,
        workspaces: Workspaces,
        sessions: SessionStore,
        runs: RunStore,
        on_idle: Callable[["LiveSession"], None],
    ) -> None:
        self.record = record
        self.active_at = time.monotonic()
        self.failure: str | None = None
        self._policy = policy
        self._launcher = launcher
        self._workspaces = workspaces
        self._sessions = sessions
        self._runs = runs
        self._on_idle = on_idle
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._queued = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._seat: Seat | None = None
        self._kernel: Kernel | None = None
        self._watch: asyncio.Task[None] | None = None
        self._current: StopSignal | None = None
        self._starting = False
        self._closed = False
        self._deleted = False
        self._data_file = DataFile(workspaces.path(record.id), policy.max_data_bytes)
        self._data_patched = True
        self._lost = "the session was asleep" if record.run_count else None
        self.background = BackgroundOutput(runs, policy.background_bytes)

    # ---- what it is doing

    @property
    def state(self) -> SessionState:
        """What the session is doing just now."""
        if self._current is not None:
            return "running"
        if self._starting:
            return "starting"
        if self.failure is not None:
            return "failed"
        if self._kernel is not None or not self.record.persistent:
            return "idle"
        return "sleeping"

    @property
    def is_busy(self) -> bool:
        """Whether a turn is being taken or waited for."""
        return self._turn.locked() or self._waiting > 0 or self._queued > 0

    @property
    def is_deleted(self) -> bool:
        """Whether the session is being deleted."""
        return self._deleted

    @property
    def sleep_after(self) -> float:
        """Seconds of inactivity after which the session sleeps; infinity for never."""
        own = self.record.sleep_after
        return self._policy.sleep_after if own is None else own

    # ---- turns

    def _spawn(self, work: Awaitable[T]) -> asyncio.Task[T]:
        """Do it in a task of this session's, which `close` waits for."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _take_turn(self, work: Callable[[], Awaitable[T]]) -> T:
        self._waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
        try:
            if self._deleted:
                raise SessionNotFound(self.record.id)
            if self._closed:
                raise ShuttingDown
            return await work()
        finally:
            self.active_at = time.monotonic()
            self._turn.release()
            if not self.is_busy:
                self._on_idle(self)

    def begin_wake(self) -> asyncio.Task[None]:
        """Start a kernel in the background where there is none; a failure shows in `state`."""
        task = self._spawn(self._take_turn(self._wake))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _wake(self) -> None:
        if self.record.persistent:
            await self._ensure_kernel()

    async def wake(self) -> None:
        """Return when the session has a kernel; raises KernelStartFailed."""
        if self._kernel is None:
            await asyncio.shield(self.begin_wake())

    def interrupt(self) -> None:
        """Interrupt the run that is going on; none is fine too."""
        if self._current is not None:
            self._current.want(Stop.INTERRUPT)

    async def restart(self) -> None:
        """Replace the kernel; a run that is going on ends with 130, runs behind it wait."""
        if self._current is not None:
            self._current.want(Stop.RESTART)
            await asyncio.shield(self._spawn(self._take_turn(self._wake)))
        else:
            await asyncio.shield(self._spawn(self._take_turn(self._restart)))

    async def _restart(self) -> None:
        await self._drop_kernel(self._policy.grace)
        self._lost = "the kernel was restarted"
        await self._ensure_kernel()

    async def sleep(self) -> None:
        """End the kernel, keep everything else; raises SessionBusy during a run or a queued one."""
        if self._queued:
            raise SessionBusy(self.record.id)
        await asyncio.shield(self._spawn(self._take_turn(self._fall_asleep)))

    async def _fall_asleep(self) -> None:
        if self._queued:
            raise SessionBusy(self.record.id)
        if self._kernel is not None:
            await self._leave_politely(self._kernel)
            await self._take_over_data()
            await self._sessions.change(self.record.id, {"data": self.record.data})
        await self._free_seat()
        await self.background.save()
        self._lost = "the session was asleep" if self.record.run_count else None
        log.info("session_slept", session_id=self.record.id)

    async def _leave_politely(self, kernel: Kernel) -> None:
        """Let exit handlers run, and a SIGTERM handler where that is not enough."""
        await kernel.ask_to_leave()
        await wait_event(kernel.ended, self._policy.grace.terminate)
        await self._drop_kernel(self._policy.grace)

    # ---- changes from outside

    async def patch(self, changes: dict[str, Any]) -> None:
        """Change the record, here and in the store; raises SessionNotFound.

        Here first: what a run writes at its end is what is here, and the store keeps the order.
        """
        before = {name: getattr(self.record, name) for name in changes}
        self.record = replace(self.record, **changes)
        self._data_patched = self._data_patched or "data" in changes
        self.active_at = time.monotonic()
        try:
            if not await self._sessions.change(self.record.id, changes):
                raise SessionNotFound(self.record.id)
        except BaseException:
            self.record = replace(self.record, **before)
            raise

    async def finish(self) -> None:
        """Return when nothing is going on or queued."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def close(self, *, delete: bool = False) -> None:
        """End whatever is going on and free the kernel; nothing runs here afterwards."""
        self._closed = True
        self._deleted = self._deleted or delete
        if self._current is not None:
            self._current.want(Stop.KILL)
        if self._kernel is not None:
            self._kernel.process.kill()
        await self.finish()
        await self._free_seat()
        if not delete:
            await self.background.save()

    # ---- the kernel

    async def _ensure_kernel(self) -> Kernel:
        if self._kernel is not None and not self._kernel.ended.is_set():
            return self._kernel
        self._starting = True
        try:
            for attempt in range(1, _START_ATTEMPTS + 1):
                try:
                    kernel = await self._start_kernel()
                    break
                except KernelStartFailed as error:
                    await self._free_seat()
                    log.warning(
                        "kernel_start_failed",
                        session_id=self.record.id,
                        attempt=attempt,
                        reason=str(error),
                    )
                    if attempt == _START_ATTEMPTS or self._closed:
                        self.failure = str(error)
                        raise
        finally:
            self._starting = False
        self.failure = None
        self._kernel = kernel
        self._watch = asyncio.create_task(self._replace_when_it_dies(kernel))
        return kernel

    async def _start_kernel(self) -> Kernel:
        await self._drop_kernel(Grace(0, 0))
        language = find_language(self.record.language)
        assert language is not None
        workspace = self._workspaces.path(self.record.id)
        if self._seat is not None and self._seat.host.closed.is_set():
            await self._free_seat()
        if self._seat is None:
            self._seat = await self._launcher.seat(language.kernelspec, workspace)
        kernel = await self._launcher.start(
            self._seat, language.kernelspec, workspace, self.background.add
        )
        log.info("kernel_started", session_id=self.record.id, pid=kernel.process.pid)
        return kernel

    async def _replace_when_it_dies(self, kernel: Kernel) -> None:
        """Notice a death between runs; during one, the run itself does."""
        await kernel.ended.wait()
        if self._current is None and self._kernel is kernel and not self._closed:
            self._note_death(kernel)
            self._watch = None
            self.begin_wake()

    async def _drop_kernel(self, grace: Grace) -> None:
        """End the kernel, if there is one, and free it; its host stays for the next."""
        kernel, self._kernel = self._kernel, None
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()
        if kernel is not None:
            await end(kernel, grace)
            await kernel.close()

    async def _free_seat(self) -> None:
        await self._drop_kernel(Grace(0, 0))
        seat, self._seat = self._seat, None
        if seat is not None:
            await seat.close()

    # ---- runs

    def submit(self, request: RunRequest) -> asyncio.Task[Run]:
        """Queue a run; the task ends with its result.

        Raises SessionBusy (where the request will not wait) and QueueFull.
        """
        if self._closed:
            raise SessionNotFound(self.record.id) if self._deleted else ShuttingDown
        if request.if_busy == "reject" and (self._current is not None or self._queued > 0):
            raise SessionBusy(self.record.id)
        if self._queued > self._policy.max_queued_runs:
            raise QueueFull(self.record.id, self._policy.max_queued_runs)
        self._queued += 1
        return self._spawn(self._answer(request))

    async def _answer(self, request: RunRequest) -> Run:
        try:
            return await self._take_turn(lambda: self._run(request))
        finally:
            self._queued -= 1

    async def _run(self, request: RunRequest) -> Run:
        run_id = "run_" + secrets.token_hex(12)
        if not self.record.persistent:
            await self._clear()
        await self._ensure_kernel()
        await self._put_data()
        collector = OutputCollector(self._policy.max_output_bytes)
        self._current = StopSignal()
        started_at, started = clock.now(), time.monotonic()
        try:
            ending = await self._execute(request, run_id, collector.add, self._current)
        finally:
            self._current = None
        lost_before, self._lost = self._lost, None
        duration = time.monotonic() - started
        run = _result(run_id, self.record, ending, collector, duration, started_at, lost_before)
        data_detail = await self._take_over_data()
        run = run.model_copy(update={"data": self.record.data, "data_detail": data_detail})
        await self._keep(run, request.code)
        if ending.returncode is not None:
            await self._drop_kernel(Grace(0, 0))
            if self.record.persistent and not self._closed:
                self.begin_wake()
        elif not self.record.persistent:
            await self._drop_kernel(Grace(0, 0))
            await self._clear()
        log.info(
            "run_finished",
            session_id=self.record.id,
            run_id=run_id,
            status=run.status,
            exit_code=run.exit_code,
            duration=run.duration,
            memory=run.memory,
        )
        return run

    async def _execute(
        self, request: RunRequest, run_id: str, sink: Callable[[Event], None], stop: StopSignal
    ) -> Ending:
        own = self.record.default_timeout
        default = self._policy.default_timeout if own is None else own
        kernel = await self._ensure_kernel()
        started_at = clock.boottime()
        execution = kernel.execute(request.code, self._environment(request), request.stdin, sink)
        self.background.follow(execution.request_id, run_id)
        return await run_to_end(
            kernel,
            execution,
            timeout=default if request.timeout is None else request.timeout,
            on_timeout=request.on_timeout or self.record.on_timeout,
            started_at=started_at,
            stop=stop,
            grace=self._policy.grace,
        )

    def _note_death(self, kernel: Kernel) -> None:
        how = result.how_it_ended(kernel.process.exited.result())
        self._lost = f"the kernel {how} between runs and was replaced"
        log.warning("kernel_died", session_id=self.record.id, how=how)

    def _environment(self, request: RunRequest) -> dict[str, str]:
        session_id = self.record.id
        return {
            **self.record.env,
            **request.env,
            "ERA_SESSION": "true",
            "ERA_SESSION_ID": session_id,
            "ERA_LANGUAGE": self.record.language,
            "ERA_BASE_URL": self._policy.base_url,
            "ERA_PROXY_URL": f"{self._policy.base_url}/proxy/{session_id}",
        }

    async def _keep(self, run: Run, code: str) -> None:
        number = self.record.run_count + 1
        changes = {
            "run_count": number,
            "last_run_at": run.started_at,
            "data": self.record.data,
        }
        self.record = replace(self.record, **changes)
        await self._runs.finish(run, number, code, changes)

    async def _clear(self) -> None:
        """Begin afresh: an empty workspace, no kernel."""
        await self._drop_kernel(Grace(0, 0))
        await asyncio.to_thread(self._renew_workspace)
        self._data_patched = True
        self._lost = "the session is not persistent: every run begins with an empty memory"

    def _renew_workspace(self) -> None:
        self._workspaces.remove(self.record.id)
        self._workspaces.create(self.record.id)

    # ---- .session_data.json

    async def _put_data(self) -> None:
        """Make the file hold the session's data, unless the code changed it since the last run."""
        patched, self._data_patched = self._data_patched, False
        data = await asyncio.to_thread(self._sync_data, self.record.data, patched)
        if not self._data_patched:
            self.record = replace(self.record, data=data)

    def _sync_data(self, data: dict[str, Any], patched: bool) -> dict[str, Any]:
        found = None if patched else self._data_file.read_if_changed()
        if found is not None and found.data is not None:
            return found.data
        if patched or found is not None or self._data_file.is_missing():
            self._data_file.write(data)
        return data

    async def _take_over_data(self) -> str | None:
        """Take the code's changes over into the session; says what there is to say about it."""
        found = await asyncio.to_thread(self._data_file.read_if_changed)
        if found is None:
            return None
        if found.data is None:
            return found.problem
        patched, self._data_patched = self._data_patched, False
        self.record = replace(self.record, data=found.data)
        return (
            "the code's .session_data.json replaced the data patched meanwhile" if patched else None
        )


def _result(
    run_id: str,
    record: SessionRecord,
    ending: Ending,
    collector: OutputCollector,
    duration: float,
    started_at: Any,
    lost_before: str | None,
) -> Run:
    collected = collector.collected()
    code = result.exit_code(ending)
    memory, detail = result.memory(ending, lost_before)
    error = collected.error
    reply = ending.reply
    return Run(
        run_id=run_id,
        session_id=record.id,
        status=result.status(ending, code),
        language=record.language,
        exit_code=code,
        stdout=collected.stdout,
        stderr=collected.stderr,
        duration=f"{duration:.3f}s",
        outputs=collected.outputs,
        text=collected.text,
        error=error
        and RunError(ename=error.ename, evalue=error.evalue, traceback=list(error.traceback)),
        timed_out=ending.timed_out,
        memory=memory,
        memory_detail=detail,
        execution_count=reply.execution_count if reply else None,
        truncated=collected.cut_bytes > 0 or not ending.complete,
        truncated_bytes=collected.cut_bytes,
        started_at=started_at,
    )
