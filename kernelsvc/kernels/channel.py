"""A socket of ours to a kernel, read by the event loop itself.

ZeroMQ signals by one descriptor, and only what has changed since it was last asked: once it is
readable, everything must be read before one waits for it again, and whatever else uses the socket
must look whether it has taken the signal.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import zmq

_BATCH = 16
# pyzmq's flags are an enum, whose operators take longer than to send.
_READABLE = int(zmq.POLLIN)
_AT_ONCE = int(zmq.NOBLOCK)
_MORE_FOLLOW = int(zmq.NOBLOCK | zmq.SNDMORE)


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
        *first, last = frames
        for frame in first:
            self.socket.send(frame, _MORE_FOLLOW)
        self.socket.send(last, _AT_ONCE)
        self._look_again()

    def _has_more(self) -> bool:
        """Whether there is a message to read; to look takes the signal."""
        return not self.socket.closed and int(self.socket.get(zmq.EVENTS)) & _READABLE != 0

    def _look_again(self) -> None:
        if self._has_more():
            self._loop.call_soon(self._read_some)

    def _read_some(self) -> None:
        """Read what is here, but in a flood let others have their turn."""
        is_empty = False
        try:
            for _ in range(_BATCH):
                if is_empty := not self._has_more():
                    return
                self._read()
        finally:
            if not is_empty:
                self._look_again()

    def _read(self) -> None:
        frames, more = [], True
        while more:
            # A frame knows whether another follows; to ask the socket takes longer.
            frame = self.socket.recv(_AT_ONCE, copy=False)
            frames.append(frame.bytes)
            more = frame.more
        self._take(frames)

    def read_all(self) -> None:
        """Read everything that is here now."""
        while self._has_more():
            self._read()

    def close(self) -> None:
        """Free the socket; nothing more is taken."""
        if not self.socket.closed:
            self._loop.remove_reader(self._fd)
            self.socket.close(linger=0)
