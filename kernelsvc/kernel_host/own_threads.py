"""The kernel's own threads, which are not there when it forks.

Theory of operation. Of a thread that runs while its process forks, the copy has what it has on its
stack, and nobody to free it: a kernel that is restored a hundred times would hold a hundred times
what its threads were at. And what one has locked stays locked. So the kernel's threads end before
it forks, and new ones go on where they were; one that is busy just then is not waited for.

They are threads of the system's, not of `threading`: that module is the code's to patch (gevent
does), and of its threads the code may ask how many there are.
"""

import errno
import os
import time
import traceback
from _thread import LockType, allocate_lock, get_ident, start_new_thread
from collections import deque
from collections.abc import Callable
from signal import SIG_BLOCK, pthread_sigmask, valid_signals

_EVERY_SIGNAL = valid_signals()
_PAUSE_SECONDS = 0.02
"""So long does a fork wait for a thread that is busy."""

_begun: list["OwnThread"] = []


class OwnThread:
    """A thread that calls `turn` again and again.

    A turn waits for what there is to do, but returns when `awakened` is readable, and reads that.
    """

    def __init__(self, turn: Callable[[], object]) -> None:
        self._turn = turn
        self._is_paused = False
        self._ident: int | None = None
        self.awakened = -1

    def begin(self) -> None:
        """Have a thread, in this process."""
        # A counter of the system's costs who wakes the thread less than a socket.
        self.awakened = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # Something is in it while there is no thread: who takes it out has to begin one.
        self._absent: deque[None] = deque([None])
        _begun.append(self)
        self.go_on()

    def leave(self) -> None:
        """In a fork of the kernel: free what it has of this."""
        os.close(self.awakened)
        _begun.remove(self)

    @property
    def is_absent(self) -> bool:
        """Whether there is none."""
        return bool(self._absent)

    def wake(self) -> None:
        """Have it return from its turn."""
        os.eventfd_write(self.awakened, 1)
        if self._absent and not self._is_paused:
            self.go_on()

    def is_current(self) -> bool:
        """Whether the caller runs in it."""
        return get_ident() == self._ident

    def pause(self) -> LockType:
        """Have it end before its next turn; what is locked until then."""
        self._is_paused = True
        self.wake()
        return self._running

    def go_on(self) -> bool:
        """Have it again, if it has ended; whether it has begun.

        No lock is taken: this may be called in the midst of itself, where an object of the code's
        that is collected just then prints something.
        """
        self._is_paused = False
        if not self._take_absence():
            return False
        self._running = running = allocate_lock()
        running.acquire()
        try:
            start_new_thread(self._run, (running,))
        except RuntimeError:
            # There are as many processes as there may be.
            running.release()
            self._absent.append(None)
            return False
        return True

    def _take_absence(self) -> bool:
        try:
            self._absent.pop()
        except IndexError:
            return False
        return True

    def _run(self, running: LockType) -> None:
        # They are the main thread's, whose system calls they are to interrupt.
        pthread_sigmask(SIG_BLOCK, _EVERY_SIGNAL)
        self._ident = get_ident()
        while not self._is_over():
            try:
                self._turn()
            except Exception as error:  # noqa: BLE001  # whatever it was, it goes on
                if isinstance(error, OSError) and error.errno == errno.EBADF:
                    # The code has closed what it waits for: there is nothing to wait for.
                    break
                traceback.print_exc()
        running.release()

    def _is_over(self) -> bool:
        if not self._is_paused:
            return False
        self._absent.append(None)
        # Who lets it go on behind this finds that it is absent; who has done so before, has not.
        return self._is_paused or not self._take_absence()


def pause() -> None:
    """Before a fork: have the threads end."""
    running = [thread.pause() for thread in _begun]
    deadline = time.monotonic() + _PAUSE_SECONDS
    for lock in running:
        lock.acquire(timeout=max(0.0, deadline - time.monotonic()))


def go_on() -> int:
    """Behind a fork, in the kernel: have the threads again; how many have begun.

    Where there cannot be as many, `are_there` tells, and this is to be called again.
    """
    return sum(thread.go_on() for thread in _begun)


def are_there() -> bool:
    """Whether there are all of them."""
    return not any(thread.is_absent for thread in _begun)
