"""What there is of the service on this machine: processes, directories, control groups.

The process that tortures is the one that orphans go to (`adopt_orphans`), so whatever a service has
started is below it, however its parents ended.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import psutil

from tests.torture.model import Violation, hold
from tests.torture.service import Service, groups_of

PATIENCE: Final = 30.0
_HOST: Final = "kernel-host"
MARK: Final = "1000."
"""What the marks of processes begin with: for `sleep`, a number of seconds."""


def until(claim: Callable[[], str | None], seconds: float = PATIENCE) -> None:
    """Return once nothing is wrong any more; raises Violation with what still is in the end."""
    deadline = time.monotonic() + seconds
    while (wrong := claim()) is not None:
        if time.monotonic() > deadline:
            raise Violation(f"after {seconds:g} s still: {wrong}")
        time.sleep(0.01)


def processes() -> Iterator[psutil.Process]:
    """Those below this one that live; those that have ended are seen off."""
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                yield process
            elif process.ppid() == os.getpid():
                os.waitpid(process.pid, os.WNOHANG)
        except (psutil.NoSuchProcess, ChildProcessError):
            continue


def _called(name: str) -> list[psutil.Process]:
    found = []
    for process in processes():
        try:
            if process.name() == name:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def find(namespace: int, pid: int) -> psutil.Process | None:
    """The process that is `pid` in that namespace of processes; None where it is gone."""
    for process in processes():
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            inside = next(line for line in status.splitlines() if line.startswith("NSpid:"))
            if int(inside.split()[-1]) == pid:
                if os.stat(f"/proc/{process.pid}/ns/pid").st_ino == namespace:
                    return process
        except (FileNotFoundError, ProcessLookupError):
            continue
    return None


def check_marks(allowed: Iterable[str]) -> None:
    """No process of a session's code is there that should have gone with its kernel."""

    def strangers() -> str | None:
        allowed_now = set(allowed)
        for process in processes():
            try:
                marks = [word for word in process.cmdline() if word.startswith(MARK)]
            except psutil.NoSuchProcess:
                continue
            if not allowed_now.issuperset(marks):
                return f"a process of a kernel that is gone: {process}, {marks}"
        return None

    until(strangers)


def check_sandboxes(expected: Callable[[], int]) -> None:
    """There are as many sandboxes as are accounted for."""

    def difference() -> str | None:
        due, there = expected(), len(_called(_HOST))
        return None if due == there else f"{there} sandboxes, {due} of sessions and of the pool"

    until(difference)


def check_nothing_runs() -> None:
    """No process is left."""

    def left() -> str | None:
        found = [process for process in processes()]
        return f"left running: {found}" if found else None

    until(left)


def check_workspaces(service: Service, sessions: Iterable[str]) -> None:
    """Every session has its directory, and nothing else has."""
    there = {path.name for path in (service.data / "workspaces").iterdir()}
    hold(there == set(sessions), "workspaces", sorted(there), "sessions", sorted(sessions))


def check_nothing_is_left(service: Service) -> None:
    """After an end in good order: no process, no socket, no half-made or half-deleted directory."""
    check_nothing_runs()
    left = list(service.runtime.glob("*/"))
    for name in ("joining", "spares", "staging", "trash"):
        left += (service.data / f"workspaces.{name}").iterdir()
    left += [path for path in service.scratch if path.exists()]
    left += groups_of(service.pids)
    hold(not left, "left behind:", *map(str, left))
