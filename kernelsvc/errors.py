"""What can go wrong on our side or the caller's, each with a stable code.

    KernelsvcError
    |-- InvalidRequest          invalid_request       a field is missing, unknown or wrong
    |-- SessionNotFound         session_not_found
    |-- RunNotFound             run_not_found
    |-- NoStoredCode            no_stored_code      no code was stored in the session
    |-- SessionExists           session_exists        the id is taken
    |-- SessionBusy             session_busy          a run is going on and the caller will not wait
    |-- Unauthorized            unauthorized          the key is missing or not valid
    |-- Forbidden               forbidden             the key, or the page, may not do this
    |-- WrongHost               misdirected_request   the Host header names another host
    |-- IdempotencyConflict     idempotency_conflict  the key was used with another request
    |-- QuotaExceeded           quota_exceeded        the key's quota is used up
    |-- TooManySessions         too_many_sessions
    |-- NoCapacity              no_capacity         every kernel there may be is at work
    |-- QueueFull               queue_full            too many runs wait in this session
    |-- FileNotFound            file_not_found
    |-- NotARegularFile         not_a_regular_file    a directory, link or device is in its place
    |-- FileNotAccessible       file_not_accessible   permissions or the code stand in the way
    |-- PreconditionFailed      precondition_failed   If-Match or If-None-Match does not hold
    |-- WorkspaceFull           workspace_full        the workspace would grow above its limit
    |-- StorageFull             storage_full          the disk has no room
    |-- PublicAccessDisabled    public_access_disabled  the session's ports are closed to requests
    |-- TooManyConnections      too_many_connections    to the session's ports
    |-- NoListener              no_listener         nothing answers on the port
    |-- BadGateway              bad_gateway         the server inside broke off or made no sense
    |-- GatewayTimeout          gateway_timeout     the server inside took too long
    |-- RequestTooLarge         request_too_large   too large for stored code
    |-- KernelStartFailed       kernel_start_failed
    |-- NotReady                not_ready           no session could be created now
    `-- ShuttingDown            shutting_down

What the user's code does wrong is no error of ours: it is data in the run's result.
"""

from typing import NamedTuple


class FieldProblem(NamedTuple):
    """One field of a request, and what is wrong with it."""

    field: str
    message: str


class KernelsvcError(Exception):
    """Base of all; `str()` is a sentence that a person can act on."""

    code = "internal_error"


class InvalidRequest(KernelsvcError):
    """The request says something that it may not say."""

    code = "invalid_request"

    def __init__(self, problems: list[FieldProblem]) -> None:
        super().__init__("; ".join(f"{field}: {message}" for field, message in problems))
        self.problems = problems


class SessionNotFound(KernelsvcError):
    """There is no such session."""

    code = "session_not_found"

    def __init__(self, session_id: str) -> None:
        super().__init__(f"there is no session {session_id!r}")


class RunNotFound(KernelsvcError):
    """There is no such run, or the session no longer remembers it."""

    code = "run_not_found"

    def __init__(self, run_id: str) -> None:
        super().__init__(f"there is no run {run_id!r} in this session's history")


class NoStoredCode(KernelsvcError):
    """No code was stored in the session."""

    code = "no_stored_code"

    def __init__(self, session_id: str) -> None:
        super().__init__(
            f"no code is stored in session {session_id!r}; "
            f"PUT /api/sessions/{session_id}/code stores some"
        )


class SessionExists(KernelsvcError):
    """The id that was asked for is taken."""

    code = "session_exists"

    def __init__(self, session_id: str) -> None:
        super().__init__(f"a session {session_id!r} exists already; choose another id or delete it")


class SessionBusy(KernelsvcError):
    """Something is going on in the session that the request would have to wait for."""

    code = "session_busy"

    def __init__(self, session_id: str) -> None:
        why = "a run or a request to its ports, or being set up"
        super().__init__(f"session {session_id!r} is busy with {why}")


class IdempotencyConflict(KernelsvcError):
    """The Idempotency-Key was given with another request before."""

    code = "idempotency_conflict"

    def __init__(self, key: str) -> None:
        super().__init__(
            f"the Idempotency-Key {shortened(key)} was given with another request within the last "
            f"24 hours; give each request a key of its own"
        )


class Unauthorized(KernelsvcError):
    """The request needs a key, and has none that is valid."""

    code = "unauthorized"


class Forbidden(KernelsvcError):
    """The caller is known, and may not do this."""

    code = "forbidden"


class WrongHost(KernelsvcError):
    """The request was meant for another host than those that this service is reached by."""

    code = "misdirected_request"


class QuotaExceeded(KernelsvcError):
    """The key's quota is used up; `retry_seconds` from now, a part of it may be free again."""

    code = "quota_exceeded"

    def __init__(self, quota: str, limit: int, retry_seconds: int) -> None:
        super().__init__(f"the key's quota is used up: {quota} is {limit}")
        self.retry_seconds = retry_seconds


class TooManySessions(KernelsvcError):
    """As many sessions as the configuration allows are there already."""

    code = "too_many_sessions"

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} sessions, the most there may be, are there already; delete some")


class NoCapacity(KernelsvcError):
    """No kernel can be started now, because others take all that there is."""

    code = "no_capacity"

    def __init__(self, why: str) -> None:
        super().__init__(f"{why}; try again in a moment")


class QueueFull(KernelsvcError):
    """As many runs as the configuration allows wait in this session already."""

    code = "queue_full"

    def __init__(self, session_id: str, limit: int) -> None:
        super().__init__(
            f"{limit} runs wait in session {session_id!r} already; try again when one has ended"
        )


class FileNotFound(KernelsvcError):
    """There is no such file in the session's workspace."""

    code = "file_not_found"

    def __init__(self, path: str) -> None:
        super().__init__(f"there is no file {shortened(path)} in this session")


class NotARegularFile(KernelsvcError):
    """Something is in the way that is no regular file (or no directory, where one is meant)."""

    code = "not_a_regular_file"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{shortened(path)} {reason}")


class DirectoryNotEmpty(KernelsvcError):
    """There is something in the directory that is to be deleted, and not with all that is in it."""

    code = "directory_not_empty"

    def __init__(self, path: str) -> None:
        super().__init__(
            f"the directory {shortened(path)} is not empty; ?recursive=true deletes it with all "
            f"that is in it"
        )


class FileNotAccessible(KernelsvcError):
    """The file is there, but the permissions that the code gave it or a lock keep it from us."""

    code = "file_not_accessible"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{shortened(path)} cannot be accessed: {reason}")


class PreconditionFailed(KernelsvcError):
    """The file is not in the state that the request's If-Match or If-None-Match asks for."""

    code = "precondition_failed"

    def __init__(self) -> None:
        super().__init__("the file is not as If-Match or If-None-Match asks for; get it again")


class WorkspaceFull(KernelsvcError):
    """What is sent would make the workspace larger than it may be. Sizes in bytes."""

    code = "workspace_full"

    def __init__(self, limit: int, used: int) -> None:
        super().__init__(
            f"the session's files may take {limit} bytes and take {used}, uploads that are going "
            f"on included: there is no room for this; delete some first"
        )


class StorageFull(KernelsvcError):
    """The disk is full: an upload, of which nothing is left, or a result could not be kept."""

    code = "storage_full"

    def __init__(self) -> None:
        super().__init__("the service's disk is full; nothing was stored")


class PublicAccessDisabled(KernelsvcError):
    """The session takes no requests to its ports: its `allowPublicAccess` is false."""

    code = "public_access_disabled"

    def __init__(self, session_id: str) -> None:
        super().__init__(
            f"session {session_id!r} takes no requests to its ports; "
            f"PATCH it with allowPublicAccess true"
        )


class TooManyConnections(KernelsvcError):
    """As many requests to the session's ports as the configuration allows are open already."""

    code = "too_many_connections"

    def __init__(self, session_id: str, limit: int) -> None:
        super().__init__(
            f"{limit} requests to ports of session {session_id!r} are open already; "
            f"try again when one has ended"
        )


class NoListener(KernelsvcError):
    """Nothing listens on the port, and no code is stored that could answer."""

    code = "no_listener"

    def __init__(self, session_id: str, port: int) -> None:
        super().__init__(
            f"nothing in session {session_id!r} listens on port {port}, and no code is stored in "
            f"it to answer instead"
        )


class BadGateway(KernelsvcError):
    """The server in the session broke off, or what it says is no HTTP."""

    code = "bad_gateway"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the session's server gave no answer: {reason}")


class GatewayTimeout(KernelsvcError):
    """The server in the session, or the code that is stored there, did not answer in time."""

    code = "gateway_timeout"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the session's server gave no answer: {reason}")


class RequestTooLarge(KernelsvcError):
    """The request does not fit into the environment of the stored code. Sizes in bytes."""

    code = "request_too_large"

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(
            f"{what} of a request that stored code answers may have {limit} bytes; "
            f"a server on the port takes more"
        )


class KernelStartFailed(KernelsvcError):
    """No kernel could be started; the session and its files are as they were."""

    code = "kernel_start_failed"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the session's kernel could not be started: {reason}")
        self.reason = reason


class NotReady(KernelsvcError):
    """The service lives but could not create a session now."""

    code = "not_ready"


class ShuttingDown(KernelsvcError):
    """The service is stopping and takes nothing new."""

    code = "shutting_down"

    def __init__(self) -> None:
        super().__init__("the service is shutting down; try again in a moment")


def shortened(path: str) -> str:
    """A path to quote in an error; the beginning of a long one is left out."""
    text = repr(path)
    return text if len(text) <= 200 else f"'...{text[-190:]}"


class CannotStart(Exception):
    """What the service needs cannot be had, or it would be open to all; says what and why."""
