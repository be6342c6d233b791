"""Queries on the code that is stored in sessions."""

from datetime import datetime

from sqlalchemy.exc import IntegrityError
from sqlmodel import Session as Transaction

from kernelsvc.errors import SessionNotFound
from kernelsvc.models.code import CodeRecord
from kernelsvc.store.database import Database
from kernelsvc.store.tables import CodeRow


class CodeStore:
    """At most one code a session, gone with it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, session_id: str) -> CodeRecord | None:
        """The session's code, or None."""

        def query(transaction: Transaction) -> CodeRecord | None:
            row = transaction.get(CodeRow, session_id)
            return CodeRecord(row.code, row.description, row.updated_at) if row else None

        return await self._database.run(query)

    async def put(
        self, session_id: str, code: str, description: str | None, updated_at: datetime
    ) -> None:
        """Store code in the place of another or none; a description that is None stays as it was.

        Raises SessionNotFound.
        """

        def query(transaction: Transaction) -> None:
            row = transaction.get(CodeRow, session_id)
            if row is None:
                transaction.add(
                    CodeRow(
                        session_id=session_id,
                        code=code,
                        description=description,
                        updated_at=updated_at,
                    )
                )
                return
            row.code, row.updated_at = code, updated_at
            row.description = row.description if description is None else description

        try:
            await self._database.run(query)
        except IntegrityError as error:
            raise SessionNotFound(session_id) from error
