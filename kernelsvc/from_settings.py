"""What the settings say to each part of the service, in the part's own words.

Raises CannotStart for what no part could work with.
"""

import ssl
from urllib.parse import urlsplit

import structlog

from kernelsvc.api.front import LOOPBACK_HOSTS, Front
from kernelsvc.errors import CannotStart
from kernelsvc.files.workspace import Workspaces
from kernelsvc.kernels.ladder import Grace
from kernelsvc.kernels.languages import Languages
from kernelsvc.kernels.launch import Launcher
from kernelsvc.kernels.pool import Kind, Pool, PoolPolicy
from kernelsvc.kernels.specs import PYTHON
from kernelsvc.sandbox.doctor import SandboxOptions, Verdict, examine
from kernelsvc.sandbox.egress.policy import Policy as EgressPolicy
from kernelsvc.sandbox.isolation import Isolation
from kernelsvc.sessions.capacity import CapacityPolicy
from kernelsvc.sessions.policy import MemoryPolicy, SessionPolicy
from kernelsvc.settings import Settings
from kernelsvc.setup.sandboxes import SetupPolicy
from kernelsvc.webhooks.post import Poster
from kernelsvc.webhooks.signature import stored_secret

_NO_SANDBOX = (
    "CODE RUNS WITH ALL RIGHTS OF THIS USER: it can read this user's files and use the network; "
    "`kernelsvc doctor` says what to install"
)
_BACKGROUND_BYTES = 64 * 1024
_SHORT_KEY = 20

log = structlog.get_logger()


def sandbox_options(settings: Settings) -> SandboxOptions:
    """What the settings say of sandboxes."""
    return SandboxOptions(
        enabled=settings.sandbox == "auto",
        tmp_bytes=settings.sandbox_tmp_size,
        shm_bytes=settings.sandbox_shm_size,
        host_id=settings.sandbox_user,
    )


def egress_policy(settings: Settings) -> EgressPolicy:
    """Where sessions that may use the internet may connect to."""
    try:
        return EgressPolicy.of(
            allow_networks=settings.internet_networks,
            domains=settings.internet_domains or None,
        )
    except ValueError as error:
        raise CannotStart(f"internet_networks or internet_domains: {error}") from error


def poster(settings: Settings) -> Poster:
    """What sends callbacks, and where it may."""
    try:
        policy = EgressPolicy.of(allow_networks=settings.callback_networks)
    except ValueError as error:
        raise CannotStart(f"callback_networks: {error}") from error
    return Poster(policy, settings.callback_timeout)


def callback_secret(settings: Settings) -> str:
    """What callbacks are signed with; made where there is none yet."""
    if settings.callback_secret is not None:
        return settings.callback_secret.get_secret_value()
    return stored_secret(settings.data_dir / "callback_secret")


def isolate(settings: Settings, on_loopback: bool) -> Isolation:
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


def pool_of(settings: Settings, launcher: Launcher, workspaces: Workspaces) -> Pool:
    """The pool, which keeps a few kernels of Python; those of other languages follow the demand."""
    return Pool(
        PoolPolicy(min(settings.pool_min, settings.pool_max), settings.pool_max, settings.pool_age),
        launcher,
        workspaces,
        settings.limits,
        frozenset({Kind(PYTHON, settings.internet_by_default)}),
    )


def languages(settings: Settings) -> Languages:
    """The languages of sessions; says which of those that were named are not there."""
    found = Languages(settings.kernelspecs)
    for name in found.missing:
        log.warning("kernelspec_not_found", kernelspec=name, advice="see `jupyter kernelspec list`")
    return found


def setup_policy(settings: Settings) -> SetupPolicy:
    """What setups may do, and how much of it."""
    return SetupPolicy(
        timeout=settings.setup_timeout,
        internet=settings.setup_internet,
        environment=settings.setup_environment,
        cache_bytes=settings.setup_cache_bytes,
        most=settings.max_setups,
    )


def tls_context(settings: Settings) -> ssl.SSLContext | None:
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


def configured_key(settings: Settings) -> str | None:
    """The API key of the configuration."""
    if settings.api_key is None:
        return None
    key = settings.api_key.get_secret_value()
    if len(key) < _SHORT_KEY:
        log.warning("api_key_is_short", advice=f"use {_SHORT_KEY} random characters or more")
    return key


def front(settings: Settings, on_loopback: bool) -> Front:
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


def session_policy(settings: Settings, base_url: str) -> SessionPolicy:
    """The numbers that sessions go by."""
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
        max_proxy_connections=settings.max_proxy_connections,
        capacity=CapacityPolicy(
            settings.max_kernels, settings.max_starting, settings.min_free_memory
        ),
        grace=Grace(settings.interrupt_grace, settings.terminate_grace),
        base_url=base_url,
        memory=MemoryPolicy(
            settings.sleep_keeps_memory, settings.sleep_save_timeout, settings.memory_file_bytes
        ),
    )
