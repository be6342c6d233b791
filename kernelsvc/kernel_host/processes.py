"""Which processes descend from which, read from /proc, and an end to all of them."""

import contextlib
import ctypes
import os
import signal
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.prctl.argtypes = (ctypes.c_int, *(4 * (ctypes.c_ulong,)))
LIBC.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
"""The C library, there before a fork: a class of ctypes that is made in one costs it pages."""

NOT_EXECUTABLE = 127
"""How a process ends, as a shell has it, that could not become the program that it was to be."""

KERNEL_OOM_SCORE = 500
"""What runs the session's code goes first, its snapshot later, who looks after both last."""

TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
"""The grain of a process's start time, which is rounded down to it."""


class Process(NamedTuple):
    """One line of /proc: `started` is in seconds of CLOCK_BOOTTIME."""

    pid: int
    parent: int
    state: str
    started: float


def prctl(option: int, value: int, further: int = 0) -> None:
    """The system call of that name; raises OSError."""
    if LIBC.prctl(option, value, further, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")


def set_name(name: str) -> None:
    """What this process is called in lists of processes; 15 characters at most."""
    buffer = ctypes.create_string_buffer(name.encode())
    prctl(_PR_SET_NAME, ctypes.addressof(buffer))


def adopt_orphans() -> None:
    """Make this process the parent of every orphan below it: a double fork does not escape it."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Have the kernel send this process SIGKILL when its parent ends, however that ends."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def set_oom_score(score: int) -> None:
    """Where memory runs out, the system kills who has the higher score first."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(score))


def hide(hidden: bool) -> None:
    """Whether the memory and environment of this process are hidden from its own user's others."""
    prctl(_PR_SET_DUMPABLE, 0 if hidden else 1)


def kill_all() -> None:
    """SIGKILL all others of this process's namespace but process 1 at once: no fork escapes."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)


def processes() -> Iterator[Process]:
    """Every process there is to see, zombies included."""
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            # The command name stands in parentheses and may hold anything, parentheses too.
            fields = Path(entry.path, "stat").read_bytes().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        yield Process(
            int(entry.name), int(fields[1]), fields[0].decode(), int(fields[19]) * TICK_SECONDS
        )


def descendants(root: int) -> list[Process]:
    """The living processes below `root`, parents before their children."""
    children: dict[int, list[Process]] = defaultdict(list)
    for process in processes():
        children[process.parent].append(process)
    found: list[Process] = []
    queue = [root]
    while queue:
        for child in children.get(queue.pop(), []):
            if child.state != "Z":
                found.append(child)
            queue.append(child.pid)
    return found


def kill(pids: list[int]) -> None:
    """SIGKILL each; stopped first, so that none of them can fork while the others are killed."""
    for signum in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            try:
                os.kill(pid, signum)
            except (ProcessLookupError, PermissionError):
                continue
