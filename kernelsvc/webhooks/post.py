"""One POST to a URL that a stranger has given.

The name is looked up once, and the connection is made to an address that was checked. Nothing is
read of the answer but its head, and no redirect is followed: it could lead anywhere.
"""

import asyncio
import contextlib
import ssl
from urllib.parse import SplitResult, urlsplit

import h11

from kernelsvc.errors import FieldProblem, InvalidRequest
from kernelsvc.sandbox.egress.destination import BadDestination, Destination, destination
from kernelsvc.sandbox.egress.dial import Dialler, Unreachable
from kernelsvc.sandbox.egress.own_addresses import is_own_address
from kernelsvc.sandbox.egress.policy import Policy, Refused

_HEAD_BYTES = 16 * 1024
_PORTS = {"http": 80, "https": 443}


class NotTaken(Exception):
    """The other side did not take it; says why. `for_good` where trying again is in vain."""

    def __init__(self, why: str, *, for_good: bool = False) -> None:
        super().__init__(why)
        self.for_good = for_good


class Poster:
    """Posts JSON to where the policy lets it, within `seconds` each."""

    def __init__(self, policy: Policy, seconds: float) -> None:
        self._policy = policy
        self._dialler = Dialler(policy)
        self._seconds = seconds
        self._tls: ssl.SSLContext | None = None

    def check(self, url: str) -> None:
        """Raise InvalidRequest for a URL that names an address nothing may be sent to."""
        try:
            wanted = _destination(urlsplit(url))
            self._policy.check_destination(wanted)
            if not isinstance(wanted.host, str):
                self._policy.check_address(wanted.host, is_own_address)
        except (BadDestination, Refused) as error:
            said = str(error).replace("sessions may not", "callbacks may not")
            raise InvalidRequest([FieldProblem("callback_url", said)]) from None

    async def post(self, url: str, headers: dict[str, str], body: bytes) -> None:
        """Return when the answer was a 2xx; raises NotTaken."""
        try:
            async with asyncio.timeout(self._seconds):
                status = await self._status(urlsplit(url), headers, body)
        except TimeoutError:
            raise NotTaken(f"no answer within {self._seconds:g} s") from None
        except Refused as error:
            raise NotTaken(str(error)) from error
        except (Unreachable, OSError, h11.RemoteProtocolError, BadDestination) as error:
            raise NotTaken(f"{type(error).__name__}: {error}") from error
        if not 200 <= status < 300:
            raise NotTaken(f"answered {status}", for_good=status == 410)

    async def _status(self, url: SplitResult, headers: dict[str, str], body: bytes) -> int:
        connected = await self._dialler.connect(_destination(url))
        is_tls = url.scheme == "https"
        try:
            if is_tls and self._tls is None:
                # Reads every certificate authority that this machine trusts.
                self._tls = await asyncio.to_thread(ssl.create_default_context)
            reader, writer = await asyncio.open_connection(
                sock=connected,
                ssl=self._tls if is_tls else None,
                server_hostname=url.hostname if is_tls else None,
            )
        except BaseException:
            connected.close()
            raise
        try:
            return await _exchange(reader, writer, url, headers, body)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _exchange(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    url: SplitResult,
    headers: dict[str, str],
    body: bytes,
) -> int:
    """Send the request; the status of its answer."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES)
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    every = {"Host": url.netloc, "Connection": "close", "Content-Length": str(len(body)), **headers}
    request = h11.Request(method="POST", target=target, headers=list(every.items()))
    writer.write(connection.send(request) or b"")
    writer.write(connection.send(h11.Data(data=body)) or b"")
    writer.write(connection.send(h11.EndOfMessage()) or b"")
    await writer.drain()
    while True:
        match connection.next_event():
            case h11.Response(status_code=status):
                return int(status)
            case h11.NEED_DATA:
                connection.receive_data(await reader.read(_HEAD_BYTES))
            case h11.ConnectionClosed():
                raise h11.RemoteProtocolError("the connection was closed without an answer")
            case _:
                continue


def _destination(url: SplitResult) -> Destination:
    return destination(url.hostname or "", url.port or _PORTS[url.scheme])
