"""Runs that were accepted and must be seen through, and the keys against running them twice."""

import asyncio
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, delete, insert, select
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session as Transaction
from sqlmodel import col

from kernelsvc import clock
from kernelsvc.errors import IdempotencyConflict, SessionNotFound
from kernelsvc.json_text import to_json
from kernelsvc.models.run import Run
from kernelsvc.store.database import Database
from kernelsvc.store.tables import DeliveryRow, IdempotencyRow, PendingRunRow

KEY_LIFE: Final = timedelta(hours=24)
"""For how long a key stands for the run that it was first given with."""


@dataclass(frozen=True)
class KeyUse:
    """A key that an owner has given with a request; the fingerprint is the request's."""

    owner: str
    key: str
    fingerprint: str


@dataclass(frozen=True)
class FirstUse:
    """What came of a key's first use: a run, or where `run_id` is empty, the session itself."""

    session_id: str
    run_id: str


@dataclass(frozen=True)
class Accepted:
    """A run that is to be seen through, whatever becomes of the service."""

    run_id: str
    session_id: str
    queued_at: datetime
    code: str
    callback_url: str | None


class AcceptedStore:
    """What was promised, kept from before it is answered until it is fulfilled.

    Who asks for a key's first use and then makes it holds `keyed` meanwhile.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.keyed = asyncio.Lock()

    async def accept(self, run: Accepted, use: KeyUse | None) -> None:
        """Promise to see a run through, the only one for that key.

        Raises SessionNotFound where the session has been deleted meanwhile.
        """

        def query(transaction: Transaction) -> None:
            connection = transaction.connection()
            connection.execute(
                insert(PendingRunRow).values(
                    id=run.run_id,
                    session_id=run.session_id,
                    queued_at=run.queued_at,
                    code=run.code,
                    callback_url=run.callback_url,
                )
            )
            if use is not None:
                _note(connection, use, run.session_id, run.run_id)

        try:
            await self._database.run(query)
        except IntegrityError as error:
            raise SessionNotFound(run.session_id) from error

    async def unfulfilled(self) -> list[Accepted]:
        """The runs that are still to be seen through, in the order in which they were taken."""

        def query(transaction: Transaction) -> list[Accepted]:
            order = (col(PendingRunRow.queued_at), col(PendingRunRow.id))
            rows = transaction.scalars(select(PendingRunRow).order_by(*order)).all()
            return [
                Accepted(row.id, row.session_id, row.queued_at, row.code, row.callback_url)
                for row in rows
            ]

        return await self._database.run(query)

    async def first_use(self, use: KeyUse) -> FirstUse | None:
        """What a key was first used for; None where it was not.

        Raises IdempotencyConflict where that was another request.
        """

        def query(transaction: Transaction) -> FirstUse | None:
            row = transaction.get(IdempotencyRow, (use.owner, use.key))
            if row is None or row.created_at < clock.now() - KEY_LIFE:
                return None
            if row.fingerprint != use.fingerprint:
                raise IdempotencyConflict(use.key)
            return FirstUse(row.session_id, row.run_id)

        return await self._database.run(query)

    async def note(self, use: KeyUse, session_id: str) -> None:
        """The key was used to make that session."""
        await self._database.run(
            lambda transaction: _note(transaction.connection(), use, session_id, "")
        )


def _note(connection: Connection, use: KeyUse, session_id: str, run_id: str) -> None:
    forget_keys(connection)
    connection.execute(
        insert(IdempotencyRow).values(
            owner=use.owner,
            key=use.key,
            fingerprint=use.fingerprint,
            session_id=session_id,
            run_id=run_id,
            created_at=clock.now(),
        )
    )


def seen_through(connection: Connection, run: Run, callback_url: str | None) -> None:
    """The run has ended; it is to be sent to `callback_url`, where there is one."""
    pending = col(PendingRunRow.id) == run.run_id
    if callback_url is not None:
        now = clock.now()
        connection.execute(
            insert(DeliveryRow).values(
                id="dlv_" + secrets.token_hex(12),
                run_id=run.run_id,
                url=callback_url,
                body=to_json(run.model_dump(mode="json")).decode(),
                attempts=0,
                created_at=now,
                due_at=now,
            )
        )
    connection.execute(delete(PendingRunRow).where(pending))


def forget_keys(connection: Connection) -> None:
    """Forget keys that hold no more."""
    oldest = clock.now() - KEY_LIFE
    connection.execute(delete(IdempotencyRow).where(col(IdempotencyRow.created_at) < oldest))
