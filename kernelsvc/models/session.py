"""Sessions: what is asked for, what is stored, what is answered."""

import json
import math
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    StrictBool,
    StrictStr,
    WithJsonSchema,
    model_validator,
)

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
from kernelsvc.models.memory import KeptMemory, NotRestored
from kernelsvc.models.setup import Setup, SetupResult, SetupStatus

SessionState = Literal["starting", "setting_up", "idle", "running", "sleeping", "failed"]


_EXACT = 2**53


def _as_given(seconds: float) -> int | float | str:
    """Whole seconds as 5, not 5.0: ERA's clients compare them as text."""
    if math.isinf(seconds):
        return NEVER
    return int(seconds) if seconds.is_integer() and seconds < _EXACT else seconds


_A_NUMBER = {"type": "number"}
_Seconds = Annotated[float, PlainSerializer(_as_given, when_used="json"), WithJsonSchema(_A_NUMBER)]
_SecondsOrNever = Annotated[
    float,
    PlainSerializer(_as_given, when_used="json"),
    WithJsonSchema({"anyOf": [_A_NUMBER, {"const": NEVER}]}),
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
    setup: Setup | None = None
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
    """What lasts of a session. Times are UTC, timeouts in seconds, None the service's default.

    A setup is pending until it has ended, however far it has come: who finds it so begins it anew.
    """

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
    setup: Setup | None = None
    setup_status: SetupStatus | None = None
    setup_result: SetupResult | None = None
    memory: KeptMemory | None = None


class Session(BaseModel):
    """A session as the API shows it.

    `limits` are what holds for it, where it asked for nothing the service's.
    `sleep_after` and `snapshots` are what holds for this session, its own or the service's.
    `file_count` and `total_size_bytes` are those of the workspace, without `.session_data.json`.
    `restored` and `not_restored` say which variables came back when the session woke last, and
    which did not.
    """

    id: str
    language: str
    persistent: bool
    state: SessionState
    state_detail: str | None = None
    created_at: Annotated[datetime, UtcTime]
    last_run_at: Annotated[datetime, UtcTime] | None
    default_timeout: _Seconds | None
    sleep_after: _SecondsOrNever
    on_timeout: OnTimeout
    snapshots: bool
    env: dict[str, str]
    limits: Limits
    file_count: int
    total_size_bytes: int
    metadata: dict[str, Any]
    data: dict[str, Any]
    setup: Setup | None
    setup_status: SetupStatus | None
    setup_result: SetupResult | None
    allowInternetAccess: bool
    allowPublicAccess: bool
    run_count: int
    restored: list[str] = Field(default_factory=list)
    not_restored: list[NotRestored] = Field(default_factory=list)
    owner: str


class Duplicate(BaseModel):
    """The body of POST /api/sessions/{id}/duplicate; without `data`, the copy has the source's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    new_id: SessionId | None = None
    id: SessionId | None = None
    data: JsonObject | None = None

    @model_validator(mode="after")
    def _has_one_id(self) -> "Duplicate":
        if None not in (self.new_id, self.id) and self.new_id != self.id:
            raise ValueError("new_id and id are two names for the same, and differ")
        return self


class Duplicated(Session):
    """The new session, and which one it is a copy of."""

    source_session_id: str


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

    def matches(self, record: SessionRecord, state: str) -> bool:
        """Whether a session has the state and the metadata that are wanted."""
        return self.state in (None, state) and all(
            key in record.metadata and _as_text(record.metadata[key]) == value
            for key, value in self.metadata.items()
        )


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


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
