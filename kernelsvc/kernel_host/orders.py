"""A process that has a fork of itself carry out each order that comes over a socket.

Theory of operation. It runs nothing that comes from a session, and hears nobody but who started it.
When that hangs up it takes no more orders, but stays for as long as one of its forks does: process
1 of a sandbox ends when each process in it has been collected, and the parent of those that the
forks leave there is here. Who else would be is not known to do that.
"""

import contextlib
import os
import signal
import socket
import traceback
from abc import ABC, abstractmethod
from typing import NoReturn

from kernelsvc.kernel_host import wire
from kernelsvc.kernel_host.processes import adopt_orphans, set_name

_MOST_FDS = len(wire.FDS)


class Orders(ABC):
    """Serves one socket of orders, as a process called `name`."""

    def __init__(self, orders: socket.socket, name: str) -> None:
        self._orders = orders
        self._name = name

    @abstractmethod
    def carry_out(self, command: wire.Command | wire.Report, service: int, *others: int) -> None:
        """In a fork, which ends then: the descriptor `service` is of a socket to answer over."""

    def serve(self) -> None:
        """Carry out orders; returns when nobody gives any, and all have been carried out."""
        set_name(self._name)
        # The forks that go on stay below this process. Nobody waits for their end: who ordered
        # them hears of it by itself.
        adopt_orphans()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            order, fds, _, _ = socket.recv_fds(self._orders, wire.MAX_LINE_BYTES, _MOST_FDS)
            if not order:
                break
            try:
                self.take(order, fds)
            except OSError as error:
                # Who ordered hears that nobody has the socket any more, and reads why.
                os.write(fds[1], f"{error}\n".encode())
            finally:
                for fd in fds:
                    os.close(fd)
        self.close()
        with contextlib.suppress(ChildProcessError):
            # Returns when none is left, as ends of children are ignored.
            os.wait()

    def close(self) -> None:
        """Free what only who takes orders needs."""
        self._orders.close()

    def take(self, order: bytes, fds: list[int]) -> None:
        """Have a fork carry it out; raises OSError."""
        command = wire.decode(order)
        if os.fork() == 0:
            self._carry_out(command, fds)

    def _carry_out(self, command: wire.Command | wire.Report, fds: list[int]) -> NoReturn:
        code = 1
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self.close()
            service, stderr, *others = fds
            os.dup2(stderr, 2)
            os.close(stderr)
            self.carry_out(command, service, *others)
            code = 0
        except BaseException:  # noqa: BLE001  # nothing of the process's own may run in a fork
            traceback.print_exc()
        finally:
            os._exit(code)
