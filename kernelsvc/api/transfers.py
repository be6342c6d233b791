"""What goes in and out as it comes, at any size, in constant memory.

Coming in: Tornado waits for `data_received` before it reads on, so a client sends no faster than
the disk takes it. Going out: each piece is waited for until the client has taken it, but for what
fits into the socket. Who neither sends nor takes anything for a while is hung up on.
"""

from abc import abstractmethod
from collections.abc import Awaitable
from typing import Any

from pydantic import BaseModel

from kernelsvc.api.base import ApiContext, ApiHandler
from kernelsvc.errors import FieldProblem, InvalidRequest, KernelsvcError
from kernelsvc.sessions.files import Incoming

_PIECE = 1024 * 1024
# How much of a body is still read once it has been refused: a connection that is closed while its
# client sends may be reset before the client has read the answer.
_MOST_IGNORED = 4 * 1024 * 1024


class TransferHandler(ApiHandler):
    """Base of the handlers for files and archives; `begin` and `put` are theirs."""

    def initialize(self, context: ApiContext) -> None:
        """Called by Tornado before everything else."""
        super().initialize(context)
        self._incoming: Incoming[Any] | None = None
        self._refusal: KernelsvcError | OSError | None = None
        self._pending = bytearray()
        self._ignored = 0

    def decode_argument(self, value: bytes, name: str | None = None) -> str:
        """Called by Tornado for the parts of the path."""
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise InvalidRequest([FieldProblem("path", "is not UTF-8")]) from None

    def set_default_headers(self) -> None:
        """Nothing that is served here is ever a page of ours."""
        super().set_default_headers()
        self.set_header("Content-Security-Policy", "sandbox; default-src 'none'")

    def compute_etag(self) -> str | None:
        """Called by Tornado, which would make one of the answer's text."""
        return None

    @abstractmethod
    async def begin(self, length: int | None) -> Incoming[Any]:
        """Begin to take a body of so many bytes (None: not known); raises what is wrong already."""

    async def prepare(self) -> None:
        """A PUT is taken as it comes."""
        if self.request.method != "PUT":
            await super().prepare()
        elif await self.admit():
            await self._prepare_put()

    async def _prepare_put(self) -> None:
        length = self.content_length()
        try:
            if "Content-Range" in self.request.headers:
                problem = "cannot be given: a file is put as a whole"
                raise InvalidRequest([FieldProblem("Content-Range", problem)])
            self._incoming = await self.begin(
                None if "Transfer-Encoding" in self.request.headers else length or 0
            )
        except KernelsvcError as refusal:
            is_coming = "Expect" not in self.request.headers
            if not (is_coming and length is not None and length <= _MOST_IGNORED):
                raise
            self._refusal = refusal
        self.expect_more()

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """Called by Tornado with each piece of the body, and waited for."""
        if self.request.method != "PUT":
            return super().data_received(chunk)
        return self._take(chunk)

    async def _take(self, chunk: bytes) -> None:
        self.expect_no_more()
        if self._refusal is not None:
            self._ignore(chunk)
        else:
            self._pending += chunk
            if len(self._pending) >= _PIECE:
                try:
                    await self._write()
                except (KernelsvcError, OSError) as refusal:
                    self._refusal = refusal
                    self._discard()
        self.expect_more()

    async def _write(self) -> None:
        data, self._pending = bytes(self._pending), bytearray()
        assert self._incoming is not None
        await self._incoming.write(data)

    def _ignore(self, chunk: bytes) -> None:
        self._ignored += len(chunk)
        if self._ignored > _MOST_IGNORED and not self._finished and self._refusal is not None:
            refusal = self._refusal
            self.send_error(500, exc_info=(type(refusal), refusal, refusal.__traceback__))

    async def received(self) -> BaseModel:
        """Called by `put` when the body has come: what to answer; raises what is wrong."""
        self.expect_no_more()
        incoming, self._incoming = self._incoming, None
        try:
            if self._refusal is not None:
                raise self._refusal
            assert incoming is not None
            if self._pending:
                await incoming.write(bytes(self._pending))
            answer: BaseModel = await incoming.finish()
            return answer
        finally:
            if incoming is not None:
                incoming.discard()

    def on_connection_close(self) -> None:
        """Called by Tornado when the client has gone: what has come so far is forgotten."""
        self._discard()
        super().on_connection_close()

    def on_finish(self) -> None:
        """Called by Tornado when the answer is out."""
        self._discard()
        super().on_finish()

    def _discard(self) -> None:
        incoming, self._incoming = self._incoming, None
        self._pending = bytearray()
        if incoming is not None:
            incoming.discard()
