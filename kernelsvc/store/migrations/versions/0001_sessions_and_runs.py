"""Sessions and their runs."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(128), primary_key=True),
        sa.Column("language", sa.String, nullable=False),
        sa.Column("persistent", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_run_at", sa.DateTime(timezone=True)),
        sa.Column("default_timeout", sa.Float),
        sa.Column("sleep_after", sa.Float),
        sa.Column("on_timeout", sa.String, nullable=False),
        sa.Column("env", sa.JSON, nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
        sa.Column("metadata", sa.JSON, nullable=False),
        sa.Column("allow_internet_access", sa.Boolean, nullable=False),
        sa.Column("allow_public_access", sa.Boolean, nullable=False),
        sa.Column("run_count", sa.Integer, nullable=False),
    )
    op.create_index("ix_sessions_created_at_id", "sessions", ["created_at", "id"])
    op.create_table(
        "runs",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column(
            "session_id",
            sa.String(128),
            sa.ForeignKey("sessions.id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("code", sa.String, nullable=False),
        sa.Column("result", sa.JSON, nullable=False),
    )
    op.create_index("ix_runs_session_id_number", "runs", ["session_id", "number"], unique=True)


def downgrade() -> None:
    """Undo."""
    op.drop_table("runs")
    op.drop_table("sessions")
