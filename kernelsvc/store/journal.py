"""What is to be written to the database, and must not be lost before it is: a file of lines.

Theory of operation. A transaction costs a change of threads and some milliseconds of work; a line
appended to a file costs one system call, and outlives the process just the same (not the machine,
nor does SQLite's write-ahead log as it is set up here). So an entry is added to a file, and a while
later all that have gathered are written in one transaction. There are two files: one takes new
entries while those of the other are being written; it is emptied when they are committed. Entries
are written again after a crash between the two, so to write one twice must change nothing.
"""

import os
import threading
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")


class Journal(Generic[T]):
    """Entries that wait to be written. `add` is called by one thread, the others by another."""

    def __init__(self, path: Path) -> None:
        self._paths = [path.with_name(f"{path.name}.{number}") for number in (0, 1)]
        self._files: list[int] = []
        self._lock = threading.Lock()
        self._waiting: list[T] = []
        self._taken: list[T] = []
        self._size = 0

    def open(self) -> list[bytes]:
        """Begin; returns the lines that an earlier process has left, which stay until `done`."""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._files = [os.open(path, flags, 0o600) for path in self._paths]
        self._size = os.fstat(self._files[0]).st_size
        return [line for path in self._paths for line in path.read_bytes().splitlines()]

    def add(self, line: bytes, entry: T) -> None:
        """Keep an entry; `line` is what it is after a crash. Raises OSError, and keeps nothing."""
        with self._lock:
            size = self._size + len(line) + 1
            if os.write(self._files[0], line + b"\n") != len(line) + 1:
                os.ftruncate(self._files[0], self._size)
                raise OSError("the journal of runs cannot be written to: the disk is full")
            self._size = size
            self._waiting.append(entry)

    @property
    def waiting_bytes(self) -> int:
        """How much has been added since the last `take`."""
        return self._size

    def take(self) -> list[T]:
        """The entries to write now; the same ones again until they are `done`."""
        with self._lock:
            if not self._taken and self._waiting:
                self._taken, self._waiting = self._waiting, []
                self._files.reverse()
                self._size = 0
            return self._taken

    def done(self) -> None:
        """What was taken has been written."""
        self._taken = []
        os.ftruncate(self._files[1], 0)

    def clear(self) -> None:
        """Everything has been written that was there at `open`; nothing has been added since."""
        self._size = 0
        for file in self._files:
            os.ftruncate(file, 0)

    def close(self) -> None:
        """Let go of the files; what was not written stays in them."""
        while self._files:
            os.close(self._files.pop())
