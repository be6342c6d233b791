"""The service's end of the caretaker (`kernelsvc.caretaker`): what is to outlive this service.

What it holds of a seat are descriptors, and one of them is a file in memory with two lines: who and
what is there (`kernels.inheritance`), and the run that was begun last. The second is written anew
at the beginning of each run, before the kernel hears of it; that costs two system calls and no word
to anybody. A line that has no end was not written to its end, and what it tells of was not begun.
"""

import asyncio
import contextlib
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

from kernelsvc import __version__
from kernelsvc.caretaker import wire
from kernelsvc.caretaker.clearing import remove_groups
from kernelsvc.kernels.orphans import ADDRESS, LEFT, Left, Orphan, dismiss, short
from kernelsvc.kernels.runtime import RuntimeDirectory

ARGV = (sys.executable, "-s", "-P", "-m", "kernelsvc.caretaker")
_EXIT_SECONDS = 30.0
_SEND_SECONDS = 5.0
_BACKLOG = 8
_SOON_SECONDS = 5.0
_MOST_LOST = 3

Descriptors = Callable[[], dict[str, int]]

log = structlog.get_logger()


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

    def note_left(self) -> None:
        """Its session has left the seat, in which live copies are; no run begins there any more."""
        self.note_run(LEFT)

    def outdate(self) -> None:
        """What is told of the kernel is true no more: it is to be kept anew."""
        self.about = None

    def replaced(self) -> None:
        """Another one stands in its place."""
        os.close(self._told)

    async def let_go(self) -> None:
        """The seat is about to go."""
        os.close(self._told)
        await self._keeping.let_go(self._seat)


class Keeping:
    """Begun by `begin`, ended by `farewell` or `hang_up`.

    `directory` is the service's own, in which a next service finds the caretaker; `grace` is how
    many seconds that waits for one. With 0 nothing is kept. `left` is what an earlier service has
    left, whose caretaker is this one's from here on.
    """

    def __init__(self, directory: Path, grace: float, left: Left | None = None) -> None:
        self._address = directory / ADDRESS
        self._grace = grace
        self._orders = left.caretaker if left else None
        self._inherited = left.groups if left else []
        self._process: subprocess.Popen[bytes] | None = None
        self._estate: tuple[wire.Estate, list[int]] | None = None
        self._kept: dict[str, Descriptors] = {}
        self._lock = asyncio.Lock()
        self._replacing: asyncio.Task[None] | None = None
        self._begun_at = 0.0
        self._lost_soon = 0

    @property
    def is_on(self) -> bool:
        """Whether anything is kept."""
        return self._grace > 0

    def resume(self, orphan: Orphan, file: int, descriptors: Descriptors) -> Lifeline:
        """The lifeline of what has been taken over, until it is kept anew; `file` tells of it."""
        self._kept[orphan.seat] = lambda: {wire.TOLD: file, **descriptors()}
        return Lifeline(self, orphan.seat, file, len(orphan.told) + 1, None)

    # ---- what this service would leave

    def begin(self, runtime: RuntimeDirectory, groups: list[str]) -> None:
        """From here on there is something to leave; a caretaker that is there hears of it.

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
            # The caretaker's duplicate is of the same file: what is written here, it holds.
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
        """Hand a seat to the caretaker; where there is none (any more), to a new one, with all."""
        if self._orders is not None:
            await self._send_seat(seat)
        else:
            await self._start()

    async def _start(self) -> None:
        """Start a caretaker and hand it everything; raises OSError."""
        self._watch(await asyncio.to_thread(self._spawn))
        for seat in list(self._kept):
            # A host that has gone by now has nothing to be kept by.
            with contextlib.suppress(OSError):
                await self._send_seat(seat)

    def _watch(self, orders: socket.socket) -> None:
        orders.setblocking(False)
        self._orders, self._begun_at = orders, time.monotonic()
        # It never says anything: what there is to read is its end.
        asyncio.get_running_loop().add_reader(orders, self._lose)

    def _lose(self) -> None:
        log.warning("caretaker_lost")
        self._part()
        is_soon = time.monotonic() < self._begun_at + _SOON_SECONDS
        self._lost_soon = self._lost_soon + 1 if is_soon else 0
        # One that cannot live here is tried again when there is something more to keep.
        if self._lost_soon < _MOST_LOST:
            self._replacing = asyncio.create_task(self._replace())

    async def _replace(self) -> None:
        async with self._lock:
            if self._orders is None and self._kept:
                try:
                    await self._start()
                except OSError as error:
                    log.warning("caretaker_not_replaced", reason=str(error))

    def _part(self) -> None:
        """Hang up on the caretaker."""
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
                if not await asyncio.to_thread(_has_room, orders):
                    raise TimeoutError("the caretaker takes nothing") from None

    def _spawn(self) -> socket.socket:
        """Start a caretaker; raises OSError. What is sent meanwhile waits in its socket."""
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
            await asyncio.to_thread(dismiss, orders)
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


@contextlib.contextmanager
def _awaited_at(address: Path) -> Iterator[socket.socket]:
    """A socket that listens there, in the place of one that nobody listens on any more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as awaited, short(address) as path:
        address.unlink(missing_ok=True)
        awaited.bind(path)
        address.chmod(0o600)
        awaited.listen(_BACKLOG)
        yield awaited


def _has_room(orders: socket.socket) -> bool:
    """Whether something can be sent, within a while; blocks."""
    poll = select.poll()
    poll.register(orders, select.POLLOUT)
    return bool(poll.poll(_SEND_SECONDS * 1000))
