"""Whether snapshots of a session's memory are taken."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("sessions", sa.Column("snapshots", sa.Boolean))


def downgrade() -> None:
    """Undo."""
    op.drop_column("sessions", "snapshots")
