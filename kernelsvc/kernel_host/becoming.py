"""How a fork of the kernel host becomes a kernel, or another program."""

import contextlib
import os
import resource
import signal
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from kernelsvc.kernel_host import processes, wire

SPARE_DESCRIPTORS = 64

os_exit = os._exit
"""The code may put another in its place; this one does not return."""

RunKernel = Callable[[list[str], str, Callable[[int | None], None], socket.socket], int]
"""Serves a kernel of an adapter (none: Python) on a connection file until it ends.

It calls back once its sockets are bound, with the process that does the work where that is another,
and tells of its snapshots over the socket.
"""


def become_kernel(
    command: wire.StartKernel,
    run_kernel: RunKernel,
    environment: dict[str, str],
    leave: Callable[[], socket.socket],
    ready: int,
    host: int,
) -> NoReturn:
    """Be the kernel, with this environment added to its own, until it ends.

    `leave` frees what is the host's and is called once; it returns the socket to the keeper. To
    `ready` is written when it is, and which process does the work. `host` is the host's process.
    """
    code = 1
    try:
        os.setsid()
        processes.die_with_parent()
        if os.getppid() != host:
            os_exit(1)
        keeper = leave()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        processes.set_name("kernel")
        processes.hide(False)
        if command.connection_file:
            write_anew(command.connection_file, command.connection)
        os.chdir(command.cwd)
        os.environ.clear()
        os.environ.update(command.env | environment)
        # Our own kernel writes a few files as it starts: how large one may be is for its code.
        is_ours = not (command.argv or command.adapter)
        for_code = {"FSIZE"} & command.limits.keys() if is_ours else set()
        _limit({name: command.limits[name] for name in command.limits.keys() - for_code})
        if command.argv:
            _become_program(command.argv, command.output)

        def announce(worker: int | None) -> None:
            _limit({name: command.limits[name] for name in for_code})
            os.write(ready, str(worker or os.getpid()).encode())
            os.close(ready)

        code = run_kernel(command.adapter, command.connection_file, announce, keeper)
    except Exception:  # noqa: BLE001  # what the child would have died of
        traceback.print_exc()
    finally:
        os_exit(code & 0xFF)


def _become_program(argv: list[str], output: str) -> NoReturn:
    """Be this program from here on, with nothing of the host's; says why where it cannot be."""
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            os.set_inheritable(int(descriptor), int(descriptor) <= 2)
    for signum in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(signum, signal.SIG_DFL)
    own_stderr = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    written = os.open(output or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(written, 1)
    os.dup2(written, 2)
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        os.write(own_stderr, f"{argv[0]}: {error.strerror}\n".encode())
        os_exit(processes.NOT_EXECUTABLE)


def write_anew(path: str, text: str) -> None:
    """Write a file that only this user reads, whatever an earlier kernel has left at its path."""
    with contextlib.suppress(FileNotFoundError):
        Path(path).unlink()
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _limit(limits: dict[str, int]) -> None:
    """Limit this process and those it will start; where memory runs out, they go first."""
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        most = resource.getrlimit(kind)[1]
        spare = SPARE_DESCRIPTORS if name == "NOFILE" else 0
        bound = value + spare if most == resource.RLIM_INFINITY else min(value + spare, most)
        resource.setrlimit(kind, (bound - spare, bound))
    processes.set_oom_score(processes.KERNEL_OOM_SCORE)
