"""Queries on runs."""

from collections.abc import Sequence

from sqlalchemy import bindparam, delete, insert, select, update
from sqlmodel import Session as Transaction
from sqlmodel import col

from kernelsvc.models.run import Run, RunSummary
from kernelsvc.store.database import Database
from kernelsvc.store.tables import RunRow, SessionRow

# Every run executes these three; made once, they cost a fifth of statements made each time.
_CHANGE_SESSION = (
    update(SessionRow)
    .where(col(SessionRow.id) == bindparam("of_session"))
    .values(
        run_count=bindparam("run_count"),
        last_run_at=bindparam("last_run_at"),
        data=bindparam("data"),
    )
)
_ADD_RUN = insert(RunRow)
_FORGET_RUNS = delete(RunRow).where(
    col(RunRow.session_id) == bindparam("of_session"),
    col(RunRow.number) <= bindparam("newest_to_forget"),
)


class RunStore:
    """Each session's latest `keep` runs."""

    def __init__(self, database: Database, keep: int) -> None:
        self._database = database
        self._keep = keep

    async def finish(self, run: Run, number: int, code: str) -> bool:
        """Store a finished run and what it changed of its session, in one transaction.

        The oldest run falls out of the history. False where the session is gone.
        """
        session = {
            "of_session": run.session_id,
            "run_count": number,
            "last_run_at": run.started_at,
            "data": run.data,
        }
        row = {
            "id": run.run_id,
            "session_id": run.session_id,
            "number": number,
            "started_at": run.started_at,
            "code": code,
            "result": run.model_dump(mode="json"),
        }
        oldest = {"of_session": run.session_id, "newest_to_forget": number - self._keep}

        def query(transaction: Transaction) -> bool:
            connection = transaction.connection()
            if not connection.execute(_CHANGE_SESSION, session).rowcount:
                return False
            connection.execute(_ADD_RUN, row)
            connection.execute(_FORGET_RUNS, oldest)
            return True

        return await self._database.run(query)

    async def get(self, session_id: str, run_id: str) -> Run | None:
        """A run of the session's history, or None."""

        def query(transaction: Transaction) -> Run | None:
            row = transaction.get(RunRow, run_id)
            if row is None or row.session_id != session_id:
                return None
            return Run.model_validate(row.result)

        return await self._database.run(query)

    async def latest(self, session_id: str) -> list[RunSummary]:
        """The history, newest first."""

        def query(transaction: Transaction) -> list[RunSummary]:
            wanted = select(RunRow).where(col(RunRow.session_id) == session_id)
            rows: Sequence[RunRow] = transaction.scalars(
                wanted.order_by(col(RunRow.number).desc())
            ).all()
            return [_summary(row) for row in rows]

        return await self._database.run(query)

    async def set_background(self, run_id: str, text: str) -> None:
        """Note what a run's threads and tasks have printed since it ended."""

        def query(transaction: Transaction) -> None:
            row = transaction.get(RunRow, run_id)
            if row is not None:
                statement = update(RunRow).where(col(RunRow.id) == run_id)
                result = {**row.result, "background": text}
                transaction.connection().execute(statement.values(result=result))

        await self._database.run(query)


def _summary(row: RunRow) -> RunSummary:
    return RunSummary(
        run_id=row.id,
        status=row.result["status"],
        exit_code=row.result["exit_code"],
        duration=row.result["duration"],
        started_at=row.started_at,
        code=row.code,
    )
