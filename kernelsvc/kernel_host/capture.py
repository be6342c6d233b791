"""The file descriptors under sys.stdout and sys.stderr of a kernel, as a part of its output.

Theory of operation. Output that does not pass through Python (`os.write(1, ...)`, a child process)
is caught by pipes in place of file descriptors 1 and 2. Each run gets pipes of its own: a child
process keeps those of the run that started it, so what it prints later is labelled rightly for as
long as it lives. A run that has started none leaves its pipes to the next; whether it has, the
newest process id tells.

`settle` reads them empty: before Python's own text goes out, to keep the order, and at the end of a
run, so that nothing a finished child wrote is missing from the answer.
"""

import codecs
import contextlib
import fcntl
import os
import resource
import select
import threading
from collections.abc import Iterator
from typing import Any, Protocol

from jupyter_client.session import extract_header

CHUNK = 1 << 16
SETTLE_SECONDS = 1.0

Label = dict[str, Any]


class Sink(Protocol):
    """What takes the text that was written to a descriptor."""

    def write(self, name: str, text: str, label: Label | None = None) -> None:
        """Take `text` for stream `name`."""

    def in_io_thread(self) -> bool:
        """Whether the caller is the thread that the sink's writers wait for."""


class _Pipe:
    """The read end under descriptor 1 or 2 during one run."""

    def __init__(self, name: str, fd: int, label: Label) -> None:
        self.name = name
        self.label = label
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.reader, writer = map(_not_standard, os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
        # The writing end is a program's stdout: it blocks, and it is inherited.
        os.set_blocking(writer, True)
        os.dup2(writer, fd, inheritable=True)
        self._identity = _identity(writer)
        os.close(writer)

    def is_as_made(self, fd: int) -> bool:
        """Whether it still is under this descriptor, blocking, with no character half read."""
        try:
            in_place = _identity(fd) == self._identity and os.get_blocking(fd)
        except OSError:
            return False
        return in_place and not self._decoder.getstate()[0]

    def read(self) -> str | None:
        """Some text (perhaps none yet of a torn character), or None when no writer is left."""
        try:
            data = os.read(self.reader, CHUNK)
        except BlockingIOError:
            return ""
        return self._decoder.decode(data, final=not data) or ("" if data else None)


def _not_standard(fd: int) -> int:
    """The descriptor, elsewhere if it has the number of a standard one that the code has closed."""
    if fd > 2:
        return fd
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return moved


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


class _NewestProcess:
    """The id of the newest process or thread of this process's namespace."""

    def __init__(self) -> None:
        try:
            self._fd = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1

    def id(self) -> bytes | None:
        """None where it cannot be told."""
        try:
            return os.pread(self._fd, 128, 0).split()[4]
        except (OSError, IndexError):
            return None


@contextlib.contextmanager
def _spare_descriptors() -> Iterator[None]:
    """Use the descriptors that are kept back from code that has opened as many as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Capture:
    """Reads the pipes under descriptors 1 and 2 from a thread of its own."""

    def __init__(self, output: Sink) -> None:
        self._output = output
        self._lock = threading.RLock()
        self._poll = select.epoll()
        self._pipes: dict[int, _Pipe] = {}
        self._current: dict[str, _Pipe] = {}
        self._written = select.poll()
        self._newest_process = _NewestProcess()
        self._newest_at_begin: bytes | None = None
        self._thread = threading.Thread(target=self._read_all, name="fd-output", daemon=True)

    def start(self) -> None:
        """Take descriptors 1 and 2; from here on they feed the streams."""
        self.begin({})
        self._thread.start()

    def begin(self, parent: Label) -> None:
        """New pipes for a new run; the old ones live on while a process still holds them."""
        self.settle()
        label = extract_header(parent)
        newest = self._newest_process.id()
        with self._lock:
            if newest is not None and newest == self._newest_at_begin and self._are_as_made():
                for pipe in self._current.values():
                    pipe.label = label
            else:
                self._newest_at_begin = newest
                self._make_pipes(label)

    def _are_as_made(self) -> bool:
        pipes = (self._current.get(name) for name in ("stdout", "stderr"))
        return all(pipe and pipe.is_as_made(fd) for fd, pipe in enumerate(pipes, start=1))

    def _make_pipes(self, label: Label) -> None:
        with _spare_descriptors():
            self._written = select.poll()
            for name, fd in (("stdout", 1), ("stderr", 2)):
                # Code may have used up even those; then its output is that of the run before.
                with contextlib.suppress(OSError):
                    pipe = self._current[name] = _Pipe(name, fd, label)
                    self._pipes[pipe.reader] = pipe
                    self._poll.register(pipe.reader, select.EPOLLIN)
                if (current := self._current.get(name)) is not None:
                    self._written.register(current.reader, select.POLLIN)

    def settle(self) -> None:
        """Pass on everything that has been written to the current descriptors.

        What another thread has read but not yet passed on comes first, so it is waited for; not by
        the IO thread, which that thread may itself be waiting for.
        """
        __tracebackhide__ = True
        patience = 0.0 if self._output.in_io_thread() else SETTLE_SECONDS
        if not self._lock.acquire(timeout=patience):
            return
        try:
            while written := self._written.poll(0):
                for fd, _ in written:
                    self._read(self._pipes[fd])
        finally:
            self._lock.release()

    def _read(self, pipe: _Pipe) -> None:
        text = pipe.read()
        if text is None:
            self._poll.unregister(pipe.reader)
            with contextlib.suppress(KeyError):
                self._written.unregister(pipe.reader)
            del self._pipes[pipe.reader]
            os.close(pipe.reader)
        else:
            self._output.write(pipe.name, text, pipe.label)

    def _read_all(self) -> None:
        while True:
            for fd, _ in self._poll.poll():
                with self._lock:
                    if (pipe := self._pipes.get(fd)) is not None:
                        self._read(pipe)
