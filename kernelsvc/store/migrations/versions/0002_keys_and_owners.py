"""API keys, and whose a session is."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "keys",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("secret_hash", sa.String(64), nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True)),
        sa.Column("revoked_at", sa.DateTime(timezone=True)),
        sa.Column("last_used_at", sa.DateTime(timezone=True)),
        sa.Column("max_sessions", sa.Integer),
        sa.Column("max_parallel_runs", sa.Integer),
        sa.Column("max_runs_per_minute", sa.Integer),
    )
    # What was made while there were no keys was made by the owner of a service without keys.
    # Not by a batch, which makes the table anew: runs would go with the sessions that are dropped.
    owner = sa.Column("owner", sa.String(64), nullable=False, server_default="local")
    op.add_column("sessions", owner)
    op.create_index("ix_sessions_owner", "sessions", ["owner"])


def downgrade() -> None:
    """Undo."""
    op.drop_index("ix_sessions_owner", "sessions")
    op.drop_column("sessions", "owner")
    op.drop_table("keys")
