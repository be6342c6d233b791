"""/api/sessions/{id}/run, the same as a stream, and the history of runs."""

import re
from http import HTTPStatus
from typing import Final

from kernelsvc.api.base import ApiHandler, shortened
from kernelsvc.api.events import EVENTS, LAST_SEEN, EventsHandler
from kernelsvc.api.idempotency import IDEMPOTENCY_KEY, idempotency_key
from kernelsvc.api.operations import THEN, Example, Parameter, operation
from kernelsvc.errors import (
    FieldProblem,
    IdempotencyConflict,
    InvalidRequest,
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
from kernelsvc.models.output import StreamOutput
from kernelsvc.models.run import Run, RunList, RunRequest, RunUsage

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
_WITH_A_KEY: Final = (IdempotencyConflict, RunNotFound)
_MOST_WAIT_SECONDS: Final = 300
_SECONDS: Final = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?")
_WAIT: Final = Parameter(
    "wait",
    "seconds to wait for the run's end",
    {"type": "number", "minimum": 0, "maximum": _MOST_WAIT_SECONDS},
)
_HELLO: Final = Run(
    run_id="run_8d0b7f2f6c1c4f3a9e5d2b10",
    session_id="example",
    language="python",
    status="completed",
    exit_code=0,
    stdout="hello\n",
    outputs=[StreamOutput(name="stdout", text="hello\n")],
    duration="0.002s",
    execution_count=1,
    queued_at=THEN,
    started_at=THEN,
    usage=RunUsage(queue_seconds=0.0001, wall_seconds=0.0023, output_bytes=6),
)
_STREAM: Final = {HTTPStatus.OK: EVENTS, HTTPStatus.NO_CONTENT: None}
_STREAM_HEADERS: Final = {"X-Run-Id": "the run"}


class RunHandler(ApiHandler):
    """/api/sessions/{id}/run"""

    @operation(
        {HTTPStatus.OK: Run, HTTPStatus.ACCEPTED: Run},
        body=RunRequest,
        body_may_be_missing=True,
        request_headers=(IDEMPOTENCY_KEY,),
        headers={"Location": "with 202: where to ask for the result"},
        errors=(*_MAY_KEEP_FROM_RUNNING, *_WITH_A_KEY),
        example=Example({"code": 'print("hello")', "timeout": 10}, answer=_HELLO),
    )
    async def post(self, session_id: str) -> None:
        """Run code and answer its result. The run goes on where the client goes away.

        Without `code`, the code is run that is stored in the session.

        With `background` the answer is 202, at once; the result is under the run's id.
        """
        request = self.body(RunRequest, may_be_missing=True)
        key = idempotency_key(self.request)
        run = await self.service.runs.run(self.caller, session_id, request, key)
        if request.background:
            self.set_header("Location", f"/api/sessions/{session_id}/runs/{run.run_id}")
        self.answer(run, HTTPStatus.ACCEPTED if request.background else HTTPStatus.OK)


class StreamHandler(EventsHandler):
    """/api/sessions/{id}/stream"""

    @operation(
        _STREAM,
        body=RunRequest,
        body_may_be_missing=True,
        request_headers=(LAST_SEEN, IDEMPOTENCY_KEY),
        headers=_STREAM_HEADERS,
        errors=(*_MAY_KEEP_FROM_RUNNING, *_WITH_A_KEY),
        example=Example({"code": 'print("hello")'}),
    )
    async def post(self, session_id: str) -> None:
        """Run code and answer what it puts out as server-sent events, as it comes.

        With `Last-Event-ID` nothing is run: the stream that was broken off goes on behind that
        event (204 where there is nothing behind it). The run goes on where the client goes away.
        """
        request = self.body(RunRequest, may_be_missing=True)
        key = idempotency_key(self.request)
        reader = await self.service.runs.stream(
            self.caller, session_id, request, self.last_seen, key
        )
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

    @operation(
        Run,
        query=(_WAIT,),
        errors=(SessionNotFound, RunNotFound),
        example=Example(query={"wait": "10"}, answer=_HELLO),
    )
    async def get(self, session_id: str, run_id: str) -> None:
        """A run as it is now, or with `wait` when it has ended, so long at most.

        Before its end it has the output so far, after it what it printed since in the background.
        """
        seconds = self._wait_seconds()
        self.answer(await self.service.runs.result(self.caller, session_id, run_id, seconds))

    @operation(Run, errors=(SessionNotFound, RunNotFound, StorageFull))
    async def delete(self, session_id: str, run_id: str) -> None:
        """Cancel the run: its code is interrupted, or never begins. It stays in the history.

        The answer is the run as it then is. One that has ended stays as it was.
        """
        self.answer(await self.service.runs.cancel(self.caller, session_id, run_id))

    def _wait_seconds(self) -> float:
        text = self.get_query_argument("wait", "0")
        if not (_SECONDS.fullmatch(text) and float(text) <= _MOST_WAIT_SECONDS):
            problem = f"must be seconds from 0 to {_MOST_WAIT_SECONDS} (given: {shortened(text)})"
            raise InvalidRequest([FieldProblem("wait", problem)])
        return float(text)
