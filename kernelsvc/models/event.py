"""What a kernel says about a request, one thing at a time (Jupyter messaging protocol 5.x)."""

from dataclasses import dataclass
from typing import Any, Literal

from kernelsvc.models.memory import MemoryTold
from kernelsvc.models.output import MimeBundle


@dataclass(frozen=True, slots=True)
class Started:
    """The kernel began to execute the code (status: busy)."""


@dataclass(frozen=True, slots=True)
class Text:
    """Text for a stream."""

    name: Literal["stdout", "stderr"]
    text: str


@dataclass(frozen=True, slots=True)
class Display:
    """Something to display; a later `UpdateDisplay` with the same id replaces it."""

    data: MimeBundle
    metadata: dict[str, Any]
    display_id: str | None = None


@dataclass(frozen=True, slots=True)
class UpdateDisplay:
    """New content for everything displayed under `display_id`."""

    data: MimeBundle
    metadata: dict[str, Any]
    display_id: str


@dataclass(frozen=True, slots=True)
class Result:
    """The value of the cell."""

    data: MimeBundle
    metadata: dict[str, Any]
    execution_count: int
    display_id: str | None = None


@dataclass(frozen=True, slots=True)
class Raised:
    """An uncaught exception."""

    ename: str
    evalue: str
    traceback: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClearOutput:
    """Forget the output so far; with `wait`, only when the next output comes."""

    wait: bool


@dataclass(frozen=True, slots=True)
class Replied:
    """How the kernel says that the execute request has ended."""

    failed: bool
    ename: str | None
    exit_code: int
    execution_count: int | None


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing more will be said about the request, but by its threads and tasks.

    `reply` is there where the kernel is one of ours, which sends none beside it; `memory` where it
    was asked to save or restore what it holds.
    """

    reply: Replied | None = None
    memory: MemoryTold | None = None


@dataclass(frozen=True, slots=True)
class Latest:
    """Which execute request a kernel works on, and which has ended last, and how."""

    going: str | None
    ended: str | None
    reply: Replied | None


Event = Started | Text | Display | UpdateDisplay | Result | Raised | ClearOutput | Idle


@dataclass(frozen=True, slots=True)
class Missed:
    """For a reader that was too slow: `events` of `size` bytes, about, are held no more."""

    events: int
    size: int


@dataclass(frozen=True, slots=True)
class Restarted:
    """For a reader that comes too late: what comes next are the outputs from the first on."""


Told = Event | Missed | Restarted
