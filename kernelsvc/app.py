"""The composition root: builds every part, starts them in order, stops them in reverse."""

import asyncio
import errno
import fcntl
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from kernelsvc.api.base import ApiContext
from kernelsvc.api.routes import make_application
from kernelsvc.errors import NotReady, ShuttingDown
from kernelsvc.files.workspace import Workspaces
from kernelsvc.kernels.ladder import Grace
from kernelsvc.kernels.launch import Launcher, RuntimeDirectory
from kernelsvc.models.fields import Bounds
from kernelsvc.sessions.live import SessionParts
from kernelsvc.sessions.policy import SessionPolicy
from kernelsvc.sessions.service import SessionService
from kernelsvc.settings import Settings
from kernelsvc.store.database import Database, DatabaseUnusable
from kernelsvc.store.runs import RunStore
from kernelsvc.store.sessions import SessionStore

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_BACKGROUND_BYTES = 64 * 1024
# Tornado answers a body above its own limit with an empty 400; the handlers, whose limit is the
# configured one, answer what the contract says.
_REFUSED_BY_HANDLERS = 1 << 40

log = structlog.get_logger()


class CannotStart(Exception):
    """The address, the data directory or the database cannot be had; says which and why."""


@dataclass(frozen=True)
class Server:
    """A service that answers at `url`."""

    url: str
    service: SessionService
    http: HTTPServer
    application: Application


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Server]:
    """A running service; when the block ends, everything of it is gone.

    Raises CannotStart, and OSError where a directory cannot be had.
    """
    async with AsyncExitStack() as stack:
        sockets = _listen(settings)
        for listening in sockets:
            stack.callback(listening.close)
        port = sockets[0].getsockname()[1]
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        url = f"http://{host}:{port}"

        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        stack.callback(os.close, _lock(settings))
        try:
            database = Database(settings.database)
            stack.push_async_callback(database.close)
            await database.open()
        except DatabaseUnusable as error:
            raise CannotStart(str(error)) from error
        runtime = RuntimeDirectory(settings.runtime_dir)
        runtime.open()
        stack.callback(runtime.close)
        launcher = Launcher(runtime, settings.data_dir / "cache", settings.kernel_start_timeout)
        stack.callback(launcher.close)

        workspaces = Workspaces(settings.data_dir / "workspaces")
        sessions = SessionStore(database)
        runs = RunStore(database, settings.keep_runs)
        policy = _policy(settings, settings.base_url or url)

        parts = SessionParts(policy, launcher, workspaces, sessions, runs)

        service = SessionService(parts)

        async def check_ready() -> None:
            if service.is_closing:
                raise ShuttingDown
            try:
                await database.ping()
                await asyncio.to_thread(_check_writable, settings)
            except OSError as error:
                raise NotReady(f"the data directory cannot be used: {error.strerror}") from error

        context = ApiContext(
            service,
            Bounds(settings.max_timeout, settings.max_data_bytes),
            settings.max_body_bytes,
            check_ready,
            settings.header_timeout,
        )
        application = make_application(context)
        http = HTTPServer(
            application,
            max_body_size=_REFUSED_BY_HANDLERS,
            idle_connection_timeout=settings.header_timeout,
            body_timeout=settings.header_timeout,
        )
        # Backwards at the end: nothing new is accepted, runs end, their answers go out, hang up.
        stack.push_async_callback(http.close_all_connections)
        stack.push_async_callback(context.flush, settings.drain_timeout)
        await service.open()
        stack.push_async_callback(service.close)
        http.add_sockets(sockets)
        stack.callback(http.stop)
        yield Server(url, service, http, application)


async def serve(settings: Settings, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; then let runs finish, shut down and return.

    `announce` is called with the URL once the service answers.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    async with serving(settings) as server:
        if settings.host not in _LOOPBACK:
            log.warning(
                "serving_beyond_loopback",
                host=settings.host,
                advice="code that clients "
                "send runs with this user's rights: let nobody reach it whom you would not "
                "give a shell",
            )
        log.info("service_started", url=server.url, data_dir=str(settings.data_dir))
        announce(server.url)
        await stop.wait()
        log.info("service_stopping", drain_timeout=settings.drain_timeout)
        server.service.refuse_new()
        server.http.stop()
        await server.service.drain(settings.drain_timeout)
    log.info("service_stopped")


def _listen(settings: Settings) -> list[socket.socket]:
    try:
        return bind_sockets(settings.port, settings.host)
    except OSError as error:
        address = f"{settings.host}, port {settings.port}"
        raise CannotStart(f"cannot listen on {address}: {error.strerror}") from error


def _policy(settings: Settings, base_url: str) -> SessionPolicy:
    return SessionPolicy(
        default_timeout=settings.default_timeout,
        max_timeout=settings.max_timeout,
        sleep_after=settings.sleep_after,
        max_queued_runs=settings.max_queued_runs,
        max_output_bytes=settings.max_output_bytes,
        max_data_bytes=settings.max_data_bytes,
        max_workspace_bytes=settings.max_workspace_bytes,
        background_bytes=_BACKGROUND_BYTES,
        grace=Grace(settings.interrupt_grace, settings.terminate_grace),
        base_url=base_url,
    )


def _lock(settings: Settings) -> int:
    """A lock on the data directory, held as long as the descriptor is open."""
    fd = os.open(settings.data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise CannotStart(
            f"another kernelsvc runs on {settings.data_dir}; stop it or choose another data_dir"
        ) from None
    return fd


def _check_writable(settings: Settings) -> None:
    """Raise unless a session's files could be written now."""
    if shutil.disk_usage(settings.data_dir).free < settings.max_data_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if not os.access(settings.data_dir, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
