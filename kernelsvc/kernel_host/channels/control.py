"""The control channel, served by a thread of its own: it answers while code runs."""

import asyncio
import os
from collections.abc import Callable
from select import POLLIN, poll
from selectors import EpollSelector
from typing import Any

from kernelsvc.kernel_host.channels.channel import Router
from kernelsvc.kernel_host.own_threads import OwnThread


class Control(Router):
    """Runs what `on_recv` was given for each request, one after the other, in its thread.

    In place of an event loop it is what ipykernel stops when a kernel is to end.
    """

    def __init__(self) -> None:
        super().__init__()
        self.io_loop = self
        self._thread = OwnThread(self._turn)

    def open(self, path: str) -> None:
        """Listen at that path, and serve from a thread of this process."""
        super().open(path)
        self._thread.begin()
        self._poll = poll()
        self._poll.register(self, POLLIN)
        self._poll.register(self._thread.awakened, POLLIN)

    def leave(self) -> None:
        """Free what a fork has of it."""
        super().leave()
        self._thread.leave()

    def on_recv(self, callback: Callable[[list[bytes]], Any], copy: bool = True) -> None:
        """Run that with the frames of each message; the first is who has sent it."""

        def serve(frames: list[bytes]) -> None:
            loop = asyncio.SelectorEventLoop(EpollSelector())
            try:
                loop.run_until_complete(callback(frames))
            finally:
                loop.close()

        super().on_recv(serve)

    def _turn(self) -> None:
        for fd, _ in self._poll.poll():
            if fd == self._thread.awakened:
                os.eventfd_read(fd)
            else:
                self.turn()

    def add_callback(self, callback: Callable[[], None]) -> None:
        """Call it."""
        callback()

    def stop(self) -> None:
        """Nothing: the thread ends with the process."""
