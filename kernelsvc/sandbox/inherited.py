"""A process that an earlier service has started: no child of this one's, but it is known."""

import os
import select
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

_PID = "Pid:"


class Inherited:
    """What is needed of `subprocess.Popen`, for such a process. Freed by `close`.

    How it ends is not for this service to learn: its return code is 0 then.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
        self.pid = int(next(line for line in lines if line.startswith(_PID)).split()[1])
        self.stderr = None

    def poll(self) -> int | None:
        """None while it runs."""
        return 0 if self._has_ended(0) else None

    def wait(self, timeout: float | None = None) -> int:
        """Return when it has ended; raises subprocess.TimeoutExpired. Blocks."""
        if not self._has_ended(timeout):
            raise subprocess.TimeoutExpired("", timeout or 0)
        return 0

    def _has_ended(self, seconds: float | None) -> bool:
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        return bool(poll.poll(None if seconds is None else seconds * 1000))

    def kill(self) -> None:
        """SIGKILL it."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.descriptor, signal.SIGKILL)

    def close(self) -> None:
        """Free the descriptor; it is not asked about any more."""
        os.close(self.descriptor)
