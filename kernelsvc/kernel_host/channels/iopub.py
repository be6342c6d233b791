"""The iopub channel: who may send on it, when, and in which order.

Theory of operation. A thread sends, so that output goes out while the code computes, and so that an
interrupt of the code never tears a message in two. To wake it for every message costs more than to
send it; so what the main thread says while nothing can interrupt it (that a request is being worked
on, and that it is done) it sends itself, under a lock, where nothing that was said before is still
waiting for the thread.
"""

import heapq
import itertools
import math
import os
import time
import traceback
from _thread import allocate_lock, get_ident
from collections import deque
from collections.abc import Callable, Sequence
from select import POLLIN, poll
from typing import Any

from ipykernel.iostream import BackgroundSocket
from jupyter_client.session import Session

from kernelsvc.kernel_host.channels.channel import Publisher
from kernelsvc.kernel_host.interrupts import code_handles_signals
from kernelsvc.kernel_host.own_threads import OwnThread

_STOP_SECONDS = 30.0
_AGAIN_SECONDS = 0.1


class IOThread:
    """The thread that sends on the iopub channel; a forked child of the kernel leaves it alone.

    Of the interface of ipykernel's IOPubThread, it has what ipykernel uses.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.socket = Publisher(self._welcome)
        self.background_socket = BackgroundSocket(self)
        self._thread = OwnThread(self._turn)

    def open(self, path: str) -> None:
        """Take subscribers at that path, and send to them from a thread of this process."""
        self._sending = allocate_lock()
        self._events: deque[Callable[[], object]] = deque()
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._is_ending = self._has_ended = False
        self._at_once: int | None = None
        self._pid = os.getpid()
        self.socket.open(path)
        self._poll = poll()
        self._poll.register(self.socket, POLLIN)
        self._thread.begin()
        self._poll.register(self._thread.awakened, POLLIN)

    def leave(self) -> None:
        """In a fork of the kernel: free what it has of this."""
        self.socket.leave()
        self._thread.leave()

    def schedule(self, f: Callable[[], object]) -> None:
        """Run `f` in this thread, after all that was scheduled before; at once where it has ended.

        Whoever schedules wakes, so that an exception (an interrupt) between the two loses nothing
        but the time until the next.
        """
        if self._is_there():
            self._events.append(f)
            self._thread.wake()
        else:
            f()

    def wait_for_scheduled(self, seconds: float = math.inf) -> None:
        """Return when all that was scheduled so far has been done, or that time has passed."""
        __tracebackhide__ = True
        if self._at_once == get_ident():
            # Called by an object that is collected in the midst of `send_at_once`, for whose lock
            # the thread may wait.
            return
        waiting = allocate_lock()
        waiting.acquire()
        self.schedule(waiting.release)
        # It may be paused, where this is called by such an object in the midst of a fork; or be
        # absent until there may be another process.
        until = time.monotonic() + seconds
        self._thread.go_on()
        while not waiting.acquire(timeout=_AGAIN_SECONDS) and time.monotonic() < until:
            self._thread.go_on()

    def call_later(self, seconds: float, f: Callable[[], object]) -> None:
        """Run `f` in this thread after that time; called in it."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), f))

    def _turn(self) -> None:
        due = self._timers[0][0] if self._timers else None
        wait = None if due is None else max(0.0, due - time.monotonic()) * 1000
        for fd, _ in self._poll.poll(wait):
            if fd == self._thread.awakened:
                os.eventfd_read(fd)
                self._run_scheduled()
            else:
                self._hear_subscribers()
        while self._timers and self._timers[0][0] <= time.monotonic():
            _try(heapq.heappop(self._timers)[2])

    def _run_scheduled(self) -> None:
        for _ in range(len(self._events)):
            _try(self._events[0])
            # What is being sent counts as waiting until it has been.
            self._events.popleft()

    def _hear_subscribers(self) -> None:
        with self._sending:
            self.socket.turn()

    def _welcome(self, topic: bytes) -> None:
        content = {"subscription": topic.decode(errors="replace")}
        message = self._session.msg("iopub_welcome", content)
        self.socket.send([*([topic] if topic else []), *self._session.serialize(message)])

    def send_multipart(self, frames: Sequence[Any], *args: Any, **kwargs: Any) -> None:
        """Send a message from the thread, behind what is scheduled."""
        self.schedule(lambda: self.send(frames))

    def send_at_once(self, frames: Sequence[Any]) -> None:
        """Send from the calling thread, if nothing that was scheduled before is waiting.

        For messages that may not be torn by an exception (an interrupt) half way.
        """
        if self._events or not self._is_own_process() or code_handles_signals():
            self.send_multipart(frames)
            return
        self._at_once = get_ident()
        try:
            with self._sending:
                has_left = self.socket.send(frames)
        finally:
            self._at_once = None
        if not has_left:
            # The reader is far behind. The thread waits for it, the code need not.
            self.schedule(self._wait)

    def send(self, frames: Sequence[Any]) -> None:
        """In this thread: send a message, and wait for readers that are behind."""
        if self._is_own_process():
            with self._sending:
                if not self.socket.send(frames):
                    self.socket.wait(lambda: self._is_ending)

    def _wait(self) -> None:
        with self._sending:
            self.socket.wait(lambda: self._is_ending)

    def finish(self) -> None:
        """Publish what is left, and return when it has left this process."""
        self._is_ending = True
        if self._is_there():
            self.wait_for_scheduled(_STOP_SECONDS)
            self._has_ended = True

    def is_current(self) -> bool:
        """Whether the caller runs in this thread, or it has ended and anyone may publish."""
        return self._thread.is_current() or not self._is_there()

    def _is_there(self) -> bool:
        """Whether there is the thread, or will be again."""
        return self._is_own_process() and not self._has_ended

    def _is_own_process(self) -> bool:
        return os.getpid() == self._pid


def _try(f: Callable[[], object]) -> None:
    """Call it; what it raises is told, and ends nothing."""
    try:
        f()
    except Exception:  # noqa: BLE001  # whatever prints or displays may be the code's
        traceback.print_exc()
