"""An annex of a sandbox: a root directory in it, for a kernel that is a copy of one inside.

Theory of operation. A process cannot leave its sandbox, and neither can its fork: to join another's
namespaces takes rights that no kernel has. So a copy of a kernel stays in the sandbox of the kernel
that it was forked from, but it has the directories of its own session in place of the other's. A
sandbox has been made for that session, too; in it the copy's successors will be. Of that one's
directories the annex is made: a process that joins the copy's session first takes hold of them, a
second one goes into the sandbox of the kernel, gets a view of the file system of its own, in which
it mounts them in place of those that are there, and waits. Whoever changes its root directory to
that of the process (`/proc/PID/root`), which kernels may, has left the one session's files for the
other's.

The process has no rights, and nothing to hide. The view lasts as long as it does, and that is until
the service hangs up on it, or the sandbox ends.

`python -m kernelsvc.kernel_host.annex FD` serves the orders of the zygote's that come over the
socket FD: three forks open an annex, so they are to be of a process that has imported little.
"""

import ctypes
import os
import socket
import sys

from kernelsvc.kernel_host import wire
from kernelsvc.kernel_host.join import (
    MAX_FILTER_BYTES,
    become_user,
    check,
    enter_as_master,
    lock_down,
)
from kernelsvc.kernel_host.orders import Orders
from kernelsvc.kernel_host.processes import LIBC, hide, set_name

_OPEN_TREE = 428
_MOVE_MOUNT = 429
"""These system calls have the same numbers everywhere; the C library may lack them."""
_HERE = -100  # AT_FDCWD
_WITH_ALL_BELOW = 0x8000  # AT_RECURSIVE
_COPY = 1  # OPEN_TREE_CLONE
_AT_THE_DESCRIPTOR = 4  # MOVE_MOUNT_F_EMPTY_PATH
_DETACH = 2  # MNT_DETACH
_NEW_MOUNTS = 0x20000  # CLONE_NEWNS


class Annexes(Orders):
    """Opens annexes."""

    def carry_out(self, command: wire.Command | wire.Report, service: int, *others: int) -> None:
        """Open one."""
        assert isinstance(command, wire.OpenAnnex)
        _open_annex(command, service, *others)


def _open_annex(command: wire.OpenAnnex, held: int, sandbox: int, other: int, seccomp: int) -> None:
    """Have a process wait in `sandbox` with the directories of the sandbox `other`; raises OSError.

    `AnnexOpened` over the socket `held` is the answer; when that is hung up, the process ends.
    """
    program = os.pread(seccomp, MAX_FILTER_BYTES, 0)
    taken = _begin_to_take_hold(command, other)
    enter_as_master(sandbox, command.owner)
    # Only what is forked now is in the sandbox's namespace of processes.
    if os.fork() > 0:
        return
    check("unshare", LIBC.unshare(_NEW_MOUNTS))
    directories = _receive(taken, len(command.directories))
    for path, directory in zip(command.directories, directories, strict=True):
        _mount(directory, path)
    become_user(sandbox)
    lock_down(program)
    set_name("annex")
    hide(False)
    os.setsid()
    os.chdir("/")
    # Nothing that it might say would be read.
    os.dup2(1, 2)
    for fd in (*directories, sandbox, other, seccomp):
        os.close(fd)
    with socket.socket(fileno=held) as service:
        service.send(wire.encode(wire.AnnexOpened(os.getpid())))
        service.recv(1)


def _begin_to_take_hold(command: wire.OpenAnnex, other: int) -> socket.socket:
    """The socket over which copies of the mounts come that the other sandbox has at these paths."""
    ours, theirs = socket.socketpair()
    with theirs:
        if os.fork() > 0:
            return ours
        try:
            enter_as_master(other, command.owner)
            socket.send_fds(theirs, [b"-"], [_copy_of(path) for path in command.directories])
        finally:
            os._exit(0)


def _receive(taken: socket.socket, count: int) -> list[int]:
    """Their descriptors; raises OSError."""
    with taken:
        _, fds, _, _ = socket.recv_fds(taken, 1, count)
    if len(fds) < count:
        raise OSError("the directories of the other session are not to be had")
    return fds


def _copy_of(path: str) -> int:
    flags = _COPY | _WITH_ALL_BELOW | os.O_CLOEXEC
    fd = LIBC.syscall(_OPEN_TREE, _HERE, path.encode(), ctypes.c_uint(flags))
    check("open_tree", min(fd, 0))
    return int(fd)


def _mount(directory: int, path: str) -> None:
    """In place of what is there: on top of it, it would go when the directory below is deleted."""
    to = (_HERE, path.encode())
    check("umount", LIBC.umount2(path.encode(), _DETACH))
    check("move_mount", LIBC.syscall(_MOVE_MOUNT, directory, b"", *to, _AT_THE_DESCRIPTOR))


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as orders:
        Annexes(orders, "annex-opener").serve()
