"""Passing a request on to a server in a session, or to its stored code, and the answer back.

Theory of operation. Tornado calls `prepare` when a request's head has come, and reads the body only
when that returns. There the server is connected to and gets the head; a task of the handler's own
waits for the answer and passes it on, while `data_received` passes the body on, piece by piece. So
both move at once, each as fast as whoever takes it. A WebSocket lives within `prepare`: the stream
is taken from Tornado, and bytes go both ways until one side ends.

Anybody may ask, without a key, of whatever page. See SECURITY.md for what pages may do that a
session serves, and `proxy.headers` for what keeps them from more.
"""

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Final
from urllib.parse import quote, urlsplit

import structlog
from tornado.http1connection import HTTP1Connection
from tornado.iostream import IOStream, StreamClosedError

from kernelsvc.api.base import ApiContext, ApiHandler, shortened
from kernelsvc.errors import (
    BadGateway,
    FieldProblem,
    InvalidRequest,
    KernelsvcError,
    RequestTooLarge,
)
from kernelsvc.models.proxied import ProxiedRequest
from kernelsvc.proxy.connection import PIECE
from kernelsvc.proxy.cookies import CookieSpace
from kernelsvc.proxy.exchange import SWITCHING, AnswerHead, Exchange, Patience
from kernelsvc.proxy.headers import (
    Forwarded,
    Headers,
    for_client,
    for_server,
    for_switching,
    wants_websocket,
)
from kernelsvc.proxy.pipe import pipe
from kernelsvc.proxy.stored import answer_of
from kernelsvc.sessions.environment import MOST_BYTES
from kernelsvc.sessions.visits import Visit

_CONTINUE_SECONDS: Final = 1.0
_LINGER_SECONDS: Final = 2.0
# How much of a body is still read once it has been refused (see `transfers`).
_MOST_IGNORED: Final = 4 * 1024 * 1024
_PRINTABLE: Final = "".join(map(chr, range(0x21, 0x7F)))


def port_number(text: str) -> int:
    """A port; raises InvalidRequest."""
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        problem = f"must be a number from 1 to 65535 (given: {shortened(text)})"
        raise InvalidRequest([FieldProblem("port", problem)])
    return int(text)


class RelayHandler(ApiHandler):
    """Base of the handler for requests to ports of sessions, each of whose methods is `serve`."""

    needs_key = False
    _passes_on = False

    def initialize(self, context: ApiContext) -> None:
        """Called by Tornado before everything else."""
        super().initialize(context)
        self._visit: Visit | None = None
        self._exchange: Exchange | None = None
        self._answering: asyncio.Task[None] | None = None
        self._refusal: KernelsvcError | None = None
        self._body_has_come = asyncio.Event()

    def decode_argument(self, value: bytes, name: str | None = None) -> str:
        """Called by Tornado for the parts of the path; what the server is asked for may be any."""
        # None for what is missing, whatever Tornado's types say.
        return (value or b"").decode(errors="replace")

    def set_default_headers(self) -> None:
        """Called by Tornado for every answer; one that is passed on has its own headers only."""
        if not self._passes_on:
            super().set_default_headers()
            return
        for name in ("Server", "Content-Type", "Date"):
            self.clear_header(name)

    # ---- the head has come

    async def admit(self) -> bool:
        """Check what may be asked for: see the module."""
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=self.request_id)
        self.context.front.check_host(self.request.host)
        session_id, port, _ = self.path_args
        self._port = port_number(port)
        self._prefix = f"/proxy/{session_id}/{self._port}"
        self._cookies = CookieSpace(session_id, self._port, self._prefix)
        self._is_admitted = True
        return True

    async def prepare(self) -> None:
        """Called by Tornado before the body is read."""
        await self.admit()
        length = self.content_length()
        is_coming = bool(length) or "Transfer-Encoding" in self.request.headers
        try:
            await self._begin(length, is_coming=is_coming)
        except KernelsvcError as refusal:
            self._leave()
            too_much = (length or _MOST_IGNORED) > _MOST_IGNORED
            if is_coming and (too_much or self._is_careful()):
                self._tell_of_close()
                raise
            # Said when the body has come: Tornado hangs up on who is answered before.
            self._refusal = refusal
        if is_coming and not self._finished:
            self.expect_more()

    async def _begin(self, length: int | None, *, is_coming: bool) -> None:
        self._visit = visit = await self.service.ports.visit(self.path_args[0], self._port)
        visit.on_cut = self.hang_up
        if (server := visit.take_server()) is None:
            if (length or 0) > MOST_BYTES:
                raise RequestTooLarge("the body", MOST_BYTES)
            return
        patience = Patience(self.context.proxy_timeout, self.context.proxy_idle_timeout)
        self._exchange = exchange = Exchange(server, patience)
        is_plain = is_coming or self._method != "GET" or self.request.version != "HTTP/1.1"
        upgrade = not is_plain and wants_websocket(self.request.headers.get_all())
        try:
            await exchange.begin(self._method, self._target(), self._headers_in(upgrade=upgrade))
        except ValueError as error:
            raise InvalidRequest([FieldProblem("request", f"cannot go on: {error}")]) from error
        if upgrade:
            await self._upgrade(exchange)
            return
        self._answer_from(exchange)
        if is_coming and self._is_careful():
            await self._wait_for_continue(exchange)

    @property
    def _method(self) -> str:
        assert self.request.method is not None
        return self.request.method

    def _is_careful(self) -> bool:
        """Whether the client waits for a word before it sends the body."""
        return self.request.headers.get("Expect", "").lower() == "100-continue"

    def _target(self) -> str:
        """Path and query as they were sent, without what led here."""
        query = f"?{self.request.query}" if self.request.query else ""
        return quote(self._path() + query, safe=_PRINTABLE, encoding="latin-1")

    def _path(self) -> str:
        return "/" + "".join(self.request.path.split("/", 4)[4:])

    def _headers_in(self, *, upgrade: bool = False) -> Headers:
        ours = self.context.keys.may_be_key
        given = [
            (name, value)
            for name, value in self.request.headers.get_all()
            if not (name.lower() == "authorization" and ours(value))
        ]
        base = urlsplit(self.context.base_url or "")
        forwarded = Forwarded(
            client=self.request.remote_ip or "",
            protocol=base.scheme or self.request.protocol,
            host=base.netloc or self.request.host,
            prefix=self._prefix,
        )
        return for_server(given, forwarded, self._cookies, self._port, upgrade=upgrade)

    async def _wait_for_continue(self, exchange: Exchange) -> None:
        """Give the server a moment to say that it does not want the body; its answer goes out."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CONTINUE_SECONDS):
                await exchange.heard.wait()
        if exchange.is_answered and self._answering is not None:
            self._body_has_come.set()
            await asyncio.wait({self._answering})

    # ---- the body

    def data_received(self, chunk: bytes) -> Awaitable[None]:
        """Called by Tornado with each piece of the body, and waited for."""
        return self._take(chunk)

    async def _take(self, chunk: bytes) -> None:
        self.expect_no_more()
        if self._exchange is not None:
            try:
                await self._exchange.send(chunk)
            except KernelsvcError as error:
                self._fail(error)
        else:
            self._keep(chunk)
        self.expect_more()

    def _keep(self, chunk: bytes) -> None:
        """Keep a piece for stored code, or not, where the request has been refused."""
        self._received += len(chunk)
        if self._refusal is None and self._received <= MOST_BYTES:
            self._chunks.append(chunk)
            return
        self._chunks.clear()
        self._refusal = self._refusal or RequestTooLarge("the body", MOST_BYTES)
        if self._received > _MOST_IGNORED:
            self._fail(self._refusal)

    # ---- the answer

    async def serve(self) -> None:
        """Called by the method, when the body has come."""
        self.expect_no_more()
        self._body_has_come.set()
        if self._refusal is not None:
            raise self._refusal
        if self._exchange is None:
            await self._run_stored()
            return
        try:
            await self._exchange.end()
        except KernelsvcError as error:
            self._fail(error)
        if self._answering is not None:
            await asyncio.wait({self._answering})

    def _answer_from(self, exchange: Exchange, head: AnswerHead | None = None) -> None:
        self._answering = asyncio.create_task(self._pass_answer(exchange, head))

    async def _pass_answer(self, exchange: Exchange, head: AnswerHead | None) -> None:
        try:
            head = head or await exchange.answer()
            self._set_head(head.status, head.headers, chunked=head.chunked)
            if not await self.send(b""):
                return
            while data := await exchange.read():
                if not await self.send(data):
                    return
            await self._finish_passed()
        except KernelsvcError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001  # nobody else looks at this task's
            self.log_exception(type(error), error, error.__traceback__)
            self.hang_up()

    async def _run_stored(self) -> None:
        if self._visit is None:
            # Cut off meanwhile.
            return
        body = b"".join(self._chunks)
        request = ProxiedRequest(
            self._method, self._path(), self.request.query, self._headers_in(), body
        )
        answer = answer_of(await self.service.ports.run_stored(self._visit, request))
        self._set_head(answer.status, answer.headers, chunked=True)
        has_body = answer.status not in (204, 304)
        if has_body:
            self.set_header("Content-Length", str(len(answer.body)))
        if await self.send(answer.body if has_body and self._method != "HEAD" else b""):
            await self._finish_passed()

    def _set_head(self, status: int, headers: Headers, *, chunked: bool) -> None:
        passed = for_client(headers, status, self._cookies, chunked=chunked)
        self._passes_on = True
        self.clear()
        self.set_status(status)
        try:
            for name, value in passed:
                self.add_header(name, value)
        except ValueError as error:
            raise BadGateway("its answer has a header that cannot be sent") from error
        if isinstance(connection := self.request.connection, HTTP1Connection):
            # Each piece goes out as it comes, however small it is.
            connection.stream.set_nodelay(True)

    async def _finish_passed(self) -> None:
        """The answer is complete; the client may still be sending what nobody wants any more."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                await self._body_has_come.wait()
        with contextlib.suppress(StreamClosedError):
            await self.finish()
        if self.request.version == "HTTP/1.0":
            # To a client that knows no chunks, the end of the connection is that of the answer.
            self.hang_up()

    def _fail(self, error: KernelsvcError) -> None:
        """Answer the error, or break off where an answer has begun."""
        if self._finished:
            return
        if self._headers_written:
            self.hang_up()
            return
        self._passes_on = False
        if not self._body_has_come.is_set():
            self._tell_of_close()
        self.send_error(500, exc_info=(type(error), error, error.__traceback__))

    def _tell_of_close(self) -> None:
        """The error that follows comes before the body, with which the connection ends."""
        self._is_admitted = False

    # ---- WebSockets

    async def _upgrade(self, exchange: Exchange) -> None:
        connection = self.request.connection
        assert isinstance(connection, HTTP1Connection)
        connection.stream.set_close_callback(exchange.close)
        await exchange.end()
        head = await exchange.answer()
        connection.stream.set_close_callback(None)
        if head.status != SWITCHING:
            self._answer_from(exchange, head)
            return
        client = _Client(self.detach())
        assert self._visit is not None
        self._visit.on_cut = client.close
        try:
            lines = [f"{name}: {value}\r\n" for name, value in for_switching(head.headers)]
            said = f"HTTP/1.1 101 Switching Protocols\r\n{''.join(lines)}\r\n"
            with contextlib.suppress(OSError):
                await client.write_raw(said.encode("latin-1"))
            await pipe(client, exchange, self.context.proxy_idle_timeout)
        finally:
            client.close()
            self._leave()

    # ---- the end

    def hang_up(self) -> None:
        """Close the connection, and free everything."""
        super().hang_up()
        self._leave()

    def on_connection_close(self) -> None:
        """Called by Tornado when the client has gone."""
        super().on_connection_close()
        self._leave()

    def on_finish(self) -> None:
        """Called by Tornado when the answer is out."""
        super().on_finish()
        self._leave()

    def _leave(self) -> None:
        visit, self._visit = self._visit, None
        if self._exchange is not None:
            self._exchange.close()
        if self._answering is not None and self._answering is not asyncio.current_task():
            self._answering.cancel()
        if visit is not None:
            visit.end()


class _Client:
    """A client's connection, as raw bytes."""

    def __init__(self, stream: IOStream) -> None:
        self._stream = stream

    async def read_raw(self) -> bytes:
        """What comes next; nothing at the end. Raises OSError."""
        return bytes(await self._stream.read_bytes(PIECE, partial=True))

    async def write_raw(self, data: bytes) -> None:
        """Send bytes, and wait until the client takes them; raises OSError."""
        await self._stream.write(data)

    def close(self) -> None:
        """Close it."""
        self._stream.close()
