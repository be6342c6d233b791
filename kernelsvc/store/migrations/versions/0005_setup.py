"""Sessions have a setup, and how it went."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    # Not by a batch, which makes the table anew: runs would go with the sessions that are dropped.
    op.add_column("sessions", sa.Column("setup", sa.JSON))
    op.add_column("sessions", sa.Column("setup_status", sa.String(16)))
    op.add_column("sessions", sa.Column("setup_result", sa.JSON))


def downgrade() -> None:
    """Undo."""
    for column in ("setup_result", "setup_status", "setup"):
        op.drop_column("sessions", column)
