"""The environment variables of a run."""

import json
from collections.abc import Mapping
from typing import Final

from kernelsvc.errors import FieldProblem, InvalidRequest, RequestTooLarge
from kernelsvc.models.proxied import ProxiedRequest
from kernelsvc.models.session import SessionRecord

MOST_BYTES: Final = 128 * 1024 - 64
"""What one variable may hold: with more, no program can be started (MAX_ARG_STRLEN)."""


def run_environment(
    record: SessionRecord, of_run: Mapping[str, str], base_url: str
) -> dict[str, str]:
    """The session's variables, over them the run's, over them those that ERA names."""
    return {
        **record.env,
        **of_run,
        "ERA_SESSION": "true",
        "ERA_SESSION_ID": record.id,
        "ERA_LANGUAGE": record.language,
        "ERA_BASE_URL": base_url,
        "ERA_PROXY_URL": f"{base_url}/proxy/{record.id}",
    }


def proxied_environment(request: ProxiedRequest) -> dict[str, str]:
    """The variables in which ERA's code finds the request that it is to answer.

    Requests cannot give variables of these names; raises RequestTooLarge and InvalidRequest.
    """
    headers: dict[str, str] = {}
    for name, value in request.headers:
        before = headers.get(name.lower())
        headers[name.lower()] = value if before is None else f"{before}, {value}"
    body = request.body.decode(errors="replace")
    if "\0" in body:
        problem = "holds a NUL character, which the environment of stored code cannot"
        raise InvalidRequest([FieldProblem("body", problem)])
    variables = {
        "ERA_REQUEST_MODE": "proxy",
        "ERA_HTTP_METHOD": request.method,
        "ERA_HTTP_PATH": request.path,
        "ERA_HTTP_QUERY": f"?{request.query}" if request.query else "",
        "ERA_HTTP_HEADERS": json.dumps(headers, ensure_ascii=False),
        "ERA_HTTP_BODY": body,
    }
    for name, what in (("ERA_HTTP_BODY", "the body"), ("ERA_HTTP_HEADERS", "the headers")):
        if len(variables[name].encode()) > MOST_BYTES:
            raise RequestTooLarge(what, MOST_BYTES)
    return variables
