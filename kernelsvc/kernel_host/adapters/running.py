"""What the front of an adapter and what is behind it tell each other."""

import contextlib
import os
import shutil
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol

INTERRUPTED = "KeyboardInterrupt"
"""As the service knows the end of a run that was interrupted."""

Say = Callable[[str, dict[str, Any]], Awaitable[None]]
"""Publish a message of that type and content about a run; waits where nobody reads."""


@dataclass(frozen=True)
class Asked:
    """An execute request: `env` and `stdin` are for this run; one not `counted` is no run."""

    code: str
    say: Say
    env: dict[str, str] = field(default_factory=dict)
    stdin: str | None = None
    counted: bool = True


@dataclass(frozen=True)
class Ended:
    """How a request has ended; `ename` is there where it failed by an exception."""

    exit_code: int = 0
    ename: str | None = None
    evalue: str = ""


class Gone(Exception):  # no error: everything ends some time
    """What does the work has ended, with that return code (as subprocess has it)."""

    def __init__(self, returncode: int) -> None:
        super().__init__(f"it ended with {returncode}")
        self.returncode = returncode


class Adapter(Protocol):
    """What does the work behind a front; one request at a time."""

    @property
    def language(self) -> dict[str, Any]:
        """Jupyter's `language_info`."""
        ...

    async def start(self) -> int | None:
        """Be ready for requests; which process does the work, where it is another than this.

        Raises Gone.
        """
        ...

    async def execute(self, asked: Asked) -> Ended:
        """Run code. Raises Gone where what runs it has ended."""
        ...

    def interrupt(self) -> None:
        """Interrupt the request that is being worked on, or is next: it may come just before."""
        ...

    def end(self, signum: int) -> None:
        """Pass a signal on that asks it to end."""
        ...

    async def wait(self) -> int:
        """Return when what does the work has ended, how it did."""
        ...

    async def close(self) -> None:
        """Free everything."""
        ...


def made_anew(directory: Path) -> Path:
    """An empty directory at that path, whatever an adapter before has left there."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700)
    return directory


async def say_text(say: Say, name: str, text: str) -> None:
    """Say that it was written to the stream `name`."""
    await say("stream", {"name": name, "text": text})


def end_as(returncode: int) -> NoReturn:
    """End this process as another has ended."""
    if returncode < 0:
        with contextlib.suppress(OSError):
            signal.signal(-returncode, signal.SIG_DFL)
        os.kill(os.getpid(), -returncode)
    os._exit(returncode & 0xFF)
