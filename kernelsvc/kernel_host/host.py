"""The kernel host: a small single-threaded parent that forks the kernel and cleans up behind it.

A kernel may also be a program of its own, and so may what is no kernel: the fork becomes it.

Theory of operation. The host has imported ipykernel and holds no thread, no loop and no ZeroMQ
context, so forking it is safe and costs milliseconds instead of an interpreter's start. It is a
child subreaper: whatever the user's code starts, however often it forks and whether or not it calls
`setsid`, stays its descendant and is found again. When the kernel ends, for whatever reason, the
host kills every descendant that is left and only then reports the exit; so once `KernelExited` has
been read, nothing of that kernel is alive. When the service hangs up (it ended, or it is done with
this host) the host does the same and leaves. The kernel in turn gets SIGKILL when its host dies.

In a sandbox there is nobody but process 1, which only waits, the host and what the kernel started:
so the host ends all others at once. The user's code cannot look into it. It can stop or kill it, as
it can its own kernel: without a host, the service ends the sandbox.
"""

import contextlib
import os
import resource
import select
import selectors
import signal
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from kernelsvc.kernel_host import processes, wire
from kernelsvc.kernel_host.dial import answer_dial

SWEEP_SECONDS = 10.0
OOM_SCORE = 500
SPARE_DESCRIPTORS = 64

RunKernel = Callable[[list[str], str, Callable[[int | None], None]], int]
"""Serves a kernel of an adapter (none: Python) on a connection file until it ends.

It calls back once its sockets are bound, with the process that does the work where that is another.
"""


class Host:
    """Serves one control socket; `run_kernel` is what a forked child does.

    `environment` is added to that of each kernel. One in a sandbox has a socket `dial`, and
    namespaces of processes and of the network for itself.
    """

    def __init__(
        self,
        control: socket.socket,
        run_kernel: RunKernel,
        environment: dict[str, str],
        dial: socket.socket | None,
    ) -> None:
        self._control = control
        self._run_kernel = run_kernel
        self._environment = environment
        self._sandboxed = dial is not None
        self._dial = dial
        self._selector = selectors.DefaultSelector()
        self._received = b""
        self._kernel = 0
        self._pid: int | None = None
        self._returncode: int | None = None
        self._ready: int | None = None
        self._worker: int | None = None
        self._is_program = False
        self._connection_file = ""
        self._hung_up = False

    def serve(self) -> None:
        """Carry out commands until the service hangs up; leave no descendant behind."""
        processes.set_name("kernel-host")
        processes.adopt_orphans()
        if self._sandboxed:
            processes.hide(True)
        else:
            signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_hung_up", True))
        wakeup, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # A terminal's Ctrl-C is for the service, which then hangs up in good order.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._selector.register(self._control, selectors.EVENT_READ, self._read_commands)
        self._selector.register(wakeup, selectors.EVENT_READ, lambda: self._drain(wakeup))
        if self._dial is not None:
            self._selector.register(self._dial, selectors.EVENT_READ, self._answer_dial)
        try:
            while not self._hung_up:
                for key, _ in self._selector.select():
                    key.data()
                self._reap()
        finally:
            self._sweep(since=0.0)

    def _drain(self, fd: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(fd, 512):
                pass

    def _read_commands(self) -> None:
        try:
            received = self._control.recv(1 << 16)
        except ConnectionError:
            received = b""
        if not received:
            self._hung_up = True
            return
        *lines, self._received = (self._received + received).split(b"\n")
        if len(self._received) > wire.MAX_LINE_BYTES:
            raise wire.WireError("a command is too long")
        for line in lines:
            match wire.decode(line):
                case wire.StartKernel() as command:
                    self._start(command)
                case wire.SignalKernel(kernel=self._kernel, signum=signum):
                    self._signal(signum)
                case wire.KillKernel(kernel=self._kernel):
                    self._signal(signal.SIGKILL)
                case wire.SweepChildren(kernel=self._kernel, since=since):
                    self._report(wire.ChildrenSwept(self._kernel, self._sweep(since)))
                case wire.AskKernel(kernel=kernel):
                    self._tell(kernel)
                case _:
                    # For a kernel that has ended already: its exit is on its way to the service.
                    continue

    def _answer_dial(self) -> None:
        assert self._dial is not None
        if not answer_dial(self._dial):
            self._selector.unregister(self._dial)

    def _report(self, report: wire.Report) -> None:
        try:
            self._control.sendall(wire.encode(report))
        except OSError:
            self._hung_up = True

    def _tell(self, kernel: int) -> None:
        """Say what has become of a kernel, to who may have missed it."""
        if kernel == self._kernel and self._pid is not None and self._worker is not None:
            self._report(wire.KernelReady(kernel, self._worker))
        else:
            known = self._returncode if kernel == self._kernel else None
            self._report(wire.KernelExited(kernel, -signal.SIGKILL if known is None else known))

    def _start(self, command: wire.StartKernel) -> None:
        if self._pid is not None:
            raise wire.WireError("this host has a kernel already")
        ready, ready_in_child = os.pipe2(os.O_CLOEXEC)
        host = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.close(ready)
            self._become_kernel(command, ready_in_child, host)
        os.close(ready_in_child)
        self._kernel, self._pid, self._returncode, self._ready = command.kernel, pid, None, ready
        self._connection_file, self._worker = command.connection_file, None
        self._is_program = bool(command.argv)
        self._selector.register(ready, selectors.EVENT_READ, self._kernel_is_ready)
        self._report(wire.KernelStarted(command.kernel, pid))

    def _become_kernel(self, command: wire.StartKernel, ready: int, host: int) -> NoReturn:
        code = 1
        try:
            os.setsid()
            processes.die_with_parent()
            if os.getppid() != host:
                os._exit(1)
            self._selector.close()
            self._control.close()
            if self._dial is not None:
                self._dial.close()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            processes.set_name("kernel")
            processes.hide(False)
            if command.connection_file:
                _write_anew(command.connection_file, command.connection)
            os.chdir(command.cwd)
            os.environ.clear()
            os.environ.update(command.env | self._environment)
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

            code = self._run_kernel(command.adapter, command.connection_file, announce)
        except Exception:  # noqa: BLE001  # what the child would have died of
            traceback.print_exc()
        finally:
            os._exit(code & 0xFF)

    def _kernel_is_ready(self) -> None:
        assert self._ready is not None
        assert self._pid is not None
        announced = os.read(self._ready, 32)
        self._forget_ready()
        # A program that is begun closes its end by that; one that cannot be has exited next.
        if announced or self._is_program:
            self._worker = int(announced or self._pid)
            self._report(wire.KernelReady(self._kernel, self._worker))

    def _forget_ready(self) -> None:
        if self._ready is not None:
            self._selector.unregister(self._ready)
            os.close(self._ready)
            self._ready = None

    def _signal(self, signum: int) -> None:
        if self._pid is None:
            return
        for send in (os.killpg, os.kill):
            # The kernel may have left its group; its own process is always hit.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                send(self._pid, signum)
                break

    def _reap(self) -> None:
        """Collect whoever has exited; report the kernel's end once nothing of it is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == self._pid:
                self._returncode = os.waitstatus_to_exitcode(status)
        if self._pid is None or self._returncode is None:
            return
        kernel, returncode = self._kernel, self._returncode
        self._sweep(since=0.0)
        if self._is_program and self._ready is not None:
            # It was so quick that its end was heard of first.
            self._kernel_is_ready()
        self._pid = None
        self._forget_ready()
        if self._connection_file:
            with contextlib.suppress(OSError):
                Path(self._connection_file).unlink()
        self._report(wire.KernelExited(kernel, returncode))

    def _sweep(self, since: float) -> int:
        """Kill descendants started at or after `since`; the kernel itself only where since is 0."""
        deadline = time.monotonic() + SWEEP_SECONDS
        killed = 0
        if since == 0.0 and self._sandboxed:
            processes.kill_all()
        while time.monotonic() < deadline:
            left = [
                process.pid
                for process in processes.descendants(os.getpid())
                if process.started > since - processes.TICK_SECONDS
                and (since == 0.0 or process.pid != self._pid)
            ]
            if not left:
                break
            killed += len(left)
            processes.kill(left)
            self._wait_for(left)
        return killed

    def _wait_for(self, pids: list[int]) -> None:
        """Wait until each has ended (a second at most) and collect those that are our children."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                pidfd = os.pidfd_open(pid)
                try:
                    select.select([pidfd], [], [], 1.0)
                finally:
                    os.close(pidfd)
        with contextlib.suppress(ChildProcessError):
            while (reaped := os.waitpid(-1, os.WNOHANG))[0] != 0:
                if reaped[0] == self._pid:
                    self._returncode = os.waitstatus_to_exitcode(reaped[1])


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
        os._exit(processes.NOT_EXECUTABLE)


def _write_anew(path: str, text: str) -> None:
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
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(OOM_SCORE))
