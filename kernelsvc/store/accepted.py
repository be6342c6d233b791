"""Runs that were accepted and must be seen through, and the keys against running them twice."""

import json
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from pydantic_core import PydanticSerializationError
from sqlalchemy import Connection, delete, insert
from sqlmodel import Session as Transaction
from sqlmodel import col

from kernelsvc import clock
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
class Accepted:
    """A run that is to be seen through, whatever becomes of the service."""

    run_id: str
    session_id: str
    queued_at: datetime
    code: str
    callback_url: str | None


class AcceptedStore:
    """What was promised, kept from before it is answered until it is fulfilled."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def accept(self, run: Accepted, use: KeyUse | None) -> None:
        """Promise to see a run through, the only one for that key."""

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
                forget_keys(connection)
                connection.execute(
                    insert(IdempotencyRow).values(
                        owner=use.owner,
                        key=use.key,
                        fingerprint=use.fingerprint,
                        session_id=run.session_id,
                        run_id=run.run_id,
                        created_at=clock.now(),
                    )
                )

        await self._database.run(query)

    async def first_use(self, owner: str, key: str) -> tuple[str, str] | None:
        """The fingerprint and the run's id of a key's first use; None where it was not used."""

        def query(transaction: Transaction) -> tuple[str, str] | None:
            row = transaction.get(IdempotencyRow, (owner, key))
            if row is None or row.created_at < clock.now() - KEY_LIFE:
                return None
            return row.fingerprint, row.run_id

        return await self._database.run(query)


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
                body=_json(run),
                attempts=0,
                created_at=now,
                due_at=now,
            )
        )
    connection.execute(delete(PendingRunRow).where(pending))


def _json(run: Run) -> str:
    try:
        return run.model_dump_json()
    except PydanticSerializationError:
        # Lone surrogates in its data: escaped, JSON carries them.
        return json.dumps(run.model_dump(mode="json"))


def forget_keys(connection: Connection) -> None:
    """Forget keys that hold no more."""
    oldest = clock.now() - KEY_LIFE
    connection.execute(delete(IdempotencyRow).where(col(IdempotencyRow.created_at) < oldest))
