"""What a kernel's process has used, as the system counts it for the process and its children.

One small file of /proc is read before a run and one or two after it: what all processes of the
sandbox used would take a control group for each controller, and more time than a short run has.
"""

import asyncio
import os
from dataclasses import dataclass
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_LOOK_SECONDS: Final = 1.0
_PEAK: Final = b"VmHWM:"
# Behind the name, which may hold anything, field 3 is the first: 14 to 17 are the times.
_TIMES: Final = slice(11, 15)


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds, and the most memory in bytes; None where it is not known."""

    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None


def cpu_ticks(pid: int) -> int | None:
    """What the process and its children that have ended have used; None where it is gone."""
    try:
        stat = _read(f"/proc/{pid}/stat")
        return sum(map(int, stat[stat.rindex(b")") + 2 :].split()[_TIMES]))
    except (OSError, ValueError):
        return None


class Meter:
    """Measures one run of a process, from now on until `stop`.

    It looks again each second: of a kernel that is killed, what it had used by then is known.
    """

    def __init__(self, pid: int | None) -> None:
        self._pid = pid
        self._ticks = None if pid is None else cpu_ticks(pid)
        self._spent = Spent()
        self._timer = self._again()

    def _again(self) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look_again)

    def _look_again(self) -> None:
        self._look()
        self._timer = self._again()

    def _look(self) -> None:
        now = None if self._pid is None else cpu_ticks(self._pid)
        if self._pid is not None and self._ticks is not None and now is not None:
            seconds = max(0, now - self._ticks) / _TICKS
            self._spent = Spent(seconds, _peak_memory(self._pid) or self._spent.peak_memory_bytes)

    def stop(self) -> Spent:
        """What the run has used."""
        self._timer.cancel()
        self._look()
        return self._spent


def _peak_memory(pid: int) -> int | None:
    try:
        status = _read(f"/proc/{pid}/status")
        return int(status[status.index(_PEAK) + len(_PEAK) :].split(maxsplit=1)[0]) * 1024
    except (OSError, ValueError):
        return None


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)
