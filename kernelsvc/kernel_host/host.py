"""The kernel host: a small single-threaded parent that forks the kernel and cleans up behind it.

A kernel may also be a program of its own, and so may what is no kernel: the fork becomes it.

Theory of operation. The host has imported ipykernel and holds no thread, no loop and no ZeroMQ
context, so forking it is safe and costs milliseconds instead of an interpreter's start. It is a
child subreaper: whatever the user's code starts, however often it forks and whether or not it calls
`setsid`, stays its descendant and is found again. When the kernel ends, for whatever reason, the
host kills every descendant that is left and only then reports the exit; so once `KernelExited` has
been read, nothing of that kernel is alive. When the service hangs up (it ended, or it is done with
this host) the host does the same and leaves. The kernel in turn gets SIGKILL when its host dies.

One descendant is spared at a kernel's end: its snapshot (`keeper`), which does nothing but wait. It
becomes the kernel if the service says so, and is killed if the service says anything else.

A host has more than one kernel where copies of its own have been made (`CopySnapshot`). They are in
its sandbox, each in an annex with files of its own, by which it is known to whom a process belongs.

The user's code in a sandbox cannot look into the host. It can stop or kill it, as it can its own
kernel: without a host, the service ends the sandbox.
"""

import contextlib
import functools
import json
import os
import selectors
import signal
import socket
from pathlib import Path
from typing import NoReturn

from kernelsvc.kernel_host import processes, wire
from kernelsvc.kernel_host.becoming import RunKernel, become_kernel, write_anew
from kernelsvc.kernel_host.dial import answer_dial
from kernelsvc.kernel_host.hosted import Hosted
from kernelsvc.kernel_host.keeper import NOT_ANY, Snapshot
from kernelsvc.kernel_host.sweeper import Sweeper


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
        self._sweeper = Sweeper(self._sandboxed, self._has_exited)
        self._dial = dial
        self._selector = selectors.DefaultSelector()
        self._kernels: dict[int, Hosted] = {}
        self._own = 0
        self._received = b""
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
                    # What came before in this round may have freed it.
                    if self._selector.get_map().get(key.fd) is key:
                        key.data()
                self._reap()
        finally:
            self._end_all()

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
            self._carry_out(wire.decode(line))

    def _carry_out(self, command: wire.Command | wire.Report) -> None:
        match command:
            case wire.StartKernel():
                self._start(command)
            case wire.PromoteSnapshot():
                self._promote(command)
            case wire.CopySnapshot():
                self._copy(command)
            case wire.MoveCopy(kernel=number):
                self._move(self._kernels.get(number), command)
            case wire.ForgetKernel(kernel=number):
                self._forget(self._kernels.get(number))
            case wire.AskKernels(kernels=numbers):
                self._tell(numbers)
            case wire.SignalKernel() | wire.KillKernel() | wire.SweepChildren():
                # Of one that has ended already, the exit is on its way to the service.
                kernel = self._kernels.get(command.kernel)
                if kernel is not None and kernel.pid is not None:
                    self._act_on(kernel, command)

    def _act_on(
        self, kernel: Hosted, command: wire.SignalKernel | wire.KillKernel | wire.SweepChildren
    ) -> None:
        match command:
            case wire.SignalKernel(signum=signum):
                kernel.wait_for_snapshots()
                kernel.keeper.expect_end()
                kernel.signal(signum)
            case wire.KillKernel():
                kernel.signal(signal.SIGKILL)
            case wire.SweepChildren(since=since):
                self._report(wire.ChildrenSwept(kernel.number, self._sweep(kernel, since)))

    def _answer_dial(self) -> None:
        assert self._dial is not None
        if not answer_dial(self._dial):
            self._selector.unregister(self._dial)

    def _report(self, report: wire.Report) -> None:
        try:
            self._control.sendall(wire.encode(report))
        except OSError:
            self._hung_up = True

    # ---- how a kernel comes to be

    def _add(self, kernel: Hosted) -> None:
        self._kernels[kernel.number] = kernel
        self._selector.register(kernel.keeper.heard, selectors.EVENT_READ, kernel.hear_snapshots)

    def _tell(self, numbers: list[int]) -> None:
        """Say what has become of kernels, to who may have missed it, and has these alone.

        Where that one knows of the kernel only that another has been put in the place of, nobody
        has come to use the other yet.
        """
        unknown = [
            kernel
            for number, kernel in self._kernels.items()
            if number not in numbers and kernel.before in numbers
        ]
        for each in unknown:
            number = each.number
            each.step_back()
            self._renumber(each, number)
        for number in numbers:
            kernel = self._kernels.get(number)
            if kernel in unknown and kernel.pid is not None:
                # Its end is about to come, and to be reported.
                continue
            if kernel is not None and kernel.pid is not None and kernel.worker is not None:
                self._report(wire.KernelReady(number, kernel.worker))
            else:
                known = None if kernel is None else kernel.returncode
                self._report(wire.KernelExited(number, -signal.SIGKILL if known is None else known))
        for number in self._kernels.keys() - set(numbers):
            self._forget(self._kernels[number])

    def _renumber(self, kernel: Hosted, before: int) -> None:
        self._kernels[kernel.number] = self._kernels.pop(before)
        if self._own == before:
            self._own = kernel.number

    def _start(self, command: wire.StartKernel) -> None:
        before = self._kernels.get(self._own)
        if before is not None and before.pid is not None:
            raise wire.WireError("this host has a kernel already")
        self._forget(before)
        kernel = Hosted(command.kernel, command.connection_file, command.cwd)
        ready, ready_in_child = os.pipe2(os.O_CLOEXEC)
        host = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.close(ready)
            self._become_kernel(command, kernel, ready_in_child, host)
        os.close(ready_in_child)
        kernel.is_program = bool(command.argv)
        self._own = command.kernel
        self._add(kernel)
        self._has_started(kernel, pid, ready)

    def _has_started(self, kernel: Hosted, pid: int, ready: int) -> None:
        kernel.pid, kernel.ready = pid, ready
        self._selector.register(ready, selectors.EVENT_READ, lambda: self._is_ready(kernel))
        self._report(wire.KernelStarted(kernel.number, pid))

    def _promote(self, command: wire.PromoteSnapshot) -> None:
        kernel = self._kernels.get(command.of)
        if kernel is None or kernel.pid is not None:
            self._report(wire.NoSnapshot(command.kernel, NOT_ANY))
            return
        snapshot = kernel.keeper.take(command.run)
        if not isinstance(snapshot, Snapshot):
            self._report(wire.NoSnapshot(command.kernel, snapshot))
            return
        self._report(wire.SnapshotPromoted(command.kernel, snapshot.without))
        kernel.begin_anew(command.kernel, command.connection_file)
        self._renumber(kernel, command.of)
        write_anew(kernel.outside(command.connection_file), command.connection)
        with contextlib.suppress(OSError):
            # One that has ended by now is reaped, and that reported, as any kernel is.
            order = {"connection_file": command.connection_file}
            snapshot.orders.send(json.dumps(order).encode())
        self._has_started(kernel, snapshot.pid, os.dup(snapshot.orders.fileno()))
        snapshot.free()

    def _copy(self, command: wire.CopySnapshot) -> None:
        source = self._kernels.get(command.of)
        copy = NOT_ANY if source is None else source.copy(command)
        if not isinstance(copy, Hosted):
            self._report(wire.NoSnapshot(command.kernel, copy))
            return
        assert copy.ready is not None
        self._add(copy)
        hear = functools.partial(self._hear_copy, copy)
        self._selector.register(copy.ready, selectors.EVENT_READ, hear)

    def _hear_copy(self, copy: Hosted) -> None:
        """A copy says that it is there, and then that it has moved; or it has ended instead."""
        assert copy.ready is not None
        found = copy.hear_copy()
        if found is None and copy.pid is None:
            self._report(wire.NoSnapshot(copy.number, "it could not be copied"))
            self._forget(copy)
        elif found is None:
            # Its end is reported as any kernel's.
            self._forget_ready(copy)
        elif copy.pid is None:
            copy.pid, _ = found
            self._report(wire.KernelStarted(copy.number, copy.pid))
        else:
            self._report(wire.SnapshotPromoted(copy.number, found[1]))
            is_ready = functools.partial(self._is_ready, copy)
            self._selector.modify(copy.ready, selectors.EVENT_READ, is_ready)

    def _move(self, copy: Hosted | None, command: wire.MoveCopy) -> None:
        # Of one that has ended already, the service has been told, or will be.
        if copy is None or copy.pid is None or copy.ready is None:
            return
        try:
            copy.move(command)
        except OSError as error:
            why = f"it could not be copied: {error.strerror}"
            self._report(wire.NoSnapshot(copy.number, why))
            self._forget(copy)

    def _become_kernel(
        self, command: wire.StartKernel, kernel: Hosted, ready: int, host: int
    ) -> NoReturn:
        def leave() -> socket.socket:
            self._selector.close()
            self._control.close()
            kernel.keeper.heard.close()
            for other in self._kernels.values():
                other.free()
            if self._dial is not None:
                self._dial.close()
            return kernel.keeper.in_kernel

        become_kernel(command, self._run_kernel, self._environment, leave, ready, host)

    def _is_ready(self, kernel: Hosted) -> None:
        assert kernel.ready is not None
        assert kernel.pid is not None
        announced = os.read(kernel.ready, 32)
        self._forget_ready(kernel)
        # A program that is begun closes its end by that; one that cannot be has exited next.
        if announced or kernel.is_program:
            kernel.worker = int(announced or kernel.pid)
            self._report(wire.KernelReady(kernel.number, kernel.worker))

    def _forget_ready(self, kernel: Hosted) -> None:
        if kernel.ready is not None:
            self._selector.unregister(kernel.ready)
            os.close(kernel.ready)
            kernel.ready = None

    # ---- how it ends

    def _reap(self) -> None:
        """Collect whoever has exited; report a kernel's end once nothing of it is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            self._has_exited(pid, status)
        for kernel in list(self._kernels.values()):
            if kernel.pid is not None and kernel.returncode is not None:
                self._has_ended(kernel, kernel.returncode)

    def _has_exited(self, pid: int, status: int) -> None:
        for kernel in self._kernels.values():
            if kernel.pid == pid:
                kernel.returncode = os.waitstatus_to_exitcode(status)

    def _has_ended(self, kernel: Hosted, returncode: int) -> None:
        self._sweep(kernel, since=0.0)
        if kernel.is_program and kernel.ready is not None:
            # It was so quick that its end was heard of first.
            self._is_ready(kernel)
        kernel.pid = None
        self._forget_ready(kernel)
        if kernel.connection_file:
            with contextlib.suppress(OSError):
                Path(kernel.outside(kernel.connection_file)).unlink()
        self._report(wire.KernelExited(kernel.number, returncode))

    def _forget(self, kernel: Hosted | None) -> None:
        """Leave nothing of a kernel, its snapshot neither; that is not reported."""
        if kernel is None:
            return
        kernel.keeper.drop()
        if kernel.pid is not None:
            kernel.signal(signal.SIGKILL)
            self._sweep(kernel, since=0.0)
        self._forget_ready(kernel)
        self._selector.unregister(kernel.keeper.heard)
        kernel.free()
        del self._kernels[kernel.number]

    def _end_all(self) -> None:
        for kernel in self._kernels.values():
            kernel.keeper.drop()
        self._sweeper.end_all()

    def _sweep(self, kernel: Hosted, since: float) -> int:
        others = [each for each in self._kernels.values() if each is not kernel and each.is_there]
        return self._sweeper.sweep(kernel, others, since)
