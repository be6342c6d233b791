"""A sandbox that stands, with nothing in it yet but process 1, which waits.

Processes go into it from outside by its descriptor of process 1 (`kernel_host.join`). When process
1 ends, the system ends everything in the sandbox; and process 1 waits for being hung up on: it ends
when the service does, however that ends, unless a caretaker holds the same end
(`kernelsvc.caretaker`). bubblewrap is therefore not to die with who has started it. A socket it is,
since nobody inside can open that one.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass

from kernelsvc.sandbox.inherited import Inherited
from kernelsvc.sandbox.isolation import Enclosure

_WAIT = ("/bin/sh", "-c", "echo; read -r _")
"""Says that the sandbox is complete, and then does nothing until it is hung up on, or killed."""
_STAND_SECONDS = 30.0
_STATUS_BYTES = 4096


@dataclass
class StandingSandbox:
    """Made by `make`, ended by `kill`, freed by `close`.

    `process` is what was started here, or by an earlier service, `outer` a descriptor of it.
    `first` is one of process 1 inside, which ends when nobody has `held` any more.
    """

    process: subprocess.Popen[bytes] | Inherited
    outer: int
    first: int
    held: socket.socket

    @classmethod
    def make(cls, enclosure: Enclosure, stderr: int) -> "StandingSandbox":
        """Put up the sandbox of `enclosure`; raises OSError. Blocks for some 20 milliseconds.

        What goes wrong in it is written to the descriptor `stderr`.
        """
        # Not a pipe: bubblewrap would die of one that nobody reads any more, where the service was
        # killed, and what it has begun to be process 1 would wait for it for ever.
        status = os.memfd_create("status")
        held, waits = socket.socketpair()
        try:
            process = subprocess.Popen(
                [*enclosure.command_reporting_to(status), *_WAIT],
                pass_fds=[status, *enclosure.fds],
                stdin=waits.fileno(),
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
                env={"PATH": os.defpath},
            )
        except BaseException:
            held.close()
            os.close(status)
            raise
        finally:
            waits.close()
        assert process.stdout is not None
        with process.stdout as stands, open(status, "rb", buffering=0) as status_of:
            try:
                deadline = time.monotonic() + _STAND_SECONDS
                _read_line(stands.fileno(), deadline)
                # It is there before process 1 is.
                status_line = os.pread(status_of.fileno(), _STATUS_BYTES, 0).partition(b"\n")[0]
                first = os.pidfd_open(json.loads(status_line)["child-pid"])
                return cls(process, os.pidfd_open(process.pid), first, held)
            except BaseException:
                held.close()
                _end(process)
                raise

    @classmethod
    def inherit(cls, fds: Mapping[str, int]) -> "StandingSandbox":
        """One that an earlier service has made, by its `lifelines`."""
        outer = fds["outer"]
        held = socket.socket(fileno=fds["held"])
        return cls(Inherited(os.dup(outer)), outer, fds["first"], held)

    def lifelines(self) -> dict[str, int]:
        """The descriptors that whoever is to hold it needs, by names of their own."""
        return {"first": self.first, "outer": self.outer, "held": self.held.fileno()}

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
        """Free the descriptors; what is left of it is killed."""
        self.held.close()
        _end(self.process)
        if isinstance(self.process, Inherited):
            self.process.close()
        os.close(self.outer)
        os.close(self.first)


def _read_line(fd: int, deadline: float) -> bytes:
    """The first line that is written there; raises OSError where none comes."""
    said = b""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while b"\n" not in said:
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError("the sandbox does not come to stand")
        if not (more := os.read(fd, _STATUS_BYTES)):
            raise ChildProcessError("the sandbox could not be made")
        said += more
    return said.partition(b"\n")[0]


def _end(process: subprocess.Popen[bytes] | Inherited) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
