"""The event loop of a kernel's main thread; a fork of the kernel leaves it for one of its own."""

import asyncio
import os
from select import epoll
from selectors import EpollSelector
from socket import socketpair


class KernelLoop(asyncio.SelectorEventLoop):
    """An event loop that can be closed in a fork, without a trace in the process it ran in."""

    def __init__(self) -> None:
        self._epoll = EpollSelector()
        super().__init__(self._epoll)

    def leave(self) -> set[int]:
        """In a fork, where it may be running still: let go of what it shares with the other one.

        Its descriptors are of something else from here on, until it is closed; these are returned.
        """
        # The pair by which it wakes itself; it tells nobody of these.
        pair = self._ssock.fileno(), self._csock.fileno()  # type: ignore[attr-defined]
        poll = epoll()
        os.dup2(poll.fileno(), self._epoll.fileno(), inheritable=False)
        poll.close()
        for fd, one in zip(pair, socketpair(), strict=True):
            os.dup2(one.fileno(), fd, inheritable=False)
            one.close()
        return {self._epoll.fileno(), *pair}
