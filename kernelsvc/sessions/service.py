"""What can be done with sessions: the table of contents of the product."""

import asyncio
import json
import secrets
from typing import Final

import structlog

from kernelsvc import clock
from kernelsvc.errors import (
    FieldProblem,
    Forbidden,
    InvalidRequest,
    SessionNotFound,
    ShuttingDown,
)
from kernelsvc.kernels.languages import find_language, language_names
from kernelsvc.models.caller import Caller
from kernelsvc.models.run import Run, RunRequest
from kernelsvc.models.session import (
    CreateSession,
    PatchSession,
    Session,
    SessionFilter,
    SessionList,
    SessionRecord,
)
from kernelsvc.sessions.capacity import Capacity
from kernelsvc.sessions.culler import Culler
from kernelsvc.sessions.disk import DiskWatch
from kernelsvc.sessions.files import SessionFiles
from kernelsvc.sessions.live import LiveSession
from kernelsvc.sessions.once import key_use
from kernelsvc.sessions.parts import SessionParts
from kernelsvc.sessions.quotas import QuotaBook
from kernelsvc.sessions.runs import SessionRuns
from kernelsvc.sessions.sweeper import Sweeper

EVERYBODY: Final = "*"

log = structlog.get_logger()


class SessionService:
    """All sessions; those that are awake are in `_live`, the others are rows and files only.

    A caller has its owner's sessions; to it, others' are as if they did not exist.
    `files` is what can be done with their files, `runs` with their runs.
    """

    def __init__(self, parts: SessionParts) -> None:
        self._parts = parts
        self._sessions = parts.sessions
        self._workspaces = parts.workspaces
        self._live: dict[str, LiveSession] = {}
        self._quotas = QuotaBook(max_sessions=parts.policy.max_sessions)
        self._pool = parts.pool
        self._capacity = Capacity(parts.policy.capacity, self._live.values, parts.pool)
        self._culler = Culler(self._live, self._capacity.relieve)
        self.files = SessionFiles(parts.workspaces, parts.policy.limits, self._present)
        self.runs = SessionRuns(
            parts.runs,
            parts.accepted,
            parts.check_callback,
            self._quotas,
            self._live,
            self._awake,
            self._record,
        )
        self._sweeper = Sweeper(parts.runs)
        self._disk = DiskWatch(self._live, parts.workspaces.root)
        self._closing = False
        watch = parts.metrics.watch
        watch("sessions_awake", "Sessions that are in memory", lambda: len(self._live))
        watch("pool_members", "Kernels that wait for a session", lambda: parts.pool.size)
        watch("sandboxes", "Sandboxes that sessions have", lambda: self._capacity.taken)

    # ---- its own life

    async def open(self) -> None:
        """Clear away what an earlier crash left, and begin to cull."""
        ids = set(await self._sessions.ids())
        await asyncio.to_thread(self._workspaces.open, ids)
        self._quotas.open(await self._sessions.counts())
        self._culler.start()
        self._sweeper.start()
        self._disk.start()
        self._pool.start(self._capacity.may_prepare)

    @property
    def is_closing(self) -> bool:
        """Whether nothing new is taken any more."""
        return self._closing

    def refuse_new(self) -> None:
        """Take nothing new from here on."""
        self._closing = True
        self.files.refuse_new()

    async def drain(self, seconds: float) -> None:
        """Wait for the runs that are going on or queued, so long at most."""
        try:
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(live.finish() for live in self._live.values()))
        except TimeoutError:
            log.warning("drain_timed_out", seconds=seconds)

    async def close(self) -> None:
        """End every kernel; what lasts is in the store and the workspaces."""
        self.refuse_new()
        await self._culler.stop()
        await self._sweeper.stop()
        await self._disk.stop()
        await self.files.close()
        await asyncio.gather(self._pool.stop(), *(live.close() for live in self._live.values()))
        self._live.clear()

    # ---- sessions

    async def create(
        self, caller: Caller, request: CreateSession, key: str | None = None
    ) -> Session:
        """Make a session and begin to start its kernel; for a key given before, show the first.

        Raises SessionExists (whoever has the id), InvalidRequest, QuotaExceeded and
        IdempotencyConflict.
        """
        self._check_open()
        if key is None:
            return await self._create(caller, request)
        accepted, use = self._parts.accepted, key_use(caller, key, "", request)
        async with accepted.keyed:
            if (found := await accepted.first_use(use)) is not None:
                return await self.get(caller, found.session_id)
            session = await self._create(caller, request)
            await accepted.note(use, session.id)
            return session

    async def _create(self, caller: Caller, request: CreateSession) -> Session:
        language = find_language(request.language)
        if language is None:
            known = ", ".join(language_names())
            problem = f"{request.language!r} is not a language here; there are: {known}"
            raise InvalidRequest([FieldProblem("language", problem)])
        internet = request.allowInternetAccess
        record = SessionRecord(
            id=request.session_id or "sess_" + secrets.token_hex(12),
            language=language.name,
            persistent=request.persistent,
            created_at=clock.now(),
            default_timeout=request.default_timeout,
            sleep_after=request.sleep_after,
            on_timeout=request.on_timeout,
            snapshots=request.snapshots,
            env=request.env,
            limits=request.limits,
            data=request.data,
            metadata=request.metadata,
            allow_internet_access=(
                self._parts.policy.internet_by_default if internet is None else internet
            ),
            allow_public_access=request.allowPublicAccess,
            owner=caller.owner,
        )
        self._quotas.add_session(caller)
        try:
            await self._sessions.add(record)
        except BaseException:
            self._quotas.drop_session(caller.owner)
            raise
        await asyncio.to_thread(self._workspaces.create, record.id)
        live = self._adopt(record)
        live.begin_wake()
        log.info("session_created", session_id=record.id, language=record.language)
        return await self._show(record)

    async def get(self, caller: Caller, session_id: str) -> Session:
        """The session as it is now."""
        return await self._show(await self._record(caller, session_id))

    async def find(self, caller: Caller, wanted: SessionFilter) -> SessionList:
        """The caller's sessions that match, oldest first, `wanted.limit` at most.

        Raises Forbidden where they are to be another owner's and the caller is no admin.
        """
        owner = caller.owner if wanted.owner is None else wanted.owner
        if owner != caller.owner and "admin" not in caller.scopes:
            raise Forbidden(
                "owner: only a key with the scope admin may list other owners' sessions"
            )
        of_owner = None if owner == EVERYBODY else owner
        found: list[Session] = []
        after = wanted.after
        language = find_language(wanted.language) if wanted.language else None
        name = language.name if language else wanted.language
        while page := await self._sessions.page(after, name, of_owner):
            for record in page:
                live = self._live.get(record.id)
                record = live.record if live else record
                if _matches(record, self._state(record), wanted):
                    if len(found) == wanted.limit:
                        return SessionList(
                            sessions=found, count=len(found), next_cursor=found[-1].id
                        )
                    found.append(await self._show(record))
            after = page[-1].id
        return SessionList(sessions=found, count=len(found))

    async def patch(
        self, caller: Caller, session_id: str, request: PatchSession
    ) -> tuple[Session, str | None]:
        """Change settings, data or metadata; with what is to be said of when it applies."""
        live = await self._awake(caller, session_id)
        changes = request.changes(internet_by_default=self._parts.policy.internet_by_default)
        note = None
        new_access = changes.get("allow_internet_access")
        if new_access not in (None, live.record.allow_internet_access) and live.state != "sleeping":
            note = "allowInternetAccess applies when the session next starts a kernel"
        if changes:
            await live.patch(changes)
            self._culler.reconsider(live)
        return await self._show(live.record), note

    async def delete(self, caller: Caller, session_id: str) -> None:
        """End the session: kernel, files and rows are gone when this returns."""
        live = await self._awake(caller, session_id)
        await asyncio.shield(asyncio.ensure_future(self._delete(live)))

    async def _delete(self, live: LiveSession) -> None:
        session_id = live.record.id
        await live.close(delete=True)
        await self.files.forget(session_id)
        # The row goes last: until it has gone, the id is taken, and nobody moves in here.
        await asyncio.to_thread(self._workspaces.remove, session_id)
        if await self._sessions.delete(session_id):
            self._quotas.drop_session(live.record.owner)
        if self._live.get(session_id) is live:
            del self._live[session_id]
        log.info("session_deleted", session_id=session_id)

    async def delete_all(self, caller: Caller) -> list[str]:
        """End every session of the caller's; returns the ids."""
        ids = await self._sessions.ids(caller.owner)
        gone = await asyncio.gather(*(self._delete_if_there(caller, found) for found in ids))
        return [session_id for session_id, deleted in zip(ids, gone, strict=True) if deleted]

    async def _delete_if_there(self, caller: Caller, session_id: str) -> bool:
        try:
            await self.delete(caller, session_id)
        except SessionNotFound:
            return False
        return True

    # ---- what happens in a session

    async def run(self, caller: Caller, session_id: str, request: RunRequest) -> Run:
        """Run code, waking the session where it sleeps; see `runs`."""
        return await self.runs.run(caller, session_id, request)

    async def interrupt(self, caller: Caller, session_id: str) -> Session:
        """Interrupt the run that is going on."""
        live = await self._awake(caller, session_id)
        live.interrupt()
        return await self._show(live.record)

    async def restart(self, caller: Caller, session_id: str) -> Session:
        """Replace the kernel by a new one with an empty memory."""
        live = await self._awake(caller, session_id)
        await live.restart()
        return await self._show(live.record)

    async def sleep(self, caller: Caller, session_id: str) -> Session:
        """Put the session to sleep now; raises SessionBusy during a run."""
        live = await self._awake(caller, session_id)
        await live.sleep()
        return await self._show(live.record)

    async def wake(self, caller: Caller, session_id: str) -> Session:
        """Start the session's kernel where it sleeps."""
        live = await self._awake(caller, session_id)
        await live.wake()
        return await self._show(live.record)

    # ---- inside

    def _check_open(self) -> None:
        if self._closing:
            raise ShuttingDown

    def _adopt(self, record: SessionRecord) -> LiveSession:
        live = self._live[record.id] = LiveSession(
            record, self._parts, self._capacity, self._culler.reconsider
        )
        self._disk.reconsider()
        return live

    async def _awake(self, caller: Caller, session_id: str) -> LiveSession:
        """The session, in memory. What is done with it at once, nothing comes between.

        Raises SessionNotFound for other owners' sessions as for those that do not exist.
        """
        self._check_open()
        live = self._live.get(session_id)
        if live is None:
            record = await self._record(caller, session_id)
            live = self._live.get(session_id) or self._adopt(record)
            self._culler.reconsider(live)
        if live.is_deleted or live.owner != caller.owner:
            raise SessionNotFound(session_id)
        return live

    async def _present(self, caller: Caller, session_id: str) -> SessionRecord:
        """The session, awake or not, unless it is being deleted."""
        record = await self._record(caller, session_id)
        live = self._live.get(session_id)
        if live is not None and live.is_deleted:
            raise SessionNotFound(session_id)
        return record

    async def _record(self, caller: Caller, session_id: str) -> SessionRecord:
        live = self._live.get(session_id)
        record = live.record if live else await self._sessions.get(session_id)
        if record is None or record.owner != caller.owner:
            raise SessionNotFound(session_id)
        return record

    def _state(self, record: SessionRecord) -> str:
        live = self._live.get(record.id)
        return live.state if live else ("sleeping" if record.persistent else "idle")

    async def _show(self, record: SessionRecord) -> Session:
        live = self._live.get(record.id)
        own, copied = record.sleep_after, record.snapshots
        count, size = await asyncio.to_thread(self._workspaces.usage, record.id)
        return Session(
            **{name: getattr(record, name) for name in _SHOWN},
            state=self._state(record),
            state_detail=live.state_detail if live else None,
            sleep_after=self._parts.policy.sleep_after if own is None else own,
            snapshots=self._parts.policy.snapshots if copied is None else copied,
            limits=record.limits.over(self._parts.policy.limits),
            file_count=count,
            total_size_bytes=size,
            allowInternetAccess=record.allow_internet_access,
            allowPublicAccess=record.allow_public_access,
        )


_SHOWN = (
    "id",
    "language",
    "persistent",
    "created_at",
    "last_run_at",
    "default_timeout",
    "on_timeout",
    "env",
    "metadata",
    "data",
    "run_count",
    "owner",
)


def _matches(record: SessionRecord, state: str, wanted: SessionFilter) -> bool:
    return wanted.state in (None, state) and all(
        key in record.metadata and _as_text(record.metadata[key]) == value
        for key, value in wanted.metadata.items()
    )


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
