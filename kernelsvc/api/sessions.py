"""/api/sessions and what acts on one session's kernel."""

import re
from http import HTTPStatus
from typing import get_args

from kernelsvc import clock
from kernelsvc.api.base import ApiHandler, shortened
from kernelsvc.api.idempotency import IDEMPOTENCY_KEY, idempotency_key
from kernelsvc.api.operations import THEN, Example, Parameter, operation
from kernelsvc.errors import (
    FieldProblem,
    FileNotAccessible,
    IdempotencyConflict,
    InvalidRequest,
    KernelStartFailed,
    NoCapacity,
    QueueFull,
    QuotaExceeded,
    SessionBusy,
    SessionExists,
    SessionNotFound,
    StorageFull,
    TooManySessions,
    WorkspaceFull,
)
from kernelsvc.models.fork import Fork, Forked
from kernelsvc.models.session import (
    AllDeleted,
    CreateSession,
    Deleted,
    Duplicate,
    Duplicated,
    Patched,
    PatchSession,
    Session,
    SessionFilter,
    SessionList,
    SessionState,
)

_MAX_LIMIT = 1000
_METADATA = "metadata."
_LISTING = (
    Parameter(
        "limit",
        "how many sessions to list at most",
        {"type": "integer", "minimum": 1, "maximum": _MAX_LIMIT, "default": 100},
    ),
    Parameter("cursor", "the `next_cursor` of the page before"),
    Parameter("state", "only those in this state", {"enum": list(get_args(SessionState))}),
    Parameter("language", "only those of this language"),
    Parameter("owner", "another owner's, or `*` for everybody's; needs the scope `admin`"),
    Parameter(_METADATA, "only those whose metadata has this value under this key"),
)


_OF_COPIES = (
    SessionNotFound,
    SessionExists,
    TooManySessions,
    QuotaExceeded,
    QueueFull,
    WorkspaceFull,
    StorageFull,
    FileNotAccessible,
)
"""What can be in the way of a copy, whichever way it is made."""


class SessionsHandler(ApiHandler):
    """/api/sessions"""

    @operation(
        {HTTPStatus.CREATED: Session},
        body=CreateSession,
        request_headers=(IDEMPOTENCY_KEY,),
        headers={"Location": "where the session is"},
        errors=(
            SessionExists,
            TooManySessions,
            QuotaExceeded,
            IdempotencyConflict,
            SessionNotFound,
        ),
        example=Example({"language": "python", "session_id": "example"}),
    )
    async def post(self) -> None:
        """Create a session."""
        session = await self.service.create(
            self.caller, self.body(CreateSession), idempotency_key(self.request)
        )
        self.set_header("Location", f"/api/sessions/{session.id}")
        self.answer(session, HTTPStatus.CREATED)

    @operation(SessionList, query=_LISTING)
    async def get(self) -> None:
        """List the caller's sessions; an admin may ask for others' by `owner`."""
        self.answer(await self.service.find(self.caller, self._filter()))

    @operation(
        AllDeleted,
        example=Example(
            answer=AllDeleted(deleted_count=0, deleted_sessions=[], deleted_at=THEN),
        ),
    )
    async def delete(self) -> None:
        """Delete all sessions of the caller's."""
        gone = await self.service.delete_all(self.caller)
        self.answer(
            AllDeleted(deleted_count=len(gone), deleted_sessions=gone, deleted_at=clock.now())
        )

    def _filter(self) -> SessionFilter:
        given = {name: self.get_query_argument(name) for name in self.request.query_arguments}
        limit = given.get("limit", "100")
        if not (re.fullmatch("[0-9]{1,4}", limit) and 1 <= int(limit) <= _MAX_LIMIT):
            problem = f"must be a whole number from 1 to {_MAX_LIMIT} (given: {shortened(limit)})"
            raise InvalidRequest([FieldProblem("limit", problem)])
        state = given.get("state")
        if state not in (None, *get_args(SessionState)):
            problem = (
                f"must be one of {', '.join(get_args(SessionState))} (given: {shortened(state)})"
            )
            raise InvalidRequest([FieldProblem("state", problem)])
        return SessionFilter(
            limit=int(limit),
            after=given.get("cursor"),
            state=state,
            language=given.get("language"),
            owner=given.get("owner"),
            metadata={
                name.removeprefix(_METADATA): value
                for name, value in given.items()
                if name.startswith(_METADATA)
            },
        )


class SessionHandler(ApiHandler):
    """/api/sessions/{id}"""

    @operation(Session, errors=(SessionNotFound,))
    async def get(self, session_id: str) -> None:
        """Show the session."""
        self.answer(await self.service.get(self.caller, session_id))

    @operation(
        Patched,
        body=PatchSession,
        errors=(SessionNotFound,),
        example=Example({"default_timeout": 10, "metadata": {"project": "planets"}}),
    )
    async def patch(self, session_id: str) -> None:
        """Change settings, data or metadata."""
        session, note = await self.service.patch(self.caller, session_id, self.body(PatchSession))
        self.answer(
            Patched(
                id=session.id,
                metadata=session,
                session=session,
                updated_at=clock.now(),
                note=note,
            )
        )

    @operation(
        Deleted,
        errors=(SessionNotFound,),
        example=Example(answer=Deleted(id="example", deleted_at=THEN)),
    )
    async def delete(self, session_id: str) -> None:
        """Delete the session and everything of it."""
        await self.service.delete(self.caller, session_id)
        self.answer(Deleted(id=session_id, deleted_at=clock.now()))


class DuplicateHandler(ApiHandler):
    """/api/sessions/{id}/duplicate"""

    @operation(
        {HTTPStatus.CREATED: Duplicated},
        body=Duplicate,
        body_may_be_missing=True,
        headers={"Location": "where the copy is"},
        errors=_OF_COPIES,
        example=Example({"new_id": "example-copy"}),
    )
    async def post(self, session_id: str) -> None:
        """Make a copy of the session: its files, data, settings, stored code and memory.

        Of the memory, it gets what a session keeps while it sleeps.

        It is made when the runs are over that are going on or wait.
        """
        request = self.body(Duplicate, may_be_missing=True)
        session = await self.service.duplicate(self.caller, session_id, request)
        self.set_header("Location", f"/api/sessions/{session.id}")
        self.answer(session, HTTPStatus.CREATED)


class ForkHandler(ApiHandler):
    """/api/sessions/{id}/fork"""

    @operation(
        {HTTPStatus.CREATED: Forked},
        body=Fork,
        body_may_be_missing=True,
        errors=(*_OF_COPIES, KernelStartFailed, NoCapacity),
        example=Example({"session_ids": ["example-try-1", "example-try-2"]}),
    )
    async def post(self, session_id: str) -> None:
        """Make live copies of the session: its files, data, settings, history, and its memory.

        Each has a kernel that is forked from the session's, with all that it holds but threads,
        tasks, connections and child processes; they share memory until they write to it. They are
        made when the runs are over that are going on or wait; all of them, or none.
        """
        request = self.body(Fork, may_be_missing=True)
        self.answer(await self.service.fork(self.caller, session_id, request), HTTPStatus.CREATED)


class InterruptHandler(ApiHandler):
    """/api/sessions/{id}/interrupt"""

    @operation(Session, errors=(SessionNotFound,))
    async def post(self, session_id: str) -> None:
        """Interrupt the run or the setup that is going on."""
        self.answer(await self.service.interrupt(self.caller, session_id))


class RestartHandler(ApiHandler):
    """/api/sessions/{id}/restart"""

    @operation(Session, errors=(SessionNotFound, KernelStartFailed, NoCapacity, WorkspaceFull))
    async def post(self, session_id: str) -> None:
        """Replace the kernel."""
        self.answer(await self.service.restart(self.caller, session_id))


class SleepHandler(ApiHandler):
    """/api/sessions/{id}/sleep"""

    @operation(Session, errors=(SessionNotFound, SessionBusy))
    async def post(self, session_id: str) -> None:
        """Put the session to sleep now."""
        self.answer(await self.service.sleep(self.caller, session_id))


class WakeHandler(ApiHandler):
    """/api/sessions/{id}/wake"""

    @operation(Session, errors=(SessionNotFound, KernelStartFailed, NoCapacity, WorkspaceFull))
    async def post(self, session_id: str) -> None:
        """Wake the session."""
        self.answer(await self.service.wake(self.caller, session_id))
