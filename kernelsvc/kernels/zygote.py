"""The service's end of the zygote, from which the hosts of sandboxes are forked."""

import contextlib
import socket
import subprocess
import tempfile
from collections.abc import Mapping

from kernelsvc.errors import KernelStartFailed
from kernelsvc.kernel_host import wire
from kernelsvc.sandbox.isolation import Enclosure

_EXIT_SECONDS = 5.0
_ORDER_SECONDS = 10.0
_LAST_WORDS_BYTES = 4096


class Zygote:
    """A running zygote. Made by `spawn`, freed by `close`; all of it blocks."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        orders: socket.socket,
        directory: "tempfile.TemporaryDirectory[str]",
    ) -> None:
        self._process = process
        self._orders = orders
        self._directory = directory

    @classmethod
    def spawn(cls, argv: list[str], env: Mapping[str, str], patience: float) -> "Zygote":
        """Start it by the command `argv`; raises KernelStartFailed unless it is ready in time.

        What it preloads may keep files for itself, as matplotlib does: in a directory at a path
        that each sandbox can have, too. It goes with the zygote, which may outlive this process.
        """
        directory = tempfile.TemporaryDirectory(prefix="kernelsvc-zygote-", dir="/tmp")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                process = subprocess.Popen(
                    [*argv, f"--zygote={directory.name}", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                    env={**env, "MPLCONFIGDIR": directory.name},
                )
        except OSError as error:
            ours.close()
            directory.cleanup()
            raise KernelStartFailed(f"the zygote cannot be run: {error.strerror}") from error
        zygote = cls(process, ours, directory)
        try:
            zygote._wait_until_ready(patience)
        except BaseException:
            process.kill()
            zygote.close()
            raise
        return zygote

    def _wait_until_ready(self, patience: float) -> None:
        stderr = self._process.stderr
        assert stderr is not None
        self._orders.settimeout(patience)
        try:
            with stderr:
                if self._orders.recv(64):
                    self._orders.settimeout(_ORDER_SECONDS)
                    return
                last_words = stderr.read()[-_LAST_WORDS_BYTES:]
        except TimeoutError as error:
            raise KernelStartFailed(f"the zygote was not ready in {patience:g} s") from error
        raise KernelStartFailed(last_words.decode(errors="replace").strip() or "no zygote")

    @property
    def is_there(self) -> bool:
        """Whether orders can be given."""
        return self._process.poll() is None

    def fork(self, enclosure: Enclosure, fds: list[int]) -> None:
        """Have a host forked into a sandbox; `fds` are those of `wire.FDS`. Raises OSError."""
        owner = -1 if enclosure.owner is None else enclosure.owner
        self.order(wire.ForkHost(owner, enclosure.group_files), fds)

    def order(self, command: wire.Command, fds: list[int]) -> None:
        """Have it carry out a command of those to a zygote; raises OSError."""
        socket.send_fds(self._orders, [wire.encode(command)], fds)

    def close(self) -> None:
        """Hang up; the hosts live on."""
        self._orders.close()
        try:
            self._process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with contextlib.suppress(OSError):
            self._directory.cleanup()
