"""Requests to servers that the code of sessions runs: who may reach which, and how many at once."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from kernelsvc.errors import (
    BadGateway,
    GatewayTimeout,
    NoListener,
    PublicAccessDisabled,
    SessionNotFound,
    ShuttingDown,
    TooManyConnections,
)
from kernelsvc.models.caller import Caller
from kernelsvc.models.proxied import ProxiedRequest
from kernelsvc.models.run import Run, RunRequest
from kernelsvc.models.session import SessionRecord
from kernelsvc.sessions.environment import proxied_environment
from kernelsvc.sessions.live import LiveSession
from kernelsvc.sessions.runs import SessionRuns
from kernelsvc.sessions.visits import Visit
from kernelsvc.store.code import CodeStore
from kernelsvc.store.sessions import SessionStore

_CONNECT_SECONDS: Final = 5.0


class SessionPorts:
    """The ports of all sessions. `live` are those that are in memory."""

    def __init__(
        self,
        live: Mapping[str, LiveSession],
        sessions: SessionStore,
        code: CodeStore,
        runs: SessionRuns,
        max_connections: int,
    ) -> None:
        self._live = live
        self._sessions = sessions
        self._code = code
        self._runs = runs
        self._max_connections = max_connections
        self._visits: defaultdict[str, set[Visit]] = defaultdict(set)
        self._closing = False

    def refuse_new(self) -> None:
        """Take nothing new from here on."""
        self._closing = True

    def cut(self, session_id: str) -> None:
        """End all visits of a session."""
        for visit in list(self._visits.get(session_id, ())):
            visit.on_cut()

    async def visit(self, session_id: str, port: int) -> Visit:
        """Connect to what listens on a port of the session, on behalf of anybody.

        Raises SessionNotFound, PublicAccessDisabled, TooManyConnections, NoListener where there is
        no stored code either, BadGateway and GatewayTimeout.
        """
        if self._closing:
            raise ShuttingDown
        record = await self._record(session_id)
        if not record.allow_public_access:
            raise PublicAccessDisabled(session_id)
        if len(self._visits[session_id]) >= self._max_connections:
            raise TooManyConnections(session_id, self._max_connections)
        visit = Visit(session_id, record.owner, self._ended)
        self._visits[session_id].add(visit)
        try:
            await self._connect(visit, port)
            if visit.server is None:
                await self._find_code(visit, port)
        except BaseException:
            visit.end()
            raise
        return visit

    def _ended(self, visit: Visit) -> None:
        visits = self._visits[visit.session_id]
        visits.discard(visit)
        if not visits:
            del self._visits[visit.session_id]

    async def _record(self, session_id: str) -> SessionRecord:
        live = self._live.get(session_id)
        record = live.record if live else await self._sessions.get(session_id)
        if record is None or (live is not None and live.is_deleted):
            raise SessionNotFound(session_id)
        return record

    async def _connect(self, visit: Visit, port: int) -> None:
        """Connect, where something listens."""
        live = self._live.get(visit.session_id)
        seat = live.seat if live else None
        if live is None or seat is None:
            return
        visit.stay(live.visits)
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                with contextlib.suppress(ConnectionRefusedError):
                    visit.server = await seat.connect(port)
        except TimeoutError as error:
            raise GatewayTimeout("it took no connection in time") from error
        except OSError as error:
            raise BadGateway("no connection to it could be made") from error

    async def _find_code(self, visit: Visit, port: int) -> None:
        stored = await self._code.get(visit.session_id)
        if stored is None:
            raise NoListener(visit.session_id, port)
        visit.code = stored.code

    async def run_stored(self, visit: Visit, request: ProxiedRequest) -> Run:
        """Have the stored code answer a request, waking the session where it sleeps.

        Raises RequestTooLarge, InvalidRequest, what keeps a run from beginning, and GatewayTimeout
        where it took longer than a run of the session's may.
        """
        # The names of these variables are refused in requests, so they are not validated again.
        run = RunRequest(code=visit.code).model_copy(update={"env": proxied_environment(request)})
        # Whoever may reach the session's ports; no key's quota is theirs.
        caller = Caller(visit.owner, frozenset({"run"}))
        done = await self._runs.run(caller, visit.session_id, run)
        if done.timed_out:
            raise GatewayTimeout("the stored code timed out")
        return done
