"""A pipe that a program writes to, said as it comes."""

import asyncio
import codecs
import contextlib
import fcntl
import os
import struct
import termios
from collections.abc import Awaitable, Callable
from typing import Final

_CHUNK: Final = 1 << 16
_BATCH_SECONDS: Final = 0.01
"""So long small pieces are left to gather: a message costs more than the line in it."""


class Outlet:
    """Reads the descriptor `fd`, which is its own, until its end; `say` gets the text.

    While `say` waits, nothing is read, the pipe fills, and so who writes waits, too.
    """

    def __init__(self, fd: int, say: Callable[[str], Awaitable[None]]) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._say = say
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._reading = asyncio.Lock()
        self._task = asyncio.create_task(self._read())

    @property
    def is_open(self) -> bool:
        """Whether somebody may still write."""
        return not self._task.done()

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._fd, readable.set)
        try:
            while (size := await self._read_some(_CHUNK)) != 0:
                if size is None:
                    readable.clear()
                    await readable.wait()
                elif size < _CHUNK:
                    await asyncio.sleep(_BATCH_SECONDS)
        finally:
            loop.remove_reader(self._fd)
            os.close(self._fd)

    async def _read_some(self, most: int) -> int | None:
        """Say what is there, so much of it at most: how much it was; None: nothing, 0: its end."""
        async with self._reading:
            try:
                data = os.read(self._fd, most)
            except BlockingIOError:
                return None
            text = self._decoder.decode(data, final=not data)
            if text:
                await self._say(text)
            return len(data)

    async def drain(self) -> None:
        """Return when everything has been said that is written by now."""
        if not self.is_open:
            return
        async with self._reading:
            (left,) = struct.unpack("i", fcntl.ioctl(self._fd, termios.FIONREAD, bytes(4)))
        while left > 0 and self.is_open:
            left -= await self._read_some(min(left, _CHUNK)) or left

    async def close(self) -> None:
        """Read no more."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
