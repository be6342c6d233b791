"""The invariants, as far as they are seen over HTTP."""

from collections.abc import Iterable
from random import Random
from typing import Final

from tests.torture.journal import Journal
from tests.torture.model import Model
from tests.torture.sending import Sender
from tests.torture.service import Service
from tests.torture.session import Session
from tests.torture.world import check_marks, check_sandboxes, check_workspaces, until

_AWAKE: Final = {"idle", "running", "starting"}
_QUIET: Final = {"idle", "sleeping"}
_RUNS_OR_WAITS: Final = _AWAKE | {"sleeping"}


class Checker:
    """Checks the service against the model; raises Violation."""

    def __init__(
        self, service: Service, model: Model, sender: Sender, journal: Journal, random: Random
    ) -> None:
        self._service = service
        self._model = model
        self._sender = sender
        self._journal = journal
        self._random = random

    def quickly(self, touched: Iterable[str]) -> None:
        """After each operation: the sessions that it touched, the list of all, the processes."""
        for session_id in dict.fromkeys(touched):
            if (session := self._model.sessions.get(session_id)) is not None:
                self._session(session)
                if session.runs:
                    self._reread(session, [self._random.choice(list(session.runs))])
        self._list()
        check_marks(self._model.marks)
        self._journal.checks["no process of a kernel that is gone"] += 1

    def thoroughly(self) -> None:
        """After each start of the service, now and then, and at the end: everything."""
        self._list()
        for session in self._model.sessions.values():
            self._session(session)
            self._reread(session, session.runs)
        check_marks(self._model.marks)
        check_sandboxes(self._sandboxes)
        check_workspaces(self._service, self._model.sessions)
        for what in ("no process of a kernel that is gone",
                     "as many sandboxes as sessions that are awake and members of the pool",
                     "as many workspaces as sessions"):  # fmt: skip
            self._journal.checks[what] += 1

    def ended(self, what: str) -> None:
        """Something about the service's end was checked."""
        self._journal.checks[what] += 1

    def _list(self) -> None:
        answer = self._sender.json("/api/sessions?limit=1000")
        self._model.listed(session["id"] for session in answer["sessions"])
        self._journal.checks["the list has every session, and no other"] += 1

    def _session(self, session: Session) -> None:
        path = f"/api/sessions/{session.id}"
        legal = _RUNS_OR_WAITS if session.begun else _QUIET

        def state() -> str | None:
            shown = self._sender.json(path)
            return None if shown["state"] in legal else f"{session.id} is {shown['state']}: {shown}"

        until(state)
        self._journal.checks["no session is stuck in a state"] += 1
        session.remembered(self._sender.json(f"{path}/runs")["runs"])
        self._journal.checks["the history has every run, and none is stuck"] += 1
        if not session.begun:
            session.shown(self._sender.json(path))
            self._journal.checks["data and number of runs are right"] += 1
            files = self._sender.json(f"{path}/files")["files"]
            session.listed(file["path"] for file in files)
            self._journal.checks["files are those that were written"] += 1

    def _reread(self, session: Session, run_ids: Iterable[str]) -> None:
        for run_id in run_ids:
            session.reread(self._sender.json(f"/api/sessions/{session.id}/runs/{run_id}"))
            self._journal.checks["a run reads as it was answered"] += 1

    def _sandboxes(self) -> range:
        """How many there may be: that of each live copy may outlive the session that made it."""
        listed = self._sender.json("/api/sessions?limit=1000")["sessions"]
        awake = sum(session["state"] in _AWAKE for session in listed)
        metrics = self._sender.ask("GET", "/metrics").text.splitlines()
        waiting = next(line for line in metrics if line.startswith("kernelsvc_pool_members "))
        due = awake + int(float(waiting.split()[1]))
        copies = sum(session.is_live_copy for session in self._model.sessions.values())
        return range(due, due + copies + 1)
