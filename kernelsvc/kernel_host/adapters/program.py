"""A language whose runs are whole programs: each is built and run, and leaves nothing but files."""

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from kernelsvc.kernel_host.adapters.outlet import Outlet
from kernelsvc.kernel_host.adapters.running import INTERRUPTED, Asked, Ended, made_anew, say_text
from kernelsvc.kernel_host.processes import NOT_EXECUTABLE

_DIED = 128


@dataclass(frozen=True)
class Toolchain:
    """How a program is made of its source, the file `source`, and run; `language` is Jupyter's.

    In the commands, `{source}` and `{program}` are paths; where nothing needs to be built, `build`
    is empty.
    """

    language: dict[str, Any]
    source: str
    build: tuple[str, ...]
    run: tuple[str, ...]


GO: Final = Toolchain(
    {"name": "go", "mimetype": "text/x-go", "file_extension": ".go"},
    source="main.go",
    build=("go", "build", "-o", "{program}", "{source}"),
    run=("{program}",),
)


class ProgramAdapter:
    """Runs each request as a program of its own."""

    def __init__(self, toolchain: Toolchain, directory: Path) -> None:
        self.language = toolchain.language
        self._toolchain = toolchain
        self._directory = made_anew(directory / "work")
        self._process: asyncio.subprocess.Process | None = None
        self._interrupted = False
        self._ending: asyncio.Future[int] | None = None
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._outlets: list[Outlet] = []

    async def start(self) -> None:
        """Nothing needs to be there between runs."""

    async def execute(self, asked: Asked) -> Ended:
        """Build and run a program; its exit status is the run's."""
        paths = {
            "source": str(self._directory / self._toolchain.source),
            "program": str(self._directory / "program"),
        }
        (self._directory / self._toolchain.source).write_text(asked.code)
        status = 0
        try:
            for command in (self._toolchain.build, self._toolchain.run):
                if status == 0 and self._interrupted:
                    status = -signal.SIGINT
                elif status == 0 and command:
                    status = await self._run([part.format(**paths) for part in command], asked)
            was_ended = self._interrupted and status == -signal.SIGINT
            exit_code = status if status >= 0 else _DIED - status
            return Ended(exit_code, INTERRUPTED if was_ended else None)
        finally:
            self._interrupted = False

    async def _run(self, command: list[str], asked: Asked) -> int:
        self._outlets = [outlet for outlet in self._outlets if outlet.is_open]
        outlets, written = [], []
        for name in ("stdout", "stderr"):
            reading, writing = os.pipe()
            written.append(writing)
            outlets.append(Outlet(reading, partial(say_text, asked.say, name)))
        self._outlets += outlets
        with tempfile.TemporaryFile() as stdin:
            stdin.write((asked.stdin or "").encode())
            stdin.seek(0)
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=stdin,
                    stdout=written[0],
                    stderr=written[1],
                    start_new_session=True,
                    env={**os.environ, **asked.env},
                )
            except OSError as error:
                await say_text(asked.say, "stderr", f"{command[0]}: {error.strerror}\n")
                return NOT_EXECUTABLE
            finally:
                for writing in written:
                    os.close(writing)
        if self._interrupted:
            self._signal(signal.SIGINT)
        try:
            status = await self._process.wait()
        finally:
            self._process = None
        for outlet in outlets:
            await outlet.drain()
        return status

    def interrupt(self) -> None:
        """As Ctrl-C would."""
        self._interrupted = True
        self._signal(signal.SIGINT)

    def _signal(self, signum: int) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signum)

    def end(self, signum: int) -> None:
        """Pass the signal on to a program that runs, and end with it; without one, at once."""
        if self._process is None:
            self._end(signum)
        else:
            self._signal(signum)
            self._ending = asyncio.ensure_future(self._process.wait())
            self._ending.add_done_callback(lambda _: self._end(signum))

    def _end(self, signum: int) -> None:
        if not self._ended.done():
            self._ended.set_result(-signum)

    async def wait(self) -> int:
        """Only a signal ends it."""
        return await asyncio.shield(self._ended)

    async def close(self) -> None:
        """Read no more of what its programs have left running."""
        for outlet in self._outlets:
            await outlet.close()
        shutil.rmtree(self._directory, ignore_errors=True)
