"""Bytes from one socket to the other and back, in constant memory.

Sockets are read only when what was read before has been taken by the other side, at most `CHUNK`
bytes at a time, so a side that does not read stops the other one and nothing piles up between.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable

CHUNK = 64 * 1024
_LINGER_SECONDS = 2.0
_RESET = struct.pack("ii", 1, 0)


class Stream:
    """A connected socket with bytes that were read ahead of whoever reads next."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._ahead = b""
        self.on_activity: Callable[[], None] = lambda: None

    async def read(self) -> bytes:
        """The next bytes, CHUNK at most; empty at the end."""
        if self._ahead:
            data, self._ahead = self._ahead, b""
        else:
            data = await self._loop.sock_recv(self._sock, CHUNK)
        self.on_activity()
        return data

    async def read_exactly(self, size: int) -> bytes:
        """`size` bytes; raises EOFError where there are fewer."""
        data = b""
        while len(data) < size:
            if not (more := await self.read()):
                raise EOFError
            data += more
        self.unread(data[size:])
        return data[:size]

    def unread(self, data: bytes) -> None:
        """Have the next `read` return `data` first."""
        self._ahead = data + self._ahead

    async def write(self, data: bytes) -> None:
        """Return when the kernel has taken all of `data`."""
        view = memoryview(data)
        while view:
            # One send a turn, not sendall: each that succeeds is activity.
            await self._loop.sock_sendall(self._sock, view[:CHUNK])
            self.on_activity()
            view = view[CHUNK:]

    def write_eof(self) -> None:
        """Tell the other end that nothing more comes."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def reset_at_close(self) -> None:
        """Have the other end see a broken connection, not an ordinary end."""
        with contextlib.suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    async def linger(self) -> None:
        """Say that nothing more comes, and wait a moment for the other end to have read it.

        A socket closed with unread bytes in it sends a reset, which may overtake the last answer.
        """
        self.write_eof()
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while await self.read():
                    pass

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()


@contextlib.asynccontextmanager
async def open_stream(sock: socket.socket) -> AsyncIterator[Stream]:
    """A stream on `sock`, closed at the end."""
    stream = Stream(sock)
    try:
        yield stream
    finally:
        stream.close()


@contextlib.asynccontextmanager
async def while_active(seconds: float, *streams: Stream) -> AsyncIterator[None]:
    """Raise TimeoutError in the block once none of `streams` has moved a byte for `seconds`."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(seconds) as quiet:

        def put_off() -> None:
            if not quiet.expired():
                quiet.reschedule(loop.time() + seconds)

        for stream in streams:
            stream.on_activity = put_off
        try:
            yield
        finally:
            for stream in streams:
                stream.on_activity = lambda: None


async def relay(one: Stream, other: Stream, idle_seconds: float) -> None:
    """Copy both ways until both sides have ended; an end is passed on as it comes (half-close).

    What breaks off on one side, or is idle for too long, is reset on both.
    """
    try:
        async with while_active(idle_seconds, one, other), asyncio.TaskGroup() as group:
            group.create_task(_copy(one, other))
            group.create_task(_copy(other, one))
    except* (OSError, TimeoutError):
        one.reset_at_close()
        other.reset_at_close()


async def _copy(source: Stream, sink: Stream) -> None:
    while data := await source.read():
        await sink.write(data)
    sink.write_eof()
