"""The service's end of reaching a server that a session's code runs (see `kernel_host.dial`).

Each question has a number. A socket that nobody waits for any more is closed.
"""

import asyncio
import contextlib
import errno
import itertools
import os
import secrets
import socket
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
        # Answers to what an earlier service has asked at this socket may still come.
        self._numbers = itertools.count(secrets.randbits(31))
        self._waiting: dict[int, asyncio.Future[socket.socket]] = {}
        asyncio.get_running_loop().add_reader(ours.fileno(), self._read)

    @classmethod
    def make(cls) -> tuple[Self, socket.socket]:
        """One, and the end that the host is given."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), theirs

    def fileno(self) -> int:
        """The descriptor of this end."""
        return self._ours.fileno()

    async def connect(self, port: int) -> socket.socket:
        """A connection to what listens on this port inside; raises OSError.

        That is ConnectionRefusedError where nothing does. Who calls bounds the time.
        """
        for version in _IP_VERSIONS:
            with contextlib.suppress(ConnectionRefusedError):
                return await wait_until_connected(await self._open(version, port))
        raise ConnectionRefusedError(_REFUSED)

    async def _open(self, version: int, port: int) -> socket.socket:
        number = next(self._numbers) & 0xFFFFFFFF
        answer: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
        self._ours.send(DIAL.pack(number, version, port))
        self._waiting[number] = answer
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                answer.result().close()
            raise
        finally:
            self._waiting.pop(number, None)

    def _read(self) -> None:
        try:
            said, descriptors, _, _ = socket.recv_fds(self._ours, DIALLED.size, 1)
        except BlockingIOError:
            return
        except OSError:
            said, descriptors = b"", []
        opened = _tcp_socket(descriptors)
        if len(said) < DIALLED.size:
            self.close()
        else:
            number, code = DIALLED.unpack(said)
            answer = self._waiting.get(number)
            if answer is not None and not answer.done():
                if opened is None:
                    answer.set_exception(OSError(code, os.strerror(code)))
                else:
                    answer.set_result(opened)
                    return
        if opened is not None:
            opened.close()

    def close(self) -> None:
        """Hang up; who waits is refused. Again is fine."""
        if self._ours.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._ours.fileno())
            self._ours.close()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ConnectionRefusedError(_REFUSED))


async def connect_outside(root: int, port: int) -> socket.socket:
    """The same without a sandbox: where a process from `root` downwards listens on the port."""
    for address in await asyncio.to_thread(listening_addresses, root, port):
        opened = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        opened.setblocking(False)
        code = opened.connect_ex((address, port))
        if code in (0, errno.EINPROGRESS):
            with contextlib.suppress(ConnectionRefusedError):
                return await wait_until_connected(opened)
        opened.close()
    raise ConnectionRefusedError(_REFUSED)


def _tcp_socket(descriptors: list[int]) -> socket.socket | None:
    """What a host hands over, whoever the host may be by now; anything else is closed."""
    for descriptor in descriptors:
        try:
            opened = socket.socket(fileno=descriptor)
        except OSError:
            os.close(descriptor)
            continue
        is_ip = opened.family in (socket.AF_INET, socket.AF_INET6)
        if is_ip and opened.type == socket.SOCK_STREAM:
            opened.setblocking(False)
            return opened
        opened.close()
    return None


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
