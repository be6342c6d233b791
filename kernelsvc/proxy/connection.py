"""A connected socket as bytes, read and written only as fast as somebody asks for it.

Not asyncio's streams: those read ahead, and forget what they have read when a write fails, which is
where a server has answered and hung up before it has read all of a request.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, Final

PIECE: Final = 64 * 1024


class Connection:
    """Owns the socket. One task may read and another one write; `close` ends what both wait for."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        with contextlib.suppress(OSError):
            # Each piece goes out as it comes, however small it is.
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connected
        self._loop = asyncio.get_running_loop()
        self._waiting: set[asyncio.Future[None]] = set()

    async def read(self) -> bytes:
        """The next bytes, PIECE at most; nothing at the end. Raises OSError.

        Who is cancelled here has lost none.
        """
        # Where there is always more, others have their turn all the same.
        await asyncio.sleep(0)
        while True:
            try:
                return self._socket.recv(PIECE)
            except BlockingIOError:
                await self._until_ready(self._loop.add_reader, self._loop.remove_reader)

    async def write(self, data: bytes) -> None:
        """Return when the system has taken all of `data`; raises OSError."""
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                await self._until_ready(self._loop.add_writer, self._loop.remove_writer)

    async def _until_ready(self, add: Callable[..., Any], remove: Callable[[int], Any]) -> None:
        descriptor, ready = self._socket.fileno(), self._loop.create_future()
        add(descriptor, _tell, ready)
        self._waiting.add(ready)
        try:
            await ready
        finally:
            self._waiting.discard(ready)
            if self._socket.fileno() == descriptor:
                remove(descriptor)

    def close(self) -> None:
        """Hang up, without waiting for anything that has not been taken; again is fine."""
        if (descriptor := self._socket.fileno()) < 0:
            return
        self._loop.remove_reader(descriptor)
        self._loop.remove_writer(descriptor)
        self._socket.close()
        for ready in list(self._waiting):
            _tell(ready)


def _tell(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)
