"""One kernel of a host: its process, its snapshot, and what is its own."""

import contextlib
import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from kernelsvc.kernel_host import wire
from kernelsvc.kernel_host.becoming import write_anew
from kernelsvc.kernel_host.keeper import Keeper, Snapshot, hear_copy
from kernelsvc.kernel_host.processes import Process

FORKING_SECONDS = 1.0
"""So long at most from its fork until a snapshot has told of itself."""
TELLING_SECONDS = 0.1
"""So long at most from the fork of a snapshot until the kernel has told of it."""


class Hosted:
    """A kernel that runs, with `pid`, or has ended, of which there may be a snapshot.

    `worker` is the process that does the work, once it is ready: itself, or another. `directory` is
    its working directory as it starts, `root` its root directory; both are paths, the latter as the
    host has it, and "" for a copy that waits to be told. `before` is the number of the kernel that
    it was a snapshot of. Freed by `free`.
    """

    def __init__(self, number: int, connection_file: str, directory: str, root: str = "/") -> None:
        self.number = number
        self.connection_file = connection_file
        self.directory = directory
        self.before: int | None = None
        self.keeper = Keeper()
        self.pid: int | None = None
        self.worker: int | None = None
        self.returncode: int | None = None
        self.ready: int | None = None
        self.is_program = False
        self._root = root
        self._place: tuple[int, int] | None = None

    def begin_anew(self, number: int, connection_file: str) -> None:
        """It has ended; its snapshot takes its place, as that number."""
        self.before, self.number, self.connection_file = self.number, number, connection_file
        self.worker, self.returncode, self.is_program = None, None, False

    def step_back(self) -> None:
        """It ends, and counts as the one before, of which what it leaves in its place is as good.

        As long as it has run nothing, that is a snapshot of the very same memory.
        """
        assert self.before is not None
        self._hear_until(lambda: self.keeper.has_any)
        self.number, self.before = self.before, None
        self.signal(signal.SIGKILL)

    @property
    def is_there(self) -> bool:
        """Whether there is anything of it that lives, or is about to."""
        return self.pid is not None or self.ready is not None or self.keeper.has_any

    def outside(self, path: str) -> str:
        """A path of its own as the host has it."""
        return path if self._root == "/" else self._root + path

    def copy(self, command: wire.CopySnapshot) -> "Hosted | str":
        """A copy of it as it was after a run, to be heard of, which waits; or why there is none."""
        self._wait_for_word_of(command.run)
        snapshot = self.keeper.of(command.run)
        if not isinstance(snapshot, Snapshot):
            return snapshot
        copy = Hosted(command.kernel, "", self.directory, root="")
        try:
            copy.ready = snapshot.fork(copy.keeper.in_kernel).detach()
        except OSError as error:
            copy.free()
            return f"it could not be copied: {error.strerror}"
        return copy

    def hear_copy(self) -> tuple[int, list[str]] | None:
        """What a copy says: as `keeper.hear_copy`."""
        with self._told() as told:
            return hear_copy(told)

    def move(self, command: wire.MoveCopy) -> None:
        """Have a copy, which waits, go where it is to be, and begin there; raises OSError."""
        self._root, self.connection_file = command.root, command.connection_file
        self._know_place()
        write_anew(self.outside(command.connection_file), command.connection)
        order = {"root": command.root, "reseed": command.reseed}
        order["connection_file"] = command.connection_file
        with self._told() as told:
            told.send(json.dumps(order).encode())

    def _told(self) -> socket.socket:
        assert self.ready is not None
        return socket.socket(fileno=os.dup(self.ready))

    def _know_place(self) -> None:
        """Find out by what its processes can be told from others'; raises OSError."""
        self._place = _place(self.outside(self.directory))

    def has(self, pid: int) -> bool:
        """Whether a process is this kernel, its snapshot or something that it has started."""
        if pid == self.pid or self.keeper.knows(pid):
            return True
        if not self._root:
            return False
        with contextlib.suppress(OSError):
            if self._place is None:
                self._know_place()
            return _place(f"/proc/{pid}/root{self.directory}") == self._place
        return False

    def hear_snapshots(self) -> None:
        """Take in what its snapshots, and it itself, have said by now."""
        self.keeper.hear(self.pid)

    def listen(self, seconds: float) -> None:
        """Give it so long to tell of a snapshot, which is waited for then."""
        select.select([self.keeper.heard], [], [], seconds)
        self.wait_for_snapshots()

    def wait_for_snapshots(self) -> None:
        """Return when each that has been forked by now has told of itself."""
        self._hear_until(lambda: not self.keeper.is_one_coming)
        self.keeper.expect_none()

    def may_tell_of(self, process: Process) -> bool:
        """Whether that may be a snapshot which the kernel, that lives, has forked just now."""
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - process.started
        return self.returncode is None and process.parent == self.pid and age < TELLING_SECONDS

    def _wait_for_word_of(self, run: str) -> None:
        """Return when the snapshot of the memory after `run` has told of itself, or will not."""
        self._hear_until(lambda: self.keeper.has_word_of(run))

    def _hear_until(self, is_over: Callable[[], bool]) -> None:
        deadline = time.monotonic() + FORKING_SECONDS
        self.hear_snapshots()
        while not is_over() and time.monotonic() < deadline:
            # One that has ended meanwhile says nothing.
            select.select([self.keeper.heard], [], [], FORKING_SECONDS / 20)
            self.hear_snapshots()

    def signal(self, signum: int) -> None:
        """Signal it and its group, where it runs."""
        if self.pid is None:
            return
        for send in (os.killpg, os.kill):
            # It may have left its group; its own process is always hit.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                send(self.pid, signum)
                break

    def free(self) -> None:
        """Free the sockets here."""
        self.keeper.close()


def _place(directory: str) -> tuple[int, int]:
    found = Path(directory).stat()
    return found.st_dev, found.st_ino
