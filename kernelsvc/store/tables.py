"""The tables. Rows are the store's own; everyone else gets the models' records."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, Column, DateTime, Dialect, ForeignKey, Index, String, TypeDecorator
from sqlmodel import Field, SQLModel


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time, of databases that keep no zone (SQLite) or give their own (PostgreSQL)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database."""
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From the database."""
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


class SessionRow(SQLModel, table=True):
    """One session. An infinite `sleep_after` is "never"."""

    __tablename__ = "sessions"
    __table_args__ = (
        Index("ix_sessions_created_at_id", "created_at", "id"),
        Index("ix_sessions_owner", "owner"),
    )

    id: str = Field(primary_key=True, max_length=128)
    language: str
    persistent: bool
    created_at: datetime = Field(sa_type=UtcDateTime)
    last_run_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    default_timeout: float | None = None
    sleep_after: float | None = None
    on_timeout: str
    snapshots: bool | None = None
    env: dict[str, str] = Field(sa_type=JSON)
    limits: dict[str, Any] = Field(sa_type=JSON, sa_column_kwargs={"server_default": "{}"})
    data: dict[str, Any] = Field(sa_type=JSON)
    # `metadata` is SQLAlchemy's own name on a mapped class.
    labels: dict[str, Any] = Field(sa_column=Column("metadata", JSON, nullable=False))
    allow_internet_access: bool
    allow_public_access: bool
    run_count: int = 0
    owner: str = Field(max_length=64, sa_column_kwargs={"server_default": "local"})
    setup: dict[str, Any] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    setup_status: str | None = Field(default=None, max_length=16)
    setup_result: dict[str, Any] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    memory: dict[str, Any] | None = Field(default=None, sa_type=JSON)


class CodeRow(SQLModel, table=True):
    """The code that is stored in a session."""

    __tablename__ = "stored_code"

    session_id: str = Field(
        sa_column=Column(
            String(128), ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True
        )
    )
    code: str
    description: str | None = None
    updated_at: datetime = Field(sa_type=UtcDateTime)


class RunRow(SQLModel, table=True):
    """One finished run; `number` counts the session's runs from 1."""

    __tablename__ = "runs"
    __table_args__ = (Index("ix_runs_session_id_number", "session_id", "number", unique=True),)

    id: str = Field(primary_key=True, max_length=64)
    session_id: str = Field(
        sa_column=Column(String(128), ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False)
    )
    number: int
    started_at: datetime = Field(sa_type=UtcDateTime)
    code: str
    result: dict[str, Any] = Field(sa_type=JSON)


class PendingRunRow(SQLModel, table=True):
    """A run that was accepted and must be seen through, until it is in the history."""

    __tablename__ = "pending_runs"

    id: str = Field(primary_key=True, max_length=64)
    session_id: str = Field(
        sa_column=Column(
            String(128), ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False, index=True
        )
    )
    queued_at: datetime = Field(sa_type=UtcDateTime)
    code: str
    callback_url: str | None = None


class DeliveryRow(SQLModel, table=True):
    """A finished run that is to be sent to `url`, not before `due_at`."""

    __tablename__ = "deliveries"

    id: str = Field(primary_key=True, max_length=64)
    run_id: str = Field(max_length=64)
    url: str
    body: str
    attempts: int
    created_at: datetime = Field(sa_type=UtcDateTime)
    due_at: datetime = Field(sa_type=UtcDateTime, index=True)


class IdempotencyRow(SQLModel, table=True):
    """The run that an owner's `Idempotency-Key` was first given with."""

    __tablename__ = "idempotency_keys"

    owner: str = Field(primary_key=True, max_length=64)
    key: str = Field(primary_key=True, max_length=255)
    fingerprint: str = Field(max_length=64)
    session_id: str = Field(
        sa_column=Column(
            String(128), ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False, index=True
        )
    )
    run_id: str = Field(max_length=64, index=True)
    created_at: datetime = Field(sa_type=UtcDateTime, index=True)


class KeyRow(SQLModel, table=True):
    """One API key; quotas that are None do not limit."""

    __tablename__ = "keys"

    id: str = Field(primary_key=True, max_length=32)
    secret_hash: str = Field(max_length=64)
    name: str
    owner: str = Field(max_length=64)
    scopes: list[Any] = Field(sa_type=JSON)
    created_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    last_used_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    max_sessions: int | None = None
    max_parallel_runs: int | None = None
    max_runs_per_minute: int | None = None
