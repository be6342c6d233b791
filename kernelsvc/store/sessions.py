"""Queries on sessions."""

from dataclasses import asdict
from typing import Any, cast

from sqlalchemy import delete, func, select, tuple_, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session as Transaction
from sqlmodel import col

from kernelsvc.errors import FieldProblem, InvalidRequest, SessionExists
from kernelsvc.models.fields import OnTimeout
from kernelsvc.models.limits import Limits
from kernelsvc.models.memory import KeptMemory
from kernelsvc.models.session import SessionRecord
from kernelsvc.models.setup import Setup, SetupResult, SetupStatus
from kernelsvc.store.database import Database
from kernelsvc.store.runs import copy_history
from kernelsvc.store.tables import CodeRow, RunRow, SessionRow

_PAGE = 500


class SessionStore:
    """Sessions that last."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(
        self, record: SessionRecord, copy_of: str | None = None, *, history: bool = False
    ) -> None:
        """Store a new session; raises SessionExists where the id is taken.

        What is stored beside a session, it has as the one that it is a copy of, of its `history`
        copies of the runs.
        """

        def query(transaction: Transaction) -> None:
            transaction.add(_row(record))
            if copy_of is None:
                return
            transaction.flush()
            if (code := transaction.get(CodeRow, copy_of)) is not None:
                transaction.add(CodeRow(**{**code.model_dump(), "session_id": record.id}))
            if history:
                copy_history(transaction, copy_of, record.id)

        try:
            await self._database.run(query)
        except IntegrityError as error:
            raise SessionExists(record.id) from error

    async def get(self, session_id: str) -> SessionRecord | None:
        """The session, or None."""

        def query(transaction: Transaction) -> SessionRecord | None:
            row = transaction.get(SessionRow, session_id)
            return _record(row) if row else None

        return await self._database.run(query)

    async def ids(self, owner: str | None = None) -> list[str]:
        """Every session's id, or those of an owner's, oldest first."""

        def query(transaction: Transaction) -> list[str]:
            order = (col(SessionRow.created_at), col(SessionRow.id))
            wanted = select(col(SessionRow.id)).order_by(*order)
            if owner is not None:
                wanted = wanted.where(col(SessionRow.owner) == owner)
            return list(transaction.scalars(wanted))

        return await self._database.run(query)

    async def with_pending_setup(self) -> list[SessionRecord]:
        """Those whose setup has not ended, oldest first."""

        def query(transaction: Transaction) -> list[SessionRecord]:
            wanted = select(SessionRow).where(col(SessionRow.setup_status) == "pending")
            ordered = wanted.order_by(col(SessionRow.created_at), col(SessionRow.id))
            return [_record(row) for row in transaction.scalars(ordered)]

        return await self._database.run(query)

    async def counts(self) -> dict[str, int]:
        """How many sessions each owner has who has any."""

        def query(transaction: Transaction) -> dict[str, int]:
            owner = col(SessionRow.owner)
            counted = transaction.execute(select(owner, func.count()).group_by(owner))
            return {row[0]: row[1] for row in counted}

        return await self._database.run(query)

    async def page(
        self, after: str | None, language: str | None, owner: str | None = None
    ) -> list[SessionRecord]:
        """Up to 500 sessions behind `after` (an id; None for the first), oldest first.

        Raises InvalidRequest where `after` is no session (any more), or not one of the owner's.
        """

        def query(transaction: Transaction) -> list[SessionRecord]:
            order = (col(SessionRow.created_at), col(SessionRow.id))
            wanted = select(SessionRow).order_by(*order).limit(_PAGE)
            if language is not None:
                wanted = wanted.where(col(SessionRow.language) == language)
            if owner is not None:
                wanted = wanted.where(col(SessionRow.owner) == owner)
            if after is not None:
                last = transaction.get(SessionRow, after)
                if last is None or owner not in (None, last.owner):
                    raise InvalidRequest([FieldProblem("cursor", f"there is no session {after!r}")])
                wanted = wanted.where(tuple_(*order) > tuple_(last.created_at, last.id))
            return [_record(row) for row in transaction.scalars(wanted)]

        return await self._database.run(query)

    async def change(self, session_id: str, changes: dict[str, Any]) -> bool:
        """Set fields of a record by name; False where there is no such session."""
        values = {_COLUMNS.get(name, name): _stored(value) for name, value in changes.items()}

        def query(transaction: Transaction) -> bool:
            statement = update(SessionRow).where(col(SessionRow.id) == session_id).values(values)
            return bool(transaction.connection().execute(statement).rowcount)

        return await self._database.run(query)

    async def delete(self, session_id: str) -> bool:
        """Forget a session and its runs; False where there is none."""

        def query(transaction: Transaction) -> bool:
            connection = transaction.connection()
            connection.execute(delete(RunRow).where(col(RunRow.session_id) == session_id))
            gone = connection.execute(delete(SessionRow).where(col(SessionRow.id) == session_id))
            return bool(gone.rowcount)

        return await self._database.run(query)


_COLUMNS = {"metadata": "labels"}


def _stored(value: Any) -> Any:
    """A record's value as the row has it."""
    match value:
        case Limits():
            return value.model_dump(exclude_none=True)
        case Setup():
            return value.model_dump(mode="json", exclude_defaults=True)
        case SetupResult():
            return value.model_dump(mode="json", exclude={"log", "stdout", "stderr"})
        case KeptMemory():
            return asdict(value)
    return value


def _row(record: SessionRecord) -> SessionRow:
    return SessionRow(
        id=record.id,
        language=record.language,
        persistent=record.persistent,
        created_at=record.created_at,
        last_run_at=record.last_run_at,
        default_timeout=record.default_timeout,
        sleep_after=record.sleep_after,
        on_timeout=record.on_timeout,
        snapshots=record.snapshots,
        env=record.env,
        limits=_stored(record.limits),
        data=record.data,
        labels=record.metadata,
        allow_internet_access=record.allow_internet_access,
        allow_public_access=record.allow_public_access,
        run_count=record.run_count,
        owner=record.owner,
        setup=_stored(record.setup),
        setup_status=record.setup_status,
        setup_result=_stored(record.setup_result),
        memory=_stored(record.memory),
    )


def _record(row: SessionRow) -> SessionRecord:
    return SessionRecord(
        id=row.id,
        language=row.language,
        persistent=row.persistent,
        created_at=row.created_at,
        last_run_at=row.last_run_at,
        default_timeout=row.default_timeout,
        sleep_after=row.sleep_after,
        on_timeout=OnTimeout(row.on_timeout),
        snapshots=row.snapshots,
        env=row.env,
        limits=Limits(**row.limits),
        data=row.data,
        metadata=row.labels,
        allow_internet_access=row.allow_internet_access,
        allow_public_access=row.allow_public_access,
        run_count=row.run_count,
        owner=row.owner,
        setup=None if row.setup is None else Setup(**row.setup),
        setup_status=cast(SetupStatus | None, row.setup_status),
        setup_result=None if row.setup_result is None else SetupResult(**row.setup_result),
        memory=KeptMemory(**row.memory) if row.memory else None,
    )
