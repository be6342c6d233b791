"""What a service tells the next one of a seat and its kernel, and how that goes on with them.

Theory of operation. Each seat that is kept is told of by itself, one of a live copy as well, whose
kernel is in its landlord's sandbox. The next service takes over a sandbox with all that is in it:
the landlord's host is asked for the kernels that are told of, and ends what else it has, such as
copies that nobody had been told of yet. A landlord that its session has left is kept, without a
kernel, for as long as there are lodgers. Where it is gone, they are, too.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from kernelsvc.caretaker.wire import TOLD
from kernelsvc.errors import KernelStartFailed
from kernelsvc.kernels.annex import Annex
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
_OF_ANNEX = frozenset({"annex"})
_ANSWER_SECONDS = 5.0


class Lodging(BaseModel):
    """Of a seat whose kernel is a copy: its landlord's name, and its root directory there."""

    model_config = ConfigDict(frozen=True)

    landlord: str
    root: str


class Told(BaseModel):
    """Of a seat: whose it is, where, with what limits, which kernel is on it.

    `inside` are the paths of workspace and runtime directory as the sandbox sees them, `sockets`
    the name of the kernel's and `key` what its messages are signed with. `kernel` is its number at
    the seat's host or, with a `lodging`, at the landlord's. `more` is what the session has to tell.
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
    lodging: Lodging | None
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
        lodging=_lodging(seat),
        more=dict(more),
    )
    line = told.model_dump_json().encode()
    return await launcher.keeping.keep(_name(seat), line, run, seat.lifelines, kernel)


def _name(seat: Seat) -> str:
    return str(seat.place.runtime)


def _lodging(seat: Seat) -> Lodging | None:
    if seat.landlord is None or seat.annex is None:
        return None
    return Lodging(landlord=_name(seat.landlord), root=seat.annex.root)


class Heir:
    """A seat of an earlier service, with a kernel that its host says is there, or has ended."""

    def __init__(self, orphan: Orphan, told: Told, seat: Seat, process: HostedKernel) -> None:
        self.told = told
        self.orphan = orphan
        self.seat = seat
        self._process = seat.latest = process

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


def households(orphans: Iterable[Orphan]) -> list[list[Orphan]]:
    """Those that are in one sandbox together; first comes whose it is, where that one is there."""
    found: dict[str, list[Orphan]] = {}
    for orphan in orphans:
        try:
            lodging = told_of(orphan).lodging
        except KernelStartFailed:
            lodging = None
        household = found.setdefault(lodging.landlord if lodging else orphan.seat, [])
        household.insert(len(household) if lodging else 0, orphan)
    return list(found.values())


async def inherit(household: Sequence[Orphan], launcher: Launcher) -> list[Heir]:
    """Take over one sandbox with the seats in it, but for one that was left, which is no heir.

    That one ends with its last lodger. Raises OSError, and KernelStartFailed where the sandbox is
    gone, or worse.
    """
    landlord, *lodgers = household
    told = [told_of(orphan) for orphan in household]
    if told[0].lodging is not None:
        raise KernelStartFailed("the sandbox that its kernel was in is gone")
    for orphan, of_it in zip(household, told, strict=True):
        _check(orphan, of_it)
    # In this order everywhere; what has been left has no kernel that anybody wants.
    first = int(landlord.is_left)
    async with AsyncExitStack() as undo:
        seat, kernels = await _seat(landlord, told[0], told[first:], launcher)
        undo.push_async_callback(seat.close)
        seats = [seat]
        for orphan, of_it in zip(lodgers, told[1:], strict=True):
            lodger = await _lodger(orphan, of_it, seat, launcher)
            undo.push_async_callback(lodger.close)
            seats.append(lodger)
        if not await _have_answered(kernels) or not seat.is_usable:
            seat.host.kill()
            raise KernelStartFailed("its kernel cannot be reached")
        undo.pop_all()
    if landlord.is_left:
        await seat.close()
    heirs = zip(household[first:], told[first:], seats[first:], kernels, strict=True)
    return [Heir(*each) for each in heirs]


def _check(orphan: Orphan, told: Told) -> None:
    """Raises KernelStartFailed where not all that a seat needs was held of it."""
    needed = _OF_SEAT
    if told.internet:
        needed |= _OF_EGRESS
    if told.lodging is not None:
        needed |= _OF_ANNEX
    if not needed <= orphan.fds.keys():
        raise KernelStartFailed("what was held of it is not all that it needs")


async def _seat(
    orphan: Orphan, told: Told, wanted: Sequence[Told], launcher: Launcher
) -> tuple[Seat, list[HostedKernel]]:
    """The seat, and those kernels of its host's that are wanted."""
    # From here on they are the seat's.
    fds = dict(orphan.fds)
    orphan.fds.clear()
    host, kernels = await KernelHost.inherit(fds, told.host, [each.kernel for each in wanted])
    seat = Seat(
        host,
        Place(told.workspace, told.runtime),
        launcher.isolation.inherit(*told.inside, told.rlimits, told.groups),
        told.environment,
        told.limits,
        told.internet,
        Egress.inherit(fds) if told.internet else None,
    )
    seat.lifeline = launcher.keeping.resume(orphan, fds[TOLD], seat.lifelines)
    return seat, kernels


async def _lodger(orphan: Orphan, told: Told, landlord: Seat, launcher: Launcher) -> Seat:
    """The seat of a copy; its own host is idle."""
    assert told.lodging is not None
    annex = Annex.inherit(orphan.fds, told.lodging.root)
    seat, _ = await _seat(orphan, told, [], launcher)
    seat.lodge(landlord, annex)
    return seat


async def _have_answered(kernels: list[HostedKernel]) -> bool:
    """Whether their host has said of all of them what has become of them."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            for kernel in kernels:
                futures: list[asyncio.Future[Any]] = [kernel.ready, kernel.exited]
                await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
    except TimeoutError:
        return False
    return True
