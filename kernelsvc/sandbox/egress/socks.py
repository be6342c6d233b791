"""The proxy as SOCKS5 clients know it (RFC 1928): no authentication, CONNECT only."""

import asyncio
from ipaddress import IPv4Address, IPv6Address

from kernelsvc.sandbox.egress.addresses import canonical
from kernelsvc.sandbox.egress.destination import BadDestination, Destination, destination
from kernelsvc.sandbox.egress.dial import Dialler, TimedOut, Unreachable, Unresolvable
from kernelsvc.sandbox.egress.policy import Limits, Refused
from kernelsvc.sandbox.egress.relay import Stream, open_stream, relay

VERSION = 5
_NO_AUTHENTICATION = 0
_NONE_ACCEPTABLE = 0xFF
_CONNECT = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4

_SUCCEEDED = 0
_FAILED = 1
_REFUSED_BY_POLICY = 2
_HOST_UNREACHABLE = 4
_NOT_CONNECTED = 5
_TIMED_OUT = 6
_UNKNOWN_COMMAND = 7
_UNKNOWN_ADDRESS_TYPE = 8


class _Rejected(Exception):
    """The request is not served; with the reply code that says so."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


async def serve_socks(client: Stream, dialler: Dialler, limits: Limits) -> None:
    """Serve a SOCKS5 connection; raises OSError or EOFError where the client breaks off."""
    try:
        async with asyncio.timeout(limits.head_seconds):
            if not await _agree(client):
                return
            wanted = await _read_request(client)
        upstream_socket = await dialler.connect(wanted)
    except (_Rejected, BadDestination, Refused, Unreachable) as error:
        await client.write(_reply(_code_for(error)))
        await client.linger()
        return
    async with open_stream(upstream_socket) as upstream:
        await client.write(_reply(_SUCCEEDED))
        await relay(client, upstream, limits.idle_seconds)


async def _agree(client: Stream) -> bool:
    """Whether the client does without authentication; it is told."""
    version, count = await client.read_exactly(2)
    methods = await client.read_exactly(count)
    agreed = version == VERSION and _NO_AUTHENTICATION in methods
    await client.write(bytes([VERSION, _NO_AUTHENTICATION if agreed else _NONE_ACCEPTABLE]))
    if not agreed:
        await client.linger()
    return agreed


async def _read_request(client: Stream) -> Destination:
    version, command, _, kind = await client.read_exactly(4)
    if version != VERSION:
        raise _Rejected(_FAILED)
    if kind == _IPV4:
        host = str(IPv4Address(await client.read_exactly(4)))
    elif kind == _IPV6:
        host = str(canonical(IPv6Address(await client.read_exactly(16))))
    elif kind == _NAME:
        (size,) = await client.read_exactly(1)
        name = await client.read_exactly(size)
        try:
            host = name.decode()
        except UnicodeDecodeError as error:
            raise _Rejected(_FAILED) from error
    else:
        raise _Rejected(_UNKNOWN_ADDRESS_TYPE)
    port = int.from_bytes(await client.read_exactly(2), "big")
    if command != _CONNECT:
        raise _Rejected(_UNKNOWN_COMMAND)
    return destination(host, port)


def _code_for(error: Exception) -> int:
    match error:
        case _Rejected(code=code):
            return code
        case Refused():
            return _REFUSED_BY_POLICY
        case Unresolvable():
            return _HOST_UNREACHABLE
        case TimedOut():
            return _TIMED_OUT
        case Unreachable():
            return _NOT_CONNECTED
        case _:
            return _FAILED


def _reply(code: int) -> bytes:
    # The bound address that follows says nothing about the host that dialled: 0.0.0.0, port 0.
    return bytes([VERSION, code, 0, _IPV4, 0, 0, 0, 0, 0, 0])
