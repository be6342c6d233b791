"""What a snapshot does: it waits, and then it is the kernel.

Theory of operation. What waits must hold nothing that the world could notice. A socket or a pipe
that the code closes has to be closed, so the child lets go of all but files at once (`inherited`).
It is the leader of a session of its own, which no signal to the kernel's process group reaches, and
the system prefers to kill the kernel where memory runs out.

It tells the host of itself over a socket that the kernel has from it (`keeper` is the other end),
with the system's word for who it is, and sends along one end of a pair over which it is told what
to be. When that is hung up, it ends: so it never outlives the host.

One that is told to be the kernel leaves another in its place before it does anything else: a fork
of it is what is to be restored next, and the kernel's first pages are not copied twice. A copy
(`wire.CopySnapshot`) waits a second time, until it is known where it is to be.
"""

import contextlib
import errno
import json
import os
import select
import signal
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kernelsvc.kernel_host import children, own_threads, processes
from kernelsvc.kernel_host.inherited import Descriptors
from kernelsvc.kernel_host.interrupts import drop_signals

OOM_SCORE = 100
ORPHAN_SECONDS = 5.0
_MAX_ORDER_BYTES = 1 << 16
_MOST_FDS = 2

os_exit = os._exit

Counts = dict[str, int]
"""How many there are of what a snapshot has not, by what people call it."""


@dataclass(frozen=True)
class Order:
    """To be the kernel that serves the connection in `connection_file`.

    The host is told over `told` when it does, of snapshots over `host`; the latest one's number is
    `number`. `successor` is the process that waits in its place; None where there is none.
    """

    connection_file: str
    reseed: bool
    told: socket.socket
    host: socket.socket
    number: int
    successor: int | None


class Waiting:
    """A snapshot, in its own process, of the memory after `run`, which is the `number`th.

    The host has the process `host_pid`, and `host` leads to it.
    """

    def __init__(
        self, run: str, number: int, host: socket.socket, host_pid: int, descriptors: Descriptors
    ) -> None:
        self._run = run
        self._number = number
        self._host = host
        self._host_pid = host_pid
        self._descriptors = descriptors
        self._without: Counts = {}
        self._reseed = False

    def begin(
        self,
        kernel: int,
        without: Counts,
        prepare: Callable[[], set[int]],
        ours: socket.socket,
        theirs: socket.socket,
    ) -> Order:
        """Wait to be the kernel, or end where it is not to be.

        `kernel` is the process that it was forked from, `without` what that one found it has not.
        `prepare` is called before it lets go of its descriptors, and returns those to keep.
        """
        try:
            self._settle()
            keep = prepare() | {one.fileno() for one in (self._host, ours, theirs)}
            found = self._descriptors.let_go(keep)
            self._without = {**without, **found, "child process": _children_of(kernel)}
            order = self._wait(ours, theirs)
            self._descriptors.keep_for_code()
            self._stay_with_host()
            processes.set_name("kernel")
            processes.set_oom_score(processes.KERNEL_OOM_SCORE)
        except BaseException:  # noqa: BLE001  # nothing of the kernel's may run twice
            traceback.print_exc()
            os_exit(1)
        return order

    def _wait(self, ours: socket.socket, theirs: socket.socket) -> Order:
        while True:
            what, told = self._hear(ours, theirs)
            self._reseed = self._reseed or what.get("reseed", False)
            self._number += 1
            successor = None
            drop_signals()
            with contextlib.suppress(OSError):
                successor, _, (ours, theirs) = fork()
            if successor != 0:
                file = what["connection_file"]
                return Order(file, self._reseed, told, self._host, self._number, successor)
            told.close()
            self._settle()

    def _hear(
        self, ours: socket.socket, theirs: socket.socket
    ) -> tuple[dict[str, Any], socket.socket]:
        """Wait for the order to be the kernel; and the socket over which to tell the host."""
        said = {"run": self._run, "number": self._number, "without": _in_words(self._without)}
        socket.send_fds(self._host, [json.dumps(said).encode()], [theirs.fileno()])
        theirs.close()
        while True:
            order, fds, _, _ = socket.recv_fds(ours, _MAX_ORDER_BYTES, _MOST_FDS)
            what = _understood(order)
            if "copy" not in what:
                return what, ours
            copied = [socket.socket(fileno=fd) for fd in fds]
            before = None
            # Where there can be no more processes, the host finds that nobody has the sockets.
            with contextlib.suppress(OSError):
                before = self._fork_copy()
            if before is not None:
                ours.close()
                return self._hear_as_copy(before, *copied)
            for one in copied:
                one.close()

    def _fork_copy(self) -> int | None:
        """Fork what is to be a kernel, an orphan soon, which the host adopts.

        None; in the copy, a descriptor of the parent that it is about to lose.
        """
        if (between := os.fork()) > 0:
            os.waitpid(between, 0)
            return None
        try:
            before = os.pidfd_open(os.getpid())
            copy = os.fork()
        except OSError:
            os_exit(1)
        if copy > 0:
            os_exit(0)
        return before

    def _hear_as_copy(
        self, before: int, told: socket.socket, host: socket.socket
    ) -> tuple[dict[str, Any], socket.socket]:
        """In a copy: be told in which root directory to be the kernel, and go there.

        `host` is where its own snapshots are told. Its parent is the host's process when the one
        `before` has ended.
        """
        os.setsid()
        self._settle()
        # The other one's, which more than this object has.
        self._host.close()
        self._host = host
        select.select([before], [], [], ORPHAN_SECONDS)
        os.close(before)
        self._stay_with_host()
        told.send(b"[]")
        what = _understood(told.recv(_MAX_ORDER_BYTES))
        self._without = {**self._without, **self._descriptors.move(what["root"])}
        told.send(json.dumps(_in_words(self._without)).encode())
        return what, told

    def _settle(self) -> None:
        processes.set_name("snapshot")
        processes.set_oom_score(OOM_SCORE)

    def _stay_with_host(self) -> None:
        processes.die_with_parent()
        if os.getppid() != self._host_pid:
            os_exit(1)


def fork() -> tuple[int, range, tuple[socket.socket, socket.socket]]:
    """What os.fork() returns, and a pair of sockets that the child has alone; raises OSError.

    In between are the ids that the system has given, to the child and the kernel's own threads.
    Called with signals held back.
    """
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child, begun = -1, 0
    try:
        own_threads.pause()
        child = os.fork()
    finally:
        if child == 0:
            # No signal to the kernel's process group comes from here on.
            os.setsid()
            drop_signals()
        else:
            begun = own_threads.go_on()
            for one in pair:
                one.close()
            if child > 0 and not own_threads.are_there():
                # It has the place of one of them.
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                own_threads.go_on()
                raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return child, range(child, child + 1 + begun), pair


def _understood(order: bytes) -> dict[str, Any]:
    """What the host says; ends the process where it has hung up."""
    if not order:
        os_exit(0)
    what: dict[str, Any] = json.loads(order)
    return what


def _children_of(kernel: int) -> int:
    """How many child processes the kernel has, this one and other snapshots left out.

    None where it has gone: they are the host's by now.
    """
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{kernel}/task"):
            with open(f"/proc/{kernel}/task/{thread}/children") as file:
                found.update(map(int, file.read().split()))
    return len(found - children.hidden() - {os.getpid()})


def _in_words(counts: Counts) -> list[str]:
    """As people say it: 1 thread, 2 child processes."""
    return [
        f"{count} {what}{'' if count == 1 else 'es' if what.endswith('s') else 's'}"
        for what, count in counts.items()
        if count > 0
    ]
