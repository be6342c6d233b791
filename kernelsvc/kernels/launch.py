"""Starting kernels: the kernel's environment, the host and the manager."""

import asyncio
import itertools
import os
import shutil
import socket
import sys
import sysconfig
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog
import zmq.asyncio
from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.manager import AsyncKernelManager

from kernelsvc.errors import KernelStartFailed
from kernelsvc.kernels.channel import Readers
from kernelsvc.kernels.host import HostedKernel, KernelHost
from kernelsvc.kernels.keeping import Keeping, Lifeline
from kernelsvc.kernels.kernel import Kernel, LateSink
from kernelsvc.kernels.languages import PROGRAMS
from kernelsvc.kernels.provisioner import HostProvisioner
from kernelsvc.kernels.runtime import RuntimeDirectory
from kernelsvc.kernels.specs import KernelSpecs, no_op_of, reads_at_start
from kernelsvc.kernels.zygote import Zygote
from kernelsvc.models.limits import Limits
from kernelsvc.sandbox.bwrap import Place
from kernelsvc.sandbox.egress.policy import Policy as EgressPolicy
from kernelsvc.sandbox.egress_process import Egress
from kernelsvc.sandbox.isolation import Enclosure, Isolation
from kernelsvc.sandbox.open_files import unnamed_bytes

_FOR_MATPLOTLIB = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
"""What it asks for when a host preloads it; in a kernel, ipykernel sees to that."""
_INHERITED = ("LANG", "LC_ALL", "LC_CTYPE", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")
PACKAGES = ".packages"
"""The directory of a workspace in which `pip install` puts what a session's code installs."""

log = structlog.get_logger()


class _Manager(AsyncKernelManager):
    """A kernel manager without a control socket of its own, as `Kernel` has one.

    Its connection would come when the kernel's code runs already: made before the kernel is there,
    it is tried again a tenth of a second later. Where the code has taken all descriptors by then,
    ZeroMQ aborts the kernel as it accepts one connection more.
    """

    async def _async_post_start_kernel(self, **kwargs: Any) -> None:
        assert self.provisioner is not None
        await self.provisioner.post_launch(**kwargs)


@dataclass
class Seat:
    """A host and its directory: where a session's kernels run, one after the other."""

    host: KernelHost
    place: Place
    enclosure: Enclosure
    environment: Mapping[str, str]
    limits: Limits
    internet: bool
    egress: Egress | None
    lifeline: Lifeline | None = None

    def has_moved(self, workspace: Path) -> None:
        """The directory that is its workspace is at this path now."""
        self.place = replace(self.place, workspace=workspace)

    @property
    def is_usable(self) -> bool:
        """Whether a kernel can be started here."""
        return not self.host.closed.is_set() and not (self.egress and self.egress.ended.is_set())

    def unnamed_bytes(self) -> int:
        """What the code holds of deleted files on the workspace's file system; blocks."""
        return unnamed_bytes(self.host.pid, self.place.workspace)

    async def connect(self, port: int) -> socket.socket:
        """A connection to what the session's code has listen on this port; raises OSError.

        That is ConnectionRefusedError where nothing does. Who calls bounds the time.
        """
        return await self.host.connect(port)

    def lifelines(self) -> dict[str, int]:
        """The descriptors by which it can be kept beyond this service; raises OSError."""
        return self.host.lifelines() | (self.egress.lifelines() if self.egress else {})

    async def let_go(self) -> None:
        """It need not outlive the service any more."""
        lifeline, self.lifeline = self.lifeline, None
        if lifeline is not None:
            await lifeline.let_go()

    async def close(self) -> None:
        """End the host and its kernel, and remove what was made for them."""
        await self.let_go()
        await self.host.close()
        if self.egress is not None:
            await self.egress.close()
        await asyncio.to_thread(self._clear_away)

    def _clear_away(self) -> None:
        self.enclosure.close()
        shutil.rmtree(self.place.runtime, ignore_errors=True)


class Launcher:
    """Starts hosts and kernels; owns the ZeroMQ context that their clients share.

    Hosts import the modules `preload`, which their kernels then have at once. `keeping` is for
    those that are to outlive the service.
    """

    def __init__(
        self,
        runtime: RuntimeDirectory,
        isolation: Isolation,
        patience: float,
        internet: EgressPolicy | None = None,
        preload: tuple[str, ...] = (),
        keeping: Keeping | None = None,
    ) -> None:
        self.keeping = keeping or Keeping(runtime.path, 0)
        self._runtime = runtime
        self._internet = internet or EgressPolicy()
        self._preload = preload
        self.isolation = isolation
        self._patience = patience
        # What an earlier service has left in the directory keeps its name.
        self._numbers = itertools.count(runtime.first_number())
        self._context = zmq.asyncio.Context()
        self._readers = Readers()
        self._specs = KernelSpecs()
        self._zygote: Zygote | None = None
        self._zygote_lock = asyncio.Lock()

    @property
    def can_prepare(self) -> bool:
        """Whether a seat may be started before it is known whose it will be.

        Only in a sandbox is every workspace at the same path.
        """
        return self.isolation.is_sandbox

    async def seat(
        self,
        kernelspec: str,
        workspace: Path,
        limits: Limits,
        *,
        internet: bool = False,
        held_back: bool = False,
        cache: Path | None = None,
    ) -> Seat:
        """Start a host for kernels of that kernelspec; raises KernelStartFailed.

        With `internet`, a proxy is started with it, which is its way out. What is `held_back` lets
        others have the processors first. `cache` is a directory that it shares with others.
        """
        place = Place(workspace, self._runtime.path / f"host-{next(self._numbers)}", cache)
        argv = self._argv(kernelspec)
        async with AsyncExitStack() as undo:
            undo.callback(shutil.rmtree, place.runtime, ignore_errors=True)
            try:
                enclosure = await asyncio.to_thread(self._enclose, place, limits)
                undo.callback(enclosure.close)
                undo.callback(enclosure.started)
                if held_back:
                    enclosure.hold_back(True)
                egress = None
                if internet and self.isolation.is_sandbox:
                    egress = await Egress.spawn(self._internet, prefix=enclosure.outside)
                    undo.push_async_callback(egress.close)
                environment = _environment(enclosure)
                if self.isolation.is_sandbox:
                    offer = egress.fd_for_inside if egress else None
                    zygote = await self._zygote_for(argv)
                    host = await KernelHost.fork(enclosure, zygote, offer)
                else:
                    own = {"MPLCONFIGDIR": environment["MPLCONFIGDIR"]}
                    host = await KernelHost.spawn(enclosure, argv, _for_hosts() | own)
            except OSError as error:
                raise KernelStartFailed(error.strerror or "the host cannot be run") from error
            undo.pop_all()
        enclosure.started()
        if egress is not None:
            egress.release_inside()
        return Seat(host, place, enclosure, environment, limits, internet, egress)

    def _argv(self, kernelspec: str) -> list[str]:
        """The command of a host, but for the descriptors; raises KernelStartFailed."""
        try:
            argv = self._specs.get_kernel_spec(kernelspec).argv
        except NoSuchKernel as error:
            raise KernelStartFailed(f"the kernel {kernelspec} is not installed here") from error
        return [sys.executable, *argv[1:], *(f"--preload={name}" for name in self._preload)]

    async def _zygote_for(self, argv: list[str]) -> Zygote:
        """The zygote, started where there is none (any more); raises KernelStartFailed."""
        async with self._zygote_lock:
            if self._zygote is not None and not self._zygote.is_there:
                gone, self._zygote = self._zygote, None
                await asyncio.to_thread(gone.close)
            if self._zygote is None:
                spawning = asyncio.to_thread(Zygote.spawn, argv, _for_hosts(), self._patience)
                self._zygote = await spawning
            return self._zygote

    def reads_at_start(self, kernelspec: str) -> list[str]:
        """The files of a workspace that kernels of it must find when they start."""
        try:
            return reads_at_start(self._specs.get_kernel_spec(kernelspec))
        except NoSuchKernel:
            return []

    def limit(self, seat: Seat, limits: Limits) -> None:
        """Set what may be used there; blocks for a moment.

        What holds for each process holds for those of kernels that start from now on. Raises
        OSError where there is more in the sandbox than the limits allow.
        """
        if limits != seat.limits:
            seat.enclosure = self.isolation.limited(seat.enclosure, limits)
            seat.limits = limits

    def _enclose(self, place: Place, limits: Limits) -> Enclosure:
        place.runtime.mkdir(mode=0o700)
        return self.isolation.enclose(place, limits)

    async def start(self, seat: Seat, kernelspec: str, on_late: LateSink) -> Kernel:
        """Start a kernel; ready for requests when this returns. Raises KernelStartFailed."""
        manager = self._manager(seat, kernelspec, f"{next(self._numbers)}-ipc")
        await manager.start_kernel(host=seat.host, enclosure=seat.enclosure, env=seat.environment)
        provisioner = manager.provisioner
        assert isinstance(provisioner, HostProvisioner)
        assert provisioner.kernel is not None
        kernel = self._kernel(manager, provisioner.kernel, on_late)
        try:
            async with asyncio.timeout(self._patience):
                process = provisioner.kernel
                futures: list[asyncio.Future[Any]] = [process.ready, process.exited]
                await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
                if process.exited.done():
                    # Of a traceback the last line says what is wrong, and nothing of the service.
                    words = seat.host.last_words
                    log.debug("kernel_ended_at_once", words=words)
                    raise KernelStartFailed(
                        words.rpartition("\n")[2] or f"it ended with {process.exited.result()}"
                    )
                await kernel.connect()
        except TimeoutError as error:
            await kernel.close()
            raise KernelStartFailed(f"it was not ready in {self._patience:g} s") from error
        except BaseException:
            await kernel.close()
            raise
        return kernel

    def _manager(self, seat: Seat, kernelspec: str, sockets: str) -> _Manager:
        manager = _Manager(
            kernel_name=kernelspec,
            kernel_spec_manager=self._specs,
            # The manager's own; what the kernel reads is written inside, by its host.
            connection_file=str(self._runtime.path / f"{sockets.removesuffix('-ipc')}.json"),
            transport="ipc",
            ip=str(seat.place.runtime / sockets),
            context=self._context,
        )
        for port, channel in enumerate(("shell", "iopub", "stdin", "control", "hb"), start=1):
            setattr(manager, f"{channel}_port", port)
        return manager

    def _kernel(self, manager: _Manager, process: HostedKernel, on_late: LateSink) -> Kernel:
        spec = manager.kernel_spec
        assert spec is not None
        return Kernel(manager, process, self._context, self._readers, on_late, no_op=no_op_of(spec))

    def kernel_again(
        self,
        seat: Seat,
        kernelspec: str,
        connection: tuple[str, str],
        process: HostedKernel,
        on_late: LateSink,
    ) -> Kernel:
        """A kernel that an earlier service has started, by its `connection`."""
        sockets, key = connection
        manager = self._manager(seat, kernelspec, sockets)
        manager.session.key = key.encode()
        return self._kernel(manager, process, on_late)

    async def close(self) -> None:
        """End the zygote, free the ZeroMQ context."""
        async with self._zygote_lock:
            if self._zygote is not None:
                await asyncio.to_thread(self._zygote.close)
        self._context.destroy(linger=0)


def _modules_below(prefix: Path) -> list[str]:
    """Where pip puts modules that it installs with this prefix."""
    base, scheme = str(prefix), sysconfig.get_preferred_scheme("prefix")
    paths = sysconfig.get_paths(scheme, {"base": base, "platbase": base})
    return sorted({paths["purelib"], paths["platlib"]})


def find_program(name: str) -> str | None:
    """The path of a program that kernels find by its name; None where there is none."""
    return shutil.which(name, path=os.pathsep.join(PROGRAMS))


def _inherited() -> dict[str, str]:
    """The host's environment, and what every kernel has too: an allow-list of the service's."""
    path = {"PATH": os.pathsep.join(PROGRAMS)}
    return path | {name: os.environ[name] for name in _INHERITED if name in os.environ}


def _for_hosts() -> dict[str, str]:
    """The environment of a host, and of the zygote."""
    return _inherited() | _FOR_MATPLOTLIB


def _environment(enclosure: Enclosure) -> dict[str, str]:
    """The kernel's environment; it names places of the workspace, which the host must not heed."""
    packages = enclosure.workspace / PACKAGES
    return {
        **_inherited(),
        "PATH": os.pathsep.join([str(packages / "bin"), *PROGRAMS]),
        "HOME": str(enclosure.workspace),
        "IPYTHONDIR": str(enclosure.runtime / "ipython"),
        "MPLCONFIGDIR": str(enclosure.runtime / "matplotlib"),
        "XDG_CACHE_HOME": str(enclosure.runtime / "cache"),
        "GOPATH": str(enclosure.runtime / "cache" / "go"),
        # Not PIP_TARGET: pip could build nothing, as it installs what it builds with by a prefix.
        "PIP_PREFIX": str(packages),
        "PIP_IGNORE_INSTALLED": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
        "PYTHONPATH": os.pathsep.join([*_modules_below(packages), str(packages)]),
        "PYTHONUNBUFFERED": "1",
    }
