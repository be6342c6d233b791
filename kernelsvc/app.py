"""The composition root: builds every part, starts them in order, stops them in reverse."""

import asyncio
import errno
import fcntl
import os
import shutil
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

import structlog
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from kernelsvc.api.base import ApiContext
from kernelsvc.api.front import LOOPBACK_HOSTS, Front
from kernelsvc.api.routes import make_application
from kernelsvc.errors import NotReady, ShuttingDown
from kernelsvc.files.workspace import Workspaces
from kernelsvc.kernels.ladder import Grace
from kernelsvc.kernels.languages import kernelspec_of, language_names
from kernelsvc.kernels.launch import Launcher
from kernelsvc.kernels.pool import Kind, Pool, PoolPolicy
from kernelsvc.kernels.runtime import RuntimeDirectory
from kernelsvc.keys.ring import KeyRing
from kernelsvc.metrics import Metrics
from kernelsvc.models.fields import Bounds
from kernelsvc.sandbox.doctor import SandboxOptions, Verdict, examine
from kernelsvc.sandbox.egress.policy import Policy as EgressPolicy
from kernelsvc.sandbox.isolation import Isolation
from kernelsvc.sessions.capacity import CapacityPolicy
from kernelsvc.sessions.parts import SessionParts
from kernelsvc.sessions.policy import SessionPolicy
from kernelsvc.sessions.service import SessionService
from kernelsvc.settings import Settings
from kernelsvc.store.accepted import AcceptedStore
from kernelsvc.store.database import Database, DatabaseUnusable
from kernelsvc.store.deliveries import DeliveryStore
from kernelsvc.store.keys import KeyStore
from kernelsvc.store.runs import RunStore
from kernelsvc.store.sessions import SessionStore
from kernelsvc.webhooks.post import Poster
from kernelsvc.webhooks.sender import RetryPolicy, Sender
from kernelsvc.webhooks.signature import stored_secret

_NO_SANDBOX = (
    "CODE RUNS WITH ALL RIGHTS OF THIS USER: it can read this user's files and use the network; "
    "`kernelsvc doctor` says what to install"
)
_BACKGROUND_BYTES = 64 * 1024
# Tornado answers a body above its own limit with an empty 400; the handlers, whose limit is the
# configured one, answer what the contract says.
_REFUSED_BY_HANDLERS = 1 << 40

_SHORT_KEY = 20
_NO_KEY = (
    "there is no API key, and without one only loopback addresses are served; make one "
    "(kernelsvc keys create NAME), set KERNELSVC_API_KEY, or do not listen on {host}"
)

log = structlog.get_logger()


class CannotStart(Exception):
    """What the service needs cannot be had, or it would be open to all; says what and why."""


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
        tls = _tls(settings)
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
        keys = KeyRing(KeyStore(database), _configured_key(settings), loopback_only=on_loopback)
        if not await keys.has_keys() and not on_loopback:
            raise CannotStart(_NO_KEY.format(host=settings.host))
        runtime = RuntimeDirectory(settings.runtime_dir)
        runtime.open()
        stack.callback(runtime.close)
        isolation = await asyncio.to_thread(_isolate, settings, on_loopback)
        stack.callback(isolation.close)
        launcher = Launcher(
            runtime,
            isolation,
            settings.kernel_start_timeout,
            _internet(settings),
            settings.preload,
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
        poster = _poster(settings)
        secret = await asyncio.to_thread(_callback_secret, settings)
        retry = RetryPolicy(settings.callback_first_pause, attempts=settings.callback_attempts)
        sender = Sender(DeliveryStore(database), poster, secret, retry)
        runs.on_delivery = sender.wake
        stack.push_async_callback(sender.stop)
        sender.start()
        policy = _policy(settings, settings.base_url or url)

        pool = _pool(settings, launcher, workspaces)
        metrics = Metrics()
        accepted = AcceptedStore(database)
        parts = SessionParts(
            policy, launcher, pool, workspaces, sessions, runs, metrics, accepted, poster.check
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
            keys,
            metrics,
            _front(settings, on_loopback),
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


def sandbox_options(settings: Settings) -> SandboxOptions:
    """What the settings say of sandboxes."""
    return SandboxOptions(
        enabled=settings.sandbox == "auto",
        tmp_bytes=settings.sandbox_tmp_size,
        shm_bytes=settings.sandbox_shm_size,
        host_id=settings.sandbox_user,
    )


def _internet(settings: Settings) -> EgressPolicy:
    """Where sessions that may use the internet may connect to."""
    try:
        return EgressPolicy.of(
            allow_networks=settings.internet_networks,
            domains=settings.internet_domains or None,
        )
    except ValueError as error:
        raise CannotStart(f"internet_networks or internet_domains: {error}") from error


def _poster(settings: Settings) -> Poster:
    """What sends callbacks, and where it may."""
    try:
        policy = EgressPolicy.of(allow_networks=settings.callback_networks)
    except ValueError as error:
        raise CannotStart(f"callback_networks: {error}") from error
    return Poster(policy, settings.callback_timeout)


def _callback_secret(settings: Settings) -> str:
    if settings.callback_secret is not None:
        return settings.callback_secret.get_secret_value()
    return stored_secret(settings.data_dir / "callback_secret")


def _isolate(settings: Settings, on_loopback: bool) -> Isolation:
    """The isolation that this machine allows.

    Raises CannotStart where there would be no sandbox for code that comes from elsewhere.
    """
    examination = examine(sandbox_options(settings))
    for finding in examination.findings:
        if finding.verdict is Verdict.WEAK:
            log.warning(
                "sandbox_weak", about=finding.name, detail=finding.detail, mend=finding.mend
            )
    if examination.holds:
        return examination.isolation
    reasons = [found for found in examination.findings if found.verdict is Verdict.MISSING]
    why = "; ".join(f"{found.name}: {found.detail} (mend: {found.mend})" for found in reasons)
    if not on_loopback and not settings.allow_unsandboxed:
        examination.isolation.close()
        raise CannotStart(
            f"kernels cannot be sandboxed here, and {settings.host} is not a loopback address. "
            f"{why}. `kernelsvc doctor` says more; --allow-unsandboxed serves all the same."
        )
    log.warning("NO_SANDBOX", advice=_NO_SANDBOX, why=why)
    return examination.isolation


def _pool(settings: Settings, launcher: Launcher, workspaces: Workspaces) -> Pool:
    """The pool, which keeps a few kernels of each language for sessions that ask for nothing."""
    usual = {kernelspec_of(name) for name in language_names()}
    return Pool(
        PoolPolicy(min(settings.pool_min, settings.pool_max), settings.pool_max, settings.pool_age),
        launcher,
        workspaces,
        settings.limits,
        frozenset(Kind(kernelspec, settings.internet_by_default) for kernelspec in usual),
    )


def _tls(settings: Settings) -> ssl.SSLContext | None:
    """What TLS needs, or None for plain HTTP."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    for path in (settings.tls_certificate, settings.tls_key):
        try:
            path.read_bytes()
        except OSError as error:
            raise CannotStart(f"{path} cannot be read: {error.strerror}") from error
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # A key under a password would make OpenSSL ask the terminal for it.
        context.load_cert_chain(settings.tls_certificate, settings.tls_key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise CannotStart(
            f"tls_certificate {settings.tls_certificate} and tls_key {settings.tls_key} are no "
            f"PEM certificate and its key without a password: {error}"
        ) from error
    return context


def _configured_key(settings: Settings) -> str | None:
    if settings.api_key is None:
        return None
    key = settings.api_key.get_secret_value()
    if len(key) < _SHORT_KEY:
        log.warning("api_key_is_short", advice=f"use {_SHORT_KEY} random characters or more")
    return key


def _front(settings: Settings, on_loopback: bool) -> Front:
    """On loopback, only names of loopback are ours, and those of the configuration."""
    base = urlsplit(settings.base_url or "")
    hosts = {*LOOPBACK_HOSTS, settings.host.lower(), *settings.allowed_hosts}
    return Front(
        hosts=frozenset(hosts | ({base.netloc.lower()} if base.netloc else set()))
        if on_loopback or settings.allowed_hosts
        else None,
        origins=frozenset(settings.cors_origins),
        own_origins=frozenset({f"{base.scheme}://{base.netloc}".lower()} if base.netloc else ()),
    )


def _policy(settings: Settings, base_url: str) -> SessionPolicy:
    return SessionPolicy(
        default_timeout=settings.default_timeout,
        max_timeout=settings.max_timeout,
        sleep_after=settings.sleep_after,
        snapshots=settings.snapshots,
        snapshot_share=settings.snapshot_share,
        max_queued_runs=settings.max_queued_runs,
        max_output_bytes=settings.max_output_bytes,
        max_data_bytes=settings.max_data_bytes,
        background_bytes=_BACKGROUND_BYTES,
        limits=settings.limits,
        internet_by_default=settings.internet_by_default,
        max_sessions=settings.max_sessions,
        capacity=CapacityPolicy(
            settings.max_kernels, settings.max_starting, settings.min_free_memory
        ),
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
