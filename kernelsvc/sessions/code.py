"""What can be done with the code that is stored in a session."""

from collections.abc import Awaitable, Callable

from kernelsvc import clock
from kernelsvc.errors import NoStoredCode
from kernelsvc.models.caller import Caller
from kernelsvc.models.code import Code, CodeStored, PutCode, code_length
from kernelsvc.models.session import SessionRecord
from kernelsvc.store.code import CodeStore


class SessionCode:
    """The stored code of all sessions. `find` gives a session, or raises SessionNotFound."""

    def __init__(
        self, store: CodeStore, find: Callable[[Caller, str], Awaitable[SessionRecord]]
    ) -> None:
        self._store = store
        self._find = find

    async def put(self, caller: Caller, session_id: str, request: PutCode) -> CodeStored:
        """Store code, from the next run without code on."""
        await self._find(caller, session_id)
        updated_at = clock.now()
        await self._store.put(session_id, request.code, request.description, updated_at)
        return CodeStored(code_length=code_length(request.code), updated_at=updated_at)

    async def get(self, caller: Caller, session_id: str) -> Code:
        """The stored code; raises NoStoredCode."""
        await self._find(caller, session_id)
        stored = await self._store.get(session_id)
        if stored is None:
            raise NoStoredCode(session_id)
        return Code(
            code=stored.code,
            description=stored.description,
            updated_at=stored.updated_at,
            code_length=code_length(stored.code),
        )
