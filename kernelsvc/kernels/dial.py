"""The service's end of reaching a server that a session's code runs (see `kernel_host.dial`).

Questions are answered in the order in which they were asked, so those who asked wait in a row; an
answer that nobody waits for any more is closed.
"""

import asyncio
import contextlib
import os
import socket
from collections import deque
from typing import Self

from kernelsvc.kernel_host.wire import DIAL, DIALLED
from kernelsvc.sandbox.listening import listening_addresses

_IP_VERSIONS = (4, 6)
_REFUSED = "nothing listens on this port"


class Dial:
    """Made by `make`, with the host's end of it; closed by `close`."""

    def __init__(self, ours: socket.socket) -> None:
        ours.setblocking(False)
        self._ours = ours
        self._waiting: deque[asyncio.Future[socket.socket]] = deque()
        asyncio.get_running_loop().add_reader(ours.fileno(), self._read)

    @classmethod
    def make(cls) -> tuple[Self, socket.socket]:
        """One, and the end that the host is given."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), theirs

    async def connect(self, port: int) -> socket.socket:
        """A connection to what listens on this port inside; raises OSError.

        That is ConnectionRefusedError where nothing does. Who calls bounds the time.
        """
        for version in _IP_VERSIONS:
            with contextlib.suppress(ConnectionRefusedError):
                return await wait_until_connected(await self._open(version, port))
        raise ConnectionRefusedError(_REFUSED)

    async def _open(self, version: int, port: int) -> socket.socket:
        answer: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
        self._ours.send(DIAL.pack(version, port))
        self._waiting.append(answer)
        return await answer

    def _read(self) -> None:
        try:
            said, descriptors, _, _ = socket.recv_fds(self._ours, DIALLED.size, 1)
        except BlockingIOError:
            return
        except OSError:
            said, descriptors = b"", []
        if len(said) < DIALLED.size or not self._waiting:
            for descriptor in descriptors:
                os.close(descriptor)
            self.close()
            return
        answer = self._waiting.popleft()
        (code,) = DIALLED.unpack(said)
        opened = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        if len(opened) == 1 and _is_tcp(opened[0]) and not answer.done():
            opened[0].setblocking(False)
            answer.set_result(opened[0])
            return
        for each in opened:
            each.close()
        if not answer.done():
            answer.set_exception(OSError(code, os.strerror(code)))

    def close(self) -> None:
        """Hang up; who waits is refused. Again is fine."""
        if self._ours.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._ours.fileno())
            self._ours.close()
        while self._waiting:
            answer = self._waiting.popleft()
            if not answer.done():
                answer.set_exception(ConnectionRefusedError(_REFUSED))


async def connect_outside(root: int, port: int) -> socket.socket:
    """The same without a sandbox: where a process from `root` downwards listens on the port."""
    for address in await asyncio.to_thread(listening_addresses, root, port):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        opened = socket.socket(family, socket.SOCK_STREAM)
        opened.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            opened.connect((address, port))
        with contextlib.suppress(ConnectionRefusedError):
            return await wait_until_connected(opened)
    raise ConnectionRefusedError(_REFUSED)


def _is_tcp(opened: socket.socket) -> bool:
    """Whether it is what a host hands over, whoever the host may be by now."""
    return (
        opened.family in (socket.AF_INET, socket.AF_INET6)
        and opened.type == socket.SOCK_STREAM
        and opened.proto in (0, socket.IPPROTO_TCP)
    )


async def wait_until_connected(opened: socket.socket) -> socket.socket:
    """The same socket, which is connecting, when it is connected; closed where that fails."""
    loop = asyncio.get_running_loop()
    writable = asyncio.Event()
    loop.add_writer(opened.fileno(), writable.set)
    try:
        await writable.wait()
        if (code := opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)) != 0:
            raise OSError(code, os.strerror(code))
    except BaseException:
        loop.remove_writer(opened.fileno())
        opened.close()
        raise
    loop.remove_writer(opened.fileno())
    return opened
