"""Alembic runs this on the connection that `store.database.upgrade` hands it."""

from alembic import context
from sqlmodel import SQLModel

from kernelsvc.store import tables

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    render_as_batch=True,
)
assert tables.SessionRow.__tablename__ in SQLModel.metadata.tables

with context.begin_transaction():
    context.run_migrations()
