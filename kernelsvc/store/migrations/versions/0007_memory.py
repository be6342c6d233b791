"""Sessions say what is kept of their memory while they sleep."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("sessions", sa.Column("memory", sa.JSON))


def downgrade() -> None:
    """Undo."""
    op.drop_column("sessions", "memory")
