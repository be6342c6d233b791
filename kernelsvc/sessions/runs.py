"""What can be done with runs: begin, watch, wait for, find, cancel."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from kernelsvc.errors import FieldProblem, InvalidRequest, RunNotFound
from kernelsvc.models.caller import Caller
from kernelsvc.models.run import Run, RunList, RunRequest
from kernelsvc.models.session import SessionRecord
from kernelsvc.sessions.job import RunJob
from kernelsvc.sessions.live import LiveSession
from kernelsvc.sessions.once import key_use
from kernelsvc.sessions.quotas import QuotaBook
from kernelsvc.sessions.stream import Point, RunReader, read_job, read_kept
from kernelsvc.store.accepted import Accepted, AcceptedStore, KeyUse
from kernelsvc.store.code import CodeStore
from kernelsvc.store.runs import RunStore

_CANCEL_SECONDS: Final = 3.0


class SessionRuns:
    """The runs of all sessions.

    `live` are the sessions that are in memory; `awake` brings one there, `record` finds one
    wherever it is. Both raise SessionNotFound. `check_callback` raises InvalidRequest for a URL
    that no run may be sent to. `code` has what is run where a request has none.
    """

    def __init__(
        self,
        store: RunStore,
        accepted: AcceptedStore,
        check_callback: Callable[[str], None],
        quotas: QuotaBook,
        live: Mapping[str, LiveSession],
        awake: Callable[[Caller, str], Awaitable[LiveSession]],
        record: Callable[[Caller, str], Awaitable[SessionRecord]],
        code: CodeStore,
    ) -> None:
        self._store = store
        self._accepted = accepted
        self._check_callback = check_callback
        self._quotas = quotas
        self._live = live
        self._awake = awake
        self._record = record
        self._code = code

    async def begin(
        self, caller: Caller, session_id: str, request: RunRequest, key: str | None = None
    ) -> RunJob | Run:
        """Queue code, waking the session where it sleeps; for a key that was given before, find it.

        Raises QuotaExceeded and IdempotencyConflict, besides what keeps the session from queueing
        it. What somebody counts on (in the background, with a callback or a key) is written down
        before this returns: it ends up in the history whatever becomes of the service.
        """
        if request.callback_url is not None:
            self._check_callback(request.callback_url)
        if key is None:
            return await self._begin(caller, session_id, request, None)
        use = key_use(caller, key, session_id, request)
        async with self._accepted.keyed:
            return await self._first(caller, session_id, use) or await self._begin(
                caller, session_id, request, use
            )

    async def _begin(
        self, caller: Caller, session_id: str, request: RunRequest, use: KeyUse | None
    ) -> RunJob:
        if request.code is None:
            request = request.model_copy(update={"code": await self._stored(caller, session_id)})
        see_through = bool(request.background or request.callback_url or use)
        reservation = self._quotas.add_run(caller)
        try:
            live = await self._awake(caller, session_id)
            job = live.submit(request, reservation.release, see_through=see_through)
        except BaseException:
            reservation.cancel()
            raise
        if job.accepted is not None:
            await asyncio.shield(asyncio.ensure_future(self._accept(job, job.accepted, use)))
        return job

    async def _stored(self, caller: Caller, session_id: str) -> str:
        await self._record(caller, session_id)
        if (stored := await self._code.get(session_id)) is None:
            problem = "is required: no code is stored in the session that could be run instead"
            raise InvalidRequest([FieldProblem("code", problem)])
        return stored.code

    async def _accept(
        self, job: RunJob, accepted: "asyncio.Future[None]", use: KeyUse | None
    ) -> None:
        url = job.request.callback_url
        run = Accepted(job.run_id, job.session_id, job.queued_at, job.code, url)
        try:
            await self._accepted.accept(run, use)
        except BaseException as error:
            accepted.set_exception(error)
            # The run may never come to look at it.
            accepted.exception()
            raise
        accepted.set_result(None)

    async def _first(self, caller: Caller, session_id: str, use: KeyUse) -> RunJob | Run | None:
        """The run of the key's first use, if it was used."""
        found = await self._accepted.first_use(use)
        if found is None:
            return None
        await self._record(caller, session_id)
        return self._job(session_id, found.run_id) or await self._kept(session_id, found.run_id)

    async def run(
        self, caller: Caller, session_id: str, request: RunRequest, key: str | None = None
    ) -> Run:
        """Run code. The run goes on if the caller goes away; in the background, at once."""
        begun = await self.begin(caller, session_id, request, key)
        if isinstance(begun, Run):
            return begun
        if request.background:
            return begun.shown() if not begun.ended.done() else begun.ended.result()
        return await asyncio.shield(begun.ended)

    async def stream(
        self,
        caller: Caller,
        session_id: str,
        request: RunRequest,
        last_seen: str | None,
        key: str | None = None,
    ) -> RunReader:
        """Run code and read its events; with `last_seen`, run nothing and go on behind that event.

        Raises what `begin` and `watch` do.
        """
        if last_seen is not None:
            return await self.watch(caller, session_id, Point.of(last_seen).run_id, last_seen)
        if request.background:
            problem = "cannot be true for a stream: read the events of a run in the background"
            raise InvalidRequest([FieldProblem("background", problem)])
        begun = await self.begin(caller, session_id, request, key)
        return read_kept(begun, None) if isinstance(begun, Run) else read_job(begun, None)

    async def watch(
        self, caller: Caller, session_id: str, run_id: str, last_seen: str | None
    ) -> RunReader:
        """Read a run's events from the first on, or behind `last_seen`.

        Raises RunNotFound, and InvalidRequest where `last_seen` is no event of the run's.
        """
        point = None if last_seen is None else Point.of(last_seen)
        if point is not None and point.run_id != run_id:
            problem = f"is not an event of {run_id}"
            raise InvalidRequest([FieldProblem("Last-Event-ID", problem)])
        await self._record(caller, session_id)
        job = self._job(session_id, run_id)
        if job is None:
            return read_kept(await self._kept(session_id, run_id), point)
        if point is not None and point.kept and job.ended.done():
            return read_kept(job.ended.result(), point)
        return read_job(job, point)

    async def result(
        self, caller: Caller, session_id: str, run_id: str, wait_seconds: float = 0
    ) -> Run:
        """A run as it is now, or when it ends within that time, with what its threads printed."""
        await self._record(caller, session_id)
        job = self._job(session_id, run_id)
        if job is not None and not job.ended.done() and wait_seconds > 0:
            await asyncio.wait({job.ended}, timeout=wait_seconds)
        if job is not None and not job.ended.done():
            return job.shown()
        run = await self._kept(session_id, run_id)
        live = self._live.get(session_id)
        background = live.background(run_id) if live else ""
        return run.model_copy(update={"background": background}) if background else run

    async def cancel(self, caller: Caller, session_id: str, run_id: str) -> Run:
        """Interrupt the run, or let it not begin; the run as it is a moment later.

        One that has ended stays as it was. Code that catches the interrupt goes on: its timeout or
        a restart ends it.
        """
        await self._record(caller, session_id)
        job, live = self._job(session_id, run_id), self._live.get(session_id)
        if job is not None and live is not None:
            await asyncio.shield(asyncio.ensure_future(live.cancel(job)))
        return await self.result(caller, session_id, run_id, _CANCEL_SECONDS)

    async def history(self, caller: Caller, session_id: str) -> RunList:
        """The session's latest runs, newest first, those that wait or go on included."""
        await self._record(caller, session_id)
        live = self._live.get(session_id)
        # Before what is kept is read: one that ends meanwhile is in one of the two at least.
        going = [job.summary() for job in reversed(live.jobs.going())] if live else []
        kept = await self._store.latest(session_id)
        known = {run.run_id for run in kept}
        runs = [*(run for run in going if run.run_id not in known), *kept]
        return RunList(runs=runs, count=len(runs))

    def _job(self, session_id: str, run_id: str) -> RunJob | None:
        live = self._live.get(session_id)
        return live.jobs.get(run_id) if live else None

    async def _kept(self, session_id: str, run_id: str) -> Run:
        run = await self._store.get(session_id, run_id)
        if run is None:
            raise RunNotFound(run_id)
        return run
