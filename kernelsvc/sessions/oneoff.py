"""Runs that bring a session of their own, which nobody else sees and which is gone behind them.

Theory of operation. Such a session is a live one as any other: what holds for its kernel, its
limits and its timeouts is theirs. But there is no record of it in the store, so nobody finds it,
and what a crash leaves of it belongs to no session and is cleared away at the next start. It goes
when its run has ended or its caller has gone away, who alone could have learned the result; the
answer waits for that, so that whoever has it can count on everything being free again.
"""

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar

from kernelsvc import clock
from kernelsvc.files.filling import checked, fill
from kernelsvc.models.caller import Caller
from kernelsvc.models.execution import Executed, ExecuteRequest
from kernelsvc.models.run import Run
from kernelsvc.models.session import SessionRecord
from kernelsvc.sessions.capacity import Capacity
from kernelsvc.sessions.job import RunJob, log_finished
from kernelsvc.sessions.live import LiveSession
from kernelsvc.sessions.parts import SessionParts
from kernelsvc.sessions.quotas import QuotaBook

_GONE: Final = "a one-off run has a kernel of its own, which is gone with its memory"

T = TypeVar("T")


class _OneOffSession(LiveSession):
    """A session for one run: nothing of it is stored, and no kernel follows its kernel.

    Nor does it outlive the service: nobody could ask for its result.
    """

    def __init__(self, *of: Any) -> None:
        super().__init__(*of)
        self._slot.outliving.on = False

    async def _wake(self) -> None:
        pass

    async def _keep(self, run: Run, job: RunJob) -> None:
        log_finished(_executed(run))


class OneOff:
    """One such run, from when it is queued until everything of it has gone."""

    def __init__(self, job: RunJob, remove: Callable[[], "asyncio.Task[None]"]) -> None:
        self._job = job
        self._remove = remove
        self._removal: asyncio.Task[None] | None = None
        job.ended.add_done_callback(lambda _: self.end())

    def end(self) -> None:
        """End it where it goes on, and begin to remove all of it; again is fine."""
        if self._removal is None:
            self._removal = self._remove()

    async def result(self) -> Executed:
        """Its result, when everything of it has gone; raises what kept it from having one."""
        await asyncio.wait({self._job.ended})
        self.end()
        assert self._removal is not None
        await asyncio.shield(self._removal)
        return _executed(self._job.ended.result())


class OneOffs:
    """All that go on; `live` are their sessions.

    `check_open` raises where nothing new is taken. `on_begin` is called when one has come.
    """

    def __init__(
        self,
        parts: SessionParts,
        capacity: Capacity,
        quotas: QuotaBook,
        check_open: Callable[[], None],
        on_begin: Callable[[], None],
    ) -> None:
        self.live: dict[str, LiveSession] = {}
        self._parts = parts
        self._capacity = capacity
        self._quotas = quotas
        self._check_open = check_open
        self._on_begin = on_begin
        self._tasks: set[asyncio.Task[Any]] = set()
        parts.metrics.watch("one_offs", "Runs in sessions of their own", lambda: len(self.live))

    async def begin(self, caller: Caller, request: ExecuteRequest) -> OneOff:
        """Put the files there and queue the run; while it goes on, it counts as a session, too.

        Raises InvalidRequest, QuotaExceeded, TooManySessions and StorageFull.
        """
        self._check_open()
        record = self._record(caller, request)
        given = {path: file.data() for path, file in (request.files or {}).items()}
        disk = record.limits.over(self._parts.policy.limits).disk
        files = await asyncio.to_thread(checked, given, disk) if given else {}
        # The client may go away meanwhile: what has begun is this object's to end.
        return await asyncio.shield(self._own(self._begin(caller, record, request, files)))

    def _record(self, caller: Caller, request: ExecuteRequest) -> SessionRecord:
        internet = request.allowInternetAccess
        return SessionRecord(
            id="exec_" + secrets.token_hex(12),
            language=self._parts.languages.asked(request.language, request.environment).name,
            persistent=True,
            created_at=clock.now(),
            snapshots=False,
            limits=request.limits,
            allow_internet_access=(
                self._parts.policy.internet_by_default if internet is None else internet
            ),
            owner=caller.owner,
        )

    async def _begin(
        self,
        caller: Caller,
        record: SessionRecord,
        request: ExecuteRequest,
        files: Mapping[bytes, bytes],
    ) -> OneOff:
        self._check_open()
        reservation = self._quotas.add_run(caller)
        try:
            self._quotas.add_session(caller)
        except BaseException:
            reservation.cancel()
            raise
        live = _OneOffSession(record, self._parts, self._capacity, _nobody)
        self.live[record.id] = live
        self._on_begin()
        try:
            if files:
                await asyncio.to_thread(self._fill, record.id, files)
                self._check_open()
            job = live.submit(request.as_run(), reservation.release)
        except BaseException:
            reservation.cancel()
            await self._remove(live)
            raise
        return OneOff(job, lambda: self._own(self._remove(live)))

    def _fill(self, session_id: str, files: Mapping[bytes, bytes]) -> None:
        self._parts.workspaces.create(session_id)
        fill(self._parts.workspaces, session_id, files)

    async def _remove(self, live: LiveSession) -> None:
        session_id = live.record.id
        try:
            await live.close(delete=True)
            await asyncio.to_thread(self._parts.workspaces.remove, session_id)
        finally:
            self._quotas.drop_session(live.owner)
            del self.live[session_id]

    def _own(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """End those that go on; when this returns, nothing of any is left."""
        await asyncio.gather(*(live.close(delete=True) for live in list(self.live.values())))
        while self._tasks:
            await asyncio.wait(set(self._tasks))


def _nobody(_: LiveSession) -> None:
    """Who is to know that such a session is idle: it goes."""


def _executed(run: Run) -> Executed:
    seconds = run.usage.wall_seconds if run.usage else 0.0
    return Executed(
        **{**dict(run), "memory": "lost", "memory_detail": _GONE},
        vm_id=run.session_id,
        execution_time_ms=round(seconds * 1000),
    )
