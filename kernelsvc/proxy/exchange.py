"""One request to a server inside, and its answer, on a connection of its own.

Theory of operation. What the client sent and what the server answers are both parsed and written
anew (by h11 on this side), so no spelling of a length reaches one side which the other has read
differently, and there is no second request on a connection to be read at the wrong place. Both
bodies move at once, a piece at a time: to send waits until the server takes it, and the answer is
read only as fast as it is asked for, so neither piles up here.

The server is anybody's code. It may say nothing, nonsense, or no end of anything: heads are
bounded, waits have an end, and it gets no more of the processor than its share.
"""

import asyncio
import socket
from dataclasses import dataclass
from typing import Final

import h11

from kernelsvc.errors import BadGateway, GatewayTimeout
from kernelsvc.proxy.connection import Connection
from kernelsvc.proxy.headers import Headers

_HEAD_BYTES: Final = 64 * 1024
_MOST_INFORMATIONAL: Final = 10
_MOST_EVENTS: Final = 256
SWITCHING: Final = 101


@dataclass(frozen=True)
class Patience:
    """How long a server may take, in seconds.

    `answer` for the head of its answer, from when it has all of the request; `idle` for the next
    piece of a body, or of anything on a WebSocket.
    """

    answer: float
    idle: float


@dataclass(frozen=True)
class AnswerHead:
    """Status and headers of an answer; `chunked` as the server sent it."""

    status: int
    headers: Headers
    chunked: bool


class Exchange:
    """On a connected socket, which it owns; freed by `close`, at any time and more than once.

    `heard` is set once the server has said anything: that the body may come, or its answer.
    """

    def __init__(self, connected: socket.socket, patience: Patience) -> None:
        self._server = Connection(connected)
        self._patience = patience
        self._parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES)
        self._answer_by: float | None = None
        self._clock: asyncio.Timeout | None = None
        self._takes_no_more = False
        self._has_ended = False
        self._ahead_is_read = False
        self.heard = asyncio.Event()
        self.is_answered = False

    # ---- the request

    async def begin(self, method: str, target: str, headers: Headers) -> None:
        """Send the request's head; raises ValueError where it is not HTTP, and GatewayTimeout."""
        named = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        try:
            head = h11.Request(method=method.encode(), target=target.encode(), headers=named)
            await self._send(head)
        except h11.LocalProtocolError as error:
            raise ValueError(str(error)) from error

    async def send(self, data: bytes) -> None:
        """Send a piece of the body, and wait until the server takes it; raises GatewayTimeout.

        A server may answer and hang up before it has read everything: the rest is dropped then.
        """
        await self._send(h11.Data(data=data))

    async def end(self) -> None:
        """The body was complete; raises GatewayTimeout. Again is fine."""
        if self._answer_by is not None:
            return
        await self._send(h11.EndOfMessage())
        self._answer_by = asyncio.get_running_loop().time() + self._patience.answer
        if self._clock is not None and not self._clock.expired():
            self._clock.reschedule(self._answer_by)

    async def _send(self, event: h11.Event) -> None:
        if self._takes_no_more:
            return
        data = self._parser.send(event) or b""
        try:
            async with asyncio.timeout(self._patience.idle):
                await self._server.write(data)
        except TimeoutError as error:
            raise GatewayTimeout("it takes no more of the request") from error
        except OSError:
            self._takes_no_more = True

    # ---- the answer

    async def answer(self) -> AnswerHead:
        """The answer's head, 101 included; raises BadGateway and GatewayTimeout."""
        for _ in range(_MOST_INFORMATIONAL):
            event = await self._next_of_head()
            self.heard.set()
            match event:
                case h11.InformationalResponse(status_code=status) if status != SWITCHING:
                    continue
                case h11.InformationalResponse() | h11.Response():
                    self.is_answered = True
                    return _head_of(event)
                case _:
                    raise BadGateway("it ended without an answer")
        raise BadGateway("it says again and again that an answer will come")

    async def _next_of_head(self) -> h11.Event:
        try:
            async with asyncio.timeout_at(self._answer_by) as self._clock:
                while (event := self._next_event()) is None:
                    await self._receive()
                return event
        except TimeoutError as error:
            raise GatewayTimeout("it did not answer in time") from error
        finally:
            self._clock = None

    async def read(self) -> bytes:
        """The next piece of the answer's body; nothing at its end. Raises as `answer` does."""
        pieces: list[bytes] = []
        if self._has_ended:
            return b""
        for _ in range(_MOST_EVENTS):
            match self._next_event():
                case h11.Data(data=data):
                    pieces.append(bytes(data))
                case h11.EndOfMessage():
                    self._has_ended = True
                    return b"".join(pieces)
                case None if pieces:
                    return b"".join(pieces)
                case None:
                    await self._receive_more()
                case _:
                    raise BadGateway("it broke off its answer")
        # Chunks of a byte each: others have the processor, too.
        await asyncio.sleep(0)
        return b"".join(pieces) or await self.read()

    def _next_event(self) -> h11.Event | None:
        """What has come; None where more must. Raises BadGateway."""
        try:
            event = self._parser.next_event()
        except h11.RemoteProtocolError as error:
            raise BadGateway("it broke off, or what it sends is not HTTP") from error
        return event if isinstance(event, h11.Event) else None

    async def _receive_more(self) -> None:
        try:
            async with asyncio.timeout(self._patience.idle):
                await self._receive()
        except TimeoutError as error:
            raise GatewayTimeout("it sends no more of its answer") from error

    async def _receive(self) -> None:
        try:
            data = await self._server.read()
        except OSError as error:
            raise BadGateway("it broke off the connection") from error
        self._parser.receive_data(data)

    # ---- behind a 101

    async def read_raw(self) -> bytes:
        """What comes behind a 101; nothing at the end. Raises OSError."""
        ahead = self._parser.trailing_data[0]
        if ahead and not self._ahead_is_read:
            self._ahead_is_read = True
            return ahead
        return await self._server.read()

    async def write_raw(self, data: bytes) -> None:
        """Send bytes behind a 101, and wait until the server takes them; raises OSError."""
        await self._server.write(data)

    def close(self) -> None:
        """Hang up, without waiting for anything that the server has not taken."""
        self._server.close()


def _head_of(event: h11.InformationalResponse | h11.Response) -> AnswerHead:
    headers = [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in event.headers.raw_items()
    ]
    chunked = any(name.lower() == "transfer-encoding" for name, _ in headers)
    return AnswerHead(event.status_code, headers, chunked)
