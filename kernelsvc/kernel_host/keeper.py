"""The host's part in snapshots: it knows the one there is, and has it be the kernel.

Theory of operation. A kernel's snapshots tell of themselves over a socket that kernel and snapshots
have from the host, and so has every other process of the code's that was forked from them: what is
said there is distrusted. The system says who has said it; that process must be a child of the
kernel, or an orphan of its. One of the code's own that passes itself off as a snapshot gets no more
by it than to outlive the kernel, and then to be told to be the kernel, or to be killed.

There is one, of the latest run: what stood before is killed once another stands, or the kernel has
said why there is none. But a kernel that is interrupted because its time has run out may well come
to the end of the run, and tell of a snapshot, before it is ended; the memory that is wanted then is
that from before the run. So behind a signal, the one before stays until one more comes; and for one
that the kernel has forked, but that has not told of itself yet, the host waits before the signal.
They are numbered, for on a busy machine a snapshot may tell of itself later than the next one does.
"""

import contextlib
import json
import os
import signal
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_MAX_BYTES = 4096
_MOST_FDS = 4
_MOST_WORDS = 8
_LONGEST_WORD = 120
_CREDENTIALS = struct.Struct("3i")
_ROOM = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(_MOST_FDS * 4)
EVERY_RUN = ""
NOT_ANY = "none had been taken by then"
GONE = "it was killed, too"


@dataclass
class Snapshot:
    """A snapshot that waits, of the memory after `run`; it is told over `orders` what to be."""

    run: str
    number: int
    pid: int
    process: int
    orders: socket.socket
    without: list[str]

    def kill(self) -> None:
        """End it, and forget it."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.process, signal.SIGKILL)
        self.free()

    def fork(self, keeper: socket.socket) -> socket.socket:
        """Have it fork a copy, which tells of itself over the socket that this returns.

        There it waits to be told where to be. Its snapshots are told over `keeper`. Raises OSError.
        """
        told, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            told.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            try:
                fds = [theirs.fileno(), keeper.fileno()]
                socket.send_fds(self.orders, [json.dumps({"copy": True}).encode()], fds)
            except OSError:
                told.close()
                raise
        return told

    def free(self) -> None:
        """Forget it; it ends, unless it has been told to be the kernel."""
        os.close(self.process)
        self.orders.close()


class Refusal(NamedTuple):
    """There is no snapshot of the memory after `run`, and why; EVERY_RUN is any."""

    run: str
    why: str


class Keeper:
    """Keeps the snapshot of a host's kernel; over `in_kernel` kernels and snapshots tell of it."""

    def __init__(self) -> None:
        self.heard, self.in_kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.heard.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.heard.setblocking(False)
        self._latest: Snapshot | Refusal = Refusal(EVERY_RUN, NOT_ANY)
        self._before: Snapshot | Refusal | None = None
        self._may_end = False
        self._coming: set[int] = set()
        self._newest = 0

    def _all(self) -> list[Snapshot]:
        return [each for each in (self._latest, self._before) if isinstance(each, Snapshot)]

    @property
    def has_any(self) -> bool:
        """Whether there is a snapshot."""
        return bool(self._all())

    @property
    def is_one_coming(self) -> bool:
        """Whether one that the kernel has told of has not told of itself."""
        self._coming = {pid for pid in self._coming if _parent(pid) is not None}
        return bool(self._coming)

    def expect_none(self) -> None:
        """Those that were coming have had their time."""
        self._coming.clear()

    def expect_end(self) -> None:
        """The kernel gets a signal: the run may end well, and cost it its memory all the same."""
        self._may_end = True

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
                case {"forked": int(forked)} if not self.knows(forked):
                    if _parent(forked) == kernel:
                        self._coming.add(forked)
                case {"run": str(run), "number": int(number), "why": str(why)}:
                    self._newest = number
                    self._replace(Refusal(run, why[:_LONGEST_WORD] or NOT_ANY))
                case {"run": str(run), "number": int(number), "without": [*without]} if (
                    len(fds) == 1
                ):
                    words = [str(each)[:_LONGEST_WORD] for each in without[:_MOST_WORDS]]
                    if _parent(pid) not in (kernel, os.getpid()):
                        return
                    self._coming.discard(pid)
                    # One that tells late of itself is hung up on, and ends.
                    if number > self._newest:
                        orders = socket.socket(fileno=fds[0])
                        fds.clear()
                        orders.setblocking(False)
                        process = _pidfd(pid, orders)
                        self._newest = number
                        self._replace(Snapshot(run, number, pid, process, orders, words))
        except (ValueError, TypeError, RecursionError, OSError):
            # Nonsense, or it has ended meanwhile.
            return

    def _replace(self, latest: Snapshot | Refusal) -> None:
        if isinstance(self._before, Snapshot):
            self._before.kill()
        self._before, self._latest, before = None, latest, self._latest
        if self._may_end:
            self._before = before
        elif isinstance(before, Snapshot):
            before.kill()
        self._may_end = False

    def knows(self, pid: int) -> bool:
        """Whether it is a snapshot."""
        return any(snapshot.pid == pid for snapshot in self._all())

    def drop(self) -> None:
        """Kill the snapshot, where there is one."""
        for snapshot in self._all():
            snapshot.kill()
        self._latest, self._before = Refusal(EVERY_RUN, NOT_ANY), None
        self._may_end, self._coming, self._newest = False, set(), 0

    def close(self) -> None:
        """Free the sockets here."""
        self.heard.close()
        self.in_kernel.close()

    def has_word_of(self, run: str) -> bool:
        """Whether there is such a snapshot, or the kernel has said that there will be none."""
        return any(each is not None and each.run == run for each in (self._latest, self._before))

    def of(self, run: str) -> Snapshot | str:
        """The snapshot of the memory after `run`, which stays; or why there is none."""
        for snapshot in self._all():
            if snapshot.run == run:
                return snapshot
        for each in (self._latest, self._before):
            if isinstance(each, Refusal) and each.run in (run, EVERY_RUN):
                return each.why
        return NOT_ANY

    def take(self, run: str) -> Snapshot | str:
        """The snapshot of the memory after `run`, the caller's from now on; or why there is none.

        Those of other runs are killed: they will never be asked for.
        """
        snapshot = self.of(run)
        if isinstance(snapshot, Snapshot) and _parent(snapshot.pid) != os.getpid():
            snapshot = GONE
        if isinstance(snapshot, Snapshot):
            if snapshot is self._before:
                self._before = None
            else:
                self._latest = Refusal(EVERY_RUN, NOT_ANY)
        self.drop()
        if isinstance(snapshot, Snapshot):
            # Its own are numbered from there on.
            self._newest = snapshot.number
        return snapshot


def hear_copy(told: socket.socket) -> tuple[int, list[str]] | None:
    """The process that a copy is, and what it has not where it is; None for one that has ended."""
    try:
        said, ancillary, _, _ = told.recvmsg(_MAX_BYTES, _ROOM)
        fds, pid = _sent_along(ancillary)
        for fd in fds:
            os.close(fd)
        without = [str(each)[:_LONGEST_WORD] for each in json.loads(said)[:_MOST_WORDS]]
    except (ValueError, TypeError, KeyError, RecursionError, OSError):
        return None
    return (pid, without) if _parent(pid) == os.getpid() else None


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


def _pidfd(pid: int, orders: socket.socket) -> int:
    """A descriptor of the process; where there is none, hangs up on it and raises OSError."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        orders.close()
        raise


def _parent(pid: int) -> int | None:
    """The parent of a process that lives; None of one that does not."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[:2]
    except (OSError, ValueError):
        return None
    return None if state == b"Z" else int(parent)
