"""The zygote: the process that the kernel hosts of sandboxes are forked from.

Theory of operation. An interpreter that imports what a kernel needs takes a third of a second and
some 30 MiB. The zygote does it once for a service: outside of every sandbox, where no session's
code is, it imports and then waits for orders. For each it forks, and the fork goes into a sandbox
that has been made and stands empty (`join`), where it is the kernel host. So a host costs
milliseconds, and all hosts and kernels share the pages that they do not write to. What else is done
inside of sandboxes from outside (`annex`) is done by a fork of it, too.

The zygote runs nothing that comes from a session and hears nobody but the service. What it gives
all sandboxes alike is the layout of memory and the seed of Python's hashes.
"""

import contextlib
import os
import signal
import socket
import traceback
from collections.abc import Callable
from typing import NoReturn

from kernelsvc.kernel_host import wire
from kernelsvc.kernel_host.annex import open_annex
from kernelsvc.kernel_host.join import MAX_FILTER_BYTES, SYS_CHROOT, enter, lock_down
from kernelsvc.kernel_host.processes import adopt_orphans, set_name

READY = b"ready"
_MOST_FDS = len(wire.FDS)

RunHost = Callable[[socket.socket, socket.socket, int | None], None]
"""Serves a control socket, and one for `DIAL`, until it is hung up, with the descriptor for the
offer to a proxy."""


class Zygote:
    """Serves one socket of orders; `run_host` is what a fork does in its sandbox."""

    def __init__(self, orders: socket.socket, run_host: RunHost) -> None:
        self._orders = orders
        self._run_host = run_host

    def serve(self) -> None:
        """Carry out orders until the service hangs up; then stay for as long as a host does.

        They may outlive the service. Process 1 of a sandbox ends when each process in it has been
        collected, and their parent is here: who else would be is not known to do that.
        """
        set_name("kernel-zygote")
        # The forks that go on as hosts stay below this process. Nobody waits for their end: the
        # service hears of it by itself.
        adopt_orphans()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        self._orders.send(READY)
        while True:
            order, fds, _, _ = socket.recv_fds(self._orders, wire.MAX_LINE_BYTES, _MOST_FDS)
            if not order:
                break
            command = wire.decode(order)
            try:
                if os.fork() == 0:
                    self._carry_out(command, fds)
            except OSError as error:
                # The service hears that nobody has the socket any more, and reads why.
                os.write(fds[1], f"{error}\n".encode())
            finally:
                for fd in fds:
                    os.close(fd)
        self._orders.close()
        with contextlib.suppress(ChildProcessError):
            # Returns when none is left, as ends of children are ignored.
            os.wait()

    def _carry_out(self, command: wire.Command | wire.Report, fds: list[int]) -> NoReturn:
        """In a fork: what it was forked for."""
        code = 1
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._orders.close()
            service, stderr, *others = fds
            os.dup2(stderr, 2)
            os.close(stderr)
            match command:
                case wire.ForkHost():
                    self._become_host(command, service, *others)
                case wire.OpenAnnex():
                    open_annex(command, service, *others)
            code = 0
        except BaseException:  # noqa: BLE001  # nothing of the zygote's own may run in a fork
            traceback.print_exc()
        finally:
            os._exit(code)

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
