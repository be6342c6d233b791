"""What ends with a kernel host."""

import contextlib
import os
import signal
import subprocess
from typing import Protocol

from kernelsvc.sandbox.inherited import Inherited


class Body(Protocol):
    """What ends with a host: its process, or the sandbox that it is in."""

    process: subprocess.Popen[bytes] | Inherited

    def lifelines(self) -> dict[str, int]:
        """The descriptors by which it can be kept beyond this service, by names."""

    def kill(self) -> None:
        """SIGKILL it, with everything inside."""

    def leave(self) -> None:
        """The host is hung up on, or gone: end what would not end with it."""

    def wait(self, seconds: float) -> None:
        """Wait until nothing of it is left; raises subprocess.TimeoutExpired. Blocks."""

    def close(self) -> None:
        """Free what it has here."""


class Program:
    """A host that was started as a program."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process: subprocess.Popen[bytes] | Inherited = process

    def lifelines(self) -> dict[str, int]:
        """None: it ends with the service."""
        return {}

    def kill(self) -> None:
        """SIGKILL it and its process group."""
        with contextlib.suppress(ProcessLookupError):
            # A process that has not been waited for keeps its number.
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)

    def leave(self) -> None:
        """It leaves by itself."""

    def wait(self, seconds: float) -> None:
        """Wait until it has ended."""
        self.process.wait(seconds)

    def close(self) -> None:
        """There is nothing to free."""
