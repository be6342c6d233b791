"""/api/execute: code in a kernel of its own, which is gone afterwards."""

from kernelsvc.api.base import ApiContext, ApiHandler
from kernelsvc.api.operations import Example, operation
from kernelsvc.errors import (
    FieldProblem,
    InvalidRequest,
    KernelStartFailed,
    NoCapacity,
    QuotaExceeded,
    StorageFull,
    TooManySessions,
)
from kernelsvc.models.execution import Executed, ExecuteRequest
from kernelsvc.sessions.oneoff import OneOff


class ExecuteHandler(ApiHandler):
    """/api/execute"""

    def initialize(self, context: ApiContext) -> None:
        """Called by Tornado before everything else."""
        super().initialize(context)
        self._going: OneOff | None = None
        self._has_gone = False

    @operation(
        Executed,
        body=ExecuteRequest,
        errors=(QuotaExceeded, TooManySessions, KernelStartFailed, NoCapacity, StorageFull),
        example=Example(
            {
                "language": "python",
                "code": "import greeting\nprint(greeting.text)",
                "files": {"greeting.py": 'text = "hello"'},
            }
        ),
    )
    async def post(self) -> None:
        """Run code in a new kernel, with files around it; nothing of both is left behind it.

        There is no session to ask for the result later: the run ends where the client goes away,
        and no `Idempotency-Key` is taken.
        """
        request = self.body(ExecuteRequest)
        if "Idempotency-Key" in self.request.headers:
            problem = "is not taken here, as no result is kept: run the code in a session"
            raise InvalidRequest([FieldProblem("Idempotency-Key", problem)])
        self._going = await self.service.one_offs.begin(self.caller, request)
        if self._has_gone:
            self._going.end()
        self.answer(await self._going.result())

    def on_connection_close(self) -> None:
        """Called by Tornado when the client has gone: nobody else could ask for the result."""
        self._has_gone = True
        if self._going is not None:
            self._going.end()
        super().on_connection_close()
