"""Sessions have limits of their own."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    with op.batch_alter_table("sessions") as table:
        table.add_column(sa.Column("limits", sa.JSON, nullable=False, server_default="{}"))
    # The default was for the rows that are there.
    with op.batch_alter_table("sessions") as table:
        table.alter_column("limits", server_default=None)


def downgrade() -> None:
    """Undo."""
    with op.batch_alter_table("sessions") as table:
        table.drop_column("limits")
