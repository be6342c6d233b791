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
from ipaddress import ip_address
from pathlib import Path

import structlog
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from kernelsvc import from_settings
from kernelsvc.api.base import ApiContext
from kernelsvc.api.routes import make_application
from kernelsvc.errors import CannotStart, NotReady, ShuttingDown
from kernelsvc.files.workspace import Workspaces
from kernelsvc.kernels.keeping import Keeping
from kernelsvc.kernels.launch import Launcher
from kernelsvc.kernels.orphans import take_over
from kernelsvc.kernels.runtime import RuntimeDirectory
from kernelsvc.keys.ring import KeyRing
from kernelsvc.metrics import Metrics
from kernelsvc.models.fields import Bounds
from kernelsvc.sessions.parts import SessionParts
from kernelsvc.sessions.service import SessionService
from kernelsvc.settings import Settings
from kernelsvc.setup.sandboxes import SetupParts
from kernelsvc.store.accepted import AcceptedStore
from kernelsvc.store.code import CodeStore
from kernelsvc.store.database import Database, DatabaseUnusable
from kernelsvc.store.deliveries import DeliveryStore
from kernelsvc.store.keys import KeyStore
from kernelsvc.store.runs import RunStore
from kernelsvc.store.sessions import SessionStore
from kernelsvc.webhooks.sender import RetryPolicy, Sender

# Tornado answers a body above its own limit with an empty 400; the handlers, whose limit is the
# configured one, answer what the contract says.
_REFUSED_BY_HANDLERS = 1 << 40

_NO_KEY = (
    "there is no API key, and without one only loopback addresses are served; make one "
    "(kernelsvc keys create NAME), set KERNELSVC_API_KEY, or do not listen on {host}"
)

log = structlog.get_logger()


@dataclass(frozen=True)
class Server:
    """A service that answers at `url`."""

    url: str
    service: SessionService
    http: HTTPServer
    application: Application
    on_loopback: bool


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Server]:
    """A running service; when the block ends, everything of it is gone.

    Raises CannotStart, and OSError where a directory cannot be had.
    """
    async with AsyncExitStack() as stack:
        tls = from_settings.tls_context(settings)
        sockets = _listen(settings)
        for listening in sockets:
            stack.callback(listening.close)
        port = sockets[0].getsockname()[1]
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        url = f"{'http' if tls is None else 'https'}://{host}:{port}"
        on_loopback = all(ip_address(each.getsockname()[0]).is_loopback for each in sockets)

        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        stack.callback(os.close, _lock(settings))
        try:
            database = Database(settings.database)
            stack.push_async_callback(database.close)
            await database.open()
        except DatabaseUnusable as error:
            raise CannotStart(str(error)) from error
        keys = KeyRing(
            KeyStore(database), from_settings.configured_key(settings), loopback_only=on_loopback
        )
        if not await keys.has_keys() and not on_loopback:
            raise CannotStart(_NO_KEY.format(host=settings.host))
        isolation = await asyncio.to_thread(from_settings.isolate, settings, on_loopback)
        stack.callback(isolation.close)
        grace = settings.orphan_grace if isolation.is_sandbox else 0.0
        left = await asyncio.to_thread(take_over, settings.data_dir, wanted=grace > 0)
        orphans = left.orphans if left else []
        keeping = Keeping(settings.data_dir, grace, left)
        # What an earlier service has left does not end with one that cannot start.
        stack.callback(keeping.hang_up)
        runtime = RuntimeDirectory(settings.runtime_dir)
        if left is not None:
            runtime.inherit(left.runtime, left.lock, {Path(each.seat).name for each in orphans})
        runtime.open()
        stack.callback(runtime.close)
        keeping.begin(runtime, isolation.groups)
        launcher = Launcher(
            runtime,
            isolation,
            settings.kernel_start_timeout,
            from_settings.egress_policy(settings),
            settings.preload,
            keeping,
        )
        stack.push_async_callback(launcher.close)

        workspaces = Workspaces(settings.data_dir / "workspaces", isolation.owner)
        sessions = SessionStore(database)
        runs = RunStore(
            database,
            settings.keep_runs,
            settings.data_dir / "runs.journal",
            settings.keep_runs_for,
        )
        await runs.open()
        stack.push_async_callback(runs.close)
        poster = from_settings.poster(settings)
        secret = await asyncio.to_thread(from_settings.callback_secret, settings)
        retry = RetryPolicy(settings.callback_first_pause, attempts=settings.callback_attempts)
        sender = Sender(DeliveryStore(database), poster, secret, retry)
        runs.on_delivery = sender.wake
        stack.push_async_callback(sender.stop)
        sender.start()
        policy = from_settings.session_policy(settings, settings.base_url or url)

        pool = from_settings.pool_of(settings, launcher, workspaces)
        metrics = Metrics()
        accepted = AcceptedStore(database)
        languages = await asyncio.to_thread(from_settings.languages, settings)
        cache = settings.data_dir / "setup.cache"
        setups = SetupParts.open(from_settings.setup_policy(settings), launcher, workspaces, cache)
        parts = SessionParts(
            policy,
            languages,
            launcher,
            pool,
            workspaces,
            sessions,
            runs,
            metrics,
            accepted,
            poster.check,
            CodeStore(database),
            setups,
            tuple(orphans),
        )
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
            Bounds(settings.max_timeout, settings.max_data_bytes, settings.max_limits),
            settings.max_body_bytes,
            check_ready,
            settings.header_timeout,
            settings.proxy_timeout,
            settings.proxy_idle_timeout,
            settings.base_url,
            keys,
            metrics,
            from_settings.front(settings, on_loopback),
        )
        application = make_application(context)
        http = HTTPServer(
            application,
            ssl_options=tls,
            max_body_size=_REFUSED_BY_HANDLERS,
            max_header_size=settings.max_header_bytes,
            idle_connection_timeout=settings.header_timeout,
        )
        # Backwards at the end: nothing new is accepted, runs end, their answers go out, hang up.
        stack.push_async_callback(http.close_all_connections)
        stack.push_async_callback(context.flush, settings.drain_timeout)
        await service.open()
        runtime.is_left_behind = False
        stack.push_async_callback(keeping.farewell)
        stack.push_async_callback(service.close)
        http.add_sockets(sockets)
        stack.callback(http.stop)
        yield Server(url, service, http, application, on_loopback)


async def serve(settings: Settings, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; then let runs finish, shut down and return.

    `announce` is called with the URL once the service answers.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    async with serving(settings) as server:
        if not server.on_loopback:
            log.warning(
                "serving_beyond_loopback",
                host=settings.host,
                tls=settings.tls_certificate is not None,
                advice="let keys travel over TLS only",
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
