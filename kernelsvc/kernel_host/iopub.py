"""The iopub socket: who may send on it, when, and in which order.

Theory of operation. A thread owns the socket, so that output goes out while the code computes, and
so that an interrupt of the code never tears a message in two. To wake it for every message costs
more than to send it; so what the main thread says while nothing can interrupt it (that a request
is being worked on, and that it is done) it sends itself, under a lock, where nothing that was
said before is still waiting for the thread.
"""

import os
import signal
import threading
from _signal import getsignal  # type: ignore[import-not-found]  # no enum for each answer
from collections.abc import Callable
from typing import Any

import zmq
from ipykernel.iostream import IOPubThread

from kernelsvc.kernel_host.capture import WRITTEN_SIGNAL

_SIGNALS = signal.valid_signals() - {signal.SIGINT, WRITTEN_SIGNAL}
"""Those that only the session's code has handlers for."""


def _code_handles_signals() -> bool:
    """Whether something of the code's may run at any moment in the main thread.

    It could raise in the midst of a message; or print, and so wait for the thread, and the thread
    for the main thread to have sent its message.
    """
    return any(map(callable, map(getsignal, _SIGNALS)))


class IOThread(IOPubThread):
    """The thread that owns the iopub socket; a forked child of the kernel leaves it alone.

    The socket has a ZeroMQ context of its own, so that `finish` can wait for the last words to
    leave the process without having to close every other socket first.
    """

    def __init__(self, context: Any, socket: Any, session: Any) -> None:
        self._sending = threading.Lock()
        super().__init__(socket, session=session)
        self._context = context

    def _setup_event_pipe(self) -> None:
        """Others wake this thread by a counter of the system's; a socket each costs them more."""
        self._awakened = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        loop: Any = self.io_loop
        loop.asyncio_loop.add_reader(self._awakened, self._run_scheduled)

    def schedule(self, f: Callable[[], object]) -> None:
        """Run `f` in this thread, after all that was scheduled before; at once where it has ended.

        Whoever schedules wakes, so that an exception (an interrupt) between the two loses nothing
        but the time until the next.
        """
        if self.thread.is_alive():
            self._events.append(f)
            os.eventfd_write(self._awakened, 1)
        else:
            f()

    def _run_scheduled(self) -> None:
        os.eventfd_read(self._awakened)
        for _ in range(len(self._events)):
            try:
                self._events[0]()
            finally:
                # What is being sent counts as waiting until it has been.
                self._events.popleft()
        self._hear_subscribers()

    def _setup_xpub_listener(self) -> None:
        """Hear of subscriptions, here and whenever a message was sent, which takes the signal."""
        loop: Any = self.io_loop
        loop.asyncio_loop.add_reader(self.socket.get(zmq.FD), self._hear_subscribers)

    def _hear_subscribers(self) -> None:
        with self._sending:
            while not self.closed and self.socket.get(zmq.EVENTS) & zmq.POLLIN:
                self._handle_subscription(self.socket.recv_multipart())

    def send_at_once(self, message: list[bytes]) -> None:
        """Send from the calling thread, if nothing that was scheduled before is waiting.

        For messages that may not be torn by an exception (an interrupt) half way.
        """
        if self._events or self.closed or _code_handles_signals() or not self._is_master_process():
            self.send_multipart(message)
            return
        with self._sending:
            try:
                self.socket.send_multipart(message, zmq.NOBLOCK)
                was_sent = True
            except zmq.Again:
                # The reader is far behind. The thread waits for it, the code need not.
                was_sent = False
            subscribers = self.socket.get(zmq.EVENTS) & zmq.POLLIN
        if not was_sent:
            self.send_multipart(message)
        elif subscribers:
            self.schedule(self._hear_subscribers)

    def finish(self) -> None:
        """Publish what is left, and return when it has left the process (LINGER_MS at most)."""
        self.stop()
        if not self.closed:
            self.socket.close()
        self._context.term()

    def is_current(self) -> bool:
        """Whether the caller runs in this thread, or it has ended and anyone may publish."""
        return threading.current_thread() is self.thread or not self.thread.is_alive()

    def _really_send(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        if self._is_master_process():
            with self._sending:
                super()._really_send(msg, *args, **kwargs)
