"""The service's end of the keeper (`kernelsvc.keeper`): what is to outlive this service.

What it holds of a seat are descriptors, and one of them is a file in memory with two lines: who and
what is there (`kernels.found`), and the run that was begun last. The second is written anew at the
beginning of each run, before the kernel hears of it; that costs two system calls and no word to
anybody. A line that has no end was not written to its end, and what it tells of was not begun.
"""

import asyncio
import contextlib
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from kernelsvc import __version__
from kernelsvc.keeper import wire
from kernelsvc.keeper.clearing import has_groups, remove_groups
from kernelsvc.kernels.runtime import RuntimeDirectory

ARGV = (sys.executable, "-s", "-P", "-m", "kernelsvc.keeper")
_ADDRESS = "keeper"
_PATIENCE = 30.0
_EXIT_SECONDS = 30.0
_SEND_SECONDS = 5.0
_BACKLOG = 8

Descriptors = Callable[[], dict[str, int]]

log = structlog.get_logger()


@dataclass(frozen=True)
class Orphan:
    """A seat that an earlier service has left: its name, what is told of it, its descriptors."""

    seat: str
    told: bytes
    run: bytes | None
    fds: dict[str, int]

    def close(self) -> None:
        """Let go of it, as far as it is held here."""
        for fd in self.fds.values():
            os.close(fd)
        self.fds.clear()


class Lifeline:
    """One seat's, from when it is kept; `about` is the kernel that it was kept with."""

    def __init__(
        self, keeping: "Keeping", seat: str, told: int, behind: int, about: object
    ) -> None:
        self._keeping = keeping
        self._seat = seat
        self._told = told
        self._behind = behind
        self.about = about

    def note_run(self, line: bytes) -> None:
        """A run is about to begin: what the next service would have to know of it."""
        os.ftruncate(self._told, self._behind)
        os.pwrite(self._told, line + b"\n", self._behind)

    def replaced(self) -> None:
        """Another one stands in its place."""
        os.close(self._told)

    async def let_go(self) -> None:
        """The seat is about to go."""
        os.close(self._told)
        await self._keeping.let_go(self._seat)


class Keeping:
    """Opened by `take_over`, begun by `begin`, ended by `farewell` or `hang_up`.

    `directory` is the service's own, in which a next service finds the keeper; `grace` is how many
    seconds that waits for one. With 0 nothing is kept.
    """

    def __init__(self, directory: Path, grace: float) -> None:
        self._address = directory / _ADDRESS
        self._grace = grace
        self._orders: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._estate: tuple[wire.Estate, list[int]] | None = None
        self._inherited: list[str] = []
        self._kept: dict[str, Descriptors] = {}
        self._lock = asyncio.Lock()
        self._replacing: asyncio.Task[None] | None = None

    @property
    def is_on(self) -> bool:
        """Whether anything is kept."""
        return self._grace > 0

    # ---- what an earlier service has left

    def take_over(self) -> tuple[list[Orphan], Path | None, int | None]:
        """What is kept from an earlier service; its runtime directory, and the lock of that.

        Blocks. What an earlier version has kept, or what is not wanted, ends instead.
        """
        keeper = _connected(self._address)
        if keeper is None:
            return [], None, None
        keeper.settimeout(_PATIENCE)
        orphans: list[Orphan] = []
        estate: wire.Estate | None = None
        own: dict[str, int] = {}
        is_all = False
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            while not is_all and (received := wire.receive(keeper)) is not None:
                match received:
                    case wire.Estate() as left, fds:
                        estate, own = left, dict(zip(left.fds, fds, strict=True))
                    case wire.Keep(seat=seat, fds=names), fds:
                        orphans.append(_orphan(seat, dict(zip(names, fds, strict=True))))
                    case wire.ThatIsAll(), _:
                        is_all = True
        version = _content(own.pop(wire.TOLD)).decode() if wire.TOLD in own else None
        if is_all and estate is not None and version == __version__ and self.is_on:
            self._orders = keeper
            self._inherited = [prefix for prefix in estate.groups if has_groups(prefix)]
            return orphans, Path(estate.directories[0]), own[wire.LOCK]
        for orphan in orphans:
            orphan.close()
        for fd in own.values():
            os.close(fd)
        if is_all:
            log.warning("kernels_not_taken_over", count=len(orphans), version=version)
        _dismiss(keeper)
        return [], None, None

    # ---- what this service would leave

    def begin(self, runtime: RuntimeDirectory, groups: list[str]) -> None:
        """From here on there is something to leave; the keeper of an earlier service hears of it.

        `groups` are the beginnings of the paths of this service's control groups.
        """
        told = os.memfd_create("kernelsvc")
        os.write(told, __version__.encode())
        estate = wire.Estate(
            self._grace,
            str(self._address),
            [str(runtime.path)],
            [*self._inherited, *groups],
            [wire.TOLD, wire.LOCK],
        )
        self._estate = estate, [told, runtime.lock]
        if self._orders is not None:
            wire.send(self._orders, *self._estate)
            self._watch(self._orders)

    async def keep(
        self,
        seat: str,
        told: bytes,
        run: bytes | None,
        descriptors: Descriptors,
        about: object,
    ) -> Lifeline:
        """Have a seat kept, or kept anew; `told` and `run` are lines for the next service.

        Raises OSError where nobody can keep it.
        """
        file = os.memfd_create("kernelsvc-seat", os.MFD_CLOEXEC)
        try:
            line = told + b"\n"
            os.write(file, line if run is None else line + run + b"\n")
            # The keeper's duplicate is of the same file: what is written here, it holds.
            self._kept[seat] = lambda: {wire.TOLD: file, **descriptors()}
            async with self._lock:
                await self._hand(seat)
        except BaseException:
            self._kept.pop(seat, None)
            os.close(file)
            raise
        return Lifeline(self, seat, file, len(line), about)

    async def let_go(self, seat: str) -> None:
        """It need not be kept any more."""
        self._kept.pop(seat, None)
        async with self._lock:
            if self._orders is not None:
                with contextlib.suppress(OSError):
                    # One that has just gone holds it no more.
                    await self._send(wire.LetGo(seat), [])

    async def _hand(self, seat: str) -> None:
        """Hand a seat to the keeper; where there is none (any more), to a new one, with all."""
        if self._orders is not None:
            await self._send_seat(seat)
        else:
            await self._start()

    async def _start(self) -> None:
        """Start a keeper and hand it everything; raises OSError."""
        self._watch(await asyncio.to_thread(self._spawn))
        for seat in list(self._kept):
            # A host that has gone by now has nothing to be kept by.
            with contextlib.suppress(OSError):
                await self._send_seat(seat)

    def _watch(self, orders: socket.socket) -> None:
        orders.setblocking(False)
        self._orders = orders
        # It never says anything: what there is to read is its end.
        asyncio.get_running_loop().add_reader(orders, self._lose)

    def _lose(self) -> None:
        log.warning("keeper_lost")
        self._part()
        self._replacing = asyncio.create_task(self._replace())

    async def _replace(self) -> None:
        async with self._lock:
            if self._orders is None and self._kept:
                try:
                    await self._start()
                except OSError as error:
                    log.warning("keeper_not_replaced", reason=str(error))

    def _part(self) -> None:
        """Hang up on the keeper."""
        if self._orders is not None:
            asyncio.get_running_loop().remove_reader(self._orders)
            self._orders.close()
            self._orders = None

    async def _send_seat(self, seat: str) -> None:
        # Asked for just now: a pipe may have been closed, a kernel's host have gone meanwhile.
        fds = self._kept[seat]()
        await self._send(wire.Keep(seat, list(fds)), list(fds.values()))

    async def _send(self, message: wire.Message, fds: list[int]) -> None:
        orders = self._orders
        assert orders is not None
        while True:
            try:
                wire.send(orders, message, fds)
                return
            except BlockingIOError:
                # It is starting, or has much to do; it never waits for this service.
                await asyncio.to_thread(select.select, (), (orders,), (), _SEND_SECONDS)

    def _spawn(self) -> socket.socket:
        """Start a keeper; raises OSError. What is sent meanwhile waits in its socket."""
        assert self._estate is not None
        if self._process is not None:
            self._process.wait(_EXIT_SECONDS)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs, _awaited_at(self._address) as awaited:
                fds = [theirs.fileno(), awaited.fileno()]
                self._process = subprocess.Popen(
                    [*ARGV, *map(str, fds)],
                    pass_fds=fds,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                    cwd="/",
                    env={},
                )
            wire.send(ours, *self._estate)
        except BaseException:
            ours.close()
            raise
        return ours

    # ---- its end

    async def farewell(self) -> None:
        """This service ends in good order, and has ended everything that was kept."""
        if self._replacing is not None:
            await asyncio.wait({self._replacing})
        if self._orders is not None:
            asyncio.get_running_loop().remove_reader(self._orders)
            orders, self._orders = self._orders, None
            await asyncio.to_thread(_dismiss, orders)
        if self._process is not None:
            await asyncio.to_thread(self._process.wait, _EXIT_SECONDS)
        await asyncio.to_thread(remove_groups, self._inherited)
        self.hang_up()

    def hang_up(self) -> None:
        """Leave what is kept to the next service: this one could not be started."""
        self._part()
        if self._estate is not None:
            (told, *_), self._estate = self._estate[1], None
            os.close(told)


def _connected(address: Path) -> socket.socket | None:
    """A connection to the keeper that waits there; None where there is none."""
    connecting = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connecting.settimeout(_PATIENCE)
    try:
        with _short(address) as path:
            connecting.connect(path)
    except OSError:
        connecting.close()
        return None
    return connecting


@contextlib.contextmanager
def _awaited_at(address: Path) -> Iterator[socket.socket]:
    """A socket that listens there, in the place of one that nobody listens on any more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as awaited, _short(address) as path:
        address.unlink(missing_ok=True)
        awaited.bind(path)
        address.chmod(0o600)
        awaited.listen(_BACKLOG)
        yield awaited


@contextlib.contextmanager
def _short(address: Path) -> Iterator[str]:
    """A path to the same that is short enough for a socket, however deep its directory is."""
    directory = os.open(address.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{address.name}"
    finally:
        os.close(directory)


def _dismiss(keeper: socket.socket) -> None:
    """Have the keeper end all that it holds, and wait until it is gone."""
    with keeper, contextlib.suppress(OSError):
        keeper.settimeout(_EXIT_SECONDS)
        wire.send(keeper, wire.Farewell(), [])
        keeper.recv(1)


def _orphan(seat: str, fds: dict[str, int]) -> Orphan:
    told, _, run = _content(fds.pop(wire.TOLD)).partition(b"\n")
    return Orphan(seat, told, run[:-1] if run.endswith(b"\n") else None, fds)


def _content(file: int) -> bytes:
    """All of a file in memory, which is closed."""
    with os.fdopen(file, "rb") as reading:
        reading.seek(0)
        return reading.read()
