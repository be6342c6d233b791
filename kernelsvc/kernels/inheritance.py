"""What a service tells the next one of a seat and its kernel, and how that goes on with them."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from kernelsvc.errors import KernelStartFailed
from kernelsvc.kernels.host import KernelHost
from kernelsvc.kernels.hosted import HostedKernel
from kernelsvc.kernels.keeping import Lifeline
from kernelsvc.kernels.kernel import Kernel, LateSink
from kernelsvc.kernels.launch import Launcher
from kernelsvc.kernels.orphans import Orphan
from kernelsvc.kernels.seat import Seat
from kernelsvc.models.limits import Limits
from kernelsvc.sandbox.bwrap import Place
from kernelsvc.sandbox.egress_process import Egress

_OF_SEAT = frozenset({"control", "dial", "stderr", "first", "outer", "held"})
_OF_EGRESS = frozenset({"egress_process", "egress_control", "egress_stderr"})
_ANSWER_SECONDS = 5.0


class Told(BaseModel):
    """Of a seat: whose it is, where, with what limits, which kernel is on it.

    `inside` are the paths of workspace and runtime directory as the sandbox sees them, `sockets`
    the name of the kernel's and `key` what its messages are signed with. `more` is what the session
    has to tell.
    """

    model_config = ConfigDict(frozen=True)

    session_id: str
    kernelspec: str
    workspace: Path
    runtime: Path
    inside: tuple[Path, Path]
    environment: dict[str, str]
    rlimits: dict[str, int]
    limits: Limits
    groups: tuple[Path, ...]
    internet: bool
    host: int
    kernel: int
    sockets: str
    key: str
    more: dict[str, Any]


async def keep(
    launcher: Launcher,
    session_id: str,
    kernelspec: str,
    seat: Seat,
    kernel: Kernel,
    more: Mapping[str, Any],
    run: bytes | None = None,
) -> Lifeline:
    """Have a seat held with its kernel, and `run`, which may go on; raises OSError."""
    enclosure, place = seat.enclosure, seat.place
    sockets, key = kernel.connection
    told = Told(
        session_id=session_id,
        kernelspec=kernelspec,
        workspace=place.workspace,
        runtime=place.runtime,
        inside=(enclosure.workspace, enclosure.runtime),
        environment=dict(seat.environment),
        rlimits=enclosure.rlimits,
        limits=seat.limits,
        groups=enclosure.cgroup.directories if enclosure.cgroup else (),
        internet=seat.internet,
        host=seat.host.pid,
        kernel=kernel.process.number,
        sockets=sockets,
        key=key,
        more=dict(more),
    )
    line = told.model_dump_json().encode()
    return await launcher.keeping.keep(str(place.runtime), line, run, seat.lifelines, kernel)


class Heir:
    """A seat of an earlier service, with a kernel that its host says is there."""

    def __init__(self, told: Told, run: bytes | None, seat: Seat, process: HostedKernel) -> None:
        self.told = told
        self.run = run
        self.seat = seat
        self._process = process

    @classmethod
    async def of(cls, orphan: Orphan, launcher: Launcher) -> "Heir":
        """Take what is held of it; raises KernelStartFailed where the kernel is gone, or worse."""
        told = told_of(orphan)
        if not (_OF_SEAT | (_OF_EGRESS if told.internet else frozenset())) <= orphan.fds.keys():
            raise KernelStartFailed("what was held of it is not all that it needs")
        # From here on they are the seat's.
        fds = dict(orphan.fds)
        orphan.fds.clear()
        host, process = await KernelHost.inherit(fds, told.host, told.kernel)
        egress = Egress.inherit(fds) if told.internet else None
        groups, inside = told.groups, told.inside
        seat = Seat(
            host,
            Place(told.workspace, told.runtime),
            launcher.isolation.inherit(*inside, told.rlimits, groups),
            told.environment,
            told.limits,
            told.internet,
            egress,
            latest=process,
        )
        futures: list[asyncio.Future[Any]] = [process.ready, process.exited]
        await asyncio.wait(futures, timeout=_ANSWER_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not (process.exited.done() or process.ready.done()) or not seat.is_usable:
            host.kill()
            await seat.close()
            raise KernelStartFailed("its kernel cannot be reached")
        return cls(told, orphan.run, seat, process)

    @property
    def has_kernel(self) -> bool:
        """Whether the kernel lives; of one that does not, there may be a snapshot."""
        return not self._process.exited.done()

    def kernel(self, launcher: Launcher, on_late: LateSink) -> Kernel:
        """The kernel, which is still to be connected to."""
        told = self.told
        return launcher.kernel_again(
            self.seat, told.kernelspec, (told.sockets, told.key), self._process, on_late
        )


def told_of(orphan: Orphan) -> Told:
    """What is told of it; raises KernelStartFailed where that is nothing that makes sense."""
    try:
        return Told.model_validate_json(orphan.told)
    except ValueError as error:
        raise KernelStartFailed("what was told of it cannot be read") from error
