"""The service's end of a kernel host: start it, tell it what to do, hear what becomes of it.

A host without a sandbox is a program that is started; one in a sandbox is forked from the zygote.
Whatever a host says is checked (`wire.decode`); one that says nonsense, or nothing any more, is
killed, and with it its sandbox, or, by PR_SET_PDEATHSIG, its kernel.
"""

import asyncio
import contextlib
import itertools
import os
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kernelsvc.kernel_host import wire
from kernelsvc.kernels.body import Body, Program
from kernelsvc.kernels.dial import Dial, connect_outside
from kernelsvc.kernels.hosted import KILLED, Copy, HostedKernel, Memory
from kernelsvc.kernels.zygote import Zygote
from kernelsvc.sandbox.isolation import Enclosure
from kernelsvc.sandbox.standing import StandingSandbox

_EXIT_SECONDS = 15.0
_STDERR_BYTES = 4096


class KernelHost:
    """A running host, freed by `close`; usable until `closed` is done.

    Made by `spawn` or `fork`.
    """

    def __init__(
        self, body: Body, stderr: int, writer: asyncio.StreamWriter, dial: Dial | None
    ) -> None:
        self._body = body
        self._dial = dial
        self._writer = writer
        self._numbers = itertools.count(1)
        self._kernels: dict[int, HostedKernel] = {}
        self._stderr: int | None = stderr
        self._last_words = b""
        self._forked: int | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.closed = asyncio.Event()
        os.set_blocking(stderr, False)
        asyncio.get_running_loop().add_reader(stderr, self._read_stderr)

    @classmethod
    async def spawn(
        cls, enclosure: Enclosure, argv: list[str], env: Mapping[str, str]
    ) -> "KernelHost":
        """Start a host without a sandbox by the command `argv`; raises OSError."""

        def start(control: int, stderr: int) -> Body:
            process = subprocess.Popen(
                [*enclosure.command, *argv, str(control)],
                pass_fds=[control],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
                env=dict(env),
            )
            return Program(process)

        return await cls._start(start)

    @classmethod
    async def fork(
        cls, enclosure: Enclosure, zygote: Zygote, offer: int | None = None
    ) -> "KernelHost":
        """Put up the sandbox of `enclosure` and have a host forked into it; raises OSError.

        `offer` is the descriptor over which it offers a listener to the session's proxy.
        """
        offers = [] if offer is None else [offer]
        dial, dialled = Dial.make()

        def start(control: int, stderr: int) -> Body:
            sandbox = StandingSandbox.make(enclosure, stderr)
            try:
                fds = [control, stderr, sandbox.first, *enclosure.fds, dialled.fileno(), *offers]
                zygote.fork(enclosure, fds)
            except BaseException:
                sandbox.close()
                raise
            return sandbox

        try:
            with dialled:
                return await cls._start(start, dial)
        except BaseException:
            dial.close()
            raise

    @classmethod
    async def _start(
        cls, start: Callable[[int, int], Body], dial: Dial | None = None
    ) -> "KernelHost":
        """`start` has the control socket and the descriptor for stderr; it may block."""
        ours, theirs = socket.socketpair()
        reading, stderr = os.pipe()
        try:
            with theirs:
                body = await asyncio.to_thread(start, theirs.fileno(), stderr)
        except BaseException as error:
            ours.close()
            why = _what_is_there(reading).decode(errors="replace").strip()
            os.close(reading)
            if why and isinstance(error, OSError):
                raise OSError(error.errno, why) from error
            raise
        finally:
            os.close(stderr)
        return await cls._of(body, reading, ours, dial)

    @classmethod
    async def _of(
        cls, body: Body, stderr: int, control: socket.socket, dial: Dial | None
    ) -> "KernelHost":
        limit = wire.MAX_LINE_BYTES
        reader, writer = await asyncio.open_unix_connection(sock=control, limit=limit)
        host = cls(body, stderr, writer, dial)
        host._tasks = [asyncio.create_task(host._read_reports(reader))]
        return host

    @classmethod
    async def inherit(
        cls, fds: Mapping[str, int], pid: int, numbers: Sequence[int]
    ) -> tuple["KernelHost", list[HostedKernel]]:
        """A host that an earlier service has had forked, and its kernels of these numbers.

        Each is `ready` or has `exited` when the host has said so; what else it has is ended.
        """
        sandbox = StandingSandbox.inherit(fds)
        dial = Dial(socket.socket(fileno=fds["dial"]))
        host = await cls._of(sandbox, fds["stderr"], socket.socket(fileno=fds["control"]), dial)
        host._forked = pid
        host._numbers = itertools.count(max(numbers, default=0) + 1)
        host._kernels = {number: HostedKernel(host, number) for number in numbers}
        kernels = list(host._kernels.values())
        host.send(wire.AskKernels(list(numbers)))
        return host, kernels

    def lifelines(self) -> dict[str, int]:
        """The descriptors by which it can be kept beyond this service.

        Raises OSError without a sandbox, or where it is gone.
        """
        if self._dial is None or self._stderr is None or self.closed.is_set():
            raise OSError("this host cannot be kept")
        control = self._writer.get_extra_info("socket").fileno()
        own = {"control": control, "dial": self._dial.fileno(), "stderr": self._stderr}
        return own | self._body.lifelines()

    def start_kernel(
        self,
        connection: str,
        connection_file: Path,
        *,
        cwd: Path,
        env: Mapping[str, str],
        limits: Mapping[str, int],
        adapter: Sequence[str] = (),
    ) -> HostedKernel:
        """Have the host fork a kernel; the one before must have exited.

        `connection` is Jupyter's connection information as JSON, which the host writes to
        `connection_file`; the paths are those inside. `adapter` is there for another language than
        Python: which it is, and what it needs.
        """
        return self._start_process(
            connection, str(connection_file), (), None, adapter, cwd=cwd, env=env, limits=limits
        )

    def promote(self, memory: Memory, connection: str, connection_file: Path) -> HostedKernel:
        """Have a snapshot be the kernel, in place of the one that it is of, which has ended.

        The rest is as for `start_kernel`. Where there is no such snapshot, what is returned ends,
        and its `no_snapshot` says why.
        """
        of, run, file = memory.kernel.number, memory.run, str(connection_file)
        return self._ask_for(lambda number: wire.PromoteSnapshot(number, of, run, connection, file))

    def copy(self, memory: Memory) -> HostedKernel:
        """Have a copy forked from a snapshot, which waits to `move`; for none, as `promote`."""
        of, run = memory.kernel.number, memory.run
        return self._ask_for(lambda number: wire.CopySnapshot(number, of, run))

    def move(self, copy: Copy, connection: str, connection_file: Path) -> None:
        """Have a copy be a kernel; the rest is as for `start_kernel`."""
        number, file = copy.process.number, str(connection_file)
        self.send(wire.MoveCopy(number, copy.root, copy.reseed, connection, file))

    def start_program(
        self,
        argv: Sequence[str],
        output: Path | None,
        *,
        cwd: Path,
        env: Mapping[str, str],
        limits: Mapping[str, int],
    ) -> HostedKernel:
        """Have the host run a program in a kernel's place; the paths are those inside.

        What it writes is added to the file `output`. It is not found: it exits with 127, and
        `last_words` says so.
        """
        return self._start_process("", "", argv, output, cwd=cwd, env=env, limits=limits)

    def _start_process(
        self,
        connection: str,
        connection_file: str,
        argv: Sequence[str],
        output: Path | None,
        adapter: Sequence[str] = (),
        *,
        cwd: Path,
        env: Mapping[str, str],
        limits: Mapping[str, int],
    ) -> HostedKernel:
        return self._ask_for(
            lambda number: wire.StartKernel(
                number,
                list(adapter),
                list(argv),
                str(output or ""),
                connection,
                connection_file,
                str(cwd),
                dict(env),
                dict(limits),
            )
        )

    def _ask_for(self, command: Callable[[int], wire.Command]) -> HostedKernel:
        number = next(self._numbers)
        kernel = self._kernels[number] = HostedKernel(self, number)
        self.send(command(number))
        if self.closed.is_set():
            kernel.end(KILLED)
        return kernel

    def forget(self, number: int) -> None:
        """Have the host leave nothing of a kernel."""
        self._kernels.pop(number, None)
        self.send(wire.ForgetKernel(number))

    def send(self, command: wire.Command) -> None:
        """Send a command; one to a host that is gone is dropped, its kernels have ended."""
        if not self.closed.is_set():
            self._writer.write(wire.encode(command))

    async def connect(self, port: int) -> socket.socket:
        """A connection to what listens on this port of the loopback that the kernels have.

        Raises OSError: ConnectionRefusedError where nothing of theirs does.
        """
        if self._dial is not None:
            return await self._dial.connect(port)
        return await connect_outside(self.pid, port)

    @property
    def pid(self) -> int:
        """The process that everything in the enclosure descends from."""
        return self._forked or self._body.process.pid

    @property
    def sandbox(self) -> int:
        """A process descriptor of process 1 of the sandbox that the host is in."""
        assert isinstance(self._body, StandingSandbox)
        return self._body.first

    @property
    def last_words(self) -> str:
        """The end of what the host wrote to stderr; says why a kernel would not start."""
        self._read_stderr()
        return self._last_words.decode(errors="replace").strip()

    async def _read_reports(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                report = wire.decode(line)
                if not isinstance(report, wire.Report):
                    raise wire.WireError("not a report")
                if isinstance(report, wire.HostForked):
                    self._forked = self._forked or report.pid
                elif isinstance(report, wire.AnnexOpened):
                    raise wire.WireError("a host is no annex")
                elif (kernel := self._kernels.get(report.kernel)) is not None:
                    kernel.hear(report)
                    if isinstance(report, wire.KernelExited | wire.NoSnapshot):
                        del self._kernels[report.kernel]
        except (wire.WireError, ValueError, OSError):
            self.kill()
        finally:
            self._body.leave()
            self.closed.set()
            for kernel in self._kernels.values():
                kernel.end(KILLED)

    def _read_stderr(self) -> None:
        """Take what is there by now; of all, the end is kept."""
        if self._stderr is None:
            return
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._stderr, _STDERR_BYTES):
                self._last_words = (self._last_words + chunk)[-_STDERR_BYTES:]
            self._close_stderr()

    def _close_stderr(self) -> None:
        if self._stderr is not None:
            asyncio.get_running_loop().remove_reader(self._stderr)
            os.close(self._stderr)
            self._stderr = None

    def kill(self) -> None:
        """SIGKILL the host, for one that does not answer; all that it started dies with it."""
        self._body.kill()

    async def close(self) -> None:
        """End the host and what is left of its kernel. Returns when they are gone."""
        with contextlib.suppress(OSError):
            # Whoever else may hold this end.
            self._writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
        self._writer.close()
        if self._dial is not None:
            self._dial.close()
        self._body.leave()
        try:
            await asyncio.to_thread(self._body.wait, _EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            await asyncio.to_thread(self._body.wait, _EXIT_SECONDS)
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._close_stderr()
        self._body.close()


def _what_is_there(fd: int) -> bytes:
    """The end of what is in a pipe by now."""
    os.set_blocking(fd, False)
    said = b""
    with contextlib.suppress(BlockingIOError):
        while chunk := os.read(fd, _STDERR_BYTES):
            said = (said + chunk)[-_STDERR_BYTES:]
    return said
