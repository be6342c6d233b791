"""/api/sessions/{id}/run and the history of runs."""

from kernelsvc.api.base import ApiHandler
from kernelsvc.models.run import RunRequest


class RunHandler(ApiHandler):
    """/api/sessions/{id}/run"""

    async def post(self, session_id: str) -> None:
        """Run code and answer its result. The run goes on where the client goes away."""
        self.answer(await self.service.run(self.caller, session_id, self.body(RunRequest)))


class RunsHandler(ApiHandler):
    """/api/sessions/{id}/runs"""

    async def get(self, session_id: str) -> None:
        """The session's latest runs."""
        self.answer(await self.service.history(self.caller, session_id))


class RunResultHandler(ApiHandler):
    """/api/sessions/{id}/runs/{run_id}"""

    async def get(self, session_id: str, run_id: str) -> None:
        """A finished run, with what it printed since in the background."""
        self.answer(await self.service.run_result(self.caller, session_id, run_id))
