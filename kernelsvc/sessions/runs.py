"""What can be done with runs: begin, watch, wait for, find, cancel."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from kernelsvc.errors import FieldProblem, InvalidRequest, RunNotFound
from kernelsvc.models.caller import Caller
from kernelsvc.models.run import Run, RunList, RunRequest
from kernelsvc.models.session import SessionRecord
from kernelsvc.sessions.job import RunJob
from kernelsvc.sessions.live import LiveSession
from kernelsvc.sessions.quotas import QuotaBook
from kernelsvc.sessions.stream import Point, RunReader, read_job, read_kept
from kernelsvc.store.runs import RunStore


class SessionRuns:
    """The runs of all sessions.

    `live` are the sessions that are in memory; `awake` brings one there, `record` finds one
    wherever it is. Both raise SessionNotFound.
    """

    def __init__(
        self,
        store: RunStore,
        quotas: QuotaBook,
        live: Mapping[str, LiveSession],
        awake: Callable[[Caller, str], Awaitable[LiveSession]],
        record: Callable[[Caller, str], Awaitable[SessionRecord]],
    ) -> None:
        self._store = store
        self._quotas = quotas
        self._live = live
        self._awake = awake
        self._record = record

    async def begin(self, caller: Caller, session_id: str, request: RunRequest) -> RunJob:
        """Queue code, waking the session where it sleeps.

        Raises QuotaExceeded, besides what keeps the session from queueing it.
        """
        reservation = self._quotas.add_run(caller)
        try:
            job = (await self._awake(caller, session_id)).submit(request)
        except BaseException:
            reservation.cancel()
            raise
        job.ended.add_done_callback(lambda _: reservation.release())
        return job

    async def run(self, caller: Caller, session_id: str, request: RunRequest) -> Run:
        """Run code. The run goes on if the caller goes away."""
        job = await self.begin(caller, session_id, request)
        return await asyncio.shield(job.ended)

    async def stream(
        self, caller: Caller, session_id: str, request: RunRequest, last_seen: str | None
    ) -> RunReader:
        """Run code and read its events; with `last_seen`, run nothing and go on behind that event.

        Raises what `begin` and `watch` do.
        """
        if last_seen is not None:
            return await self.watch(caller, session_id, Point.of(last_seen).run_id, last_seen)
        return read_job(await self.begin(caller, session_id, request), None)

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
        if job is not None and not (point and point.kept):
            return read_job(job, point)
        if job is not None:
            return read_kept(await asyncio.shield(job.ended), point)
        return read_kept(await self._kept(session_id, run_id), point)

    async def result(self, caller: Caller, session_id: str, run_id: str) -> Run:
        """A run as it is now, with its output so far, and what its threads printed since."""
        await self._record(caller, session_id)
        job = self._job(session_id, run_id)
        if job is not None and not job.ended.done():
            return job.shown()
        run = await self._kept(session_id, run_id)
        live = self._live.get(session_id)
        background = live.background(run_id) if live else ""
        return run.model_copy(update={"background": background}) if background else run

    async def history(self, caller: Caller, session_id: str) -> RunList:
        """The session's latest runs, newest first, those that wait or go on included."""
        await self._record(caller, session_id)
        kept = await self._store.latest(session_id)
        live = self._live.get(session_id)
        going = [job.summary() for job in reversed(live.jobs.going())] if live else []
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
