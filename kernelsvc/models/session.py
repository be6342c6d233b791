"""Sessions: what is asked for, what is stored, what is answered."""

import math
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, StrictBool, StrictStr

from kernelsvc.models.fields import (
    NEVER,
    Environment,
    JsonObject,
    OnTimeout,
    SessionId,
    SessionLimits,
    SleepAfter,
    Timeout,
    UtcTime,
)
from kernelsvc.models.limits import Limits

SessionState = Literal["starting", "setting_up", "idle", "running", "sleeping", "failed"]

_Seconds = Annotated[
    float,
    PlainSerializer(
        lambda seconds: NEVER if math.isinf(seconds) else seconds,
        return_type=float | str,
        when_used="json",
    ),
]


class CreateSession(BaseModel):
    """The body of POST /api/sessions; None means "not given" throughout."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    language: StrictStr
    session_id: SessionId | None = None
    persistent: StrictBool = True
    default_timeout: Timeout = None
    sleep_after: SleepAfter = None
    on_timeout: OnTimeout = OnTimeout.RESTART
    snapshots: StrictBool | None = None
    env: Environment = Field(default_factory=dict)
    limits: SessionLimits = Limits()
    data: JsonObject = Field(default_factory=dict)
    metadata: JsonObject = Field(default_factory=dict)
    allowInternetAccess: StrictBool | None = None
    allowPublicAccess: StrictBool = True


class PatchSession(BaseModel):
    """The body of PATCH /api/sessions/{id}: what is given changes, None clears."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    default_timeout: Timeout = None
    sleep_after: SleepAfter = None
    on_timeout: OnTimeout | None = None
    snapshots: StrictBool | None = None
    data: JsonObject | None = None
    metadata: JsonObject | None = None
    allowInternetAccess: StrictBool | None = None
    allowPublicAccess: StrictBool | None = None

    def changes(self, *, internet_by_default: bool) -> "dict[str, Any]":
        """The record's fields that change, by name."""
        cleared: dict[str, Any] = {
            "on_timeout": OnTimeout.RESTART,
            "data": {},
            "metadata": {},
            "allowInternetAccess": internet_by_default,
            "allowPublicAccess": True,
        }
        changes: dict[str, Any] = {}
        for name in self.model_fields_set:
            value = getattr(self, name)
            changes[_RECORD_NAMES.get(name, name)] = cleared.get(name) if value is None else value
        return changes


_RECORD_NAMES = {
    "allowInternetAccess": "allow_internet_access",
    "allowPublicAccess": "allow_public_access",
}


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """What lasts of a session. Times are UTC, timeouts in seconds, None the service's default."""

    id: str
    language: str
    persistent: bool
    created_at: datetime
    last_run_at: datetime | None = None
    default_timeout: float | None = None
    sleep_after: float | None = None
    on_timeout: OnTimeout = OnTimeout.RESTART
    snapshots: bool | None = None
    env: dict[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    data: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    allow_internet_access: bool = False
    allow_public_access: bool = True
    run_count: int = 0
    owner: str = "local"


class Session(BaseModel):
    """A session as the API shows it.

    `limits` are what holds for it, where it asked for nothing the service's.
    `sleep_after` and `snapshots` are what holds for this session, its own or the service's.
    `file_count` and
    `total_size_bytes` are those of the workspace, without `.session_data.json`.
    """

    id: str
    language: str
    persistent: bool
    state: SessionState
    state_detail: str | None = None
    created_at: Annotated[datetime, UtcTime]
    last_run_at: Annotated[datetime, UtcTime] | None
    default_timeout: float | None
    sleep_after: _Seconds
    on_timeout: OnTimeout
    snapshots: bool
    env: dict[str, str]
    limits: Limits
    file_count: int
    total_size_bytes: int
    metadata: dict[str, Any]
    data: dict[str, Any]
    setup: None = None
    setup_status: None = None
    setup_result: None = None
    allowInternetAccess: bool
    allowPublicAccess: bool
    run_count: int
    owner: str


class SessionList(BaseModel):
    """Some of the sessions, oldest first; `next_cursor` continues where this page ended."""

    sessions: list[Session]
    count: int
    next_cursor: str | None = None


@dataclass(frozen=True)
class SessionFilter:
    """Which sessions to list, and how many at most.

    `owner` is for callers with the scope `admin`: another owner, or "*" for all; None is the
    caller's own sessions.
    """

    limit: int
    after: str | None = None
    state: str | None = None
    language: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    owner: str | None = None


class Patched(BaseModel):
    """The answer to PATCH; ERA's clients read `metadata`, everyone else `session`."""

    success: Literal[True] = True
    id: str
    metadata: Session
    session: Session
    updated_at: Annotated[datetime, UtcTime]
    note: str | None = None


class Deleted(BaseModel):
    """The answer to DELETE of one session."""

    success: Literal[True] = True
    id: str
    deleted_at: Annotated[datetime, UtcTime]


class AllDeleted(BaseModel):
    """The answer to DELETE of all sessions."""

    success: Literal[True] = True
    deleted_count: int
    deleted_sessions: list[str]
    deleted_at: Annotated[datetime, UtcTime]
