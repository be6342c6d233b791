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

from tests.torture.service import Service, groups_of
from tests.torture.violation import Violation, hold

PATIENCE = 30.0
"""Seconds."""
_SNAPSHOT_SECONDS: Final = 1.0
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_HOST: Final = "kernel-host"
_SNAPSHOT: Final = "snapshot"
MARK: Final = "1000."
"""What the marks of processes begin with: for `sleep`, a number of seconds."""


def until(claim: Callable[[], str | None]) -> None:
    """Return once nothing is wrong any more; raises Violation with what still is in the end."""
    deadline = time.monotonic() + PATIENCE
    while (wrong := claim()) is not None:
        if time.monotonic() > deadline:
            raise Violation(f"after {PATIENCE:g} s still: {wrong}")
        time.sleep(0.01)


def top() -> psutil.Process:
    """The process that everything is below: this one."""
    return psutil.Process()


def processes() -> Iterator[psutil.Process]:
    """Those that live; those that have ended are seen off."""
    for process in top().children(recursive=True):
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
            found = Path(f"/proc/{process.pid}/ns/pid").stat().st_ino, int(inside.split()[-1])
            if found == (namespace, pid):
                return process
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            # Gone, or one that hides, which no kernel does.
            continue
    return None


def await_snapshot(namespace: int, pid: int, since: float) -> None:
    """Return when there is a snapshot of that kernel which is younger (CLOCK_BOOTTIME).

    One as old, as far as the system tells ages, cannot be told from the one before: it is given
    its time.
    """
    kernel = find(namespace, pid)
    deadline = time.monotonic() + _SNAPSHOT_SECONDS
    while kernel is not None and time.monotonic() < deadline:
        if any(_begun(child) > int(since * _TICKS) for child in kernel.children()):
            return
        time.sleep(0.01)


def _begun(snapshot: psutil.Process) -> int:
    """When a snapshot was taken, in ticks since the machine's boot; 0 for another process."""
    try:
        stat = Path(f"/proc/{snapshot.pid}/stat").read_text()
        return int(stat.rpartition(")")[2].split()[19]) if snapshot.name() == _SNAPSHOT else 0
    except (OSError, psutil.NoSuchProcess):
        return 0


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


def check_sandboxes(expected: Callable[[], range]) -> None:
    """There are as many sandboxes as are accounted for."""

    def difference() -> str | None:
        due, there = expected(), len(_called(_HOST))
        accounted = f"{due.start} to {due.stop - 1} of sessions and of the pool"
        return None if there in due else f"{there} sandboxes, {accounted}"

    until(difference)


def check_nothing_runs() -> None:
    """No process is left."""

    def left() -> str | None:
        found = list(processes())
        return f"left running: {', '.join(map(_described, found))}" if found else None

    until(left)


def _described(process: psutil.Process) -> str:
    try:
        waits = Path(f"/proc/{process.pid}/wchan").read_text()
        command = " ".join(process.cmdline())[:80]
        return f"{process.name()} {process.pid} of {process.ppid()} in {waits} ({command})"
    except (OSError, psutil.NoSuchProcess):
        return f"{process.pid}, gone by now"


def check_workspaces(service: Service, sessions: Iterable[str]) -> None:
    """Every session has its directory, and nothing else has."""
    there = {path.name for path in (service.data / "workspaces").iterdir()}
    hold(there == set(sessions), "workspaces", sorted(there), "sessions", sorted(sessions))


def check_nothing_is_left(service: Service) -> None:
    """After an end in good order: no process, no socket, no half-made or half-deleted directory."""
    check_all_has_ended(service)
    left: list[Path] = []
    for name in ("joining", "spares", "staging", "trash"):
        left += (service.data / f"workspaces.{name}").iterdir()
    hold(not left, "left behind:", *map(str, left))


def check_all_has_ended(service: Service) -> None:
    """After a kill that no service came behind: no process, no socket, no control group."""
    check_nothing_runs()
    left = list(service.runtime.glob("*/"))
    left += [path for path in (service.data / "caretaker", *service.scratch) if path.exists()]
    left += groups_of(service.pids)
    hold(not left, "left behind:", *map(str, left))
