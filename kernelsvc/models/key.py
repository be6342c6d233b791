"""API keys: what is stored, and what is shown of them."""

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated

from pydantic import BaseModel

from kernelsvc.models.caller import Quotas, Scope
from kernelsvc.models.fields import UtcTime

_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,63}")
_LONGEST_NAME = 100


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What lasts of a key. `secret_hash` is all that is known of its secret. Times are UTC."""

    id: str
    secret_hash: str
    name: str
    owner: str
    scopes: frozenset[Scope]
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    quotas: Quotas = field(default_factory=Quotas)

    def is_valid(self, now: datetime) -> bool:
        """Whether the key is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class Key(BaseModel):
    """A key as the command line shows it. `last_used_at` may be a minute behind."""

    id: str
    name: str
    owner: str
    scopes: list[Scope]
    created_at: Annotated[datetime, UtcTime]
    expires_at: Annotated[datetime, UtcTime] | None
    revoked_at: Annotated[datetime, UtcTime] | None
    last_used_at: Annotated[datetime, UtcTime] | None
    max_sessions: int | None
    max_parallel_runs: int | None
    max_runs_per_minute: int | None


class NewKey(Key):
    """A key that has just been made, with the text that is never shown again."""

    key: str


def owner_problem(owner: str) -> str | None:
    """Why this cannot be an owner's name; None where it can."""
    if _OWNER.fullmatch(owner):
        return None
    return "must be 1 to 64 letters, digits and . _ @ : - beginning with a letter or a digit"


def name_problem(name: str) -> str | None:
    """Why this cannot be a key's name; None where it can."""
    if len(name.strip()) > 0 and len(name) <= _LONGEST_NAME and name.isprintable():
        return None
    return f"must be 1 to {_LONGEST_NAME} printable characters"
