"""sys.stdout and sys.stderr of a kernel, and the file descriptors under them, as iopub messages.

Theory of operation. Both streams share one `Output`, so that what was written first is published
first, whichever stream it went to. Every piece carries the *label* of the run it belongs to: the
header of the execute request (Jupyter's parent header). The IO thread publishes; a writer that gets
more than `HIGH_WATER` characters ahead of it waits, so a flood of prints is slowed to what the
client takes and never piles up.

Output that does not pass through Python (`os.write(1, ...)`, a child process) is caught by pipes in
place of file descriptors 1 and 2. Each run gets pipes of its own: a child process keeps those of
the run that started it, so what it prints later is labelled rightly for as long as it lives. A run
that has started none leaves its pipes to the next; whether it has, the newest process id tells.
`settle` reads them empty: before Python's own text goes out, to keep the order, and at the end of a
run, so that nothing a finished child wrote is missing from the answer.

In a process forked from the kernel (multiprocessing) there is no IO thread: text is written
straight to the descriptor, that is into the pipe of the run that forked it.
"""

import codecs
import contextlib
import contextvars
import io
import os
import resource
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from jupyter_client.session import Session, extract_header

CHUNK = 1 << 16
HIGH_WATER = 1 << 20
QUIET_SECONDS = 0.02
SETTLE_SECONDS = 1.0

Label = dict[str, Any]
Schedule = Callable[[Callable[[], None]], None]
"""Runs a function in the IO thread; functions run in the order in which they were given."""


class Output:
    """Collects what the streams write and publishes it from the IO thread, in order."""

    def __init__(
        self,
        session: Session,
        socket: Any,
        schedule: Schedule,
        call_later: Callable[[float, Callable[[], None]], Any],
        io_thread: Callable[[], bool],
    ) -> None:
        self._session = session
        self._socket = socket
        self._schedule = schedule
        self._call_later = call_later
        self.in_io_thread = io_thread
        self._lock = threading.RLock()
        self._pieces: deque[tuple[str, Label, list[str]]] = deque()
        self._size = 0
        self._flush_due = False
        self._flushed_at = 0.0
        self._label: contextvars.ContextVar[Label] = contextvars.ContextVar("label")
        self._last_label: Label = {}
        self.capture: Capture | None = None
        self.forked = False
        os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        self.forked = True
        self._lock = threading.RLock()

    @property
    def label(self) -> Label:
        """The run that the calling task or thread works for; else the one that is executing."""
        return self._label.get(self._last_label)

    def begin(self, parent: Label) -> None:
        """From here on the caller, and whoever has no label, works for this request."""
        self._last_label = extract_header(parent)
        self._label.set(self._last_label)

    def set_label(self, parent: Label) -> contextvars.Token[Label]:
        """Label the calling thread or task only."""
        return self._label.set(extract_header(parent))

    def reset_label(self, token: contextvars.Token[Label]) -> None:
        """Undo `set_label`."""
        self._label.reset(token)

    def write(self, name: str, text: str, label: Label | None = None) -> None:
        """Take `text` for stream `name`; waits while the reader is far behind."""
        __tracebackhide__ = True
        if not text:
            return
        label = self.label if label is None else label
        with self._lock:
            last = self._pieces[-1] if self._pieces else None
            if last and last[0] == name and last[1].get("msg_id") == label.get("msg_id"):
                last[2].append(text)
            else:
                self._pieces.append((name, label, [text]))
            self._size += len(text)
            full = self._size > HIGH_WATER
            quiet = time.monotonic() - self._flushed_at > QUIET_SECONDS
            due, self._flush_due = self._flush_due, True
        if full or (quiet and text.endswith("\n")):
            # The first line after a silence goes out at once, and before the code goes on.
            self.flush()
        elif not due:
            self._schedule(lambda: self._call_later(QUIET_SECONDS, self._publish))

    def flush(self) -> None:
        """Return when everything written so far has been handed to the socket."""
        __tracebackhide__ = True
        with self._lock:
            if not self._pieces:
                return
        if self.in_io_thread():
            self._publish()
            return
        published = threading.Event()
        self._schedule(self._publish)
        self._schedule(published.set)
        published.wait()

    def _publish(self) -> None:
        with self._lock:
            pieces, self._pieces = self._pieces, deque()
            self._size = 0
            self._flush_due = False
            self._flushed_at = time.monotonic()
        for name, label, texts in pieces:
            text = "".join(texts)
            for start in range(0, len(text), CHUNK):
                content = {"name": name, "text": text[start : start + CHUNK]}
                message = self._session.msg("stream", content, parent=label)
                self._session.send(self._socket, message, ident=f"stream.{name}".encode())


class Stream(io.TextIOBase):
    """One of the two text streams; what a program expects of sys.stdout, on top of `Output`."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, name: str, fd: int, output: Output) -> None:
        self.name = name
        self._fd = fd
        self._output = output

    def write(self, text: str) -> int:
        """Take text for this stream; raises TypeError for anything but str."""
        __tracebackhide__ = True
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if self._output.forked:
            data = memoryview(text.encode(errors=self.errors))
            while data:
                data = data[os.write(self._fd, data) :]
        else:
            # print() writes its newline apart; between the two nothing can have been written.
            if self._output.capture is not None and text != "\n":
                self._output.capture.settle()
            self._output.write(self.name, text)
        return len(text)

    def flush(self) -> None:
        """Hand everything written so far to the socket."""
        __tracebackhide__ = True
        if not self._output.forked:
            self._output.flush()

    def fileno(self) -> int:
        """The descriptor under this stream: what is written to it is captured just the same."""
        return self._fd

    @property
    def buffer(self) -> io.FileIO:
        """The stream for bytes."""
        self.flush()
        return io.FileIO(self._fd, "wb", closefd=False)

    def writable(self) -> bool:
        """Always."""
        return True

    def isatty(self) -> bool:
        """Never: nobody sits before it."""
        return False

    def close(self) -> None:
        """Nothing: code that closes sys.stdout must not end the session's output."""

    def set_thread_parent(self, parent: Label) -> contextvars.Token[Label]:
        """Label the calling thread's output; the shell calls this for each of its streams."""
        return self._output.set_label(parent)

    def reset_thread_parent(self, token: contextvars.Token[Label]) -> None:
        """Undo `set_thread_parent`."""
        self._output.reset_label(token)


class _Pipe:
    """The read end under descriptor 1 or 2 during one run."""

    def __init__(self, name: str, fd: int, label: Label) -> None:
        self.name = name
        self.label = label
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
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

    def __init__(self, output: Output) -> None:
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


def install(output: Output) -> None:
    """Make `output` the process's stdout and stderr, file descriptors included."""
    for name, fd in (("stdout", 1), ("stderr", 2)):
        with contextlib.suppress(OSError, ValueError):
            getattr(sys, name).flush()
        setattr(sys, name, Stream(name, fd, output))
    output.capture = Capture(output)
    output.capture.start()
