"""Queries on finished runs that are to be sent somewhere."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, select, update
from sqlmodel import Session as Transaction
from sqlmodel import col

from kernelsvc.store.database import Database
from kernelsvc.store.tables import DeliveryRow


@dataclass(frozen=True)
class Delivery:
    """A run's JSON, `body`, that is to reach `url`; so many attempts have failed."""

    id: str
    run_id: str
    url: str
    body: str
    attempts: int
    created_at: datetime


class DeliveryStore:
    """What is to be sent, until it has been taken or given up."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def due(self, now: datetime, but: set[str], limit: int) -> list[Delivery]:
        """What is to be sent by now, the longest overdue first, without those ids."""

        def query(transaction: Transaction) -> list[Delivery]:
            wanted = select(DeliveryRow).where(col(DeliveryRow.due_at) <= now)
            wanted = wanted.where(col(DeliveryRow.id).not_in(but))
            rows = transaction.scalars(wanted.order_by(col(DeliveryRow.due_at)).limit(limit))
            return [
                Delivery(row.id, row.run_id, row.url, row.body, row.attempts, row.created_at)
                for row in rows
            ]

        return await self._database.run(query)

    async def next_due(self, but: set[str]) -> datetime | None:
        """When the next is to be sent; None where there is none besides those ids."""

        def query(transaction: Transaction) -> datetime | None:
            wanted = select(func.min(col(DeliveryRow.due_at)))
            return transaction.scalar(wanted.where(col(DeliveryRow.id).not_in(but)))

        return await self._database.run(query)

    async def put_off(self, delivery: Delivery, due_at: datetime) -> None:
        """It was not taken: try again then."""

        def query(transaction: Transaction) -> None:
            statement = update(DeliveryRow).where(col(DeliveryRow.id) == delivery.id)
            values = {"attempts": delivery.attempts + 1, "due_at": due_at}
            transaction.connection().execute(statement.values(values))

        await self._database.run(query)

    async def forget(self, delivery: Delivery) -> None:
        """It was taken, or is given up."""

        def query(transaction: Transaction) -> None:
            gone = delete(DeliveryRow).where(col(DeliveryRow.id) == delivery.id)
            transaction.connection().execute(gone)

        await self._database.run(query)
