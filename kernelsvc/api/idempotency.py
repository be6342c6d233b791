"""The header by which a client may repeat a request without repeating what it does."""

import re
from typing import Final

from tornado.httputil import HTTPServerRequest

from kernelsvc.api.operations import Parameter
from kernelsvc.errors import FieldProblem, InvalidRequest

IDEMPOTENCY_KEY: Final = Parameter(
    "Idempotency-Key",
    "for 24 hours, the same key with the same request answers the first one's run, and runs "
    "nothing; with another request it is a conflict",
    {"type": "string", "pattern": "^[!-~]{1,255}$"},
)
_KEY: Final = re.compile(r"[!-~]{1,255}")


def idempotency_key(request: HTTPServerRequest) -> str | None:
    """The request's key; None where it has none. Raises InvalidRequest, which names the header."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _KEY.fullmatch(key):
        problem = "must be 1 to 255 visible ASCII characters"
        raise InvalidRequest([FieldProblem("Idempotency-Key", problem)])
    return key
