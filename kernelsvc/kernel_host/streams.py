"""sys.stdout and sys.stderr of a kernel as iopub messages.

Theory of operation. Both streams share one `Output`, so that what was written first is published
first, whichever stream it went to. Every piece carries the *label* of the run it belongs to: the
header of the execute request (Jupyter's parent header). The IO thread publishes; a writer that gets
more than `HIGH_WATER` characters ahead of it waits, so a flood of prints is slowed to what the
client takes and never piles up. Many texts in quick succession are a *burst* (see `burst`): they go
through a funnel, and whatever comes next, of whoever, takes out first what is in it.

In a process forked from the kernel (multiprocessing) there is no IO thread: text is written
straight to the descriptor, that is into the pipe of the run that forked it; unless it becomes a
kernel itself (`resume`).
"""

import contextlib
import contextvars
import io
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from threading import RLock
from typing import Any

from jupyter_client.session import Session, extract_header

from kernelsvc.kernel_host.burst import SMALL, STREAK, Burst, Funnel
from kernelsvc.kernel_host.capture import CHUNK, Capture, Label

HIGH_WATER = 1 << 20
QUIET_SECONDS = 0.02

Schedule = Callable[[Callable[[], None]], None]
"""Runs a function in the IO thread; functions run in the order in which they were given."""

Batch = deque[tuple[str, Label, list[str]]]
"""Texts in the order in which they were written: each stream's name, the run's label, parts."""


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
        # To send a message without a copy of it takes pyzmq a thread more, and costs more up to
        # some megabytes.
        session.copy_threshold = sys.maxsize
        self._session = session
        self._socket = socket
        self._schedule = schedule
        self._call_later = call_later
        self.in_io_thread = io_thread
        self._lock = RLock()
        # The last takes what is written; those before it are closed, and to be sent.
        self._batches: deque[Batch] = deque([deque()])
        self._size = 0
        self._flush_due = False
        self._flushed_at = 0.0
        self._label: contextvars.ContextVar[Label] = contextvars.ContextVar("label")
        self._last_label: Label = {}
        self.capture: Capture | None = None
        self.burst: Burst | None = None
        self._funnels: list[tuple[str, Funnel]] = []
        self._streak = 0
        self.forked = False
        os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        self.forked = True
        self._lock = RLock()
        if self.burst is not None:
            self.burst.forget()

    def abandon(self) -> None:
        """In a forked child that only waits: let go of the pipes under descriptors 1 and 2."""
        if self.capture is not None:
            self.capture.abandon()

    def pass_over(self, ids: range) -> None:
        """Ids of what the kernel has begun for itself, and writes nothing."""
        if self.capture is not None:
            self.capture.pass_over(ids)

    def resume(self) -> None:
        """In a forked child that is a kernel now, and has an IO thread: publish again.

        What has been written before, the parent has published, or will.
        """
        for _, funnel in self._funnels:
            funnel.take()
        self._batches = deque([deque()])
        self._size = self._streak = 0
        self._flush_due = False
        self.capture = Capture(self)
        self.capture.start()
        if self.burst is not None:
            self.burst.resume(self.capture)
        self.forked = False

    @property
    def label(self) -> Label:
        """The run that the calling task or thread works for; else the one that is executing."""
        return self._label.get(self._last_label)

    def begin(self, parent: Label) -> None:
        """From here on the caller, and whoever has no label, works for this request."""
        if self.burst is not None:
            self.burst.expect()
        with self._lock:
            self._empty_funnels()
        self._last_label = extract_header(parent)
        self._label.set(self._last_label)

    def set_label(self, parent: Label) -> contextvars.Token[Label]:
        """Label the calling thread or task only."""
        self.end_burst()
        return self._label.set(extract_header(parent))

    def reset_label(self, token: contextvars.Token[Label]) -> None:
        """Undo `set_label`."""
        self._label.reset(token)

    def add_funnel(self, name: str) -> Funnel:
        """A way for text of stream `name` that costs less than `write`; for bursts."""
        funnel = Funnel()
        self._funnels.append((name, funnel))
        return funnel

    def end_burst(self) -> None:
        """From here on every text comes by `write`."""
        if self.burst is not None:
            self.burst.end()

    def _empty_funnels(self) -> None:
        for name, funnel in self._funnels:
            if text := funnel.take():
                self._add(name, text, self._last_label)

    def _add(self, name: str, text: str, label: Label) -> None:
        batch = self._batches[-1]
        last = batch[-1] if batch else None
        if last and last[0] == name and last[1].get("msg_id") == label.get("msg_id"):
            last[2].append(text)
        else:
            batch.append((name, label, [text]))
        self._size += len(text)

    def write(self, name: str, text: str, label: Label | None = None) -> bool:
        """Take `text` for stream `name`; waits while the reader is far behind.

        True where so many have come that a burst may begin.
        """
        __tracebackhide__ = True
        if not text:
            return False
        label = self.label if label is None else label
        with self._lock:
            self._empty_funnels()
            self._add(name, text, label)
            self._streak = self._streak + 1 if len(text) <= SMALL else 0
            is_streak = self._streak >= STREAK and label is self._last_label
            full = self._size > HIGH_WATER
            quiet = time.monotonic() - self._flushed_at > QUIET_SECONDS
            due, self._flush_due = self._flush_due, True
        if full or (quiet and text.endswith("\n")):
            # The first line after a silence goes out at once, and before the code goes on.
            self.flush()
            return False
        if not due:
            self._schedule(lambda: self._call_later(QUIET_SECONDS, self._publish_later))
        return is_streak

    def begin_burst(self, stream: "Stream", funnel: Funnel) -> None:
        """Let text go through the funnel until the IO thread is there to publish it.

        What the funnel takes meanwhile is bounded by the time only: so it is called at once, and
        there is no burst while it is publishing already.
        """
        __tracebackhide__ = True
        if self.burst is None:
            return
        if self._is_publishing:
            self.flush()
            return
        with self._lock:
            if not self._flush_due or not self.burst.begin(stream, funnel):
                self._streak = -STREAK
                return
        self._schedule(self._publish_later)

    def flush(self) -> None:
        """Return when everything written so far has been handed to the socket.

        In the IO thread, it will be as soon as the thread has its hands free.
        """
        __tracebackhide__ = True
        self._publish()
        if not self._is_publishing or self.in_io_thread():
            return
        self._socket.io_thread.wait_for_scheduled()

    @property
    def _is_publishing(self) -> bool:
        return len(self._batches) > 1

    def _publish(self) -> None:
        """Have sent what is there now: behind what is scheduled by now, before what will be.

        An interrupt at any point loses nothing: what has been closed is sent with the next.
        """
        with self._lock:
            self.end_burst()
            self._empty_funnels()
            self._flush_due = False
            if self._batches[-1]:
                self._batches.append(deque())
                self._size = self._streak = 0
                self._flushed_at = time.monotonic()
            *closed, _ = self._batches
            if closed:
                self._schedule(partial(self._send_through, closed[-1]))

    def _publish_later(self) -> None:
        """In the IO thread: publish, but wait for no lock.

        Who has it may have been interrupted by a handler that prints, and wait for this thread.
        """
        if self._lock.acquire(blocking=False):
            try:
                self._publish()
            finally:
                self._lock.release()
        else:
            self._call_later(QUIET_SECONDS, self._publish_later)

    def _send_through(self, last: Batch) -> None:
        """In the IO thread: send the batches up to this one, unless that has been done.

        Nobody else takes a batch away, so that needs no lock.
        """
        while any(batch is last for batch in tuple(self._batches)):
            try:
                self._send(self._batches[0])
            finally:
                self._batches.popleft()

    def _send(self, batch: Batch) -> None:
        for name, label, texts in batch:
            for text in _in_chunks(texts):
                content = {"name": name, "text": text}
                message = self._session.msg("stream", content, parent=label)
                frames = self._session.serialize(message, f"stream.{name}".encode())
                # At once: to schedule each would make messages of all that is there, however
                # slowly they are read.
                self._socket.io_thread.send(frames)


def _in_chunks(texts: list[str]) -> Iterator[str]:
    """All of the texts, in pieces of at most CHUNK; no second copy of a long one."""
    short: list[str] = []
    size = 0
    for text in texts:
        for start in range(0, len(text), CHUNK):
            piece = text[start : start + CHUNK]
            if size + len(piece) > CHUNK:
                yield "".join(short)
                short.clear()
                size = 0
            short.append(piece)
            size += len(piece)
    if short:
        yield "".join(short)


class _Bytes(io.FileIO):
    """A descriptor's bytes: they end a burst before they are written, and all of them are."""

    def __init__(self, output: Output, fd: int) -> None:
        super().__init__(fd, "wb", closefd=False)
        self._output = output

    def write(self, data: Any, /) -> int:
        """Write all of it, as io.BufferedWriter does."""
        __tracebackhide__ = True
        self._output.end_burst()
        with memoryview(data).cast("B") as view:
            written = 0
            while written < len(view):
                written += super().write(view[written:]) or 0
            return written


class Stream(io.TextIOBase):
    """One of the two text streams; what a program expects of sys.stdout, on top of `Output`."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, name: str, fd: int, output: Output) -> None:
        self.name = name
        self._fd = fd
        self._output = output
        self._funnel = output.add_funnel(name)

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
                self._output.capture.look()
            if self._output.write(self.name, text):
                self._output.begin_burst(self, self._funnel)
        return len(text)

    def flush(self) -> None:
        """Hand everything written so far to the socket, to the descriptors too."""
        __tracebackhide__ = True
        if not self._output.forked:
            if self._output.capture is not None:
                self._output.capture.settle()
            self._output.flush()

    def fileno(self) -> int:
        """The descriptor under this stream: what is written to it is captured just the same."""
        return self._fd

    @property
    def buffer(self) -> io.FileIO:
        """The stream for bytes."""
        self.flush()
        return _Bytes(self._output, self._fd)

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


def install(output: Output) -> None:
    """Make `output` the process's stdout and stderr, file descriptors included."""
    for name, fd in (("stdout", 1), ("stderr", 2)):
        with contextlib.suppress(OSError, ValueError):
            getattr(sys, name).flush()
        setattr(sys, name, Stream(name, fd, output))
    output.capture = Capture(output)
    output.capture.start()
    output.burst = Burst(output.capture)
