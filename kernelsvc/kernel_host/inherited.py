"""The descriptors that a copy of the kernel has from it, and what becomes of them.

Files stay as they are: what the code has open is open in the copy, at the same place, which both
share. Everything else would keep something alive that its owner has closed, or belongs to threads
that the copy does not have. What is the kernel's own is closed. What is the code's gets a plug in
its place, a socket with nobody at the other end: the objects of the code's that own the descriptor
may go on to use and to close it, and reading finds the end, writing fails with EPIPE.
"""

import contextlib
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator

_GPUS = ("/dev/nvidia", "/dev/kfd", "/dev/dri/")
_STANDARD = 2
_THE_SAME_EVERYWHERE = ("/dev/", "/proc/", "/usr/", "/sys/")
_ONLY_ONCE = os.O_CREAT | os.O_EXCL | os.O_TRUNC


class Descriptors:
    """Tells the kernel's own from the code's. Sockets it may open later, with an address of its."""

    def __init__(self, is_own_socket: Callable[[str], bool]) -> None:
        self._own = dict(_open())
        self._is_own_socket = is_own_socket
        self._of_the_code: dict[int, str] = {}
        self._kept: set[int] = set()

    def keep_for_code(self) -> None:
        """In the copy, behind `let_go`, when it is to be the kernel: what is left is the code's."""
        self._of_the_code = {fd: what for fd, what in _open() if fd not in self._kept}

    def know_own(self) -> None:
        """In a copy that is the kernel: what there is beside the code's is its own."""
        self._own = {fd: target for fd, target in _open() if self._of_the_code.get(fd) != target}

    def let_go(self, keep: set[int]) -> Counter[str]:
        """In the copy: let go of all but files and those to `keep`; how many of the code's.

        They are counted by what people call them.
        """
        found: Counter[str] = Counter()
        self._kept = keep
        plug = -1
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd, target in [*_open()]:
            if fd in keep or fd == nothing:
                continue
            if target.startswith("/"):
                found["GPU context"] |= target.startswith(_GPUS)
            elif fd <= _STANDARD:
                os.dup2(nothing, fd)
            elif self._own.get(fd) == target or (
                target.startswith("socket:") and self._is_the_kernels(fd)
            ):
                os.close(fd)
            else:
                found["socket"] += target.startswith("socket:")
                plug = plug if plug >= 0 else _plug()
                os.dup2(plug, fd, inheritable=False)
        for made in (plug, nothing):
            if made >= 0:
                os.close(made)
        return found

    def move(self, root: str) -> Counter[str]:
        """In a copy, behind `let_go`: change the root directory; raises OSError.

        Files and directories that are open are opened anew where they are in the new one, at the
        same place; how many of the code's could not be.
        """
        lost: Counter[str] = Counter(_shared_memory())
        files = [(fd, target) for fd, target in _open() if target.startswith("/")]
        descriptions = {fd: _description(fd) for fd, _ in files}
        directory = _working_directory()
        os.chroot(root)
        for path in (directory, "/"):
            with contextlib.suppress(OSError):
                os.chdir(path)
                break
        for fd, target in files:
            if target.startswith(_THE_SAME_EVERYWHERE):
                continue
            flags, position = descriptions[fd]
            try:
                anew = os.open(target, flags & ~_ONLY_ONCE)
            except OSError:
                lost["open file"] += 1
                anew = _plug()
            else:
                with contextlib.suppress(OSError):
                    os.lseek(anew, position, os.SEEK_SET)
            os.dup2(anew, fd, inheritable=not flags & os.O_CLOEXEC)
            os.close(anew)
        return lost

    def _is_the_kernels(self, fd: int) -> bool:
        """Whether it is one that the kernel's listening sockets have accepted."""
        one = socket.socket(fileno=fd)
        try:
            address = one.getsockname() if one.family == socket.AF_UNIX else None
            return isinstance(address, str) and self._is_own_socket(address)
        except OSError:
            return False
        finally:
            one.detach()


def _open() -> Iterator[tuple[int, str]]:
    """Each descriptor of this process, and what it is of: a path, or such as socket:[123]."""
    for name in os.listdir("/proc/self/fd"):
        # The one that lists them is among them, and closed by now.
        with contextlib.suppress(FileNotFoundError):
            yield int(name), os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115  # in each fork


def _description(fd: int) -> tuple[int, int]:
    """How a file was opened, and where in it is read or written next."""
    with open(f"/proc/self/fdinfo/{fd}") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
    return int(fields["flags"], 8), int(fields["pos"])


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "/"


def _shared_memory() -> dict[str, int]:
    """How many files are mapped that others who map them write to."""
    with open("/proc/self/maps") as file:
        mapped = [line.split(maxsplit=5) for line in file]
    paths = {
        each[5].strip() for each in mapped if len(each) > 5 and each[1][1] == "w" and "s" in each[1]
    }
    return {"shared memory map": sum(1 for path in paths if path.startswith("/"))}


def _plug() -> int:
    one, other = socket.socketpair()
    other.close()
    return one.detach()
