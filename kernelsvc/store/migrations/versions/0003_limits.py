"""Sessions have limits of their own."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    # Not by a batch, which makes the table anew: runs would go with the sessions that are dropped.
    limits = sa.Column("limits", sa.JSON, nullable=False, server_default="{}")
    op.add_column("sessions", limits)


def downgrade() -> None:
    """Undo."""
    op.drop_column("sessions", "limits")
