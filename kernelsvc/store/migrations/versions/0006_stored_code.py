"""Sessions can have code stored in them."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    of_session = sa.ForeignKey("sessions.id", ondelete="CASCADE")
    op.create_table(
        "stored_code",
        sa.Column("session_id", sa.String(128), of_session, primary_key=True),
        sa.Column("code", sa.String, nullable=False),
        sa.Column("description", sa.String),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("stored_code")
