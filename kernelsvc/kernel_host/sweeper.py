"""How a host ends what its kernels have started.

In a sandbox there is nobody but process 1, which only waits, the host and what the kernels started:
so all others are ended at once, where there is one kernel.
"""

import contextlib
import os
import select
import time
from collections.abc import Callable, Iterable, Sequence

from kernelsvc.kernel_host import processes
from kernelsvc.kernel_host.hosted import Hosted

SWEEP_SECONDS = 10.0
SPARING_SECONDS = 2.0
"""So long does a sweep kill one by one, for the sake of the snapshot; then it kills all at once."""


class Sweeper:
    """For the descendants of this process; `has_exited` is told of each child that has, and how."""

    def __init__(self, sandboxed: bool, has_exited: Callable[[int, int], None]) -> None:
        self._sandboxed = sandboxed
        self._has_exited = has_exited

    def end_all(self) -> None:
        """Leave no descendant."""
        deadline = time.monotonic() + SWEEP_SECONDS
        while time.monotonic() < deadline:
            if self._sandboxed:
                processes.kill_all()
            left = [process.pid for process in processes.descendants(os.getpid())]
            if not left:
                break
            processes.kill(left)
            self._wait_for(left)

    def sweep(self, kernel: Hosted, others: Sequence[Hosted], since: float) -> int:
        """Kill what a kernel started at or after `since`; the kernel itself only where since is 0.

        How many there were. Its snapshot lives on, where the others can be killed without it; so do
        other kernels here, copies of it or what it is a copy of, with what they have started.
        """
        kernel.wait_for_snapshots()
        began = time.monotonic()
        killed = 0
        while (now := time.monotonic()) < began + SWEEP_SECONDS:
            if since == 0.0 and now > began + SPARING_SECONDS:
                kernel.keeper.drop()
            if since == 0.0 and self._sandboxed and not (others or kernel.keeper.has_any):
                processes.kill_all()
            left = [
                process
                for process in processes.descendants(os.getpid())
                if process.started > since - processes.TICK_SECONDS
                and not kernel.keeper.knows(process.pid)
                and (since == 0.0 or process.pid != kernel.pid)
                and not any(other.has(process.pid) for other in others)
            ]
            if not left:
                break
            pids = [each.pid for each in left if since == 0.0 or not kernel.may_tell_of(each)]
            killed += len(pids)
            processes.kill(pids)
            self._wait_for(pids)
            kernel.listen(0 if pids else processes.TICK_SECONDS)
        return killed

    def _wait_for(self, pids: Iterable[int]) -> None:
        """Wait until each has ended (a second at most) and collect those that are our children."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                pidfd = os.pidfd_open(pid)
                try:
                    select.select([pidfd], [], [], 1.0)
                finally:
                    os.close(pidfd)
        with contextlib.suppress(ChildProcessError):
            while (reaped := os.waitpid(-1, os.WNOHANG))[0] != 0:
                self._has_exited(*reaped)
