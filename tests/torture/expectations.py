"""What a session's next answer may say of its memory, by what has happened to the session.

The contract leaves some of this to how far the service has come. Here is what it does today: where
it learns to do better, its line is changed, and a service that falls back is found out. Whatever is
said is verified besides: the next run looks at what is there.
"""

from enum import StrEnum
from typing import Final


class Fate(StrEnum):
    """What can become of a kernel."""

    SLEPT = "the session slept"
    STOPPED = "the service was stopped by SIGTERM"
    CRASHED = "the service was killed, while the session was awake"
    ORPHANED = "the service was killed, and no other came in time"
    RESTARTED = "the kernel was restarted"
    KILLED = "the kernel was killed from outside"
    DIED = "the code ended the kernel"
    RAN_OUT = "the code ran out of memory"
    TIMED_OUT = "a run timed out, and on_timeout is restart"
    GAVE_WAY = "a run timed out and ended when it was interrupted, and on_timeout is interrupt"
    INTERRUPTED = "a run was interrupted by the caller"
    DEAF = "a run timed out and went on when it was interrupted, and on_timeout is interrupt"
    COPIED = "the session is a duplicate"
    FORKED = "the session is a fork"


WORDS: Final[dict[Fate, frozenset[str]]] = {
    Fate.SLEPT: frozenset({"restored"}),
    Fate.STOPPED: frozenset({"restored"}),
    Fate.CRASHED: frozenset({"kept"}),
    Fate.ORPHANED: frozenset({"restored"}),
    Fate.RESTARTED: frozenset({"lost"}),
    Fate.KILLED: frozenset({"restored"}),
    Fate.DIED: frozenset({"restored"}),
    Fate.RAN_OUT: frozenset({"restored"}),
    Fate.TIMED_OUT: frozenset({"restored"}),
    Fate.GAVE_WAY: frozenset({"kept"}),
    Fate.INTERRUPTED: frozenset({"kept"}),
    Fate.DEAF: frozenset({"restored"}),
    Fate.COPIED: frozenset({"restored"}),
    Fate.FORKED: frozenset({"restored"}),
}

REPLACING: Final = frozenset({Fate.KILLED, Fate.DIED, Fate.RAN_OUT, Fate.TIMED_OUT, Fate.DEAF})
"""What a snapshot replaces the kernel after. Where there is none, the memory is lost: no run has
completed since the kernel was new, or it holds more than is copied."""

MOST_OOMS: Final = 3
"""So many times in a row, with no run completed in between, memory runs out, and is lost then."""
