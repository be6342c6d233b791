"""What processes use, from /proc."""

import os
from collections.abc import Iterable
from pathlib import Path

import psutil

from tests.benchmarks.plan import Unmeasurable

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# In the command line of the first process of what runs code; all below it runs code as well.
_RUNS_CODE = ("bwrap", "kernelsvc.kernel_host", "ipykernel_launcher")
_USER_TIME, _SYSTEM_TIME = 11, 12  # fields of /proc/PID/stat, counted from behind the name


def descendants(pid: int) -> list[int]:
    """The processes below one, at all depths."""
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def kernel_processes(pid: int) -> set[int]:
    """The processes below a server that belong to kernels: their sandboxes and what runs there."""
    found: set[int] = set()
    for child in psutil.Process(pid).children():
        try:
            command = " ".join(child.cmdline()[:5])
            if any(mark in command for mark in _RUNS_CODE):
                found |= {child.pid, *descendants(child.pid)}
        except psutil.NoSuchProcess:
            continue
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """The CPU time that they have used, in steps of a hundredth; 0 for one that is gone."""
    ticks = 0
    for pid in pids:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        fields = stat.rpartition(")")[2].split()
        ticks += int(fields[_USER_TIME]) + int(fields[_SYSTEM_TIME])
    return ticks / _TICKS_PER_SECOND


def pss_bytes(pids: Iterable[int]) -> int:
    """Their memory, in which a page that several processes share counts in parts (PSS)."""
    return 1024 * sum(_kilobytes(pid, "smaps_rollup", "Pss:") for pid in pids)


def rss_bytes(pid: int) -> int:
    """The memory that a process has mapped and that is present."""
    return 1024 * _kilobytes(pid, "status", "VmRSS:")


def peak_rss_bytes(pid: int) -> int:
    """The most that `rss_bytes` has been."""
    return 1024 * _kilobytes(pid, "status", "VmHWM:")


def _kilobytes(pid: int, file: str, field: str) -> int:
    """A field of a file in /proc; 0 for a process that is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/{file}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    except PermissionError as error:
        raise Unmeasurable(f"/proc/{pid}/{file} may not be read: run this as root") from error
    for line in text.splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    return 0
