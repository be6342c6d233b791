"""The host's part in snapshots: it knows the one there is, and has it be the kernel.

Theory of operation. A kernel's snapshots tell of themselves over a socket that kernel and snapshots
have from the host, and so has every other process of the code's that was forked from them: what is
said there is distrusted. The system says who has said it; that process must be a child of the
kernel, or an orphan of its. One of the code's own that passes itself off as a snapshot gets no more
by it than to outlive the kernel, and then to be told to be the kernel, or to be killed.

There is at most one: what stood before is killed once another stands, or the kernel has said that
there is to be none.
"""

import contextlib
import json
import os
import signal
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

_MAX_BYTES = 4096
_MOST_FDS = 4
_MOST_WORDS = 8
_CREDENTIALS = struct.Struct("3i")
_ROOM = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(_MOST_FDS * 4)
NOT_ANY = "none has been taken"
GONE = "the snapshot has been killed, too"


@dataclass
class Snapshot:
    """A snapshot that waits, of the memory after `run`; it is told over `orders` what to be."""

    run: str
    pid: int
    process: int
    orders: socket.socket
    without: list[str]

    def free(self) -> None:
        """Forget it; it ends, unless it has been told to be the kernel."""
        os.close(self.process)
        self.orders.close()


class Keeper:
    """Keeps the snapshot of a host's kernel; over `in_kernel` kernels and snapshots tell of it."""

    def __init__(self) -> None:
        self.heard, self.in_kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.heard.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.heard.setblocking(False)
        self._snapshot: Snapshot | None = None
        self._why_none = NOT_ANY
        self._run = ""

    @property
    def has_any(self) -> bool:
        """Whether there is a snapshot."""
        return self._snapshot is not None

    def hear(self, kernel: int | None) -> None:
        """Take in what snapshots of this kernel, and it itself, have said by now."""
        while True:
            try:
                said, ancillary, _, _ = self.heard.recvmsg(_MAX_BYTES, _ROOM)
            except OSError:
                return
            if not said:
                return
            fds, pid = _sent_along(ancillary)
            try:
                self._take_in(said, pid, fds, kernel)
            finally:
                for fd in fds:
                    os.close(fd)

    def _take_in(self, said: bytes, pid: int, fds: list[int], kernel: int | None) -> None:
        try:
            match json.loads(said):
                case {"run": str(run), "why": str(why)}:
                    self.drop(why)
                    self._run = run
                case {"run": str(run), "without": [*without]} if len(fds) == 1:
                    words = [str(each)[:80] for each in without[:_MOST_WORDS]]
                    if _parent(pid) not in (kernel, os.getpid()):
                        return
                    orders = socket.socket(fileno=os.dup(fds[0]))
                    orders.setblocking(False)
                    snapshot = Snapshot(run, pid, os.pidfd_open(pid), orders, words)
                    self.drop(GONE)
                    self._snapshot, self._run = snapshot, run
        except (ValueError, TypeError, RecursionError, OSError):
            # Nonsense, or it has ended meanwhile.
            return

    def knows(self, pid: int) -> bool:
        """Whether it is the snapshot."""
        return self._snapshot is not None and self._snapshot.pid == pid

    def drop(self, why: str = NOT_ANY) -> None:
        """Kill the snapshot, where there is one; from here on there is none, and that is why."""
        snapshot, self._snapshot = self._snapshot, None
        self._why_none = why
        if snapshot is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(snapshot.process, signal.SIGKILL)
            snapshot.free()

    def take(self, run: str) -> Snapshot | str:
        """The snapshot of the memory after `run`, the caller's from now on; or why there is none.

        One of another run is killed: it will never be asked for.
        """
        snapshot, self._snapshot = self._snapshot, None
        if snapshot is None:
            return self._why_none if self._run == run else NOT_ANY
        if snapshot.run == run and _parent(snapshot.pid) == os.getpid():
            return snapshot
        self._snapshot = snapshot
        is_of_run = snapshot.run == run
        self.drop()
        return GONE if is_of_run else NOT_ANY


def _sent_along(ancillary: list[tuple[int, int, bytes]]) -> tuple[list[int], int]:
    """The descriptors that came with a message, and the process that has sent it."""
    fds: list[int] = []
    pid = 0
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            count = len(data) // 4
            fds += struct.unpack(f"{count}i", data[: count * 4])
        elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            pid = _CREDENTIALS.unpack(data[: _CREDENTIALS.size])[0]
    return fds, pid


def _parent(pid: int) -> int | None:
    """The parent of a process that lives; None of one that does not."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[:2]
    except (OSError, ValueError):
        return None
    return None if state == b"Z" else int(parent)
