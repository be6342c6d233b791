"""/api/sessions/{id}/code"""

from kernelsvc.api.base import ApiHandler
from kernelsvc.api.operations import Example, operation
from kernelsvc.errors import NoStoredCode, SessionNotFound
from kernelsvc.models.code import Code, CodeStored, PutCode


class CodeHandler(ApiHandler):
    """/api/sessions/{id}/code"""

    @operation(
        CodeStored,
        body=PutCode,
        errors=(SessionNotFound,),
        example=Example({"code": "print(6 * 7)", "description": "the answer"}),
    )
    async def put(self, session_id: str) -> None:
        """Store code in the session: what runs without code run, and what answers its ports.

        It replaces the code before. Without a description, the one before stays.
        """
        self.answer(await self.service.code.put(self.caller, session_id, self.body(PutCode)))

    @operation(Code, errors=(SessionNotFound, NoStoredCode))
    async def get(self, session_id: str) -> None:
        """Get the stored code."""
        self.answer(await self.service.code.get(self.caller, session_id))
