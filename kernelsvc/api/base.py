"""What every handler does: body to model, model to answer, error to problem."""

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, ClassVar, TypeVar

import structlog
from pydantic import BaseModel, ValidationError
from tornado.http1connection import HTTP1Connection
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RequestHandler, stream_request_body

from kernelsvc.api.front import Front, check_parameters, preflight_headers
from kernelsvc.api.operations import declared
from kernelsvc.api.problems import HTTP_CODES, RETRY_SECONDS, STATUS
from kernelsvc.errors import FieldProblem, InvalidRequest, KernelsvcError
from kernelsvc.json_text import to_json
from kernelsvc.keys.ring import KeyRing
from kernelsvc.metrics import Metrics
from kernelsvc.models.caller import Caller
from kernelsvc.models.fields import Bounds
from kernelsvc.models.problem import Problem, ProblemDetail
from kernelsvc.sessions.service import SessionService

ModelT = TypeVar("ModelT", bound=BaseModel)

log = structlog.get_logger()

_MOST_DIGITS = 18


@dataclass(frozen=True)
class ApiContext:
    """What the handlers work with.

    A client that neither sends nor takes anything of a file for `stall_timeout` seconds is hung up
    on. `proxy_timeout` and `proxy_idle_timeout` are for servers in sessions (see `Patience`).
    `base_url` is where the service is reached from, where the configuration says so.
    """

    service: SessionService
    bounds: Bounds
    max_body_bytes: int
    check_ready: Callable[[], Awaitable[None]]
    stall_timeout: float
    proxy_timeout: float
    proxy_idle_timeout: float
    base_url: str | None
    keys: KeyRing
    metrics: Metrics
    front: Front = field(default_factory=Front)
    answers: set["asyncio.Future[None]"] = field(default_factory=set)

    async def flush(self, seconds: float) -> None:
        """Wait until every answer so far has gone out, so long at most."""
        if self.answers:
            await asyncio.wait(set(self.answers), timeout=seconds)


@stream_request_body
class ApiHandler(RequestHandler):
    """Base of all handlers, whose methods declare what they do (see `operations`).

    `caller` is there from `prepare` on, where the handler needs a key;
    who overrides `prepare` awaits this one first.
    """

    needs_key: ClassVar[bool] = True
    caller: Caller

    SUPPORTED_METHODS = ("GET", "HEAD", "POST", "DELETE", "PATCH", "PUT", "OPTIONS")

    def initialize(self, context: ApiContext) -> None:
        """Called by Tornado before everything else."""
        self.context = context
        self.request_id = "req_" + secrets.token_hex(8)
        self._began = time.monotonic()
        self._chunks: list[bytes] = []
        self._received = 0
        self._awaited: int | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._is_admitted = False

    @property
    def service(self) -> SessionService:
        """The sessions."""
        return self.context.service

    async def prepare(self) -> None:
        """Check what the headers already tell, before a body is read."""
        if not await self.admit():
            return
        self._awaited = self.content_length()
        if (self._awaited or 0) > self.context.max_body_bytes:
            raise HTTPError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        if self._awaited:
            self.expect_more()
        elif isinstance(connection := self.request.connection, HTTP1Connection):
            # Where it comes in pieces, only Tornado knows its end; its way to wait takes a task.
            connection.set_body_timeout(self.context.stall_timeout)

    async def admit(self) -> bool:
        """Find out who asks, and begin the request's log; False where it is answered already.

        Raises WrongHost, Forbidden, Unauthorized and InvalidRequest.
        """
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=self.request_id)
        front, headers = self.context.front, self.request.headers
        front.check_host(self.request.host)
        front.check_page(headers, f"{self.request.protocol}://{self.request.host}")
        self._set_page_headers()
        if self._is_preflight():
            self._answer_preflight()
            return False
        if self.needs_key:
            self.caller = await self.context.keys.caller(headers.get("Authorization"))
            structlog.contextvars.bind_contextvars(owner=self.caller.owner)
        asked = declared(getattr(self, (self.request.method or "").lower(), None))
        if asked is not None:
            check_parameters(self.request.query_arguments, asked.query_names)
        self._is_admitted = True
        return True

    def content_length(self) -> int | None:
        """The length of the body, None where it is not told."""
        length = self.request.headers.get("Content-Length")
        if not length:
            return None
        if not (length.isascii() and length.isdigit()):
            raise HTTPError(HTTPStatus.BAD_REQUEST)
        if len(length) > _MOST_DIGITS:
            raise HTTPError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        return int(length)

    def _set_page_headers(self) -> None:
        origin = self.request.headers.get("Origin")
        for name, value in self.context.front.page_headers(origin).items():
            self.set_header(name, value)

    def _is_preflight(self) -> bool:
        """Whether a page asks what it may send; it has no key yet."""
        asked = self.request.headers
        return (
            self.request.method == "OPTIONS"
            and asked.get("Origin", "").lower() in self.context.front.origins
            and "Access-Control-Request-Method" in asked
        )

    def _answer_preflight(self) -> None:
        asked = self.request.headers.get("Access-Control-Request-Headers")
        for name, value in preflight_headers(self._allowed(), asked).items():
            self.set_header(name, value)
        self.set_header("Connection", "close")
        self.set_status(HTTPStatus.NO_CONTENT)
        self.finish()

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """Called by Tornado with each piece of the body."""
        self._received += len(chunk)
        if self._received <= self.context.max_body_bytes:
            self._chunks.append(chunk)
        if self._received == self._awaited:
            self.expect_no_more()
        return None

    def expect_more(self) -> None:
        """Hang up on the client unless more of the body has come within `stall_timeout`."""
        self.expect_no_more()
        if not self._finished:
            loop = asyncio.get_running_loop()
            self._stall = loop.call_later(self.context.stall_timeout, self.hang_up)

    def expect_no_more(self) -> None:
        """What was expected has come, or nobody waits for it any more."""
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def hang_up(self) -> None:
        """Close the connection, for an answer that cannot be completed or a client that stalls."""
        self._auto_finish = False
        if isinstance(connection := self.request.connection, HTTP1Connection):
            connection.close()

    def on_connection_close(self) -> None:
        """Called by Tornado when the client has gone."""
        self.expect_no_more()
        super().on_connection_close()

    def set_default_headers(self) -> None:
        """Called by Tornado for every answer."""
        self.set_header("Server", "kernelsvc")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-store")
        self.set_header("Referrer-Policy", "no-referrer")
        # JSON that is opened as a page loads and runs nothing, and stands in no frame.
        self.set_header("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")

    def body(self, model: type[ModelT], *, may_be_missing: bool = False) -> ModelT:
        """The request's body as `model`; raises InvalidRequest, which names the wrong fields.

        One that `may_be_missing` is then as `{}`.
        """
        is_missing = may_be_missing and self._received == 0
        return self.validated(model, {} if is_missing else self._json())

    def validated(self, model: type[ModelT], value: Any) -> ModelT:
        """`value` as `model`; raises InvalidRequest."""
        try:
            return model.model_validate(value, context=self.context.bounds)
        except ValidationError as error:
            raise InvalidRequest([_problem(detail) for detail in error.errors()]) from None

    def _json(self) -> Any:
        kind = self.request.headers.get("Content-Type", "application/json")
        if kind.partition(";")[0].strip().lower() != "application/json":
            raise HTTPError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        if self._received > self.context.max_body_bytes:
            # It came in pieces, without its length being told: what was too much was not kept.
            raise HTTPError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        try:
            return json.loads(b"".join(self._chunks))
        except (ValueError, RecursionError) as error:
            reason = (
                "is nested too deeply"
                if isinstance(error, RecursionError)
                else f"is not JSON: {error}"
            )
            raise InvalidRequest([FieldProblem("body", reason)]) from None

    def answer(self, model: BaseModel, status: HTTPStatus = HTTPStatus.OK) -> None:
        """Finish with `model` as JSON, written in one piece."""
        self._answer(_to_json(model), status)

    async def answer_large(self, model: BaseModel) -> None:
        """Finish with a model that takes its time to become JSON."""
        self._answer(await asyncio.to_thread(_to_json, model), HTTPStatus.OK)

    async def send(self, data: bytes) -> bool:
        """Send a piece, and wait until it is on its way; False where the client has gone."""
        try:
            async with asyncio.timeout(self.context.stall_timeout):
                self.write(data)
                await self.flush()
        except (StreamClosedError, TimeoutError):
            self.hang_up()
            return False
        return True

    def _answer(self, body: bytes, status: HTTPStatus) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json; charset=utf-8")
        sent = self.finish(body)
        self.context.answers.add(sent)
        sent.add_done_callback(self._sent)

    def _sent(self, sent: "asyncio.Future[None]") -> None:
        self.context.answers.discard(sent)
        if not sent.cancelled():
            # The client may have hung up meanwhile, which is no error of ours.
            sent.exception()

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Called by Tornado for whatever a handler raised."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        details: list[ProblemDetail] | None = None
        if isinstance(error, KernelsvcError):
            status, code, message = STATUS[type(error)], error.code, str(error)
            if isinstance(error, InvalidRequest):
                details = [ProblemDetail(field=f, message=m) for f, m in error.problems]
        else:
            status = HTTPStatus(status_code)
            code, message = HTTP_CODES.get(
                status,
                ("internal_error", "something went wrong in the service; it has been logged"),
            )
        if status in RETRY_SECONDS:
            seconds = getattr(error, "retry_seconds", RETRY_SECONDS[status])
            self.set_header("Retry-After", str(seconds))
        if status is HTTPStatus.UNAUTHORIZED:
            self.set_header("WWW-Authenticate", "Bearer")
        if not self._is_admitted:
            # The body was not read, so the connection cannot be used again.
            self.set_header("Connection", "close")
        self._set_page_headers()
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.set_header("Allow", ", ".join(self._allowed()))
        if status is HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            self.set_header("Connection", "close")
        if status is HTTPStatus.REQUEST_ENTITY_TOO_LARGE and not isinstance(error, KernelsvcError):
            message = f"the body is larger than {self.context.max_body_bytes} bytes"
        problem = Problem(error=message, code=code, details=details, request_id=self.request_id)
        self.answer(problem, status)

    def _allowed(self) -> list[str]:
        return [
            method
            for method in self.SUPPORTED_METHODS
            if getattr(type(self), method.lower()) is not getattr(RequestHandler, method.lower())
        ]

    def log_exception(self, kind: Any, error: Any, trace: Any) -> None:
        """Called by Tornado for whatever a handler raised; what we did wrong goes to the log."""
        if not isinstance(error, KernelsvcError | HTTPError):
            log.error("request_failed", path=self.request.path, exc_info=(kind, error, trace))

    def on_finish(self) -> None:
        """Called by Tornado when the answer is out."""
        self.expect_no_more()
        log.debug(
            "request_answered",
            method=self.request.method,
            path=self.request.path,
            status=self.get_status(),
            seconds=round(time.monotonic() - self._began, 4),
        )


class UnknownPath(ApiHandler):
    """Everything that is at no path of ours: 404, whatever the method."""

    def _refuse(self) -> None:
        raise HTTPError(HTTPStatus.NOT_FOUND)

    get = head = post = delete = patch = put = options = _refuse


def _to_json(model: BaseModel) -> bytes:
    return to_json(model.model_dump(mode="json", exclude_none=isinstance(model, Problem)))


def _problem(detail: Any) -> FieldProblem:
    field = ".".join(str(part) for part in detail["loc"]) or "body"
    given = detail["input"]
    match detail["type"]:
        case "missing":
            message = "is required"
        case "extra_forbidden":
            return FieldProblem(field, "is not a field of this request")
        case "value_error":
            message = str(detail["ctx"]["error"])
        case _:
            message = str(detail["msg"])
    if detail["type"] == "missing" or not isinstance(given, str | int | float | bool | None):
        return FieldProblem(field, message)
    return FieldProblem(field, f"{message} (given: {shortened(given)})")


def shortened(value: Any) -> str:
    """The value as JSON, to quote in an error; the end of a long one is left out."""
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
