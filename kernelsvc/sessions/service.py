"""What can be done with sessions: the table of contents of the product."""

import asyncio
import time
from collections import ChainMap
from typing import Final

import structlog

from kernelsvc.errors import Forbidden, SessionNotFound, ShuttingDown
from kernelsvc.models.caller import Caller
from kernelsvc.models.fork import Fork, Forked
from kernelsvc.models.run import Run, RunRequest
from kernelsvc.models.session import (
    CreateSession,
    Duplicate,
    Duplicated,
    PatchSession,
    Session,
    SessionFilter,
    SessionList,
    SessionRecord,
)
from kernelsvc.sessions.adopting import Adopting
from kernelsvc.sessions.capacity import Capacity
from kernelsvc.sessions.code import SessionCode
from kernelsvc.sessions.creating import new_record
from kernelsvc.sessions.culler import Culler
from kernelsvc.sessions.disk import DiskWatch
from kernelsvc.sessions.duplicate import Duplicator, copy_of
from kernelsvc.sessions.files import SessionFiles
from kernelsvc.sessions.forking import Forker
from kernelsvc.sessions.live import LiveSession
from kernelsvc.sessions.newcomers import Newcomers, new_session_id
from kernelsvc.sessions.once import key_use
from kernelsvc.sessions.oneoff import OneOffs
from kernelsvc.sessions.parts import SessionParts
from kernelsvc.sessions.ports import SessionPorts
from kernelsvc.sessions.quotas import QuotaBook
from kernelsvc.sessions.recovering import Recovering
from kernelsvc.sessions.runs import SessionRuns
from kernelsvc.sessions.showing import show
from kernelsvc.sessions.sweeper import Sweeper

EVERYBODY: Final = "*"

log = structlog.get_logger()


class SessionService:
    """All sessions; those that are awake are in `_live`, the others are rows and files only.

    A caller has its owner's sessions; to it, others' are as if they did not exist.
    `files` is what can be done with their files, `runs` with their runs, `code` with their stored
    code, `ports` with the servers that they run. `one_offs` are runs that bring sessions of their
    own; `languages` are those that all can have.
    """

    def __init__(self, parts: SessionParts) -> None:
        self._parts = parts
        self._sessions = parts.sessions
        self.languages = parts.languages
        self._workspaces = parts.workspaces
        self._live: dict[str, LiveSession] = {}
        self._quotas = QuotaBook(max_sessions=parts.policy.max_sessions)
        self._newcomers = Newcomers(self._quotas)
        self._duplicator = Duplicator(parts, self._newcomers)
        self._forker = Forker(parts, self._newcomers, self._duplicator, self._adopt, self._remove)
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
            parts.code,
        )
        self.code = SessionCode(parts.code, self._present)
        self.ports = SessionPorts(
            self._live,
            parts.sessions,
            parts.code,
            self.runs,
            parts.policy.max_proxy_connections,
        )
        self.one_offs = OneOffs(
            parts,
            self._capacity,
            self._quotas,
            self._check_open,
            lambda: self._disk.reconsider(),
        )
        self._sweeper = Sweeper(parts.runs)
        self._disk = DiskWatch(ChainMap(self._live, self.one_offs.live), parts.workspaces.root)
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
        adopting = Adopting(self._parts, self._capacity, self._live, self._culler.reconsider)
        await adopting.adopt(self._parts.orphans)
        self._pool.start(self._capacity.may_prepare)
        for record in await self._sessions.with_pending_setup():
            if record.id not in self._live:
                self._adopt(record)
        await Recovering(self._parts, self._live, self._adopt).recover(adopting.greetings)
        self._disk.reconsider()

    @property
    def is_closing(self) -> bool:
        """Whether nothing new is taken any more."""
        return self._closing

    def refuse_new(self) -> None:
        """Take nothing new from here on."""
        self._closing = True
        self.files.refuse_new()
        self.ports.refuse_new()

    async def drain(self, seconds: float) -> None:
        """Wait for the runs that are going on or queued, and then for sleep, so long at most."""
        save_by = time.monotonic() + seconds
        try:
            async with asyncio.timeout(seconds):
                await asyncio.gather(
                    *(live.retire(save_by) for live in self._live.values()),
                    *(live.finish() for live in self.one_offs.live.values()),
                    return_exceptions=True,
                )
        except TimeoutError:
            log.warning("drain_timed_out", seconds=seconds)

    async def close(self) -> None:
        """End every kernel; what lasts is in the store and the workspaces."""
        self.refuse_new()
        await self._culler.stop()
        await self._sweeper.stop()
        await self._disk.stop()
        await self.files.close()
        await asyncio.gather(
            self._pool.stop(),
            self._duplicator.finish(),
            self.one_offs.close(),
            *(live.close() for live in self._live.values()),
        )
        # Somebody may have taken a member just before, and had no use for it.
        await self._pool.stop()
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
        parts = self._parts
        record = new_record(caller, request, parts.policy, parts.languages, parts.setups.policy)
        with self._newcomers.coming(caller, record.id):
            await self._sessions.add(record)
            await asyncio.to_thread(self._workspaces.create, record.id)
        live = self._adopt(record)
        live.begin_wake()
        log.info("session_created", session_id=record.id, language=record.language)
        return await self._show(record)

    async def duplicate(self, caller: Caller, session_id: str, request: Duplicate) -> Duplicated:
        """Make a session that has what this one has: files, data, settings, stored code, memory.

        Its kernel is a new one, which gets of the memory what sleep would keep. Raises what
        `create` does, QueueFull, WorkspaceFull, StorageFull and FileNotAccessible.
        """
        source = await self._awake(caller, session_id)
        new_id = request.new_id or request.id or new_session_id()
        record = await self._duplicator.duplicate(caller, source, new_id, request.data)
        self._adopt(record, copy_of(session_id)).begin_wake()
        log.info("session_duplicated", session_id=record.id, source=session_id)
        shown = await self._show(record)
        return Duplicated(**shown.model_dump(), source_session_id=session_id)

    async def fork(self, caller: Caller, session_id: str, request: Fork) -> Forked:
        """Make live copies: what a duplicate has, the history, and the kernel's memory as it is.

        Raises what `duplicate` does, and KernelStartFailed and NoCapacity.
        """
        source = await self._awake(caller, session_id)
        made = await self._forker.fork(caller, source, request)
        ids = [live.record.id for live in made]
        log.info("session_forked", source=session_id, copies=ids)
        shown = [await self._show(live.record) for live in made]
        return Forked(sessions=shown, source_session_id=session_id)

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
        language = self.languages.find(wanted.language) if wanted.language else None
        name = language.name if language else wanted.language
        while page := await self._sessions.page(after, name, of_owner):
            for record in page:
                live = self._live.get(record.id)
                record = live.record if live else record
                if wanted.matches(record, self._state(record)):
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
        self.languages.check_snapshots(live.record.language, request.snapshots)
        changes = request.changes(internet_by_default=self._parts.policy.internet_by_default)
        note = None
        new_access = changes.get("allow_internet_access")
        if new_access not in (None, live.record.allow_internet_access) and live.state != "sleeping":
            note = "allowInternetAccess applies when the session next starts a kernel"
        if changes:
            await live.patch(changes)
            if not live.record.allow_public_access:
                self.ports.cut(session_id)
            self._culler.reconsider(live)
        return await self._show(live.record), note

    async def delete(self, caller: Caller, session_id: str) -> None:
        """End the session: kernel, files and rows are gone when this returns."""
        live = await self._awake(caller, session_id)
        await asyncio.shield(asyncio.ensure_future(self._delete(live)))

    async def _delete(self, live: LiveSession) -> None:
        if await self._remove(live):
            self._quotas.drop_session(live.record.owner)
        log.info("session_deleted", session_id=live.record.id)

    async def _remove(self, live: LiveSession) -> bool:
        """Leave nothing of it; whether it had been stored."""
        session_id = live.record.id
        await live.close(delete=True)
        await self.files.forget(session_id)
        # The row goes last: until it has gone, the id is taken, and nobody moves in here.
        await asyncio.to_thread(self._workspaces.remove, session_id)
        was_there = await self._sessions.delete(session_id)
        if self._live.get(session_id) is live:
            del self._live[session_id]
        return was_there

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

    def _adopt(self, record: SessionRecord, absence: str | None = None) -> LiveSession:
        live = self._live[record.id] = LiveSession(
            record, self._parts, self._capacity, self._culler.reconsider, absence
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
        usage = await asyncio.to_thread(self._workspaces.usage, record.id)
        return await show(
            record, self._live.get(record.id), self._state(record), usage, self._parts
        )
