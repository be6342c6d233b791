"""The service's end of one kernel process behind a host."""

import asyncio
from dataclasses import dataclass
from typing import Final, Protocol

from kernelsvc.kernel_host import wire

KILLED: Final = -9
_SWEEP_SECONDS: Final = 15.0


class Host(Protocol):
    """What has it."""

    def send(self, command: wire.Command) -> None:
        """Send a command; one to a host that is gone is dropped."""

    def forget(self, number: int) -> None:
        """Have nothing left of a kernel."""

    def kill(self) -> None:
        """SIGKILL the host."""


class HostedKernel:
    """A kernel process behind a host.

    `exited` resolves to its return code (as subprocess has it) once nothing of it is left.
    """

    def __init__(self, host: Host, number: int) -> None:
        loop = asyncio.get_running_loop()
        self._host = host
        self.number = number
        self._swept: asyncio.Future[int] | None = None
        self.pid: int | None = None
        self.started: asyncio.Future[None] = loop.create_future()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.exited: asyncio.Future[int] = loop.create_future()
        # Of one that is to be a snapshot promoted: why there is none; else what it is without.
        self.no_snapshot: str | None = None
        self.without: list[str] = []

    def signal(self, signum: int) -> None:
        """Send a signal to the kernel and the children in its process group."""
        self._host.send(wire.SignalKernel(self.number, signum))

    def kill(self) -> None:
        """SIGKILL the kernel; its host ends everything it started."""
        self._host.send(wire.KillKernel(self.number))

    def forget(self) -> None:
        """End the kernel, where it lives; no snapshot of it will be asked for, nor a copy made."""
        self._host.forget(self.number)
        self.end(KILLED)

    def abandon(self) -> None:
        """Kill the host of a kernel that nothing else reaches; the kernel dies with it."""
        self._host.kill()

    async def sweep(self, since: float) -> int:
        """Kill what the kernel started since `since` (CLOCK_BOOTTIME); how many there were."""
        self._swept = asyncio.get_running_loop().create_future()
        self._host.send(wire.SweepChildren(self.number, since))
        await asyncio.wait(
            [self._swept, self.exited],
            timeout=_SWEEP_SECONDS,
            return_when=asyncio.FIRST_COMPLETED,
        )
        return self._swept.result() if self._swept.done() else 0

    def hear(self, report: wire.Report) -> None:
        """Called by the host's reader."""
        match report:
            case wire.KernelStarted(pid=pid) if not self.started.done():
                self.pid = pid
                self.started.set_result(None)
            case wire.SnapshotPromoted(without=without):
                self.without = without
            case wire.NoSnapshot(why=why):
                self.no_snapshot = why
                self.end(KILLED)
            case wire.KernelReady(pid=pid) if not self.ready.done():
                self.pid = pid
                self.ready.set_result(None)
            case wire.ChildrenSwept(killed=killed) if self._swept and not self._swept.done():
                self._swept.set_result(killed)
            case wire.KernelExited(returncode=returncode):
                self.end(returncode)

    def end(self, returncode: int) -> None:
        """The process is gone."""
        if not self.exited.done():
            self.exited.set_result(returncode)


@dataclass(frozen=True)
class Memory:
    """The memory that a kernel had after a run, by the id of the run's request, for another."""

    kernel: HostedKernel
    run: str


@dataclass(frozen=True)
class Copy:
    """A copy of a kernel, which waits to begin with that root directory, by a path inside.

    With `reseed`, it has random numbers of its own.
    """

    process: HostedKernel
    root: str
    reseed: bool
