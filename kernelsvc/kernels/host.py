"""The service's end of a kernel host: start it, tell it what to do, hear what becomes of it.

Whatever a host says is checked (`wire.decode`); one that says nonsense, or nothing any more, is
killed, and with it, by PR_SET_PDEATHSIG, its kernel.
"""

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

from kernelsvc.kernel_host import wire
from kernelsvc.sandbox.isolation import Enclosure

KILLED = -9
_EXIT_SECONDS = 15.0
_STDERR_BYTES = 4096


class HostedKernel:
    """A kernel process behind a host.

    `exited` resolves to its return code (as subprocess has it) once nothing of it is left.
    """

    def __init__(self, host: "KernelHost", number: int) -> None:
        loop = asyncio.get_running_loop()
        self._host = host
        self._number = number
        self._swept: asyncio.Future[int] | None = None
        self.pid: int | None = None
        self.ready: asyncio.Future[None] = loop.create_future()
        self.exited: asyncio.Future[int] = loop.create_future()

    def signal(self, signum: int) -> None:
        """Send a signal to the kernel and the children in its process group."""
        self._host.send(wire.SignalKernel(self._number, signum))

    def kill(self) -> None:
        """SIGKILL the kernel; its host ends everything it started."""
        self._host.send(wire.KillKernel(self._number))

    def abandon(self) -> None:
        """Kill the host of a kernel that nothing else reaches; the kernel dies with it."""
        self._host.kill()

    async def sweep(self, since: float) -> int:
        """Kill what the kernel started since `since` (CLOCK_BOOTTIME); how many there were."""
        self._swept = asyncio.get_running_loop().create_future()
        self._host.send(wire.SweepChildren(self._number, since))
        await asyncio.wait(
            [self._swept, self.exited],
            timeout=_EXIT_SECONDS,
            return_when=asyncio.FIRST_COMPLETED,
        )
        return self._swept.result() if self._swept.done() else 0

    def hear(self, report: wire.Report) -> None:
        """Called by the host's reader."""
        match report:
            case wire.KernelStarted(pid=pid):
                self.pid = pid
            case wire.KernelReady() if not self.ready.done():
                self.ready.set_result(None)
            case wire.ChildrenSwept(killed=killed) if self._swept and not self._swept.done():
                self._swept.set_result(killed)
            case wire.KernelExited(returncode=returncode):
                self.end(returncode)

    def end(self, returncode: int) -> None:
        """The process is gone."""
        if not self.exited.done():
            self.exited.set_result(returncode)


class KernelHost:
    """A running host. Made by `spawn`, freed by `close`; usable until `closed` is done."""

    def __init__(self, process: subprocess.Popen[bytes], writer: asyncio.StreamWriter) -> None:
        self._process = process
        self._writer = writer
        self._numbers = itertools.count(1)
        self._kernels: dict[int, HostedKernel] = {}
        self._last_words = b""
        self._tasks: list[asyncio.Task[None]] = []
        self.closed = asyncio.Event()
        self._open_stderr()

    @classmethod
    async def spawn(
        cls,
        enclosure: Enclosure,
        argv: list[str],
        env: Mapping[str, str],
        offer: int | None = None,
    ) -> "KernelHost":
        """Start a host by the command `argv` inside `enclosure`; raises OSError.

        `offer` is the descriptor over which it offers a listener to the session's proxy.
        """
        offers = [] if offer is None else [offer]
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await asyncio.to_thread(
                    subprocess.Popen,
                    [*enclosure.command, *argv, str(theirs.fileno()), *map(str, offers)],
                    pass_fds=[theirs.fileno(), *offers, *enclosure.fds],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                    env=dict(env),
                )
            except BaseException:
                ours.close()
                raise
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=wire.MAX_LINE_BYTES)
        host = cls(process, writer)
        host._tasks = [asyncio.create_task(host._read_reports(reader))]
        return host

    def start_kernel(
        self,
        connection: str,
        connection_file: Path,
        *,
        cwd: Path,
        env: Mapping[str, str],
        limits: Mapping[str, int],
    ) -> HostedKernel:
        """Have the host fork a kernel; the one before must have exited.

        `connection` is Jupyter's connection information as JSON, which the host writes to
        `connection_file`; the paths are those inside.
        """
        number = next(self._numbers)
        kernel = self._kernels[number] = HostedKernel(self, number)
        self.send(
            wire.StartKernel(
                number, connection, str(connection_file), str(cwd), dict(env), dict(limits)
            )
        )
        if self.closed.is_set():
            kernel.end(KILLED)
        return kernel

    def send(self, command: wire.Command) -> None:
        """Send a command; one to a host that is gone is dropped, its kernels have ended."""
        if not self.closed.is_set():
            self._writer.write(wire.encode(command))

    @property
    def pid(self) -> int:
        """The process that everything in the enclosure descends from."""
        return self._process.pid

    @property
    def last_words(self) -> str:
        """The end of what the host wrote to stderr; says why a kernel would not start."""
        self._read_stderr()
        return self._last_words.decode(errors="replace").strip()

    async def _read_reports(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                report = wire.decode(line)
                if (kernel := self._kernels.get(report.kernel)) is not None and isinstance(
                    report, wire.Report
                ):
                    kernel.hear(report)
                    if isinstance(report, wire.KernelExited):
                        del self._kernels[report.kernel]
        except (wire.WireError, ValueError, OSError):
            self.kill()
        finally:
            self.closed.set()
            for kernel in self._kernels.values():
                kernel.end(KILLED)

    def _open_stderr(self) -> None:
        assert self._process.stderr is not None
        os.set_blocking(self._process.stderr.fileno(), False)
        asyncio.get_running_loop().add_reader(self._process.stderr, self._read_stderr)

    def _read_stderr(self) -> None:
        """Take what is there by now; of all, the end is kept."""
        stderr = self._process.stderr
        if stderr is None or stderr.closed:
            return
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(stderr.fileno(), _STDERR_BYTES):
                self._last_words = (self._last_words + chunk)[-_STDERR_BYTES:]
            self._close_stderr()

    def _close_stderr(self) -> None:
        if self._process.stderr is not None and not self._process.stderr.closed:
            asyncio.get_running_loop().remove_reader(self._process.stderr)
            self._process.stderr.close()

    def kill(self) -> None:
        """SIGKILL the host itself, for one that does not answer; its kernel dies with it.

        What stands between the service and a host in a sandbox is in its process group, and the
        host dies with that.
        """
        with contextlib.suppress(ProcessLookupError):
            # A process that has not been waited for keeps its number.
            if self._process.returncode is None:
                os.killpg(self._process.pid, signal.SIGKILL)

    async def close(self) -> None:
        """Hang up; the host kills what is left of its kernel and goes. Returns when it is gone."""
        self._writer.close()
        try:
            await asyncio.to_thread(self._process.wait, _EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            await asyncio.to_thread(self._process.wait, _EXIT_SECONDS)
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._close_stderr()
