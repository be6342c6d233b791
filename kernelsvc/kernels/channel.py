"""A socket of ours to a kernel, read by the event loop itself.

ZeroMQ signals by one descriptor, and only what has changed since it was last asked: once it is
readable, everything must be read before one waits for it again, and whatever else uses the socket
must look whether it has taken the signal.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import zmq

_BATCH = 16


class Channel:
    """Calls `take` with the frames of each message, as it arrives. Freed by `close`."""

    def __init__(self, socket: "zmq.Socket[bytes]", take: Callable[[list[bytes]], Any]) -> None:
        self.socket = socket
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._fd = int(socket.get(zmq.FD))
        self._loop.add_reader(self._fd, self._read_some)
        self._look_again()

    def send(self, frames: list[bytes]) -> None:
        """Send a message; raises zmq.Again where the kernel has left too many unread."""
        self.socket.send_multipart(frames, zmq.NOBLOCK)
        self._look_again()

    def _look_again(self) -> None:
        if not self.socket.closed and int(self.socket.get(zmq.EVENTS)) & zmq.POLLIN:
            self._loop.call_soon(self._read_some)

    def _read_some(self) -> None:
        """Read what is here, but in a flood let others have their turn."""
        try:
            for _ in range(_BATCH):
                if self.socket.closed:
                    return
                self._take(self.socket.recv_multipart(zmq.NOBLOCK))
        except zmq.Again:
            return
        finally:
            self._look_again()

    def read_all(self) -> None:
        """Read everything that is here now."""
        with contextlib.suppress(zmq.Again):
            while True:
                self._take(self.socket.recv_multipart(zmq.NOBLOCK))

    def close(self) -> None:
        """Free the socket; nothing more is taken."""
        if not self.socket.closed:
            self._loop.remove_reader(self._fd)
            self.socket.close(linger=0)
