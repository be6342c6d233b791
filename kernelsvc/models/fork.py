"""Live copies of a session: what is asked for, what is answered."""

from typing import Annotated, Final

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    StrictBool,
    ValidationInfo,
    field_validator,
)

from kernelsvc.models.fields import SessionId
from kernelsvc.models.limits import whole
from kernelsvc.models.session import Session

MOST_FORKS: Final = 32
"""So many copies at most are made at once."""


class Fork(BaseModel):
    """The body of POST /api/sessions/{id}/fork: how many copies, of which ids.

    Without `session_ids`, they get new ones; with them, there are as many as those. With `reseed`,
    the random numbers of each copy are its own: those of `random` and of numpy's global state.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: Annotated[int, Strict(), BeforeValidator(whole)] | None = Field(
        default=None, ge=1, le=MOST_FORKS
    )
    session_ids: list[SessionId] | None = Field(default=None, min_length=1, max_length=MOST_FORKS)
    reseed: StrictBool = True

    @field_validator("session_ids")
    @classmethod
    def _agrees(cls, ids: list[str] | None, info: ValidationInfo) -> list[str] | None:
        if ids is not None and len(set(ids)) < len(ids):
            raise ValueError("has one id twice")
        if ids is not None and info.data.get("count") not in (None, len(ids)):
            raise ValueError("count is another number than that of session_ids")
        return ids


class Forked(BaseModel):
    """The new sessions, and which one they are copies of."""

    sessions: list[Session]
    source_session_id: str
