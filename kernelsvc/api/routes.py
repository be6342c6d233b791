"""The whole HTTP API on one screen."""

from tornado.web import Application

from kernelsvc.api.base import ApiContext, UnknownPath
from kernelsvc.api.files import ArchiveHandler, FileHandler, FilesHandler
from kernelsvc.api.health import LiveHandler, ReadyHandler
from kernelsvc.api.runs import RunHandler, RunResultHandler, RunsHandler
from kernelsvc.api.sessions import (
    InterruptHandler,
    RestartHandler,
    SessionHandler,
    SessionsHandler,
    SleepHandler,
    WakeHandler,
)

_SESSION = r"/api/sessions/([^/]+)"


def make_application(context: ApiContext) -> Application:
    """The Tornado application."""
    routes = [
        (r"/api/sessions", SessionsHandler),
        (_SESSION, SessionHandler),
        (_SESSION + r"/run", RunHandler),
        (_SESSION + r"/runs", RunsHandler),
        (_SESSION + r"/runs/([^/]+)", RunResultHandler),
        (_SESSION + r"/files", FilesHandler),
        (_SESSION + r"/files/(.*)", FileHandler),
        (_SESSION + r"/archive", ArchiveHandler),
        (_SESSION + r"/interrupt", InterruptHandler),
        (_SESSION + r"/restart", RestartHandler),
        (_SESSION + r"/sleep", SleepHandler),
        (_SESSION + r"/wake", WakeHandler),
        (r"/health/live", LiveHandler),
        (r"/health/ready", ReadyHandler),
    ]
    arguments = {"context": context}
    return Application(
        [(path, handler, arguments) for path, handler in routes],
        default_handler_class=UnknownPath,
        default_handler_args=arguments,
    )
