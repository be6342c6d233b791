"""A sandbox that stands, with nothing in it yet but process 1, which waits.

Processes go into it from outside by its descriptor of process 1 (`kernel_host.join`). When process
1 ends, the system ends everything in the sandbox.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from dataclasses import dataclass

from kernelsvc.sandbox.isolation import Enclosure

_WAIT = ("/bin/sh", "-c", "echo; exec sleep infinity")
"""Says that the sandbox is complete, and then does nothing until it is killed."""
_STAND_SECONDS = 30.0
_STATUS_BYTES = 4096


@dataclass
class StandingSandbox:
    """Made by `make`, ended by `kill`, freed by `close`.

    `process` is what was started here, `first` a process descriptor of process 1 inside.
    """

    process: subprocess.Popen[bytes]
    first: int

    @classmethod
    def make(cls, enclosure: Enclosure, stderr: int) -> "StandingSandbox":
        """Put up the sandbox of `enclosure`; raises OSError. Blocks for some 20 milliseconds.

        What goes wrong in it is written to the descriptor `stderr`.
        """
        reading, status = os.pipe()
        try:
            process = subprocess.Popen(
                [*enclosure.command_reporting_to(status), *_WAIT],
                pass_fds=[status, *enclosure.fds],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
                # Process 1 can be looked into from inside.
                env={"PATH": os.defpath},
            )
            os.close(status)
            status = -1
            assert process.stdout is not None
            with process.stdout as stands:
                try:
                    deadline = time.monotonic() + _STAND_SECONDS
                    _read_line(stands.fileno(), deadline)
                    first = os.pidfd_open(json.loads(_read_line(reading, deadline))["child-pid"])
                except BaseException:
                    _end(process)
                    raise
            return cls(process, first)
        finally:
            os.close(reading)
            if status >= 0:
                os.close(status)

    def kill(self) -> None:
        """SIGKILL process 1, and with it everything inside."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.first, signal.SIGKILL)

    def leave(self) -> None:
        """End it: whoever was master of what is inside is gone."""
        self.kill()

    def wait(self, seconds: float) -> None:
        """Wait until nothing of it is left, after `kill`. Blocks.

        Raises subprocess.TimeoutExpired.
        """
        self.process.wait(seconds)

    def close(self) -> None:
        """Free the descriptor; what is left of it is killed."""
        _end(self.process)
        os.close(self.first)


def _read_line(fd: int, deadline: float) -> bytes:
    """The first line that is written there; raises OSError where none comes."""
    said = b""
    while b"\n" not in said:
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError("the sandbox does not come to stand")
        if not (more := os.read(fd, _STATUS_BYTES)):
            raise ChildProcessError("the sandbox could not be made")
        said += more
    return said.partition(b"\n")[0]


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
