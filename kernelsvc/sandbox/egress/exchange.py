"""One plain HTTP request and its answer, passed on between two sides that are parsed apart.

Each side has an h11 parser of its own. What one understood is written anew by the other, so that no
spelling of a length reaches the other side which this side has read differently.
"""

import asyncio
from collections.abc import Iterable

import h11

from kernelsvc.sandbox.egress.policy import Limits
from kernelsvc.sandbox.egress.relay import Stream

Headers = list[tuple[bytes, bytes]]

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


class BadRequest(Exception):
    """What the client sent is no request that is served; with the status that says so."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Exchange:
    """One request upstream and its answer back, both bodies moving at once."""

    def __init__(
        self, client: Stream, server_side: h11.Connection, upstream: Stream, limits: Limits
    ) -> None:
        self._client = client
        self._server_side = server_side
        self._upstream = upstream
        self._client_side = h11.Connection(h11.CLIENT, max_incomplete_event_size=limits.head_bytes)
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
        await self._send_upstream(h11.Request(method=request.method, target=path, headers=headers))
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
