"""The caretaker: holds the lifelines of a service's kernels, so that they outlive it.

Theory of operation. A kernel's sandbox ends when the service hangs up on it: on its process 1, on
its kernel host, on its proxy. The service has this process hold duplicates of its own ends of those
sockets, for each session whose kernel has its memory, and a file in memory of what it knows of that
seat, which it keeps up to date by writing to it. So nothing is hung up on when the service is
killed. What nobody has asked to keep ends with it, as kernels do that wait for a session.

The next service connects to the socket on which it is awaited, is handed all of it, and gives the
orders from then on, as if it had been there from the beginning: if that one is killed as well, half
way through perhaps, everything is here still. Where none comes within the grace, all ends.

This process is outside of every sandbox and forks nothing. It does not look at what passes through
its hands, imports nothing else of the service, and hears nobody but a process of its own user on a
socket in the service's own directory. It is none of the zygote's business: what is forked into a
sandbox must not have other sandboxes' lifelines, nor ever have had the keys of their kernels in its
memory.
"""

import contextlib
import os
import resource
import select
import signal
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from kernelsvc.caretaker import wire
from kernelsvc.caretaker.clearing import end_processes, remove_directories, remove_groups

_HAND_OVER_SECONDS = 10.0
_DRAIN_BYTES = 65536
_CREDENTIALS = struct.Struct("3i")


@dataclass
class _Held:
    """Descriptors by their names."""

    fds: dict[str, int]

    def close(self) -> None:
        for fd in self.fds.values():
            os.close(fd)
        self.fds = {}

    def named(self, names: frozenset[str]) -> list[int]:
        return [fd for name, fd in self.fds.items() if name in names]


class Caretaker:
    """Obeys `orders` until the service hangs up, then waits for the next one on `awaited`."""

    def __init__(self, orders: socket.socket, awaited: socket.socket) -> None:
        self._orders = orders
        self._awaited = awaited
        self._estate: tuple[wire.Estate, _Held] | None = None
        self._seats: dict[str, _Held] = {}

    def serve(self) -> None:
        """Until a service has said farewell, or nothing is left that one could come for."""
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        # Ctrl-C and the like are for the service.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        while not self._obey() and self._seats and self._wait_for_the_next():
            pass
        self._clear_away()

    def _obey(self) -> bool:
        """Carry out orders; whether a farewell has ended them, not just a hanging up."""
        while True:
            try:
                received = wire.receive(self._orders)
            except ConnectionError:
                received = None
            match received:
                case None:
                    return False
                case wire.Farewell(), _:
                    return True
                case wire.Estate() as estate, fds:
                    held = _Held(dict(zip(estate.fds, fds, strict=True)))
                    before, self._estate = self._estate, (estate, held)
                    if before is not None:
                        before[1].close()
                case wire.Keep(seat=seat, fds=names), fds:
                    self._let_go(seat)
                    self._seats[seat] = _Held(dict(zip(names, fds, strict=True)))
                case wire.LetGo(seat=seat), _:
                    self._let_go(seat)

    def _let_go(self, seat: str) -> None:
        if (held := self._seats.pop(seat, None)) is not None:
            held.close()

    def _wait_for_the_next(self) -> bool:
        """Whether a service has come, and has everything now."""
        if self._estate is None:
            return False
        deadline = time.monotonic() + self._estate[0].grace
        poll = select.poll()
        poll.register(self._awaited, select.POLLIN)
        for held in self._seats.values():
            for fd in held.named(wire.DRAINED):
                poll.register(fd, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            for fd, _ in poll.poll(left * 1000):
                if fd != self._awaited.fileno():
                    if not _drain(fd):
                        poll.unregister(fd)
                elif self._hand_over():
                    return True
        return False

    def _hand_over(self) -> bool:
        """Give everything to who has connected; what it gets are duplicates."""
        assert self._estate is not None
        coming, _ = self._awaited.accept()
        with contextlib.ExitStack() as undo:
            undo.callback(coming.close)
            coming.settimeout(_HAND_OVER_SECONDS)
            if _user_of(coming) != os.getuid():
                return False
            try:
                estate, held = self._estate
                wire.send(coming, estate, list(held.fds.values()))
                for seat, held in self._seats.items():
                    wire.send(coming, wire.Keep(seat, list(held.fds)), list(held.fds.values()))
                wire.send(coming, wire.ThatIsAll(), [])
            except OSError:
                return False
            undo.pop_all()
        coming.settimeout(None)
        self._orders.close()
        self._orders = coming
        return True

    def _clear_away(self) -> None:
        """End what is held, and remove what the service would have removed."""
        if self._estate is None:
            return
        estate, own = self._estate
        # Before it is hung up on: who finds nobody there makes an address of its own.
        with contextlib.suppress(OSError):
            Path(estate.address).unlink()
        self._awaited.close()
        firsts, others = [], []
        for held in self._seats.values():
            processes = {name: fd for name, fd in held.fds.items() if name in wire.PROCESSES}
            for name, fd in held.fds.items():
                if name not in processes:
                    os.close(fd)
            firsts += [fd for name, fd in processes.items() if name == "first"]
            others += [fd for name, fd in processes.items() if name != "first"]
        end_processes(firsts, others)
        remove_groups(estate.groups)
        remove_directories(estate.directories)
        own.close()


def _drain(fd: int) -> bool:
    """Read what is there, to drop it; whether more may come."""
    try:
        return bool(os.read(fd, _DRAIN_BYTES))
    except BlockingIOError:
        return True
    except OSError:
        return False


def _user_of(connected: socket.socket) -> int:
    """Who has connected, as the system says."""
    said = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(said)
    return int(user)
