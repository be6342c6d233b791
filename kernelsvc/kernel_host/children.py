"""Child processes of the kernel that its code is not to hear of: snapshots.

Theory of operation. Only the process whose memory is copied can make the copy, so a snapshot is its
child; and code that waits for any child of its own would wait for the snapshot, for ever. So
Python's calls that wait for any child pass it over, and find that there is none where there is no
other. Its signal when it ends (SIGCHLD) the code may get; that one says nothing of who it was.
"""

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

_ANY_CHILD = -1
_hidden: set[int] = set()
_waitpid = os.waitpid


def hidden() -> set[int]:
    """Those that are hidden now."""
    return set(_hidden)


def hide(pid: int) -> None:
    """Hide a child of this process, until it has been reaped."""
    _hidden.add(pid)


def forget() -> None:
    """In a fork that goes on by itself: they are not its children."""
    _hidden.clear()


def reap() -> None:
    """Collect those that have ended."""
    for pid in tuple(_hidden):
        try:
            ended = _waitpid(pid, os.WNOHANG)[0] != 0
        except ChildProcessError:
            ended = True
        if ended:
            _hidden.discard(pid)


def keep_from_waits() -> None:
    """From now on the code's waits for any child do not find the hidden ones; called once."""
    real_waitid = os.waitid

    def of_any(real: Callable[..., Any]) -> Callable[..., Any]:
        def wait(pid: int, options: int) -> Any:
            if pid != _ANY_CHILD:
                return real(pid, options)
            return _pass_over(lambda: real(pid, options), lambda found: found[0])

        return wait

    def waitid(idtype: int, which: int, options: int, /) -> Any:
        if idtype != os.P_ALL or options & os.WNOWAIT:
            return real_waitid(idtype, which, options)
        wait = lambda: real_waitid(idtype, which, options)  # noqa: E731
        return _pass_over(wait, lambda found: found.si_pid if found else 0)

    def passing_over(real: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *options: _pass_over(lambda: real(*options), lambda found: found[0])

    for name, ours in (
        ("waitpid", of_any(os.waitpid)),
        ("wait4", of_any(os.wait4)),
        ("waitid", waitid),
        ("wait", passing_over(os.wait)),
        ("wait3", passing_over(os.wait3)),
    ):
        ours.__name__ = ours.__qualname__ = name
        ours.__doc__ = getattr(os, name).__doc__
        setattr(os, name, ours)


def _pass_over(wait: Callable[[], Any], pid_of: Callable[[Any], int]) -> Any:
    while True:
        if _hidden and not _has_others():
            raise ChildProcessError(errno.ECHILD, os.strerror(errno.ECHILD))
        found = wait()
        if pid_of(found) not in _hidden:
            return found
        _hidden.discard(pid_of(found))


def _has_others() -> bool:
    """Whether this process has children beside the hidden ones; yes where that cannot be told."""
    children: set[int] = set()
    try:
        for thread in Path("/proc/self/task").iterdir():
            # A thread may have ended meanwhile.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                children.update(map(int, (thread / "children").read_text().split()))
    except OSError:
        return True
    return bool(children - _hidden)
