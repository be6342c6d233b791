"""The proxy as HTTP clients know it: CONNECT for everything, absolute-form requests for `http:`.

One request a connection: every answer says `Connection: close`, which all clients can live with and
which leaves no second request on a connection to be read at the wrong place. Plain requests and
answers are parsed by h11 and written anew from what was understood, so that no spelling of a length
reaches the other side which this side has read differently (request smuggling).
"""

import asyncio
import re

import h11

from kernelsvc.sandbox.egress.answers import answer, status_for
from kernelsvc.sandbox.egress.destination import BadDestination, Destination, read_authority
from kernelsvc.sandbox.egress.dial import Dialler, Unreachable
from kernelsvc.sandbox.egress.exchange import BadRequest, Exchange
from kernelsvc.sandbox.egress.policy import Limits, Refused
from kernelsvc.sandbox.egress.relay import Stream, open_stream, relay, while_active

_URL = re.compile(r"http://(?P<authority>[^/?#]*)(?P<rest>[^#]*)(?:#.*)?", re.IGNORECASE)
_HELP = (
    "this is a proxy; ask for http://HOST/PATH or CONNECT HOST:PORT, "
    "as clients do that are given it in HTTP_PROXY and HTTPS_PROXY"
)


async def serve_http(client: Stream, dialler: Dialler, limits: Limits) -> None:
    """Serve the one request on a client's connection; raises OSError where that breaks off."""
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)
    is_head = False
    try:
        request = await _read_head(client, parser, limits)
        is_head = request.method == b"HEAD"
        if request.method == b"CONNECT":
            await _tunnel(client, parser, request, dialler, limits)
        else:
            await _forward(client, parser, request, dialler, limits)
    except BadRequest as error:
        await answer(client, error.status, str(error), body=not is_head)
    except BadDestination as error:
        await answer(client, 400, str(error), body=not is_head)
    except (Refused, Unreachable) as error:
        await answer(client, status_for(error), str(error), body=not is_head)


async def _read_head(client: Stream, parser: h11.Connection, limits: Limits) -> h11.Request:
    try:
        async with asyncio.timeout(limits.head_seconds):
            while (event := parser.next_event()) is h11.NEED_DATA:
                parser.receive_data(await client.read())
    except TimeoutError as error:
        raise BadRequest(408, "the request did not arrive in time") from error
    except h11.RemoteProtocolError as error:
        raise BadRequest(error.error_status_hint, f"not an HTTP request: {error}") from error
    if not isinstance(event, h11.Request):
        raise BadRequest(400, "not an HTTP request")
    if event.http_version not in (b"1.0", b"1.1"):
        raise BadRequest(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
    names = [name for name, _ in event.headers]
    if b"transfer-encoding" in names and (
        b"content-length" in names or event.http_version < b"1.1"
    ):
        raise BadRequest(400, "the request states its length in two ways")
    return event


async def _tunnel(
    client: Stream,
    parser: h11.Connection,
    request: h11.Request,
    dialler: Dialler,
    limits: Limits,
) -> None:
    if any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in request.headers
    ):
        raise BadRequest(400, "a CONNECT request has no body")
    wanted = read_authority(_text(request.target))
    async with open_stream(await dialler.connect(wanted)) as upstream:
        client.unread(parser.trailing_data[0])
        await client.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await relay(client, upstream, limits.idle_seconds)


async def _forward(
    client: Stream,
    parser: h11.Connection,
    request: h11.Request,
    dialler: Dialler,
    limits: Limits,
) -> None:
    wanted, authority, path = _read_url(_text(request.target))
    async with open_stream(await dialler.connect(wanted)) as upstream:
        exchange = Exchange(client, parser, upstream, limits)
        try:
            async with while_active(limits.idle_seconds, client, upstream):
                await exchange.run(request, authority, path)
        except (BadRequest, h11.ProtocolError, OSError) as error:
            if exchange.is_answered:
                client.reset_at_close()
                return
            if isinstance(error, BadRequest):
                raise
            sentence = f"{wanted} did not give an HTTP answer"
            status = 504 if isinstance(error, TimeoutError) else 502
            raise BadRequest(status, sentence) from error
        await client.linger()


def _read_url(target: str) -> tuple[Destination, str, str]:
    """Of an absolute `http:` URL the destination, what the Host header says, and the path."""
    if (found := _URL.fullmatch(target)) is None:
        raise BadRequest(400, _HELP)
    if "@" in found["authority"]:
        raise BadRequest(400, "a URL with a user in it is not accepted")
    wanted = read_authority(found["authority"], default_port=80)
    rest = found["rest"]
    return (
        wanted,
        str(wanted).removesuffix(":80"),
        rest if rest.startswith("/") else f"/{rest}",
    )


def _text(target: bytes) -> str:
    try:
        return target.decode()
    except UnicodeDecodeError as error:
        raise BadRequest(400, "the target is not text") from error
