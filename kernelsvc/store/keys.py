"""Queries on API keys."""

from dataclasses import fields
from datetime import datetime

from sqlalchemy import select, update
from sqlmodel import Session as Transaction
from sqlmodel import col

from kernelsvc.models.caller import Quotas
from kernelsvc.models.key import KeyRecord
from kernelsvc.store.database import Database
from kernelsvc.store.tables import KeyRow

_QUOTAS = tuple(field.name for field in fields(Quotas))


class KeyStore:
    """Keys that last; revoked ones are kept, so that their ids are never had again."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, record: KeyRecord) -> None:
        """Store a new key."""
        await self._database.run(lambda transaction: transaction.add(_row(record)))

    async def all(self) -> list[KeyRecord]:
        """Every key, oldest first, revoked ones included."""

        def query(transaction: Transaction) -> list[KeyRecord]:
            wanted = select(KeyRow).order_by(col(KeyRow.created_at), col(KeyRow.id))
            return [_record(row) for row in transaction.scalars(wanted)]

        return await self._database.run(query)

    async def revoke(self, key_id: str, at: datetime) -> KeyRecord | None:
        """Revoke a key, or leave it as it was revoked before; None where there is none."""

        def query(transaction: Transaction) -> KeyRecord | None:
            row = transaction.get(KeyRow, key_id)
            if row is None:
                return None
            row.revoked_at = row.revoked_at or at
            transaction.add(row)
            return _record(row)

        return await self._database.run(query)

    async def touch(self, key_id: str, at: datetime) -> None:
        """Note when the key was last used."""
        statement = update(KeyRow).where(col(KeyRow.id) == key_id).values(last_used_at=at)

        def query(transaction: Transaction) -> None:
            transaction.connection().execute(statement)

        await self._database.run(query)


def _row(record: KeyRecord) -> KeyRow:
    return KeyRow(
        id=record.id,
        secret_hash=record.secret_hash,
        name=record.name,
        owner=record.owner,
        scopes=sorted(record.scopes),
        created_at=record.created_at,
        expires_at=record.expires_at,
        revoked_at=record.revoked_at,
        last_used_at=record.last_used_at,
        **{name: getattr(record.quotas, name) for name in _QUOTAS},
    )


def _record(row: KeyRow) -> KeyRecord:
    return KeyRecord(
        id=row.id,
        secret_hash=row.secret_hash,
        name=row.name,
        owner=row.owner,
        scopes=frozenset(row.scopes),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
        quotas=Quotas(**{name: getattr(row, name) for name in _QUOTAS}),
    )
