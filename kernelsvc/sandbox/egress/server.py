"""Accepts connections from the inside and has each served by the protocol that it speaks."""

import asyncio
import errno
import logging
import socket

from kernelsvc.sandbox.egress.dial import Dialler
from kernelsvc.sandbox.egress.http_proxy import serve_http
from kernelsvc.sandbox.egress.policy import Policy
from kernelsvc.sandbox.egress.relay import Stream, open_stream
from kernelsvc.sandbox.egress.socks import VERSION as SOCKS5
from kernelsvc.sandbox.egress.socks import serve_socks

log = logging.getLogger(__name__)

# Of one connection, or of the moment; the listener is as good as before.
_PASSING = {
    errno.ECONNABORTED,
    errno.EPROTO,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.EPERM,
    errno.EINTR,
}


class BadListener(Exception):
    """What the inside handed over is not a listening TCP socket on its loopback."""


def check_listener(offered: socket.socket) -> None:
    """Raise BadListener unless `offered` is what the inside should hand over."""
    is_tcp = offered.family == socket.AF_INET and offered.type == socket.SOCK_STREAM
    if (
        not is_tcp
        or not offered.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        or offered.getsockname()[0] != "127.0.0.1"
    ):
        raise BadListener("expected a listening TCP socket on 127.0.0.1")


class Server:
    """Serves a listening socket under a policy."""

    def __init__(self, listener: socket.socket, policy: Policy) -> None:
        self._listener = listener
        self._limits = policy.limits
        self._dialler = Dialler(policy)
        self._places = asyncio.Semaphore(policy.limits.connections)

    async def serve(self) -> None:
        """Serve until cancelled; raises OSError where the listener is of no use any more.

        When all places are taken nothing is accepted: who connects waits in the kernel's queue.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            while True:
                await self._places.acquire()
                try:
                    accepted, _ = await loop.sock_accept(self._listener)
                except OSError as error:
                    self._places.release()
                    if error.errno in _PASSING:
                        continue
                    raise
                group.create_task(self._serve_one(accepted))

    async def _serve_one(self, accepted: socket.socket) -> None:
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            async with open_stream(accepted) as client:
                try:
                    await self._serve_protocol(client)
                except (OSError, EOFError):
                    # The other end may break off at any point; there is nobody to tell.
                    client.reset_at_close()
                except Exception:
                    # One connection that nobody thought of must not end all others.
                    client.reset_at_close()
                    log.exception("a connection failed in a way that should not happen")
        finally:
            self._places.release()

    async def _serve_protocol(self, client: Stream) -> None:
        async with asyncio.timeout(self._limits.head_seconds):
            first = await client.read()
        client.unread(first)
        if first[:1] == bytes([SOCKS5]):
            await serve_socks(client, self._dialler, self._limits)
        elif first:
            await serve_http(client, self._dialler, self._limits)
