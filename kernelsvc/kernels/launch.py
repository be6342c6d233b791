"""Starting kernels: the runtime directory, the kernel's environment, the host and the manager."""

import asyncio
import fcntl
import itertools
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio
from jupyter_client.manager import AsyncKernelManager

from kernelsvc.errors import KernelStartFailed
from kernelsvc.kernels.host import KernelHost
from kernelsvc.kernels.kernel import Kernel, LateSink
from kernelsvc.kernels.languages import KernelSpecs
from kernelsvc.kernels.provisioner import HostProvisioner
from kernelsvc.models.limits import Limits
from kernelsvc.sandbox.bwrap import Place
from kernelsvc.sandbox.egress.policy import Policy as EgressPolicy
from kernelsvc.sandbox.egress_process import Egress
from kernelsvc.sandbox.isolation import Enclosure, Isolation
from kernelsvc.sandbox.open_files import unnamed_bytes

_INHERITED = ("LANG", "LC_ALL", "LC_CTYPE", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")
_PROGRAMS = (
    str(Path(sys.executable).parent),
    *("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"),
)
PACKAGES = ".packages"
"""The directory of a workspace in which `pip install` puts what a session's code installs."""
_IOPUB_HIGH_WATER = 64
_LONGEST_IPC_PATH = 107
_LOCK = "lock"


class RuntimeDirectory:
    """Where the sockets of this service's kernels are; short, private, gone with the service.

    Each service has a directory of its own below `base` and holds a lock in it. One whose lock is
    free belonged to a service that ended without cleaning up: its kernels ended with it (their
    hosts saw it hang up), and `open` removes what is left.
    """

    def __init__(self, base: Path | None) -> None:
        self._base = base or Path(tempfile.gettempdir()) / f"kernelsvc-{os.getuid()}"
        self._lock: int | None = None
        self.path = self._base / secrets.token_hex(4)

    def open(self) -> None:
        """Make the directory; raises OSError where `base` is somebody else's."""
        self._base.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = os.lstat(self._base)
        if found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise PermissionError(f"{self._base} must belong to this user alone (mode 700)")
        # Between making a directory and locking it, it looks abandoned: one service at a time.
        opening = os.open(self._base / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(opening, fcntl.LOCK_EX)
            for entry in os.scandir(self._base):
                if entry.is_dir() and (lock := _lock(Path(entry.path, _LOCK))) is not None:
                    shutil.rmtree(entry.path, ignore_errors=True)
                    os.close(lock)
            self.path.mkdir(mode=0o700)
            self._lock = _lock(self.path / _LOCK)
        finally:
            os.close(opening)
        if len(str(self.path)) + len("/host-99999/99999-ipc-5") > _LONGEST_IPC_PATH:
            self.close()
            raise OSError(f"runtime_dir {self._base} is too long a path for sockets")

    def close(self) -> None:
        """Remove the directory."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _lock(path: Path) -> int | None:
    """An open descriptor that holds the lock, or None where another process does."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


@dataclass
class Seat:
    """A host and its directory: where a session's kernels run, one after the other."""

    host: KernelHost
    place: Place
    enclosure: Enclosure
    environment: Mapping[str, str]
    internet: bool
    egress: Egress | None

    @property
    def is_usable(self) -> bool:
        """Whether a kernel can be started here."""
        return not self.host.closed.is_set() and not (self.egress and self.egress.ended.is_set())

    def unnamed_bytes(self) -> int:
        """What the code holds of deleted files on the workspace's file system; blocks."""
        return unnamed_bytes(self.host.pid, self.place.workspace)

    async def close(self) -> None:
        """End the host and its kernel, and remove what was made for them."""
        await self.host.close()
        if self.egress is not None:
            await self.egress.close()
        await asyncio.to_thread(self._clear_away)

    def _clear_away(self) -> None:
        self.enclosure.close()
        shutil.rmtree(self.place.runtime, ignore_errors=True)


class Launcher:
    """Starts hosts and kernels; owns the ZeroMQ context that their clients share."""

    def __init__(
        self,
        runtime: RuntimeDirectory,
        isolation: Isolation,
        patience: float,
        internet: EgressPolicy | None = None,
    ) -> None:
        self._runtime = runtime
        self._internet = internet or EgressPolicy()
        self._isolation = isolation
        self._patience = patience
        self._numbers = itertools.count(1)
        self._context = zmq.asyncio.Context()
        self._context.setsockopt(zmq.RCVHWM, _IOPUB_HIGH_WATER)
        self._specs = KernelSpecs()

    async def seat(
        self, kernelspec: str, workspace: Path, limits: Limits, *, internet: bool = False
    ) -> Seat:
        """Start a host for kernels of that kernelspec; raises KernelStartFailed.

        With `internet`, a proxy is started with it, which is its way out.
        """
        place = Place(workspace, self._runtime.path / f"host-{next(self._numbers)}")
        argv = self._specs.get_kernel_spec(kernelspec).argv
        async with AsyncExitStack() as undo:
            undo.callback(shutil.rmtree, place.runtime, ignore_errors=True)
            try:
                enclosure = await asyncio.to_thread(self._enclose, place, limits)
                undo.callback(enclosure.close)
                undo.callback(enclosure.started)
                egress = None
                if internet and self._isolation.is_sandbox:
                    egress = await Egress.spawn(self._internet, prefix=enclosure.outside)
                    undo.push_async_callback(egress.close)
                environment = _environment(enclosure)
                host = await KernelHost.spawn(
                    enclosure,
                    [sys.executable, *argv[1:]],
                    _inherited(),
                    egress.fd_for_inside if egress else None,
                )
            except OSError as error:
                raise KernelStartFailed(error.strerror or "the host cannot be run") from error
            undo.pop_all()
        enclosure.started()
        if egress is not None:
            egress.release_inside()
        return Seat(host, place, enclosure, environment, internet, egress)

    def _enclose(self, place: Place, limits: Limits) -> Enclosure:
        place.runtime.mkdir(mode=0o700)
        return self._isolation.enclose(place, limits)

    async def start(self, seat: Seat, kernelspec: str, on_late: LateSink) -> Kernel:
        """Start a kernel; ready for requests when this returns. Raises KernelStartFailed."""
        connection_file = seat.place.runtime / f"{next(self._numbers)}.json"
        manager = AsyncKernelManager(
            kernel_name=kernelspec,
            kernel_spec_manager=self._specs,
            connection_file=str(connection_file),
            transport="ipc",
            ip=str(connection_file.with_suffix("")) + "-ipc",
            context=self._context,
        )
        for port, channel in enumerate(("shell", "iopub", "stdin", "control", "hb"), start=1):
            setattr(manager, f"{channel}_port", port)
        await manager.start_kernel(host=seat.host, enclosure=seat.enclosure, env=seat.environment)
        provisioner = manager.provisioner
        assert isinstance(provisioner, HostProvisioner)
        assert provisioner.kernel is not None
        kernel = Kernel(manager, provisioner.kernel, self._context, on_late)
        try:
            async with asyncio.timeout(self._patience):
                process = provisioner.kernel
                futures: list[asyncio.Future[Any]] = [process.ready, process.exited]
                await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
                if process.exited.done():
                    raise KernelStartFailed(
                        seat.host.last_words or f"it ended with {process.exited.result()}"
                    )
                await kernel.connect()
        except TimeoutError as error:
            await kernel.close()
            raise KernelStartFailed(f"it was not ready in {self._patience:g} s") from error
        except BaseException:
            await kernel.close()
            raise
        return kernel

    def close(self) -> None:
        """Free the ZeroMQ context."""
        self._context.destroy(linger=0)


def _inherited() -> dict[str, str]:
    """The host's environment, and what every kernel has too: an allow-list of the service's."""
    path = {"PATH": os.pathsep.join(_PROGRAMS)}
    return path | {name: os.environ[name] for name in _INHERITED if name in os.environ}


def _environment(enclosure: Enclosure) -> dict[str, str]:
    """The kernel's environment; it names places of the workspace, which the host must not heed."""
    packages = enclosure.workspace / PACKAGES
    return {
        **_inherited(),
        "PATH": os.pathsep.join([str(packages / "bin"), *_PROGRAMS]),
        "HOME": str(enclosure.workspace),
        "IPYTHONDIR": str(enclosure.runtime / "ipython"),
        "MPLCONFIGDIR": str(enclosure.runtime / "matplotlib"),
        "XDG_CACHE_HOME": str(enclosure.runtime / "cache"),
        "PIP_TARGET": str(packages),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
        "PYTHONPATH": str(packages),
        "PYTHONUNBUFFERED": "1",
    }
