"""Text that is printed in quick succession, taken as fast as a pipe would take it.

Theory of operation. What stands before each text of a stream (a look at the pipes, a lock, a
clock) costs several times what `print` does. In a *burst* there is none of it: the stream's `write`
is that of a `Funnel`, in C from end to end, and the IO thread takes out what is in it a little
later.

That nothing else is written meanwhile need not be looked at: the system says so, by a signal that
the main thread gets before whatever has written (a child, an extension in C) goes on, and the burst
is over. So there are bursts in the main thread only, while it is the only one that runs code, and
not among tasks, which may belong to other runs.
"""

import _thread
import asyncio
import contextlib
import io
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from kernelsvc.kernel_host.capture import WRITTEN_SIGNAL, Capture

SMALL = 1 << 10
STREAK = 64
"""A burst begins behind so many texts of `SMALL` characters at most, with no pause between them."""

_ENCODING, _ERRORS = "utf-8", "surrogatepass"


class _Chunks:
    """What TextIOWrapper takes for a binary stream: it keeps the bytes that are written to it."""

    closed = False

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        # In C, so that no interrupt comes between the wrapper letting go of them and this.
        self.write = self.kept.append

    def flush(self) -> None:
        """Nothing."""

    def readable(self) -> bool:
        """Never."""
        return False

    def seekable(self) -> bool:
        """Never."""
        return False

    def writable(self) -> bool:
        """Always."""
        return True


class Funnel:
    """Takes text by a `write` in C, and keeps it until it is taken out."""

    def __init__(self) -> None:
        self._chunks = _Chunks()
        # The wrapper asks for less of a stream than typeshed does.
        chunks: Any = self._chunks
        self._wrapper = io.TextIOWrapper(chunks, _ENCODING, _ERRORS, newline="\n")
        self.write = self._wrapper.write

    def take(self) -> str:
        """What has been written since the last time."""
        self._wrapper.flush()
        kept = self._chunks.kept
        if not kept:
            return ""
        # What another thread adds meanwhile stays.
        count = len(kept)
        text = b"".join(kept[:count]).decode(_ENCODING, _ERRORS)
        del kept[:count]
        return text


class Burst:
    """Whether a stream's text goes through its funnel just now, and until when."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self._stream: Any = None
        self._own_threads: int | None = None
        self._runner: asyncio.Task[Any] | None = None
        self._written = False
        signal.signal(WRITTEN_SIGNAL, self._hear_written)
        signal.siginterrupt(WRITTEN_SIGNAL, False)
        os.write = self._before(os.write)
        os.writev = self._before(os.writev)

    def _before(self, write: Callable[..., int]) -> Callable[..., int]:
        """End a burst before, not by a signal, which would cut a long write short."""

        def ending_burst(fd: int, data: Any, /) -> int:
            __tracebackhide__ = True
            if self._stream is not None:
                self.end()
            return write(fd, data)

        ending_burst.__name__ = ending_burst.__qualname__ = write.__name__
        ending_burst.__doc__ = write.__doc__
        return ending_burst

    def expect(self) -> None:
        """Called by the task that is about to run code, before there was any the first time."""
        self.end()
        self._runner = _current_task()
        if self._own_threads is None:
            self._own_threads = _thread._count()

    def begin(self, stream: Any, funnel: Funnel) -> bool:
        """Let the stream's text go through the funnel; False where it may not just now."""
        if self._stream is not None or not self._may_begin():
            return False
        self._written = False
        if not self._capture.watch():
            return False
        self._stream = stream
        vars(stream)["write"] = funnel.write
        if self._written:
            self.end()
        return True

    def _may_begin(self) -> bool:
        return (
            threading.current_thread() is threading.main_thread()
            and self._own_threads is not None
            and _thread._count() <= self._own_threads
            and self._runner is not None
            and _current_task() is self._runner
            and not hasattr(asyncio, "_nest_patched")
            and signal.getsignal(WRITTEN_SIGNAL) == self._hear_written
        )

    def end(self) -> None:
        """No burst from here on; what is in the funnel stays there. Any thread may call this."""
        stream, self._stream = self._stream, None
        if stream is not None:
            vars(stream).pop("write", None)
            self._capture.unwatch()

    def forget(self) -> None:
        """In a forked child: there is none, and the pipes are the parent's to watch."""
        stream, self._stream = self._stream, None
        if stream is not None:
            vars(stream).pop("write", None)

    def resume(self, capture: Capture) -> None:
        """In a forked child that is a kernel now: watch pipes of its own."""
        self._capture = capture
        self._own_threads = self._runner = None

    def _hear_written(self, signum: int, frame: Any) -> None:
        self._written = True
        self.end()


def _current_task() -> asyncio.Task[Any] | None:
    with contextlib.suppress(RuntimeError):
        return asyncio.current_task()
    return None
