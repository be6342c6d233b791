"""The proxy as HTTP clients know it: CONNECT for everything, absolute-form requests for `http:`.

One request a connection: every answer says `Connection: close`, which all clients can live with and
which leaves no second request on a connection to be read at the wrong place. Plain requests and
answers are parsed by h11 and written anew from what was understood, so that no spelling of a length
reaches the other side which this side has read differently (request smuggling).
"""

import asyncio
import re
from collections.abc import Iterable

import h11

from kernelsvc.sandbox.egress.answers import answer, status_for
from kernelsvc.sandbox.egress.destination import BadDestination, Destination, read_authority
from kernelsvc.sandbox.egress.dial import Dialler, Unreachable
from kernelsvc.sandbox.egress.policy import Limits, Refused
from kernelsvc.sandbox.egress.relay import Stream, open_stream, relay, while_active

Headers = list[tuple[bytes, bytes]]

_URL = re.compile(r"http://(?P<authority>[^/?#]*)(?P<rest>[^#]*)(?:#.*)?", re.IGNORECASE)
_HOP_BY_HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
}
# What `Connection: ...` may not have removed: the framing and the destination of the request.
_END_TO_END = {b"content-length", b"host"}

_HELP = (
    "this is a proxy; ask for http://HOST/PATH or CONNECT HOST:PORT, "
    "as clients do that are given it in HTTP_PROXY and HTTPS_PROXY"
)


class BadRequest(Exception):
    """What the client sent is no request that is served; with the status that says so."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


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
        exchange = _Exchange(client, parser, upstream, limits)
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


def _end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Without what concerns one hop only: the known names and those that Connection lists."""
    headers = list(headers)
    listed = {
        token.strip().lower()
        for name, value in headers
        if name == b"connection"
        for token in value.split(b",")
    }
    removed = _HOP_BY_HOP | (listed - _END_TO_END)
    return [(name, value) for name, value in headers if name not in removed]


class _Exchange:
    """One request upstream and its answer back, both bodies moving at once."""

    def __init__(
        self, client: Stream, server_side: h11.Connection, upstream: Stream, limits: Limits
    ) -> None:
        self._client = client
        self._server_side = server_side
        self._upstream = upstream
        self._client_side = h11.Connection(
            h11.CLIENT, max_incomplete_event_size=limits.head_bytes
        )
        self.is_answered = False

    async def run(self, request: h11.Request, authority: str, path: str) -> None:
        """Return when the answer has gone to the client, whether or not it wanted all of the body.

        Raises OSError or h11.ProtocolError where either side breaks off or makes no sense.
        """
        headers = [(b"Host", authority.encode()), *_end_to_end(request.headers)]
        headers = headers[:1] + [header for header in headers[1:] if header[0] != b"host"]
        if any(name == b"transfer-encoding" for name, _ in request.headers):
            headers.append((b"Transfer-Encoding", b"chunked"))
        headers.append((b"Connection", b"close"))
        await self._send_upstream(
            h11.Request(method=request.method, target=path, headers=headers)
        )
        body = asyncio.create_task(self._pass_body())
        answered = asyncio.create_task(self._pass_answer())
        try:
            await asyncio.wait([body, answered], return_when=asyncio.FIRST_COMPLETED)
            if not answered.done():
                await body
            await answered
        finally:
            body.cancel()
            answered.cancel()
            await asyncio.gather(body, answered, return_exceptions=True)

    async def _pass_body(self) -> None:
        """Return when the body has gone upstream, or upstream takes no more of it.

        A server may answer and hang up before it has read everything; its answer still counts.
        """
        while True:
            try:
                event = await _next_event(self._client, self._server_side)
            except h11.RemoteProtocolError as error:
                raise BadRequest(400, f"the request's body is broken: {error}") from error
            try:
                await self._send_upstream(event)
            except OSError:
                return
            if isinstance(event, h11.EndOfMessage):
                return

    async def _pass_answer(self) -> None:
        while True:
            event = await _next_event(self._upstream, self._client_side)
            if isinstance(event, h11.InformationalResponse):
                await self._send_client(
                    h11.InformationalResponse(
                        status_code=event.status_code,
                        headers=_end_to_end(event.headers),
                        reason=event.reason,
                    )
                )
            elif isinstance(event, h11.Response):
                self.is_answered = True
                await self._send_client(_answer_to_pass_on(event))
            elif isinstance(event, h11.Data):
                await self._send_client(event)
            elif isinstance(event, h11.EndOfMessage):
                await self._send_client(h11.EndOfMessage())
                return
            else:
                raise h11.LocalProtocolError("the server ended before its answer")

    async def _send_upstream(self, event: h11.Event) -> None:
        if isinstance(event, h11.EndOfMessage):
            event = h11.EndOfMessage()  # without trailers, which concern one hop
        await self._upstream.write(self._client_side.send(event) or b"")

    async def _send_client(self, event: h11.Event) -> None:
        await self._client.write(self._server_side.send(event) or b"")


def _answer_to_pass_on(answered: h11.Response) -> h11.Response:
    headers = _end_to_end(answered.headers)
    if any(name == b"transfer-encoding" for name, _ in answered.headers):
        # The chunks say how long it is; a length beside them would be a second opinion.
        headers = [header for header in headers if header[0] != b"content-length"]
    return h11.Response(
        status_code=answered.status_code,
        headers=[*headers, (b"Connection", b"close")],
        reason=answered.reason,
    )


async def _next_event(source: Stream, parser: h11.Connection) -> h11.Event:
    while (event := parser.next_event()) is h11.NEED_DATA:
        parser.receive_data(await source.read())
    if not isinstance(event, h11.Event):
        raise h11.LocalProtocolError("more after the end of the message")
    return event
