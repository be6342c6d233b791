"""Starting kernels: the kernel's environment, the host and the manager."""

import asyncio
import itertools
import os
import shutil
import sys
import sysconfig
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import structlog
import zmq.asyncio
from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.manager import AsyncKernelManager

from kernelsvc.errors import KernelStartFailed
from kernelsvc.kernels.annex import Annex
from kernelsvc.kernels.channel import Readers
from kernelsvc.kernels.host import KernelHost
from kernelsvc.kernels.hosted import Copy, HostedKernel, Memory
from kernelsvc.kernels.keeping import Keeping
from kernelsvc.kernels.kernel import Kernel, LateSink
from kernelsvc.kernels.languages import PROGRAMS
from kernelsvc.kernels.pids import pid_outside
from kernelsvc.kernels.provisioner import HostProvisioner
from kernelsvc.kernels.runtime import RuntimeDirectory
from kernelsvc.kernels.seat import Seat
from kernelsvc.kernels.specs import KernelSpecs, no_op_of, reads_at_start
from kernelsvc.kernels.zygote import Zygote
from kernelsvc.models.limits import Limits
from kernelsvc.sandbox.bwrap import Place
from kernelsvc.sandbox.egress.policy import Policy as EgressPolicy
from kernelsvc.sandbox.egress_process import Egress
from kernelsvc.sandbox.isolation import Enclosure, Isolation

_FOR_MATPLOTLIB = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
"""What it asks for when a host preloads it; in a kernel, ipykernel sees to that."""
_INHERITED = ("LANG", "LC_ALL", "LC_CTYPE", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")
_RESTORE_SECONDS = 10.0
PACKAGES = ".packages"
"""The directory of a workspace in which `pip install` puts what a session's code installs."""

log = structlog.get_logger()


class _Manager(AsyncKernelManager):
    """A kernel manager without a control socket of its own, as `Kernel` has one.

    Its connection would come when the kernel's code runs already: made before the kernel is there,
    it is tried again a tenth of a second later. Where the code has taken all descriptors by then,
    ZeroMQ aborts the kernel as it accepts one connection more.
    """

    async def launch(self, **kwargs: Any) -> HostedKernel:
        """Have the provisioner launch it.

        What `start_kernel` does, but for that socket, and for the hundredth of a second in which
        that goes on to be in its pending state, so that jupyter_client's tests see it.
        """
        command, kwargs = await self.pre_start_kernel(**kwargs)
        await self._async_launch_kernel(command, **kwargs)
        assert isinstance(self.provisioner, HostProvisioner)
        assert self.provisioner.kernel is not None
        return self.provisioner.kernel


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
        manager = self._manager(seat, kernelspec)
        return await self._start(manager, seat, on_late, self._patience)

    async def restore(self, seat: Seat, kernelspec: str, on_late: LateSink, run: str) -> Kernel:
        """The same, with the memory that the seat's last kernel had after a run.

        `run` is the id of the run's request. What the error says is why there is no such memory.
        """
        if seat.latest is None:
            raise KernelStartFailed("there has been no kernel")
        patience = min(_RESTORE_SECONDS, self._patience)
        memory = Memory(seat.latest, run)
        return await self._start(self._manager(seat, kernelspec), seat, on_late, patience, memory)

    async def lodge(self, seat: Seat, source: Seat, kernelspec: str) -> None:
        """Have an annex of a seat in the sandbox of another: the next kernel is a copy from there.

        Raises KernelStartFailed.
        """
        landlord = source.landlord or source
        try:
            zygote = await self._zygote_for(self._argv(kernelspec))
            sandboxes = landlord.host.sandbox, seat.host.sandbox
            annex, _ = await asyncio.gather(
                asyncio.to_thread(Annex.open, zygote, self.isolation, seat.enclosure, *sandboxes),
                asyncio.to_thread(seat.enclosure.expect),
            )
        except OSError as error:
            raise KernelStartFailed(error.strerror or str(error)) from error
        seat.lodge(landlord, annex)

    async def copy(
        self,
        seat: Seat,
        kernelspec: str,
        on_late: LateSink,
        process: HostedKernel,
        *,
        reseed: bool,
    ) -> Kernel:
        """Have a copy, which waits in the sandbox that this seat has an annex in, be its kernel.

        Raises KernelStartFailed, which says why there is no such copy, or what is in the way.
        """
        assert seat.annex is not None
        try:
            async with asyncio.timeout(self._patience):
                await _until(process.started, process, seat)
            # It was made in the other's control groups; what it forks is to be in its own.
            await asyncio.to_thread(_enter_groups, process, seat)
        except TimeoutError as error:
            raise KernelStartFailed(f"it was not there in {self._patience:g} s") from error
        except OSError as error:
            raise KernelStartFailed(error.strerror or str(error)) from error
        copy = Copy(process, seat.annex.root, reseed)
        manager = self._manager(seat, kernelspec)
        return await self._start(manager, seat, on_late, self._patience, copy)

    async def _start(
        self,
        manager: _Manager,
        seat: Seat,
        on_late: LateSink,
        patience: float,
        memory: Memory | Copy | None = None,
    ) -> Kernel:
        process = seat.latest = await manager.launch(
            host=seat.inside, enclosure=seat.enclosure, env=seat.environment, memory=memory
        )
        kernel = self._kernel(manager, process, on_late)
        try:
            async with asyncio.timeout(patience):
                await _until(process.ready, process, seat)
                await kernel.connect()
        except TimeoutError as error:
            await kernel.close()
            raise KernelStartFailed(f"it was not ready in {patience:g} s") from error
        except BaseException:
            await kernel.close()
            raise
        return kernel

    def _manager(self, seat: Seat, kernelspec: str, sockets: str | None = None) -> _Manager:
        sockets = sockets or f"{next(self._numbers)}-ipc"
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


async def _until(step: asyncio.Future[None], process: HostedKernel, seat: Seat) -> None:
    """Return when the kernel has come so far; raises KernelStartFailed where it has ended."""
    futures: list[asyncio.Future[Any]] = [step, process.exited]
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
    if process.exited.done():
        # Of a traceback the last line says what is wrong, and nothing of the service.
        words = seat.inside.last_words
        log.debug("kernel_ended_at_once", words=words)
        raise KernelStartFailed(
            process.no_snapshot
            or words.rpartition("\n")[2]
            or f"it ended with {process.exited.result()}"
        )


def _enter_groups(process: HostedKernel, seat: Seat) -> None:
    """Have a copy count as its own session's; blocks, raises OSError."""
    pid = process.pid and pid_outside(seat.inside.pid, process.pid)
    for path in seat.enclosure.group_files:
        Path(path).write_text(str(pid))


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
