"""From a destination to a connected socket: look the name up, check every address, connect.

A name is looked up once, here, and the connection is made to an address that was checked, so that
a name which answers differently the next time (DNS rebinding) gains nothing.
"""

import asyncio
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, ip_address

from kernelsvc.sandbox.egress.addresses import Address, canonical
from kernelsvc.sandbox.egress.destination import Destination
from kernelsvc.sandbox.egress.own_addresses import is_own_address
from kernelsvc.sandbox.egress.policy import Policy, Refused

_LOOKUPS_AT_ONCE = 16
_MOST_ADDRESSES = 8


class Unreachable(Exception):
    """There is no connection; `str()` says why."""


class Unresolvable(Unreachable):
    """The name has no address."""


class TimedOut(Unreachable):
    """Nobody answered in time."""


class Dialler:
    """Makes connections that a policy lets through."""

    def __init__(self, policy: Policy, is_own: Callable[[Address], bool] = is_own_address) -> None:
        self._policy = policy
        self._is_own = is_own
        self._lookups = ThreadPoolExecutor(_LOOKUPS_AT_ONCE, thread_name_prefix="lookup")

    async def connect(self, wanted: Destination) -> socket.socket:
        """A connected, non-blocking socket; raises Refused or Unreachable."""
        self._policy.check_destination(wanted)
        try:
            async with asyncio.timeout(self._policy.limits.connect_seconds):
                addresses = self._allowed(await self._look_up(wanted))
                return await self._first_to_answer(addresses, wanted)
        except TimeoutError as error:
            raise TimedOut(f"{wanted} did not answer in time") from error

    async def _look_up(self, wanted: Destination) -> list[Address]:
        if not isinstance(wanted.host, str):
            return [wanted.host]
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(
                self._lookups, _addresses_of, wanted.host, wanted.port
            )
        except (OSError, UnicodeError) as error:
            raise Unresolvable(f"the name {wanted.host} cannot be resolved") from error
        return list(dict.fromkeys(found))[:_MOST_ADDRESSES]

    def _allowed(self, addresses: list[Address]) -> list[Address]:
        """Those that may be reached; raises Refused, for the first, where none may."""
        allowed, refusals = [], []
        for address in addresses:
            try:
                self._policy.check_address(address, self._is_own)
                allowed.append(address)
            except Refused as refused:
                refusals.append(refused)
        if not allowed and refusals:
            raise refusals[0]
        return allowed

    async def _first_to_answer(
        self, addresses: list[Address], wanted: Destination
    ) -> socket.socket:
        problem = "has no address"
        share = self._policy.limits.connect_seconds / max(1, len(addresses))
        for address in addresses:
            try:
                async with asyncio.timeout(share):
                    connected = await _connect(address, wanted.port)
            except TimeoutError:
                if address == addresses[-1]:
                    raise
                continue
            except OSError as error:
                problem = os.strerror(error.errno).lower() if error.errno else "failed"
                continue
            self._check_peer(connected, address)
            return connected
        raise Unreachable(f"{wanted} cannot be reached: {problem}")

    def _check_peer(self, connected: socket.socket, address: Address) -> None:
        """Before a byte is sent: the kernel's choice of source says once more who is there.

        An address may have become this host's between the look at the routes and the connection.
        """
        if connected.getsockname()[0] == connected.getpeername()[0]:
            try:
                self._policy.check_address(address, lambda _: True)
            except Refused:
                connected.close()
                raise


def _addresses_of(name: str, port: int) -> list[Address]:
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return [canonical(ip_address(str(sockaddr[0]))) for *_, sockaddr in found]


async def _connect(address: Address, port: int) -> socket.socket:
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    connecting = socket.socket(family, socket.SOCK_STREAM)
    try:
        connecting.setblocking(False)
        connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(connecting, (str(address), port))
    except BaseException:
        connecting.close()
        raise
    return connecting
