"""/api/sessions/{id}/run, the same as a stream, and the history of runs."""

from http import HTTPStatus
from typing import Final

from kernelsvc.api.base import ApiHandler
from kernelsvc.api.events import EVENTS, LAST_SEEN, EventsHandler
from kernelsvc.api.operations import operation
from kernelsvc.errors import (
    KernelStartFailed,
    NoCapacity,
    QueueFull,
    QuotaExceeded,
    RunNotFound,
    SessionBusy,
    SessionNotFound,
    StorageFull,
    WorkspaceFull,
)
from kernelsvc.models.run import Run, RunList, RunRequest

_MAY_KEEP_FROM_RUNNING: Final = (
    SessionNotFound,
    SessionBusy,
    QueueFull,
    QuotaExceeded,
    KernelStartFailed,
    NoCapacity,
    WorkspaceFull,
    StorageFull,
)
_STREAM: Final = {HTTPStatus.OK: EVENTS, HTTPStatus.NO_CONTENT: None}
_STREAM_HEADERS: Final = {"X-Run-Id": "the run"}


class RunHandler(ApiHandler):
    """/api/sessions/{id}/run"""

    @operation(Run, body=RunRequest, errors=_MAY_KEEP_FROM_RUNNING)
    async def post(self, session_id: str) -> None:
        """Run code and answer its result. The run goes on where the client goes away."""
        self.answer(await self.service.run(self.caller, session_id, self.body(RunRequest)))


class StreamHandler(EventsHandler):
    """/api/sessions/{id}/stream"""

    @operation(
        _STREAM,
        body=RunRequest,
        request_headers=(LAST_SEEN,),
        headers=_STREAM_HEADERS,
        errors=(*_MAY_KEEP_FROM_RUNNING, RunNotFound),
    )
    async def post(self, session_id: str) -> None:
        """Run code and answer what it puts out as server-sent events, as it comes.

        With `Last-Event-ID` nothing is run: the stream that was broken off goes on behind that
        event (204 where there is nothing behind it). The run goes on where the client goes away.
        """
        request = self.body(RunRequest)
        reader = await self.service.runs.stream(self.caller, session_id, request, self.last_seen)
        await self.send_events(reader)


class RunEventsHandler(EventsHandler):
    """/api/sessions/{id}/runs/{run_id}/events"""

    @operation(
        _STREAM,
        request_headers=(LAST_SEEN,),
        headers=_STREAM_HEADERS,
        errors=(*_MAY_KEEP_FROM_RUNNING, RunNotFound),
    )
    async def get(self, session_id: str, run_id: str) -> None:
        """A run's events from the first on, or behind `Last-Event-ID`, to its end.

        Of a run that ended a while ago, the outputs of its result are left, an event for each.
        """
        reader = await self.service.runs.watch(self.caller, session_id, run_id, self.last_seen)
        await self.send_events(reader)


class RunsHandler(ApiHandler):
    """/api/sessions/{id}/runs"""

    @operation(RunList, errors=(SessionNotFound,))
    async def get(self, session_id: str) -> None:
        """The session's latest runs."""
        self.answer(await self.service.runs.history(self.caller, session_id))


class RunResultHandler(ApiHandler):
    """/api/sessions/{id}/runs/{run_id}"""

    @operation(Run, errors=(SessionNotFound, RunNotFound))
    async def get(self, session_id: str, run_id: str) -> None:
        """A finished run, with what it printed since in the background."""
        self.answer(await self.service.runs.result(self.caller, session_id, run_id))
