"""What the services within one test process have once, together, as it takes each of them long.

A zygote imports for a third of a second, to try the sandbox takes a tenth, to read the world's
certificates for an HTTP client a fiftieth: with hundreds of services, minutes. Services in
processes of their own share nothing.
"""

import ssl
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import psutil
import pytest

from kernelsvc.kernels import launch
from kernelsvc.kernels.specs import PYTHON, KernelSpecs
from kernelsvc.kernels.zygote import Zygote
from kernelsvc.sandbox import doctor
from kernelsvc.sandbox.isolation import Isolation
from kernelsvc.sandbox.policy import SandboxPolicy
from tests.support.named import named

_PATIENCE = 60.0
_SETTLED_SECONDS = 5.0


class _Lent(Zygote):
    """The zygote, as a service has it: it lives on when that hangs up."""

    def close(self) -> None:
        """Called by a service that ends."""


class Zygotes:
    """Lends one zygote to every service that would start just such a one.

    Those that preload modules have their own, and all have while `is_lending` is False.
    """

    def __init__(self) -> None:
        self.is_lending = True
        spec = KernelSpecs().get_kernel_spec(PYTHON)
        self._argv = [sys.executable, *spec.argv[1:]]
        self._spawn = Zygote.spawn
        self._lock = threading.Lock()
        self._kept: Zygote | None = None

    def spawn(self, argv: list[str], env: Mapping[str, str], patience: float) -> Zygote:
        """In the place of `Zygote.spawn`."""
        if not (self.is_lending and argv == self._argv and env == launch._for_hosts()):
            return self._spawn(argv, env, patience)
        with self._lock:
            if self._kept is None or not self._kept.is_there:
                self._close()
                self._kept = self._spawn(argv, env, patience)
            return _Lent(self._kept._process, self._kept._orders, self._kept._directory)

    def warm(self) -> None:
        """Have it there, so that whoever counts processes finds one no sooner and no later."""
        self.spawn(self._argv, launch._for_hosts(), _PATIENCE)

    @property
    def process(self) -> psutil.Process | None:
        """The one that is lent, where there is one."""
        kept = self._kept
        return psutil.Process(kept._process.pid) if kept is not None and kept.is_there else None

    def settle(self) -> None:
        """Wait for forks that were on their way into sandboxes that have gone meanwhile.

        With a zygote that ends, they would be nobody's.
        """
        if self.process is not None:
            psutil.wait_procs(named("kernel-zygote", self.process), _SETTLED_SECONDS)

    def _close(self) -> None:
        if self._kept is not None:
            self._kept.close()

    @contextmanager
    def in_force(self) -> Iterator["Zygotes"]:
        """Lend, until the block ends; then the zygote ends."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Zygote, "spawn", self.spawn)
            yield self
        self._close()


@contextmanager
def sandbox_tried_once() -> Iterator[None]:
    """Where a sandbox has been found to hold, take it that it does from then on."""
    try_sandbox = doctor._try_sandbox
    held: dict[SandboxPolicy | None, doctor.Finding] = {}

    def tried(isolation: Isolation) -> doctor.Finding:
        finding = held.get(isolation.policy) or try_sandbox(isolation)
        if finding.verdict is doctor.Verdict.OK:
            held[isolation.policy] = finding
        return finding

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor, "_try_sandbox", tried)
        yield


@contextmanager
def certificates_read_once() -> Iterator[None]:
    """Let HTTP clients that trust what is usual share what they know of it."""
    make = httpx.create_ssl_context
    usual = make()

    def shared(verify: Any = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:
        return usual if verify is True and cert is None else make(verify, cert, trust_env)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx._transports.default.create_ssl_context", shared)
        yield
