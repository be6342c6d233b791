"""A live bash that runs each request's code: what one run sets, the next one finds.

Theory of operation. The shell reads commands from a FIFO and reports over another, both in a
directory of ours; no descriptor of ours is open in what the code starts. Each run has FIFOs of its
own for stdout and stderr, so that what a job prints that was left in the background is told as
output of the run that left it. `bash_driver/run.bash` is what the shell does for a run.

Code may end the shell: by `exit`, by `set -e`, by an interrupt. Its trap for that writes down all
that the shell holds and executes bash anew, which reads it (`leave.bash`). So the memory is kept,
but for the list of jobs. A shell that is killed or replaced (`exec`) is gone, and so is the kernel.
"""

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
from functools import partial
from pathlib import Path
from typing import Any, Final

from kernelsvc.kernel_host.adapters.outlet import Outlet
from kernelsvc.kernel_host.adapters.running import (
    INTERRUPTED,
    Asked,
    Ended,
    Gone,
    made_anew,
    say_text,
)

_DRIVER: Final = Path(__file__).with_name("bash_driver")
_INTERRUPTED: Final = 128 + signal.SIGINT


class BashAdapter:
    """One bash, its directory, and what its runs have left open."""

    language: Final[dict[str, Any]] = {
        "name": "bash",
        "mimetype": "text/x-sh",
        "file_extension": ".sh",
        "codemirror_mode": "shell",
    }

    def __init__(self, directory: Path) -> None:
        self._directory = made_anew(directory / "work")
        self._interrupted = self._ending = False
        self._received = b""
        self._outlets: list[Outlet] = []
        self._report: asyncio.Future[int] | None = None
        self._waiting: asyncio.Task[int] | None = None

        for name in ("commands", "reports"):
            os.mkfifo(self._directory / name, 0o600)
        # Open both ways: neither end ever waits for the other to open, or sees it close.
        self._commands = os.open(self._directory / "commands", os.O_RDWR)
        self._reports = os.open(self._directory / "reports", os.O_RDWR | os.O_NONBLOCK)

    async def start(self) -> int:
        """Start the shell; its process id."""
        asyncio.get_running_loop().add_reader(self._reports, self._read_reports)
        self._process = await asyncio.create_subprocess_exec(
            *("bash", "--norc", "--noprofile", str(self._directory / "commands")),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        self._waiting = asyncio.create_task(self._process.wait())
        await self._do(self._begin())
        return self._process.pid

    def _begin(self) -> str:
        begin, directory = str(_DRIVER / "begin.bash"), str(self._directory)
        end = shlex.quote(str(_DRIVER / "end.bash"))
        return f"source {shlex.quote(begin)} {shlex.quote(directory)}; source {end}\n"

    async def _do(self, command: str) -> int:
        """Have the shell do it; the status that it reports. Raises Gone."""
        assert self._waiting is not None
        self._report = asyncio.get_running_loop().create_future()
        os.write(self._commands, command.encode())
        await asyncio.wait([self._report, self._waiting], return_when=asyncio.FIRST_COMPLETED)
        if not self._report.done():
            raise Gone(self._waiting.result())
        return self._report.result()

    def _read_reports(self) -> None:
        *lines, self._received = (self._received + os.read(self._reports, 4096)).split(b"\n")
        for line in lines:
            kind, _, status = line.partition(b" ")
            if kind == b"left" and self._ending:
                self._process.kill()
            elif kind == b"left":
                os.write(self._commands, self._begin().encode())
            elif self._report is not None and not self._report.done() and status.isdigit():
                self._report.set_result(int(status))

    async def execute(self, asked: Asked) -> Ended:
        """Run code in the shell; the status of its last command is the run's exit code."""
        place = self._directory
        exports = (f"__kernelsvc_export {n} {shlex.quote(v)}\n" for n, v in asked.env.items())
        (place / "before").write_text("".join(exports))
        (place / "code").write_text(asked.code)
        (place / "in").write_text(asked.stdin or "")
        self._outlets = [outlet for outlet in self._outlets if outlet.is_open]
        outlets, held = [], []
        for name, stream in (("out", "stdout"), ("err", "stderr")):
            (place / name).unlink(missing_ok=True)
            os.mkfifo(place / name, 0o600)
            reading = os.open(place / name, os.O_RDONLY | os.O_NONBLOCK)
            # Until the shell has opened it, too, nobody but us would have it open to write.
            held.append(os.open(place / name, os.O_WRONLY))
            outlets.append(Outlet(reading, partial(say_text, asked.say, stream)))
        self._outlets += outlets
        run = shlex.quote(str(_DRIVER / "run.bash"))
        try:
            status = await self._do(f"source {run}\n")
            was_ended = self._interrupted and status == _INTERRUPTED
            return Ended(status, INTERRUPTED if was_ended else None)
        finally:
            self._interrupted = False
            (place / "interrupted").unlink(missing_ok=True)
            for writing in held:
                os.close(writing)
            for outlet in outlets:
                await outlet.drain()

    def interrupt(self) -> None:
        """As Ctrl-C would: the shell, and what it runs in the foreground."""
        self._interrupted = True
        # The shell looks there once it takes notice of the signal.
        (self._directory / "interrupted").touch()
        self.end(signal.SIGINT)

    def end(self, signum: int) -> None:
        """Signal the shell and what it has not left to itself."""
        self._ending |= signum != signal.SIGINT
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signum)
        if self._ending:
            # One that waits for a command takes no notice until there is one.
            os.write(self._commands, b":\n")

    async def wait(self) -> int:
        """How the shell has ended."""
        assert self._waiting is not None
        return await asyncio.shield(self._waiting)

    async def close(self) -> None:
        """Read no more of what its jobs print."""
        for outlet in self._outlets:
            await outlet.close()
        asyncio.get_running_loop().remove_reader(self._reports)
        for pipe in (self._commands, self._reports):
            os.close(pipe)
        shutil.rmtree(self._directory, ignore_errors=True)
