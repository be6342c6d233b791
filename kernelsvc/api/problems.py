"""How errors are answered: one table from an error's class to its HTTP status."""

from http import HTTPStatus

from kernelsvc.errors import (
    DirectoryNotEmpty,
    FileNotAccessible,
    FileNotFound,
    Forbidden,
    IdempotencyConflict,
    InvalidRequest,
    KernelStartFailed,
    KernelsvcError,
    NoCapacity,
    NotARegularFile,
    NotReady,
    PreconditionFailed,
    QueueFull,
    QuotaExceeded,
    RunNotFound,
    SessionBusy,
    SessionExists,
    SessionNotFound,
    ShuttingDown,
    StorageFull,
    TooManySessions,
    Unauthorized,
    WorkspaceFull,
    WrongHost,
)

STATUS: dict[type[KernelsvcError], HTTPStatus] = {
    InvalidRequest: HTTPStatus.BAD_REQUEST,
    Unauthorized: HTTPStatus.UNAUTHORIZED,
    Forbidden: HTTPStatus.FORBIDDEN,
    WrongHost: HTTPStatus.MISDIRECTED_REQUEST,
    QuotaExceeded: HTTPStatus.TOO_MANY_REQUESTS,
    SessionNotFound: HTTPStatus.NOT_FOUND,
    RunNotFound: HTTPStatus.NOT_FOUND,
    SessionExists: HTTPStatus.CONFLICT,
    SessionBusy: HTTPStatus.CONFLICT,
    IdempotencyConflict: HTTPStatus.CONFLICT,
    QueueFull: HTTPStatus.TOO_MANY_REQUESTS,
    TooManySessions: HTTPStatus.TOO_MANY_REQUESTS,
    NoCapacity: HTTPStatus.SERVICE_UNAVAILABLE,
    KernelStartFailed: HTTPStatus.SERVICE_UNAVAILABLE,
    NotReady: HTTPStatus.SERVICE_UNAVAILABLE,
    ShuttingDown: HTTPStatus.SERVICE_UNAVAILABLE,
    FileNotFound: HTTPStatus.NOT_FOUND,
    NotARegularFile: HTTPStatus.CONFLICT,
    FileNotAccessible: HTTPStatus.CONFLICT,
    DirectoryNotEmpty: HTTPStatus.CONFLICT,
    PreconditionFailed: HTTPStatus.PRECONDITION_FAILED,
    WorkspaceFull: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    StorageFull: HTTPStatus.INSUFFICIENT_STORAGE,
}
RETRY_SECONDS = {HTTPStatus.TOO_MANY_REQUESTS: 1, HTTPStatus.SERVICE_UNAVAILABLE: 5}
HTTP_CODES = {
    HTTPStatus.BAD_REQUEST: ("invalid_request", "the request is malformed"),
    HTTPStatus.NOT_FOUND: ("not_found", "there is nothing at this path"),
    HTTPStatus.METHOD_NOT_ALLOWED: ("method_not_allowed", "this path does not take this method"),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: ("too_large", "the body is too large"),
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: (
        "range_not_satisfiable",
        "the range begins behind the file's end",
    ),
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: (
        "unsupported_media_type",
        "the body must be JSON (Content-Type: application/json)",
    ),
}
