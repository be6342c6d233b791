"""The service's end of an annex: the files of a session whose kernel is a copy of another's.

What an annex is, `kernel_host.annex` says.
"""

import os
import socket
import tempfile
from collections.abc import Mapping

from kernelsvc.kernel_host import wire
from kernelsvc.kernels.zygote import Zygote
from kernelsvc.sandbox.isolation import Enclosure, Isolation
from kernelsvc.sandbox.policy import RUNTIME, WORKSPACE

_DIRECTORIES = (str(WORKSPACE), str(RUNTIME), "/tmp", "/dev/shm")
"""What is a session's own in its sandbox, and written to."""
_OPEN_SECONDS = 10.0


class Annex:
    """Made by `open`, which blocks for some 15 milliseconds; freed by `close`.

    `root` is its root directory, by a path that leads there from within the sandbox that it is in.
    """

    def __init__(self, held: socket.socket, root: str) -> None:
        self._held = held
        self.root = root

    @classmethod
    def open(
        cls, zygote: Zygote, isolation: Isolation, enclosure: Enclosure, sandbox: int, other: int
    ) -> "Annex":
        """One in `sandbox`, of the session's in the sandbox `other`, whose `enclosure` that is.

        The sandboxes are given by descriptors of their process 1. Raises OSError.
        """
        owner = -1 if enclosure.owner is None else enclosure.owner
        order = wire.OpenAnnex(owner, list(_DIRECTORIES))
        held, theirs = socket.socketpair()
        held.settimeout(_OPEN_SECONDS)
        seccomp = isolation.filter_file()
        try:
            with theirs, tempfile.TemporaryFile() as stderr:
                zygote.order(order, [theirs.fileno(), stderr.fileno(), sandbox, other, seccomp])
                theirs.close()
                answer = held.recv(wire.MAX_LINE_BYTES)
                if not answer:
                    stderr.seek(0)
                    words = stderr.read().decode(errors="replace").strip()
                    raise OSError(words.rpartition("\n")[2] or "the annex could not be opened")
            opened = wire.decode(answer)
            assert isinstance(opened, wire.AnnexOpened)
        except BaseException:
            held.close()
            raise
        finally:
            os.close(seccomp)
        return cls(held, f"/proc/{opened.pid}/root")

    @classmethod
    def inherit(cls, fds: Mapping[str, int], root: str) -> "Annex":
        """One that an earlier service has opened, by its `lifelines`."""
        return cls(socket.socket(fileno=fds["annex"]), root)

    def lifelines(self) -> dict[str, int]:
        """The descriptors that whoever is to hold it needs, by names of their own."""
        return {"annex": self._held.fileno()}

    def close(self) -> None:
        """Free it; a kernel there has ended."""
        self._held.close()
