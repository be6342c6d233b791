"""The code that is stored in a session: what is asked for, what is kept, what is answered."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict

from kernelsvc.models.fields import StorableCode, Text, UtcTime


class PutCode(BaseModel):
    """The body of PUT /api/sessions/{id}/code. Without a description, the one before stays."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: StorableCode
    description: Text | None = None


@dataclass(frozen=True, slots=True)
class CodeRecord:
    """What is stored."""

    code: str
    description: str | None
    updated_at: datetime


class CodeStored(BaseModel):
    """The answer to PUT; see `code_length`."""

    success: Literal[True] = True
    code_length: int
    updated_at: Annotated[datetime, UtcTime]


class Code(BaseModel):
    """The stored code; see `code_length`."""

    code: str
    description: str | None
    updated_at: Annotated[datetime, UtcTime]
    code_length: int


def code_length(code: str) -> int:
    """Its length as ERA's clients count it, who are written in JavaScript: in UTF-16 units."""
    return len(code.encode("utf-16-le")) // 2
