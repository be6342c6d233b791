"""The file descriptors under sys.stdout and sys.stderr of a kernel, as a part of its output.

Theory of operation. Output that does not pass through Python (`os.write(1, ...)`, a child process)
is caught by pipes in place of file descriptors 1 and 2. Each run gets pipes of its own: a child
process keeps those of the run that started it, so what it prints later is labelled rightly for as
long as it lives. A run that has started none leaves its pipes to the next; whether it has, the
newest process id tells. Process ids are given in order: where a snapshot of the kernel has the one
behind that, nothing else has been started in between, and `pass_over` takes it as the newest.

`settle` reads them empty: before Python's own text goes out, to keep the order, and at the end of a
run, so that nothing a finished child wrote is missing from the answer; of pipes of earlier runs it
takes what is there, for their children may write on without end.

To look at the pipes before each text costs a system call. `watch` has the system tell of it
instead: whoever writes to a pipe, the main thread gets a signal before that write returns to its
caller.
"""

import codecs
import contextlib
import fcntl
import os
import resource
import signal
import struct
import threading
from collections.abc import Iterator
from select import EPOLLIN, epoll
from threading import RLock
from typing import Any, Protocol

from jupyter_client.session import extract_header

from kernelsvc.kernel_host.own_threads import OwnThread

CHUNK = 1 << 16
SETTLE_SECONDS = 1.0
WRITTEN_SIGNAL = signal.SIGURG  # ignored where nobody has asked for it
# From Linux's fcntl.h, for what Python's fcntl has no names: a signal to one thread.
_F_SETOWN_EX = 15
_F_OWNER_TID = 0

Label = dict[str, Any]


class Sink(Protocol):
    """What takes the text that was written to a descriptor."""

    def write(self, name: str, text: str, label: Label | None = None) -> object:
        """Take `text` for stream `name`."""

    def end_burst(self) -> None:
        """From here on `look` is called before each text."""

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
        self._watcher = 0

    def watch(self) -> None:
        """From here on whoever writes to it makes the system send the caller WRITTEN_SIGNAL."""
        if self._watcher != (thread := threading.get_native_id()):
            fcntl.fcntl(self.reader, _F_SETOWN_EX, struct.pack("ii", _F_OWNER_TID, thread))
            fcntl.fcntl(self.reader, fcntl.F_SETSIG, WRITTEN_SIGNAL)
            self._watcher = thread
        fcntl.fcntl(self.reader, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)

    def unwatch(self) -> None:
        """End what `watch` has begun."""
        fcntl.fcntl(self.reader, fcntl.F_SETFL, os.O_NONBLOCK)

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

    def close(self) -> None:
        """Ask no more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def id(self) -> bytes | None:
        """None where it cannot be told."""
        try:
            return os.pread(self._fd, 128, 0).split()[4]
        except (OSError, IndexError):
            return None


@contextlib.contextmanager
def spare_descriptors() -> Iterator[None]:
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
        self._lock = RLock()
        self._poll = epoll()
        self._pipes: dict[int, _Pipe] = {}
        self._current: dict[str, _Pipe] = {}
        self._written = epoll()
        self._passing_on = False
        self._newest_process = _NewestProcess()
        self._newest_at_begin: bytes | None = None
        self._thread = OwnThread(self._read_some)

    def start(self) -> None:
        """Take descriptors 1 and 2; from here on they feed the streams."""
        self.begin({})
        self._thread.begin()
        self._poll.register(self._thread.awakened, EPOLLIN)

    def abandon(self) -> None:
        """In a forked child, which has no thread to read: close its descriptors, but for 1 and 2.

        They are the parent's to read; what it has registered with the system is left alone.
        """
        for pipe in self._pipes.values():
            os.close(pipe.reader)
        self._pipes.clear()
        self._poll.close()
        self._written.close()
        self._newest_process.close()
        self._thread.leave()

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

    def pass_over(self, ids: range) -> None:
        """A child and threads that have no part in the output: they are no reason for new pipes."""
        if self._newest_at_begin == b"%d" % (ids.start - 1):
            self._newest_at_begin = b"%d" % (ids.stop - 1)

    def _are_as_made(self) -> bool:
        pipes = (self._current.get(name) for name in ("stdout", "stderr"))
        return all(pipe and pipe.is_as_made(fd) for fd, pipe in enumerate(pipes, start=1))

    def _make_pipes(self, label: Label) -> None:
        with spare_descriptors():
            for name, fd in (("stdout", 1), ("stderr", 2)):
                # Code may have used up even those; then its output is that of the run before.
                with contextlib.suppress(OSError):
                    pipe = _Pipe(name, fd, label)
                    self._pipes[pipe.reader] = pipe
                    self._poll.register(pipe.reader, EPOLLIN)
                    self._written.register(pipe.reader, EPOLLIN)
                    self._leave(self._current.get(name))
                    self._current[name] = pipe

    def _leave(self, pipe: _Pipe | None) -> None:
        """Settle no more a pipe that is the current one no more; it may have been closed."""
        if pipe is not None and self._pipes.get(pipe.reader) is pipe:
            self._written.unregister(pipe.reader)

    def watch(self) -> bool:
        """Have the system signal to the caller what is written; False where it has been already.

        Also where it cannot be watched.
        """
        try:
            for pipe in self._current_open():
                pipe.watch()
        except OSError:
            self.unwatch()
            return False
        if self._passing_on or self._written.poll(0):
            self.unwatch()
            return False
        return True

    def unwatch(self) -> None:
        """No signals any more."""
        for pipe in self._current_open():
            with contextlib.suppress(OSError):
                pipe.unwatch()

    def _current_open(self) -> list[_Pipe]:
        current = self._current.values()
        return [pipe for pipe in current if self._pipes.get(pipe.reader) is pipe]

    def look(self) -> None:
        """Pass on what has been written to the current descriptors, if anything has."""
        __tracebackhide__ = True
        # In this order: what has been read meanwhile is being passed on.
        if self._written.poll(0) or self._passing_on:
            self._settle()

    def settle(self) -> None:
        """Pass on everything that has been written, by Python's streams too.

        What another thread has read but not yet passed on comes first, so it is waited for; not by
        the IO thread, which that thread may itself be waiting for.
        """
        __tracebackhide__ = True
        self._output.end_burst()
        self._settle()

    def _settle(self) -> None:
        __tracebackhide__ = True
        patience = 0.0 if self._output.in_io_thread() else SETTLE_SECONDS
        if not self._lock.acquire(timeout=patience):
            return
        try:
            # A handler of the code's that prints may come in between, and have read it all.
            while written := [fd for fd, _ in self._written.poll(0) if fd in self._pipes]:
                self._read_each(written)
            if len(self._pipes) > len(self._current):
                self._read_each([fd for fd, _ in self._poll.poll(0)])
        finally:
            self._lock.release()

    def _read_each(self, readers: list[int]) -> None:
        __tracebackhide__ = True
        for fd in readers:
            if (pipe := self._pipes.get(fd)) is not None:
                self._read(pipe)

    def _read(self, pipe: _Pipe) -> None:
        text = pipe.read()
        if text is not None:
            self._output.write(pipe.name, text, pipe.label)
        elif self._pipes.pop(pipe.reader, None) is not None:
            for registered in (self._poll, self._written):
                with contextlib.suppress(OSError):
                    registered.unregister(pipe.reader)
            os.close(pipe.reader)

    def _read_some(self) -> None:
        for fd, _ in self._poll.poll():
            if fd == self._thread.awakened:
                os.eventfd_read(fd)
                continue
            with self._lock:
                if (pipe := self._pipes.get(fd)) is not None:
                    self._passing_on = True
                    try:
                        self._read(pipe)
                    finally:
                        self._passing_on = False
