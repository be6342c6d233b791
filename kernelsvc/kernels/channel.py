"""A socket of ours to a kernel, read by the event loop itself.

ZeroMQ signals by one descriptor, and only what has changed since it was last asked: once it is
readable, everything must be read before one waits for it again, and whatever else uses the socket
must look whether it has taken the signal.

Theory of operation of floods. A kernel that prints without end keeps one processor busy, and with
its reader a second. Alone, it is read as fast as it goes. While other kernels are in use, its
reader pauses after each turn: ZeroMQ's queues fill, the kernel waits, and the processors are free.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Any

import zmq

_TURN_SECONDS = 0.00025
"""So long does one read, in a flood, before others have their turn."""
_PAUSE_SECONDS = 0.003
"""So long is none of a flood read while others are in use."""
_IN_USE_SECONDS = 0.05
"""So long after something was read from it, a channel counts as in use."""
# pyzmq's flags are an enum, whose operators take longer than to send.
_READABLE = int(zmq.POLLIN)
_AT_ONCE = int(zmq.NOBLOCK)
_MORE_FOLLOW = int(zmq.NOBLOCK | zmq.SNDMORE)


class Readers:
    """Which channels were read last, by the event loop's clock: the latest, and another before."""

    def __init__(self) -> None:
        self._latest: Channel | None = None
        self._latest_at = self._another_at = -math.inf

    def note(self, channel: "Channel", now: float) -> None:
        """The channel has been read."""
        if channel is not self._latest:
            self._latest, self._another_at = channel, self._latest_at
        self._latest_at = now

    def last_beside(self, channel: "Channel") -> float:
        """When a channel was read that is not this one."""
        return self._another_at if channel is self._latest else self._latest_at

    def forget(self, channel: "Channel") -> None:
        """It is read no more."""
        if channel is self._latest:
            self._latest = None


class Channel:
    """Calls `take` with the frames of each message, as it arrives. Freed by `close`.

    `readers` is common to all channels that have one event loop.
    """

    def __init__(
        self, socket: "zmq.Socket[bytes]", take: Callable[[list[bytes]], Any], readers: Readers
    ) -> None:
        self.socket = socket
        self._take = take
        self._readers = readers
        self._next_turn: asyncio.Handle | None = None
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
        if self._next_turn is None and self._has_more():
            self._next_turn = self._loop.call_soon(self._read_some)

    def _read_some(self) -> None:
        """Read what is here, but in a flood let others have their turn."""
        if self._next_turn is not None:
            self._next_turn.cancel()
            self._next_turn = None
        now = self._loop.time()
        until = now + _TURN_SECONDS
        try:
            while self._has_more():
                if now >= until:
                    self._pause(now)
                    return
                self._read()
                now = self._loop.time()
        except BaseException:
            self._look_again()
            raise
        self._readers.note(self, now)

    def _pause(self, now: float) -> None:
        """There is more; where others are in use, it waits."""
        if now - self._readers.last_beside(self) < _IN_USE_SECONDS:
            self._next_turn = self._loop.call_later(_PAUSE_SECONDS, self._read_some)
        else:
            self._next_turn = self._loop.call_soon(self._read_some)
        self._readers.note(self, now)

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
        if self._next_turn is not None:
            self._next_turn.cancel()
        self._readers.forget(self)
        if not self.socket.closed:
            self._loop.remove_reader(self._fd)
            self.socket.close(linger=0)
