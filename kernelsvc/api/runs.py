"""/api/sessions/{id}/run and the history of runs."""

from kernelsvc.api.base import ApiHandler
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


class RunHandler(ApiHandler):
    """/api/sessions/{id}/run"""

    @operation(
        Run,
        body=RunRequest,
        errors=(
            SessionNotFound,
            SessionBusy,
            QueueFull,
            QuotaExceeded,
            KernelStartFailed,
            NoCapacity,
            WorkspaceFull,
            StorageFull,
        ),
    )
    async def post(self, session_id: str) -> None:
        """Run code and answer its result. The run goes on where the client goes away."""
        self.answer(await self.service.run(self.caller, session_id, self.body(RunRequest)))


class RunsHandler(ApiHandler):
    """/api/sessions/{id}/runs"""

    @operation(RunList, errors=(SessionNotFound,))
    async def get(self, session_id: str) -> None:
        """The session's latest runs."""
        self.answer(await self.service.history(self.caller, session_id))


class RunResultHandler(ApiHandler):
    """/api/sessions/{id}/runs/{run_id}"""

    @operation(Run, errors=(SessionNotFound, RunNotFound))
    async def get(self, session_id: str, run_id: str) -> None:
        """A finished run, with what it printed since in the background."""
        self.answer(await self.service.run_result(self.caller, session_id, run_id))
