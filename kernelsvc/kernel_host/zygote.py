"""The zygote: the process that the kernel hosts of sandboxes are forked from.

Theory of operation. An interpreter that imports what a kernel needs takes a third of a second and
some 30 MiB. The zygote does it once for a service: outside of every sandbox, where no session's
code is, it imports and then waits for orders. For each it forks, and the fork goes into a sandbox
that has been made and stands empty (`join`), where it is the kernel host. So a host costs
milliseconds, and all hosts and kernels share the pages that they do not write to. What the zygote
gives all sandboxes alike is the layout of memory and the seed of Python's hashes.

What else is done inside of sandboxes from outside (`annex`) needs none of what it has imported: it
passes that on to a process of its own, whose forks cost a third as much.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Callable

from kernelsvc.kernel_host import wire
from kernelsvc.kernel_host.join import MAX_FILTER_BYTES, SYS_CHROOT, enter, lock_down
from kernelsvc.kernel_host.orders import Orders

READY = b"ready"
_OPENER = (sys.executable, "-s", "-P", "-m", "kernelsvc.kernel_host.annex")

RunHost = Callable[[socket.socket, socket.socket, int | None], None]
"""Serves a control socket, and one for `DIAL`, until it is hung up, with the descriptor for the
offer to a proxy."""


class Zygote(Orders):
    """`run_host` is what a fork does in its sandbox."""

    def __init__(self, orders: socket.socket, run_host: RunHost) -> None:
        super().__init__(orders, "kernel-zygote")
        self._run_host = run_host
        self._start_opener()

    def _start_opener(self) -> None:
        """Start the process that opens annexes; the orders for it go over the socket."""
        self._annexes, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # Kept: one that is forgotten while it runs, `subprocess` would wait for by its number
            # in the forks, where that is another's.
            self._opener = subprocess.Popen(
                [*_OPENER, str(theirs.fileno())], pass_fds=[theirs.fileno()]
            )

    def serve(self) -> None:
        """Carry out orders until the service hangs up; then stay for as long as a host does."""
        self._orders.send(READY)
        super().serve()

    def close(self) -> None:
        """Free what only who takes orders needs; the process for annexes ends with its last."""
        super().close()
        self._annexes.close()

    def take(self, order: bytes, fds: list[int]) -> None:
        """Have a fork carry it out, of this process or of the one for annexes; raises OSError."""
        if not isinstance(wire.decode(order), wire.OpenAnnex):
            super().take(order, fds)
            return
        try:
            socket.send_fds(self._annexes, [order], fds)
        except OSError:
            # It has been killed.
            self._annexes.close()
            self._start_opener()
            socket.send_fds(self._annexes, [order], fds)

    def carry_out(self, command: wire.Command | wire.Report, service: int, *others: int) -> None:
        """Be a host."""
        assert isinstance(command, wire.ForkHost)
        self._become_host(command, service, *others)

    def _become_host(
        self,
        command: wire.ForkHost,
        control: int,
        sandbox: int,
        seccomp: int,
        dial: int,
        offer: int | None = None,
    ) -> None:
        program = os.pread(seccomp, MAX_FILTER_BYTES, 0)
        enter(sandbox, command.owner, command.groups)
        os.close(sandbox)
        os.close(seccomp)
        # Only what is forked now is in the sandbox's namespace of processes.
        if (pid := os.fork()) == 0:
            # A copy of a kernel leaves the files of the other session by it (`annex`).
            lock_down(program, keep=SYS_CHROOT)
            os.setsid()
            os.chdir("/")
            with socket.socket(fileno=control) as service, socket.socket(fileno=dial) as dials:
                self._run_host(service, dials, offer)
        else:
            os.write(control, wire.encode(wire.HostForked(pid)))
