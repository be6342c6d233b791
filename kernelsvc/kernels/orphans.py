"""What an earlier service, which was killed, has left with its caretaker."""

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from kernelsvc import __version__
from kernelsvc.caretaker import wire
from kernelsvc.caretaker.clearing import has_groups

ADDRESS = "caretaker"
"""The name of the socket in the service's directory."""
LEFT = b"left"
"""In the place of a run: the session has left the seat, where live copies of it still are."""
_PATIENCE = 30.0

log = structlog.get_logger()


@dataclass(frozen=True)
class Orphan:
    """A seat that an earlier service has left: its name, what is told of it, its descriptors."""

    seat: str
    told: bytes
    run: bytes | None
    fds: dict[str, int]

    @property
    def is_left(self) -> bool:
        """Whether its session had left it already: it is there for live copies."""
        return self.run == LEFT

    def close(self) -> None:
        """Let go of it, as far as it is held here."""
        for fd in self.fds.values():
            os.close(fd)
        self.fds.clear()


@dataclass(frozen=True)
class Left:
    """All that there is: the seats, the runtime directory with its lock, and the caretaker itself.

    `groups` are the beginnings of the paths of control groups that belong to it.
    """

    orphans: list[Orphan]
    runtime: Path
    lock: int
    groups: list[str]
    caretaker: socket.socket


def take_over(directory: Path, *, wanted: bool) -> Left | None:
    """What is kept from an earlier service with that directory, if anything is.

    Blocks. What another version has kept, or what is not `wanted`, ends instead.
    """
    if (caretaker := _connected(directory / ADDRESS)) is None:
        return None
    orphans: list[Orphan] = []
    estate: wire.Estate | None = None
    own: dict[str, int] = {}
    is_all = False
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        while not is_all and (received := wire.receive(caretaker)) is not None:
            match received:
                case wire.Estate() as found, fds:
                    estate, own = found, dict(zip(found.fds, fds, strict=True))
                case wire.Keep(seat=seat, fds=names), fds:
                    orphans.append(_orphan(seat, dict(zip(names, fds, strict=True))))
                case wire.ThatIsAll(), _:
                    is_all = True
    version = _content(own[wire.TOLD]).decode() if wire.TOLD in own else None
    if wanted and is_all and estate is not None and version == __version__:
        os.close(own[wire.TOLD])
        groups = [prefix for prefix in estate.groups if has_groups(prefix)]
        return Left(orphans, Path(estate.directories[0]), own[wire.LOCK], groups, caretaker)
    for orphan in orphans:
        orphan.close()
    for fd in own.values():
        os.close(fd)
    if is_all:
        log.warning("kernels_not_taken_over", count=len(orphans), version=version)
    dismiss(caretaker)
    return None


def _connected(address: Path) -> socket.socket | None:
    """A connection to the caretaker that waits there; None where there is none."""
    connecting = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connecting.settimeout(_PATIENCE)
    try:
        with short(address) as path:
            connecting.connect(path)
    except OSError:
        connecting.close()
        return None
    return connecting


@contextlib.contextmanager
def short(address: Path) -> Iterator[str]:
    """A path to the same that is short enough for a socket, however deep its directory is."""
    directory = os.open(address.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{address.name}"
    finally:
        os.close(directory)


def dismiss(caretaker: socket.socket) -> None:
    """Have the caretaker end all that it holds, and wait until it is gone."""
    with caretaker, contextlib.suppress(OSError):
        caretaker.settimeout(_PATIENCE)
        wire.send(caretaker, wire.Farewell(), [])
        caretaker.recv(1)


def _orphan(seat: str, fds: dict[str, int]) -> Orphan:
    told, _, run = _content(fds[wire.TOLD]).partition(b"\n")
    return Orphan(seat, told, run[:-1] if run.endswith(b"\n") else None, fds)


def _content(file: int) -> bytes:
    """All of a file in memory."""
    return os.pread(file, os.fstat(file).st_size, 0)
