"""Who asks: given from the handler to the session service with each request."""

from dataclasses import dataclass, field
from typing import Literal

Scope = Literal["run", "admin"]


@dataclass(frozen=True, slots=True)
class Quotas:
    """What a key may have at most; None is no limit.

    `max_sessions` bounds the sessions of the key's owner, whichever key made them.
    `max_parallel_runs` bounds the key's runs that go on or wait, `max_runs_per_minute` those that
    it began within any 60 seconds.
    """

    max_sessions: int | None = None
    max_parallel_runs: int | None = None
    max_runs_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """An owner with the rights of the key that was used; `key_id` is None where there are no keys.

    `admin` includes `run`.
    """

    owner: str
    scopes: frozenset[Scope]
    key_id: str | None = None
    quotas: Quotas = field(default_factory=Quotas)
