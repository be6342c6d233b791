"""What becomes of a session's memory while it sleeps."""

from dataclasses import dataclass

from pydantic import BaseModel


class NotRestored(BaseModel):
    """A variable that did not come back when the session woke, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class KeptMemory:
    """What lasts of a sleeping session's memory: a file, or why there is none (`lost`).

    The file is the one with this `token`; it is the memory after so many runs.
    """

    token: str
    run_count: int
    lost: str | None = None


@dataclass(frozen=True, slots=True)
class MemoryTold:
    """What a kernel says of having saved or restored: which variables, or why none (`lost`)."""

    restored: tuple[str, ...] = ()
    not_restored: tuple[NotRestored, ...] = ()
    lost: str | None = None
