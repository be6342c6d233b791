"""The event loop of a kernel's main thread; a fork of the kernel leaves it for one of its own."""

import asyncio
import os
import select
import selectors
import socket


class KernelLoop(asyncio.SelectorEventLoop):
    """An event loop that can be closed in a fork, without a trace in the process it ran in."""

    def __init__(self) -> None:
        self._epoll = selectors.EpollSelector()
        super().__init__(self._epoll)

    def leave(self) -> set[int]:
        """In a fork, where it may be running still: let go of what it shares with the other one.

        Its descriptors are of something else from here on, until it is closed; these are returned.
        """
        mine = [one for one in vars(self).values() if isinstance(one, socket.socket)]
        epoll = select.epoll()
        os.dup2(epoll.fileno(), self._epoll.fileno(), inheritable=False)
        epoll.close()
        for one, other in zip(mine, socket.socketpair(), strict=True):
            os.dup2(other.fileno(), one.fileno(), inheritable=False)
            other.close()
        return {self._epoll.fileno(), *(one.fileno() for one in mine)}
