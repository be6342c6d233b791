"""The whole HTTP API on one screen."""

import re
from functools import cache
from typing import Any

from tornado.web import Application

from kernelsvc.api.base import ApiContext, ApiHandler, UnknownPath
from kernelsvc.api.code import CodeHandler
from kernelsvc.api.docs import DocsHandler, DocumentHandler
from kernelsvc.api.execute import ExecuteHandler
from kernelsvc.api.files import ArchiveHandler, FileHandler, FilesHandler
from kernelsvc.api.health import HealthHandler, LiveHandler, MetricsHandler, ReadyHandler
from kernelsvc.api.languages import LanguagesHandler
from kernelsvc.api.openapi import build
from kernelsvc.api.proxy import HostHandler, ProxyHandler
from kernelsvc.api.runs import (
    RunEventsHandler,
    RunHandler,
    RunResultHandler,
    RunsHandler,
    StreamHandler,
)
from kernelsvc.api.sessions import (
    DuplicateHandler,
    ForkHandler,
    InterruptHandler,
    RestartHandler,
    SessionHandler,
    SessionsHandler,
    SleepHandler,
    WakeHandler,
)
from kernelsvc.api.tools import ToolsHandler

_SESSION = "/api/sessions/{session_id}"


ROUTES: dict[str, type[ApiHandler]] = {
    "/api/sessions": SessionsHandler,
    _SESSION: SessionHandler,
    _SESSION + "/run": RunHandler,
    _SESSION + "/stream": StreamHandler,
    _SESSION + "/runs": RunsHandler,
    _SESSION + "/runs/{run_id}": RunResultHandler,
    _SESSION + "/runs/{run_id}/events": RunEventsHandler,
    _SESSION + "/code": CodeHandler,
    _SESSION + "/files": FilesHandler,
    _SESSION + "/files/{path}": FileHandler,
    _SESSION + "/archive": ArchiveHandler,
    _SESSION + "/duplicate": DuplicateHandler,
    _SESSION + "/fork": ForkHandler,
    _SESSION + "/interrupt": InterruptHandler,
    _SESSION + "/restart": RestartHandler,
    _SESSION + "/sleep": SleepHandler,
    _SESSION + "/wake": WakeHandler,
    _SESSION + "/host": HostHandler,
    "/proxy/{session_id}/{port}/{rest}": ProxyHandler,
    "/api/execute": ExecuteHandler,
    "/api/languages": LanguagesHandler,
    "/api/tools": ToolsHandler,
    "/health": HealthHandler,
    "/health/live": LiveHandler,
    "/health/ready": ReadyHandler,
    "/metrics": MetricsHandler,
    "/openapi.json": DocumentHandler,
    "/docs": DocsHandler,
}
"""Paths as OpenAPI writes them. A file's path is what is left of the URL, slashes included; so is
the rest of a URL for a server in a session, which may be missing."""


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document of all that is served; takes a while the first time."""
    return build(ROUTES)


def make_application(context: ApiContext) -> Application:
    """The Tornado application."""
    arguments = {"context": context}
    documented = {**arguments, "document": document}
    return Application(
        [
            (
                _pattern(path),
                handler,
                documented if issubclass(handler, DocumentHandler) else arguments,
            )
            for path, handler in ROUTES.items()
        ],
        default_handler_class=UnknownPath,
        default_handler_args=arguments,
    )


def _pattern(path: str) -> str:
    open_ended = path.replace("{path}", "(.*)").replace("/{rest}", "(/.*)?")
    return re.sub(r"\{\w+\}", "([^/]+)", open_ended)
